"""Apply the settings and the key of a lake to its conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingest.privacy.conversations import Privacy
from ingest.privacy.keys import load_key, name_of
from ingest.privacy.scrub import Scrubber
from ingest.privacy.settings import load

# Bump when the same value gets another surrogate, or other values are found; tables are then rebuilt.
PRIVACY_VERSION = 1


def open_privacy(lake: Path) -> Privacy | None:
    """Return the privacy of a lake according to its settings; None if they are off. Creates the key at first use."""
    settings = load(lake)
    return Privacy(Scrubber(settings, load_key(lake))) if settings.enabled else None


def fingerprint(lake: Path) -> dict[str, Any]:
    """Return a hash of everything about privacy that affects the tables: settings, key and version."""
    settings = load(lake)
    if not settings.enabled:
        return {"enabled": False}
    chosen = settings.model_dump(mode="json", exclude={"raw"})
    return {"version": PRIVACY_VERSION, "key": name_of(load_key(lake)), **chosen}
