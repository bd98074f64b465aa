"""The first practice starts from the clone after a fit on recorded successes, where there are any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import conversations

from dagster_project.loop import fits
from dagster_project.loop.settings import Settings
from ingest.records import Conversation
from training.learning.deadline import never
from training.models.lora import manifest_of

FIT = {"max_tokens": 1, "evaluations": 1, "learner": {"lora": {"rank": 2, "alpha": 4}}}


def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Conversation], enabled: bool = True) -> Path:
    monkeypatch.setattr(fits, "conversations", lambda tables, agent: found)
    how = {"enabled": enabled, "fit": FIT}
    settings = Settings(home=tmp_path, clone=FIT, head_start=how)  # type: ignore[arg-type]
    facts = fits.clone(None, (settings, tmp_path, tmp_path / "clone", never), lambda told: None)
    assert facts["partial"] is None and ("head_start" in facts) == (tmp_path / "clone" / "head_start").exists()
    return tmp_path / "clone"


def test_the_first_practice_starts_from_a_fit_on_successes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = clone(tmp_path, monkeypatch, conversations(24))
    assert fits.first_start(made) == made / "head_start"
    start, plain = manifest_of(made / "head_start"), manifest_of(made / "adapter")
    assert start is not None and plain is not None
    assert start["method"] == "reward_weighted_sft" and start["rows"] < plain["rows"]  # failures are left out


@pytest.mark.parametrize("score", [None, 0.0, 1.0])
def test_without_both_outcomes_it_starts_from_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float | None
) -> None:
    outcome = [] if score is None else [{"name": "x", "score": score, "label": None, "explanation": None}]
    found = [replace(c, outcomes=outcome) for c in conversations(24)]
    made = clone(tmp_path, monkeypatch, found)
    assert fits.first_start(made) == made / "adapter"


def test_a_setting_switches_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = clone(tmp_path, monkeypatch, conversations(24), enabled=False)
    assert fits.first_start(made) == made / "adapter"
