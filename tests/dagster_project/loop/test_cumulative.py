"""A later run starts from the last version of a fit and from the champion, and continues partial work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import conversations, tiny_base

from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import Done, finished, run_stage
from ingest.records import Conversation, Scenario, Transition
from training.learning.fits import FitSettings, fit_sft, warm_start
from training.learning.learner import Learner, LearnerSettings
from training.models.base import Base
from training.models.lora import LoraSettings, save_weights
from training.policy.clone import policy_rows

SHAPE = LoraSettings(rank=4, alpha=8)
LEARNER = LearnerSettings(lora=SHAPE, learning_rate=2e-3, warmup_steps=0, bf16=False)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def adapter(base: Base, path: Path, seed: int = 0, name: str | None = None) -> Path:
    learner = Learner(base, LEARNER, seed)
    save_weights(*learner.weights(), path, {"role": "policy", "base": name or base.name})
    return path


def writes(text: str) -> Callable[[Path], dict[str, Any]]:
    def work(directory: Path) -> dict[str, Any]:
        (directory / "what").write_text(text)
        return {}

    return work


# ----- versions of a stage


def test_a_fit_starts_from_the_last_finished_version(tmp_path: Path) -> None:
    stage, seen = tmp_path / "world", []

    def work(directory: Path) -> dict[str, Any]:
        last = finished(stage)
        seen.append((last.directory / "what").read_text() if last else None)
        return writes(str(len(seen)))(directory)

    def killed(directory: Path) -> dict[str, Any]:
        work(directory)
        raise KeyboardInterrupt

    run_stage(stage, {"data": 1}, work)
    run_stage(stage, {"data": 1}, work)
    run_stage(stage, {"data": 2}, work)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, {"data": 3}, killed)
    run_stage(stage, {"data": 3}, work)
    run_stage(stage, {"data": 4}, work)
    assert seen == [None, "1", "2", "2", "4"]


def test_partial_work_continues_and_is_not_taken_for_complete(tmp_path: Path) -> None:
    stage, found = tmp_path / "clone", []

    def work(stopped: bool) -> Callable[[Path], dict[str, Any]]:
        def step(directory: Path) -> dict[str, Any]:
            found.append(sorted(p.name for p in directory.glob("step*")))
            (directory / f"step{len(found)}").write_text("")
            return {"partial": "stopped after 1 step" if stopped else None}

        return step

    first = run_stage(stage, {"a": 1}, work(True))
    second = run_stage(stage, {"a": 1}, work(False))
    third = run_stage(stage, {"a": 1}, work(False))
    assert found == [[], ["step1"]] and third.reused and not second.reused
    assert first.fingerprint != second.fingerprint == third.fingerprint
    assert finished(stage) is not None and not list(stage.glob("*begun*"))


# ----- where a retraining starts


def test_a_continued_retraining_keeps_its_start_adapter(base: Base, tmp_path: Path) -> None:
    loop = Loop(Settings(home=tmp_path))
    clone = Done(tmp_path / "clone", "f", {}, 0.0, False)
    adapter(base, clone.directory / "adapter", 1)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    assert loop._start(tmp_path / "one", clone) == (tmp_path / "clone" / "adapter").absolute()
    champion = loop.registry.add(adapter(base, tmp_path / "a", 2), {})
    loop.registry.promote(champion.name, "better")
    assert loop._start(tmp_path / "two", clone) == champion.path.absolute()
    assert loop._start(tmp_path / "one", clone) == (tmp_path / "clone" / "adapter").absolute()  # as written down
    other = loop.registry.add(adapter(base, tmp_path / "b", 3, name="another base"), {})
    loop.registry.promote(other.name, "by hand")
    assert loop._start(tmp_path / "three", clone) == (tmp_path / "clone" / "adapter").absolute()
    assert loop._start(tmp_path / "two", clone) == champion.path.absolute()


def test_until_a_candidate_is_promoted_practice_starts_from_the_head_start(base: Base, tmp_path: Path) -> None:
    """The gate registers the clone as the first champion; its head start is not lost by that."""
    loop = Loop(Settings(home=tmp_path))
    clone = Done(tmp_path / "clone", "f", {}, 0.0, False)
    adapter(base, clone.directory / "adapter", 1)
    head_start = adapter(base, clone.directory / "head_start", 2).absolute()
    candidate = Done(tmp_path / "candidate", "g", {}, 0.0, False, {"clone": "f"})
    loop.read_input = lambda done, stage: clone  # type: ignore[method-assign]
    adapter(base, candidate.directory / "adapter", 3)
    assert loop._incumbent(candidate).path != head_start and loop.registry.champion() is not None
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert loop._start(tmp_path / "one", clone) == head_start
    better = loop.registry.add(candidate.directory / "adapter", {"promoted": True})
    loop.registry.promote(better.name, "better")
    assert loop._start(tmp_path / "two", clone) == better.path.absolute()


# ----- fits that go on from their last version


def test_a_warm_start_needs_the_same_base_and_shape(base: Base, tmp_path: Path) -> None:
    last = adapter(base, tmp_path / "last")
    assert warm_start(last, base, SHAPE) == last
    assert warm_start(last, base, LoraSettings(rank=8, alpha=16)) is None
    assert warm_start(adapter(base, tmp_path / "other", name="other"), base, SHAPE) is None
    assert warm_start(tmp_path / "absent", base, SHAPE) is None and warm_start(None, base, SHAPE) is None


def test_a_warm_fit_starts_from_the_last_weights(base: Base, tmp_path: Path) -> None:
    rows = policy_rows(conversations(12), base.format, False)
    fit = FitSettings(learner=LEARNER, max_tokens=3500, max_epochs=100, step_tokens=600, evaluations=1)
    weights, config, first = fit_sft(base, rows, rows[:3], fit)
    save_weights(weights, config, tmp_path / "last", {"base": base.name})
    short = fit.model_copy(update={"max_tokens": 500})
    _, _, cold = fit_sft(base, rows, rows[:3], short)
    warm_weights, _, warm = fit_sft(base, rows, rows[:3], short, start=warm_start(tmp_path / "last", base, SHAPE))
    assert warm[-1]["held_out"] < cold[-1]["held_out"] - 0.1
    assert any(not torch.equal(weights[k], warm_weights[k]) for k in weights)


# ----- which recordings show what was right


def _talk(number: int, score: float | None, calls: int) -> Conversation:
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "ship", "arguments": {}}] * calls}
    outcomes = [] if score is None else [{"name": "solved", "score": score}]
    return Conversation(f"c{number}", "a", [{"role": "user", "content": "ship it"}, called], [], outcomes)


def test_a_scenario_knows_whether_its_whole_recording_succeeded(tmp_path: Path) -> None:
    answer = Transition("c", 0, "ship", {}, "{}", False, "", None, 0)
    recorded = [_talk(0, 1.0, 1), _talk(1, 0.0, 1), _talk(2, None, 1), _talk(3, 1.0, 2)]
    found = [Scenario(f"s{k}", f"c{k}", "", [], "ship it", ("ship it",), (answer,), None, k) for k in range(5)]

    def known(**given: Any) -> list[bool | None]:
        kept = fits.scenarios(found, recorded, Settings(home=tmp_path, **given))
        assert [s.conversation_id for s in kept] == ["c0", "c1", "c2", "c3"], "c4 is of another agent"
        return [s.succeeded for s in kept]

    assert known() == [True, False, None, None], "an answer of the last one is lost, so it may have changed more"
    assert known(ruler={"base_url": "http://judge/v1"}) == [None] * 4, "any evaluation may say nothing of the goal"
    named = known(ruler={"base_url": "http://judge/v1"}, judge={"outcome": "solved"})
    assert named == [True, False, None, None]
