"""A training state is read without running anything that stands in it, and is written whole."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.learning.learner import load_state, save_state


class Hostile:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_a_state_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"learner": Hostile(tmp_path / "made")}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "made").exists()


def test_a_state_is_restored_with_plain_numbers(tmp_path: Path) -> None:
    state = {
        "learner": {"step": 3, "factors": {"a": torch.ones(2)}, "optimizer": {"state": {0: torch.tensor(1.0)}}},
        "history": [{"gain": np.float64(0.25), "n": np.int64(4), "up": np.bool_(True), "text": "x", "none": None}],
        "betas": (0.9, 0.95),
    }
    save_state(state, tmp_path / "deep" / "state.pt")
    found = load_state(tmp_path / "deep" / "state.pt")
    assert found["history"] == [{"gain": 0.25, "n": 4, "up": True, "text": "x", "none": None}]
    assert [type(v) for v in found["history"][0].values()] == [float, int, bool, str, type(None)]
    assert found["betas"] == (0.9, 0.95) and found["learner"]["step"] == 3
    assert torch.equal(found["learner"]["factors"]["a"], torch.ones(2))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.pt"]


def test_a_state_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    save_state({"step": 1}, tmp_path / "state.pt")
    with pytest.raises(TypeError, match="holds PosixPath"):
        save_state({"where": tmp_path}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
