"""A planted stale adapter is noticed before a rollout; a right one passes, whatever the rounding."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_samples import Walls, random_rows, scenario, stir, tiny_base

from ingest.errors import UserError
from training.engines.local import LocalEngine
from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.learning.policy_losses import Cispo
from training.models.base import Base
from training.models.lora import LoraSettings, save_weights
from training.policy.grpo import Grpo
from training.policy.practice import Practice
from training.policy.served import POSITIONS, Probe, StaleAdapter, check_served

SHAPE = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3, warmup_steps=0)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def test_a_probe_is_of_learned_tokens(base: Base) -> None:
    rows = random_rows(6, 300)
    probe, *more = Probe.several(rows)
    assert more and 0 < len(probe.positions) <= POSITIONS and 0 not in probe.positions
    row = next(r for r in rows if r.ids[: len(probe.ids)] == probe.ids)
    assert all(row.trained[k] for k in probe.positions) and len(probe.ids) == probe.positions[-1] + 1
    assert Probe.several([]) == []


def test_a_probe_has_several_tokens_if_any_row_has() -> None:
    """The rounding of one token can look like a step: such a probe would stop a run whose engine is right."""
    short, long, longer = (
        Row(tuple(range(2 + n)), (False, False, *[True] * n), 1.0, (-1.0,) * n) for n in (1, POSITIONS + 1, 30)
    )
    probe = Probe.several([short, longer, long])[0]
    assert len(probe.positions) == POSITIONS and len(probe.ids) <= len(long.ids)
    (alone,) = Probe.several([short])
    assert alone.positions == (2,)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_rounding_passes_and_another_policy_is_detected(noise: float) -> None:
    now, before = [-1.0, -2.0, -0.5, -3.0], [-1.2, -1.7, -0.9, -3.3]
    near = [p + noise * (-1) ** k for k, p in enumerate(now)]
    assert check_served("policy@2", near, now, before) == pytest.approx(noise)
    assert check_served("policy@1", near, now) == pytest.approx(noise)
    with pytest.raises(StaleAdapter, match="the previous adapter under the name 'policy@2'"):
        check_served("policy@2", [p + noise for p in before], now, before)
    with pytest.raises(StaleAdapter, match="is not the learner's"):
        check_served("policy@2", [p - 1 for p in now], now, before)
    assert check_served("policy@2", near, now, now) == pytest.approx(noise)  # a step that moved nothing
    for little in (6e-5, 3e-3):  # the last step of a schedule that ends at 0
        hardly = [p + little for p in now]
        assert check_served("policy@2", hardly, now, hardly) == pytest.approx(little)


def test_practice_without_an_adapter_is_refused(base: Base) -> None:
    practice = Practice(LocalEngine(base.model, 0), base.format, Walls(), None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="name an adapter"):
        asyncio.run(practice.groups([scenario(0)], [0], 2, ""))


class Stale(LocalEngine):
    """An engine that keeps what it loaded first."""

    def load_adapter(self, name: str, path: Path) -> None:
        if not getattr(self, "first", None):
            self.first = name
            super().load_adapter(name, path)
        self._adapters._held[name] = self._adapters._held[self.first]


@pytest.mark.parametrize("kind", [LocalEngine, Stale])
def test_an_engine_that_serves_an_old_adapter_is_detected(base: Base, tmp_path: Path, kind: Any) -> None:
    learner = Learner(base, SHAPE)
    stir(learner)
    learner.keep_reference()
    practice = Practice(kind(base.model, base.format.pad_id), base.format, Walls(), None)  # type: ignore[arg-type]
    rows = random_rows(5, base.model.config.vocab_size)
    probe = Probe.several(rows)[0]

    async def publish(name: str) -> list[float]:
        save_weights(*learner.weights(), tmp_path / name, {})
        practice.load_adapter(name, tmp_path / name)
        (served,) = await practice.probe(name, probe)
        return served

    first, before = asyncio.run(publish("policy@0")), learner.logprobs_at(probe.ids, probe.positions)
    assert check_served("policy@0", first, before) < 0.05
    for _ in range(3):
        learner.policy_step(rows, Cispo(kl_penalty=0.0))
    served, now = asyncio.run(publish("policy@1")), learner.logprobs_at(probe.ids, probe.positions)
    if kind is LocalEngine:
        assert check_served("policy@1", served, now, before) < 0.05
    else:
        with pytest.raises(StaleAdapter):
            check_served("policy@1", served, now, before)


@pytest.mark.parametrize("stale", [False, True])
def test_one_row_that_looks_stale_does_not_end_a_run(stale: bool) -> None:
    """In bfloat16 one row may have moved in the learner and not in the engine; an old adapter shows in all of them."""
    probes = [Probe((1, 2, k), (1, 2)) for k in range(8)]
    before, now = [[-1.0, -2.0]] * 8, {probe: [-1.04, -2.04] for probe in probes}

    class Engines:
        async def probe(self, adapter: str, probe: Probe) -> list[list[float]]:
            return [[-1.0, -2.0]] if stale or probe == probes[0] else [now[probe]]

    learner = SimpleNamespace(logprobs_at=lambda ids, at: now[Probe(ids, at)])
    loop = SimpleNamespace(learner=learner, practice=Engines(), _name=lambda: "p@1")
    loop._gap = partial(Grpo._gap, loop)
    checked = Grpo._check_served(loop, probes, before)  # type: ignore[arg-type]
    if stale:
        with pytest.raises(StaleAdapter):
            asyncio.run(checked)
    else:
        assert asyncio.run(checked) == pytest.approx(0.005)
