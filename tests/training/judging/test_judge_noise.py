"""The judge's noise is measured on planted copies, and used at the scale at which groups are compared."""

from __future__ import annotations

import asyncio
import json
import random
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_samples import start

from training.judging.advantages import JudgeNoise, advantages, kept_share
from training.judging.ruler import Ruler, RulerSettings
from training.learning.trajectory import Trajectory

LABEL = re.compile(r'<trajectory id="([^"]+)">')


def noisy_judge(deviation: float, bias: float = 0.0, seed: int = 0) -> Ruler:
    """A judge that gives everything 0.5, with noise, and more to what it is shown late."""
    draw = random.Random(seed)

    def answer(request: httpx.Request) -> httpx.Response:
        labels = LABEL.findall(json.loads(request.content)["messages"][1]["content"])
        scores = [
            {"trajectory_id": label, "explanation": f"place {k}", "score": min(1, max(0, score))}
            for k, label in enumerate(labels)
            for score in [0.5 + draw.gauss(0, deviation) + bias * (k / max(1, len(labels) - 1) - 0.5)]
        ]
        return httpx.Response(200, json={"choices": [{"message": {"content": json.dumps({"scores": scores})}}]})

    return Ruler(RulerSettings(), httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://judge/v1/"))


def told(text: str) -> Trajectory:
    return Trajectory(start(), 0, [{"role": "user", "content": "hello"}, {"role": "assistant", "content": text}])


def measured(ruler: Ruler, groups: int, size: int = 8) -> JudgeNoise:
    noise = JudgeNoise()

    async def plant() -> None:
        for seed in range(groups):
            found = await ruler.judge([told("the same")] * size, seed, planted=True)
            noise.add(found.scores, found.positions)

    asyncio.run(plant())
    return noise


@pytest.mark.parametrize("size", [4, 8])
def test_ninety_five_per_cent_of_noise_groups_are_dropped(size: int) -> None:
    ruler = noisy_judge(0.05)
    noise = measured(ruler, 60, size)

    async def dropped() -> list[bool]:
        found = [await ruler.judge([told(f"{k}") for k in range(size)], 1000 + n) for n in range(200)]
        return [bool(advantages(f.scores, 0.0, noise_spread=noise.spread).dropped) for f in found]

    share = sum(asyncio.run(dropped())) / 200
    assert 0.90 <= share <= 0.99


def test_a_difference_well_above_the_noise_is_kept() -> None:
    noise = measured(noisy_judge(0.02), 20)
    assert not advantages([0.2, 0.8, 0.2, 0.8], 0.0, noise_spread=noise.spread).dropped
    assert noise.spread(8) > noise.spread(4) > noise.spread(2) > 0 == noise.spread(1)


def test_planted_copies_are_shown_each_and_duplicates_otherwise_once() -> None:
    ruler = noisy_judge(0.05)
    group = [told("the same")] * 4
    assert len(set(asyncio.run(ruler.judge(group, planted=True)).scores)) == 4
    plain = asyncio.run(ruler.judge(group))
    assert len(set(plain.scores)) == 1 and plain.explanations == ["place 0"] * 4


def test_position_bias_is_distinguished_from_noise() -> None:
    assert measured(noisy_judge(0.02, bias=0.3), 20).position_bias == pytest.approx(0.3, abs=0.03)
    assert measured(noisy_judge(0.02), 20).position_bias == pytest.approx(0.0, abs=0.03)


def test_a_judge_without_noise_drops_no_group() -> None:
    noise = measured(noisy_judge(0.0), 4)
    assert noise.groups == 4 and noise.deviation == noise.spread(8) == 0.0
    assert JudgeNoise().spread(8) == 0.0


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.sampled_from([0.0, 0.5, 0.7, 1.0])), max_size=12),
    st.floats(0, 0.5),
)
def test_advantages_sum_to_zero_after_every_exclusion(members: list[tuple[float | None, float]], least: float) -> None:
    scores, weights = [s for s, _ in members], [w for _, w in members]
    found = advantages(scores, least, weights)
    assert len(found.advantages) == len(scores) and sum(found.advantages) == pytest.approx(0.0, abs=1e-9)
    excluded = [s is None or w == 0 or bool(found.dropped) for s, w in members]
    assert all(a == 0.0 for a, out in zip(found.advantages, excluded, strict=True) if out)


def test_an_excluded_member_does_not_change_the_mean() -> None:
    assert advantages([1.0, 0.0, 0.5], 0.0, [1.0, 1.0, 0.0]).advantages == pytest.approx([0.5, -0.5, 0.0])
    half = advantages([1.0, 0.0], 0.0, [0.5, 1.0]).advantages
    assert half == pytest.approx([0.5 * (1 - 1 / 3), -1 / 3])
    assert advantages([1.0, 0.0], 0.0, [0.0, 1.0]).dropped == "too few members"


def test_a_score_is_only_lowered_where_the_changes_are_not_those_of_a_recorded_success() -> None:
    assert kept_share(1.0, 0.7) == kept_share(None, 0.7) == kept_share(0.0, 0.0) == 1.0
    assert kept_share(0.0, 0.7) == pytest.approx(0.3) and kept_share(0.5, 0.7) == pytest.approx(0.65)
    assert kept_share(0.0, 1.0) == 0.0
