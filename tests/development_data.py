"""Where the development data lies: beside the checkout, not in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CORPORA = Path(__file__).parents[2] / "shared" / "data" / "dialects"


def need_corpora() -> None:
    """Leaves a test that has nothing to look at; where nothing may be skipped, as an expected failure."""
    if not CORPORA.is_dir():
        leave = pytest.xfail if os.environ.get("REHEARSAL_NO_SKIPS") else pytest.skip
        leave(f"no corpora at {CORPORA.parent.parent.name}/data/dialects beside the repository")
