"""The manifest of a saved adapter: a JSON file beside its weights. Importing this module does not import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST = "rehearsal.json"


def manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of a saved adapter; None if there is no complete adapter."""
    try:
        return json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
