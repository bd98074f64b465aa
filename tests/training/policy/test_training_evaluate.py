"""Comparisons: intervals that cover what they should, pairs that are pairs, and runs that can be run again."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from training_samples import tiny_base

from examples.support_desk.environment import SupportDesk
from ingest.errors import UserError
from training.engines.local import LocalEngine
from training.policy.evaluate import Run, by_kind, difference, load_environment, paired, run_policy, summary, wilson
from training.policy.rollout import Limits


def run_of(name: str, success: list[bool], kinds: list[str]) -> Run:
    return Run(name, tuple(success), tuple(kinds), ())


# ----- intervals


def test_paired_intervals_cover_the_true_difference() -> None:
    rng = np.random.default_rng(0)
    true, covered, draws = 0.15, 0, 300
    for k in range(draws):
        before = rng.random(120) < 0.5
        after = before ^ (rng.random(120) < np.where(before, 0.10, 0.40))  # 0.5 * 0.4 - 0.5 * 0.1 = 0.15
        found = paired(before.astype(float), after.astype(float), draws=400, seed=k)
        covered += found.low <= true <= found.high
    assert 0.91 < covered / draws < 0.985


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(200)
    before, after = easy, np.clip(easy + 0.1, 0, 2)
    matched, shuffled = paired(before, after), paired(before, rng.permutation(after))
    assert matched.gain == pytest.approx(shuffled.gain) == pytest.approx(0.1)
    assert matched.high - matched.low < 1e-6 < 0.05 < shuffled.high - shuffled.low
    assert paired(before, after, seed=3) == paired(before, after, seed=3)


def test_the_wilson_interval_equals_the_textbook_values() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    for n in (1, 7, 400):
        for k in {0, 1, n // 2, n}:
            low, high = wilson(k, n)
            assert 0 <= low <= k / n <= high <= 1
            mirrored = wilson(n - k, n)
            assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_wilson_covers_a_proportion() -> None:
    rng = np.random.default_rng(2)
    hits = [low <= 0.1 <= high for low, high in (wilson(int(k), 50) for k in rng.binomial(50, 0.1, 2000))]
    assert 0.92 < np.mean(hits) < 0.99


# ----- slices


def test_kinds_are_reported_separately() -> None:
    kinds = ["return", "cancel", "return", "cancel"]
    before = run_of("before", [True, False, False, False], kinds)
    after = run_of("after", [True, True, True, False], kinds)
    table = by_kind([before, after])
    assert list(table) == ["cancel", "return"] and table["cancel"]["episodes"] == 2
    rates = {kind: (row["before"]["rate"], row["after"]["rate"]) for kind, row in table.items()}
    assert rates == {"cancel": (0.0, 0.5), "return": (0.5, 1.0)}
    assert table["return"]["before"]["interval"] == pytest.approx(wilson(1, 2))
    told = summary(before, after)
    assert (told["before"], told["after"], told["gain"], told["episodes"]) == (0.25, 0.75, 0.5, 4)
    assert told["low"] <= 0.5 <= told["high"] and told["intervals"]["before"] == wilson(1, 4)
    assert told["kinds"] == table and "start" not in told
    start = run_of("start", [True, True, False, False], kinds)
    assert summary(before, after, start)["start"]["before"] == 0.5
    assert summary(before, after, start)["start"]["gain"] == 0.25


def test_runs_on_other_starts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same starts"):
        difference(run_of("a", [True], ["x"]), run_of("b", [True, False], ["x", "x"]))


# ----- environments


def test_an_environment_is_loaded_by_its_path() -> None:
    assert isinstance(load_environment("examples.support_desk.environment:SupportDesk"), SupportDesk)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "examples.support_desk.environment",
        "examples.support_desk.environment:Nothing",
        "no.such.module:Thing",
        "examples.support_desk.environment:SYSTEM",  # a string
        "training.learning.trajectory:Trajectory",  # cannot be made without arguments
        ".relative:Thing",
    ],
)
def test_an_invalid_environment_is_refused_in_one_line(path: str) -> None:
    with pytest.raises(UserError, match="expected 'package.module:Class'") as found:
        load_environment(path)
    assert repr(path) in str(found.value) and "\n" not in str(found.value)


# ----- a policy at the support desk


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    base = tiny_base()
    return LocalEngine(base.model, base.format.pad_id)


def at_the_desk(engine: LocalEngine, episodes: int = 6, seed: int = 1, temperature: float = 1.0) -> Run:
    chat = tiny_base().format
    done: list[int] = []
    run = asyncio.run(
        run_policy(
            engine,
            chat,
            SupportDesk(),
            None,
            name="random",
            episodes=episodes,
            seed=seed,
            temperature=temperature,
            limits=Limits(turns=3, turn_tokens=12),
            on_done=done.append,
        )
    )
    assert done == list(range(1, episodes + 1))
    return run


def test_equal_seeds_give_equal_runs(engine: LocalEngine) -> None:
    first, again = at_the_desk(engine), at_the_desk(engine)
    assert [t.ids for t in first.trajectories] == [t.ids for t in again.trajectories]
    assert (first.success, first.kinds) == (again.success, again.kinds)
    assert [t.messages for t in first.trajectories] == [t.messages for t in again.trajectories]
    other = at_the_desk(engine, seed=2)
    assert [t.messages[0] for t in first.trajectories] != [t.messages[0] for t in other.trajectories]


def test_a_shorter_run_is_the_beginning_of_a_longer_one(engine: LocalEngine) -> None:
    longer, shorter = at_the_desk(engine), at_the_desk(engine, episodes=2)
    assert [t.ids for t in longer.trajectories[:2]] == [t.ids for t in shorter.trajectories]


def test_a_random_policy_fails_every_episode(engine: LocalEngine) -> None:
    run = at_the_desk(engine, episodes=8)
    assert run.rate == 0.0 and set(run.kinds) and all(run.kinds)
    assert [t.messages[0]["content"] for t in run.trajectories] == [
        s.first_user_message for s in SupportDesk().starts(8, 1)
    ]
    assert not math.isnan(run.rate)
