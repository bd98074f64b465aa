"""Secrets and personal data become stable surrogates before anything is learned.

``settings`` is what a person may choose, ``detectors`` and ``tokens`` know data by its form, ``fields`` by the
key that it stands under, ``screen`` tells at once that there is none of it, ``surrogates`` replaces, ``scrub`` does
so in texts and JSON, ``conversations`` in everything that tables are made of. docs/privacy.md tells how it looks to a
user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingest.privacy.conversations import Privacy, Totals
from ingest.privacy.keys import FILE as KEY_FILE
from ingest.privacy.keys import load_key, name_of
from ingest.privacy.screen import Told
from ingest.privacy.scrub import Scrubber
from ingest.privacy.settings import FILE as SETTINGS_FILE
from ingest.privacy.settings import PrivacySettings, load

# Bump when the same value gets another surrogate, or other values are found; tables are then rebuilt.
PRIVACY_VERSION = 1

__all__ = [
    "KEY_FILE", "PRIVACY_VERSION", "SETTINGS_FILE", "Privacy", "PrivacySettings", "Told", "Totals", "fingerprint",
    "load", "open_privacy",
]  # fmt: skip


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
