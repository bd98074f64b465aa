"""What the settings and the key of a lake make of its conversations."""

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
    """What the settings of a lake ask for; None if they ask for nothing. Makes the key at first use."""
    settings = load(lake)
    return Privacy(Scrubber(settings, load_key(lake))) if settings.enabled else None


def fingerprint(lake: Path) -> dict[str, Any]:
    """What of privacy decides how tables look: equal settings, key and version have equal fingerprints."""
    settings = load(lake)
    if not settings.enabled:
        return {"enabled": False}
    chosen = settings.model_dump(mode="json", exclude={"raw"})
    return {"version": PRIVACY_VERSION, "key": name_of(load_key(lake)), **chosen}
