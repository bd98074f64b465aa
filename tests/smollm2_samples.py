"""SmolLM2-135M-Instruct for tests: what `make smollm2` made, or made now from the installed package."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from ingest.errors import UserError
from training.models.base import Base, load_base
from training.models.smollm2 import SOURCE, make

MADE = Path(__file__).parents[1] / "artifacts" / "smollm2"


@cache
def smollm2_path() -> Path:
    """The model's directory. Skips where the package cannot be had."""
    if (MADE / SOURCE).is_file():
        return MADE
    try:
        return make(Path(tempfile.mkdtemp(prefix="rehearsal-smollm2-")) / "smollm2")
    except UserError as error:
        pytest.skip(f"SmolLM2 is not here: {error}")


@cache
def smollm2(show_tools: bool = True) -> Base:
    """The loaded base."""
    return load_base(str(smollm2_path()), show_tools=show_tools)
