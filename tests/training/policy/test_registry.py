"""The registry of adapters, and the gate."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingest.errors import UserError
from ingest.records import Conversation, Message, Scenario, Transition
from training.environment import Start
from training.judging.ruler import Judgement
from training.learning.trajectory import Trajectory
from training.models.lora import save_weights
from training.policy.gate import GateSettings, as_dict, compare, decide, slice_of, usual_share
from training.policy.registry import POINTER, Registry

GATE = GateSettings(scenarios=40, slice_margin=0.1, min_slice=12)
Scored = list[tuple[str, float | None, float | None]]


def adapter(directory: Path, value: float) -> Path:
    """A finished peft directory whose weights are one number."""
    save_weights({"lora_A": torch.full((2, 2), value)}, {"r": 2}, directory, {"kind": "policy"})
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def two(registry: Registry, tmp_path: Path) -> tuple[str, str]:
    """The names of two stored versions, the older first."""
    names = [registry.add(adapter(tmp_path / f"adapter-{k}", k), {"gain": k}).name for k in range(2)]
    return names[0], names[1]


# ----- the registry


def test_a_version_is_a_copy_with_its_manifest_and_note(registry: Registry, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", 1.0)
    weights = (source / "adapter_model.safetensors").read_bytes()
    added = registry.add(source, {"gain": 0.2})
    shutil.rmtree(source)
    assert registry.get(added.name) == added
    assert (added.manifest, added.note) == ({"kind": "policy"}, {"gain": 0.2})
    assert (added.path / "adapter_model.safetensors").read_bytes() == weights


def test_equal_weights_are_stored_once(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(adapter(tmp_path / "one", 1.0), {"gain": 0.1})
    again = registry.add(adapter(tmp_path / "other", 1.0), {"gain": 0.3})
    assert again.name == first.name and len(registry.versions()) == 1
    assert registry.get(first.name).note == {"gain": 0.3}
    assert registry.add(adapter(tmp_path / "third", 2.0), {}).name != first.name


def test_versions_are_listed_oldest_first(registry: Registry, two: tuple[str, str]) -> None:
    registry.add(registry.get(two[0]).path, {"gain": "measured again"})
    assert [version.name for version in registry.versions()] == list(two)


def test_there_is_no_champion_before_the_first_promotion(registry: Registry, two: tuple[str, str]) -> None:
    assert registry.champion() is None and registry.history() == []


def test_rollback_restores_the_champion_before_a_promotion(registry: Registry, two: tuple[str, str]) -> None:
    old, new = two
    registry.promote(old, "the first")
    assert registry.promote(new, "better").name == new
    assert registry.champion() == registry.get(new)
    registry.promote(new, "once more")  # changes nothing
    assert registry.rollback("worse in production").name == old
    assert registry.champion() == registry.get(old)
    told = [(entry["version"], entry["why"]) for entry in registry.history()]
    assert told == [(old, "the first"), (new, "better"), (old, "worse in production")]
    assert all(entry["at"].endswith("Z") for entry in registry.history())
    assert Registry(registry.path).history() == registry.history()


def test_a_second_rollback_does_not_return_to_the_rolled_back_version(
    registry: Registry, two: tuple[str, str]
) -> None:
    registry.promote(two[0], "")
    registry.promote(two[1], "")
    registry.rollback()
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback()
    registry.promote(two[1], "after all")
    assert registry.rollback().name == two[0]


def test_rollback_without_an_earlier_champion_is_refused(registry: Registry, two: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback()
    registry.promote(two[0], "")
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback()


def test_a_rollback_to_a_missing_version_keeps_the_champion(registry: Registry, two: tuple[str, str]) -> None:
    registry.promote(two[0], "")
    registry.promote(two[1], "")
    shutil.rmtree(registry.get(two[0]).path)
    with pytest.raises(UserError, match=two[0]):
        registry.rollback()
    assert registry.champion() == registry.get(two[1])


@pytest.mark.parametrize("name", ["policy-000000000000", "", ".", "../../adapter-0"])
def test_an_unknown_version_is_refused_with_the_known_ones(
    name: str, registry: Registry, two: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match=f"{two[0]}, {two[1]}"):
        registry.promote(name, "")
    assert registry.champion() is None
    with pytest.raises(UserError, match="none"):
        Registry(registry.path / "empty").get("policy-000000000000")


def test_an_unfinished_adapter_is_not_stored(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="no finished adapter"):
        registry.add(tmp_path / "half", {})
    assert registry.versions() == []


def test_an_interrupted_write_keeps_the_old_champion(
    registry: Registry, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(two[0], "the first")

    def power_cut(descriptor: int) -> None:
        os.truncate(f"/proc/self/fd/{descriptor}", 10)  # the descriptor may be open for reading alone
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", power_cut)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(two[1], "better")
    assert registry.champion() == registry.get(two[0])
    assert [entry["version"] for entry in registry.history()] == [two[0]]
    registry.promote(two[1], "better")
    assert registry.champion() == registry.get(two[1])
    assert [entry["version"] for entry in registry.history()] == list(two)


def test_the_history_and_the_champion_change_together(registry: Registry, two: tuple[str, str]) -> None:
    """Champion, trail and history are one file: there is no moment at which one of them has changed alone."""
    registry.promote(two[0], "the first")
    before = {path: path.read_bytes() for path in registry.path.glob("*") if path.is_file()}
    registry.promote(two[1], "better")
    changed = [path.name for path in registry.path.glob("*") if path.is_file() and path.read_bytes() != before[path]]
    assert changed == [POINTER]


def test_an_adapter_that_was_half_copied_is_no_version(registry: Registry, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", 1.0)
    name = registry.add(source, {}).name
    home = registry.path / "versions"
    (home / name).rename(home / f".{name}.partial")  # as a kill before the rename leaves it
    (home / f".{name}.partial" / "adapter_model.safetensors").write_bytes(b"half")
    assert registry.versions() == []
    again = registry.add(source, {})
    weights = [(path / "adapter_model.safetensors").read_bytes() for path in (source, again.path)]
    assert again.name == name and weights[0] == weights[1]


# ----- the gate


def scored(*parts: tuple[str, int, float], noise: float = 0.05) -> Scored:
    """(slice, how many scenarios, what the candidate gains there) as scores, every other one too high or too low."""
    return [(name, 0.5, 0.5 + gain + noise * (-1) ** k) for name, n, gain in parts for k in range(n)]


def test_a_candidate_with_a_gain_above_zero_is_promoted() -> None:
    verdict = decide(scored(("smooth", 40, 0.2)), 40, GATE)
    assert verdict.promoted and verdict.difference.gain == pytest.approx(0.2, abs=0.02)
    assert 0 < verdict.difference.low < verdict.difference.gain < verdict.difference.high
    assert verdict.slices["smooth"] == verdict.difference


@pytest.mark.parametrize("gain", [0.0, -0.2])
def test_an_equal_or_worse_candidate_is_not_promoted(gain: float) -> None:
    verdict = decide(scored(("smooth", 40, gain)), 40, GATE)
    assert not verdict.promoted and "not above zero over its whole interval" in verdict.why


def test_a_gain_whose_interval_touches_zero_is_not_enough() -> None:
    lucky: Scored = [*[("smooth", 0.5, 0.5)] * 39, ("smooth", 0.0, 1.0)]
    verdict = decide(lucky, 40, GATE)
    assert verdict.difference.gain > 0 and verdict.difference.low == 0.0
    assert not verdict.promoted and "not above zero over its whole interval" in verdict.why


@pytest.mark.parametrize(("gain", "noise"), [(-0.3, 0.05), (-0.2, 0.4)])
def test_a_slice_that_is_worse_closes_the_gate_and_its_interval_may_reach_above_the_margin(
    gain: float, noise: float
) -> None:
    found = [*scored(("smooth", 96, 0.4)), *scored(("timeout", 32, gain), noise=noise)]
    verdict = decide(found, 128, GATE)
    assert verdict.difference.low > 0 and (verdict.slices["timeout"].high > -GATE.slice_margin) == (noise > 0.1)
    assert not verdict.promoted and "worse on timeout by more than 0.1" in verdict.why


def test_a_slice_may_lose_within_the_margin_or_by_chance() -> None:
    assert decide(scored(("smooth", 100, 0.4), ("timeout", 20, -0.05)), 120, GATE).promoted
    unsure = [*scored(("smooth", 100, 0.4)), *scored(("timeout", 12, -0.15), noise=0.5)]
    found = decide(unsure, 112, GATE)
    assert found.slices["timeout"].low < -GATE.slice_margin and found.promoted


def test_noise_in_many_slices_refuses_no_candidate_that_is_better_in_all() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        gains = np.clip(rng.normal(0.15, 0.4, 128), -1, 1)
        verdict = decide([(f"slice {k % 8}", 0.5, 0.5 + gain) for k, gain in enumerate(gains)], 128, GATE)
        refused += "worse on" in verdict.why
    assert refused <= 1


def test_a_candidate_that_states_more_unfounded_numbers_is_not_promoted() -> None:
    found = scored(("smooth", 40, 0.2))
    before = [float(k < 4) for k in range(40)]
    for more, promoted in ((1, True), (12, False)):
        stated = [(b, float(k < 4 + more)) for k, b in enumerate(before)]
        verdict = decide(found, 40, GATE, unfounded=stated)
        assert verdict.promoted == promoted and as_dict(verdict)["unfounded"]["before"] == 0.1
    told = "40% of its episodes state a number that nothing in them shows, 10% of the champion's and 0% of production's"
    assert told in verdict.why
    assert decide(found, 40, GATE, unfounded=stated, usual=0.4).promoted  # as often as production's agent


def test_how_often_productions_agent_states_numbers_that_nothing_shows() -> None:
    def recorded(answer: str) -> Conversation:
        messages: list[Message] = [
            {"role": "system", "content": "Open until 18:00."},
            {"role": "user", "content": "Order 501, please."},
            {"role": "assistant", "content": answer},
        ]
        return Conversation("c", "agent", messages, [])

    said = [recorded(answer) for answer in ("Order 501 is ready until 18:00.", "It costs 4711.")]
    assert usual_share(said) == 0.5 and usual_share([]) == 0.0


def test_small_slices_are_not_tested() -> None:
    verdict = decide(scored(("smooth", 100, 0.4), ("timeout", 11, -0.3)), 111, GATE)
    assert verdict.promoted and list(verdict.slices) == ["smooth"]
    assert not decide(scored(("smooth", 100, 0.4), ("timeout", 12, -0.3)), 112, GATE).promoted


def test_an_alarm_closes_the_gate() -> None:
    verdict = decide(scored(("smooth", 40, 0.2)), 40, GATE, ["one pattern"])
    assert not verdict.promoted and "one pattern" in verdict.why and verdict.alarms == ("one pattern",)


@pytest.mark.parametrize(("n", "promoted"), [(0, False), (35, False), (36, True)])
def test_ninety_per_cent_must_be_scored(n: int, promoted: bool) -> None:
    verdict = decide(scored(("smooth", n, 0.2)), 40, GATE)
    assert verdict.promoted == promoted
    assert promoted or f"only {n} of 40" in verdict.why
    assert json.loads(json.dumps(as_dict(verdict)))["n"] == n


def transition(error_class: str) -> Transition:
    return Transition("c", 0, "get_order", {}, "{}", bool(error_class), error_class, 1.0, 0)


def scenario(number: int, *error_classes: str) -> Scenario:
    facts = tuple(map(transition, error_classes))
    return Scenario(f"s{number}", f"c{number}", "", [], "hello", ("hello",), facts, None, number)


def test_a_slice_is_the_most_frequent_error_class() -> None:
    assert slice_of(scenario(0)) == slice_of(scenario(0, "", "")) == "smooth"
    assert slice_of(scenario(0, "", "timeout", "", "")) == "timeout"
    assert slice_of(scenario(0, "timeout", "conflict", "timeout")) == "timeout"
    assert slice_of(scenario(0, "timeout", "conflict")) == slice_of(scenario(0, "conflict", "timeout"))


@dataclass
class FakeRuler:
    """Likes the candidate; gives up on the scenarios in `unscored`."""

    unscored: Sequence[str] = ()

    async def judge(self, group: Sequence[Trajectory], seed: int = 0) -> Judgement:
        if group[0].start.episode_id in self.unscored:
            return Judgement([0.5, None])
        jitter = random.Random(seed).uniform(0, 0.1)
        return Judgement([0.8 + jitter if t.adapter == "candidate" else 0.4 for t in group])


@dataclass
class FakePractice:
    """Plays nothing, remembers who was to play what."""

    ruler: FakeRuler = field(default_factory=FakeRuler)
    played: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    invents: str = ""
    broken: Sequence[str] = ()

    async def singles(
        self, scenarios: Sequence[Scenario], seeds: Sequence[int], adapter: str, on_done: Callable[[int], None]
    ) -> list[Trajectory | Exception]:
        self.played[adapter] = [(s.scenario_id, seed) for s, seed in zip(scenarios, seeds, strict=True)]
        on_done(len(scenarios))
        starts = [Start(s.scenario_id, "refunds take 14 days", (), "") for s in scenarios]
        return [
            ArithmeticError(start.episode_id) if adapter == "candidate" and start.episode_id in self.broken
            else Trajectory(start, 0, self.messages(adapter), adapter=adapter)
            for start in starts
        ]  # fmt: skip

    def messages(self, adapter: str) -> list[dict[str, Any]]:
        told = {"role": "tool", "content": '{"paid": 70.50}', "tool_call_id": "c", "name": "get_order"}
        said = "You paid $70.50, refunded in 14 days." if adapter != self.invents else "You paid $70.50 on 1 May 2031."
        return [told, {"role": "assistant", "content": said}]

    async def judge(self, groups: Sequence[Sequence[Trajectory]], seeds: Sequence[int]) -> list[Judgement]:
        return [await self.ruler.judge(group, seed) for group, seed in zip(groups, seeds, strict=True)]


def test_champion_and_candidate_play_the_same_scenarios_with_the_same_seeds() -> None:
    practice, done = FakePractice(), list[int]()
    scenarios = [scenario(k, *(["timeout"] if k < 15 else [])) for k in range(40)]
    work = compare(practice, scenarios, "champion", "candidate", GATE, seed=3, on_done=done.append)  # type: ignore[arg-type]
    verdict, pairs = asyncio.run(work)
    assert verdict.promoted and verdict.difference.before == pytest.approx(0.4) and verdict.difference.after > 0.8
    assert {name: found.episodes for name, found in verdict.slices.items()} == {"smooth": 25, "timeout": 15}
    assert practice.played["champion"] == practice.played["candidate"]
    assert len(dict.fromkeys(practice.played["champion"])) == 40
    assert [(b.adapter, a.adapter) for b, a in pairs.values()] == [("champion", "candidate")] * 40
    assert done == [40, 80]


def test_unscored_scenarios_are_excluded_and_not_zero() -> None:
    scenarios = [scenario(k) for k in range(40)]
    few = FakePractice(FakeRuler([f"s{k}" for k in range(4)]))
    verdict, pairs = asyncio.run(compare(few, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]
    assert verdict.promoted and verdict.difference.episodes == 36 and len(pairs) == 40
    many = FakePractice(FakeRuler([f"s{k}" for k in range(5)]))
    verdict, _ = asyncio.run(compare(many, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]
    assert not verdict.promoted and "only 35 of 40" in verdict.why


def test_a_failed_episode_leaves_its_pair_out_and_many_decide_nothing() -> None:
    scenarios = [scenario(k) for k in range(40)]
    few = FakePractice(broken=["s0", "s7"])
    verdict, pairs = asyncio.run(compare(few, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]
    assert verdict.promoted and verdict.difference.episodes == 38
    assert [*pairs] == [k for k in range(40) if k not in (0, 7)]
    assert all(b.start.episode_id == a.start.episode_id == f"s{k}" for k, (b, a) in pairs.items())
    many = FakePractice(broken=[f"s{k}" for k in range(5)])
    verdict, _ = asyncio.run(compare(many, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]
    assert not verdict.promoted and "only 35 of 40 scenarios; in 5 of them an episode raised an error" in verdict.why
    none = FakePractice(broken=[f"s{k}" for k in range(40)])
    with pytest.raises(ArithmeticError, match="s0"):
        asyncio.run(compare(none, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]


def test_what_the_episodes_state_reaches_the_verdict() -> None:
    scenarios = [scenario(k) for k in range(40)]
    for invents, rises in (("", 0.0), ("champion", -1.0), ("candidate", 1.0)):
        practice = FakePractice(invents=invents)
        verdict, _ = asyncio.run(compare(practice, scenarios, "champion", "candidate", GATE))  # type: ignore[arg-type]
        assert verdict.unfounded is not None and verdict.unfounded.gain == rises
        assert verdict.promoted == (rises <= 0)


def test_alarms_reach_the_verdict() -> None:
    scenarios = [scenario(k) for k in range(40)]
    work = compare(FakePractice(), scenarios, "champion", "candidate", GATE, ["collapsed"])  # type: ignore[arg-type]
    verdict, _ = asyncio.run(work)
    assert not verdict.promoted and verdict.alarms == ("collapsed",)
