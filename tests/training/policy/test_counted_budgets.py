"""Budgets are counted: what a run gives does not depend on the clock, on other processes, or on who asked first."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from training_samples import conversations, stir, tiny_base

from training.engines import Sampling
from training.engines.local import LocalEngine
from training.learning import fits
from training.learning.batch import Row
from training.learning.fits import FEWEST_EVALUATED, FitSettings, fit_sft, sampled, unfinished
from training.learning.learner import Learner, LearnerSettings
from training.models.lora import LoraSettings
from training.models.lora_layers import read_adapter
from training.policy.clone import policy_rows
from training.policy.episodes import read_episodes
from training.policy.grpo import TrainSettings

LEARNER = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=3e-3, warmup_steps=0)
FIT = FitSettings(learner=LEARNER, max_tokens=6000, max_epochs=100, step_tokens=400, evaluations=3)


def run(out: Path, kill_at: int = -1) -> int:
    """tests/counted_run.py in a process of its own; returns how it ended."""
    tests = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, str(tests / "counted_run.py"), str(out), str(kill_at)]
    return subprocess.run(command, env=environment).returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(out) == 0
    return out


@contextmanager
def competition(count: int) -> Iterator[None]:
    """Other processes that take all the time they are given."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.send_signal(signal.SIGKILL)
            process.wait()


def digests(out: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((out / name / "adapter_model.safetensors").read_bytes()).hexdigest()
        for name in ("clone", "serving", "policy")
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_equal_seeds_give_equal_adapters_beside_competing_processes(undisturbed: Path, tmp_path: Path) -> None:
    with competition(2):
        assert run(tmp_path) == 0
    assert digests(tmp_path) == digests(undisturbed)


@pytest.mark.timeout(3600)
@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 20])
def test_a_repeatedly_killed_run_reaches_the_same_weights(
    undisturbed: Path, tmp_path: Path, kills: int
) -> None:
    """SIGKILL at random events, each try as far as it gets; what is resumed is not told from what was not."""
    shutil.copytree(undisturbed / "clone", tmp_path / "clone")
    events, draw = int((undisturbed / "events").read_text()), random.Random(kills)
    for _ in range(kills):
        if run(tmp_path, draw.randrange(2, events // 2)) == 0:
            break
    assert run(tmp_path) == 0
    assert digests(tmp_path) == digests(undisturbed)
    stored = [list(read_episodes(out / "episodes")) for out in (tmp_path, undisturbed)]
    assert stored[0] == stored[1] and len(stored[0]) == 18


def test_a_clock_that_jumps_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    rows = policy_rows(conversations(16), base.format, False)
    weights, _, history = fit_sft(base, rows, rows[:2], FIT)
    ticks = iter(range(0, 10**9, 10_000))
    monkeypatch.setattr(fits.time, "monotonic", lambda: float(next(ticks)))
    other, _, slow = fit_sft(base, rows, rows[:2], FIT)
    assert all(torch.equal(weights[k], other[k]) for k in weights)
    assert slow[-1]["seconds"] > 1000 > history[-1]["seconds"] and slow[-1]["step"] == history[-1]["step"]


def test_the_budget_of_a_fit_is_its_tokens() -> None:
    base = tiny_base()
    rows = policy_rows(conversations(16), base.format, False)
    history = fit_sft(base, rows, rows[:2], FIT)[2]
    largest = max(len(r.ids) for r in rows)
    assert 6000 <= history[-1]["tokens"] < 6000 + 400 + largest and unfinished(history) is None
    assert not {"seconds", "minutes"} & {*FitSettings.model_fields, *TrainSettings.model_fields}


def test_a_stopped_fit_is_partial_and_resumes_to_the_same_end(tmp_path: Path) -> None:
    base = tiny_base()
    rows = policy_rows(conversations(16), base.format, False)
    weights, _, history = fit_sft(base, rows, rows[:2], FIT)
    asked = iter([False] * 5 + [True])
    stopped = fit_sft(base, rows, rows[:2], FIT, tmp_path / "state.pt", stop=lambda: next(asked))[2]
    assert unfinished(stopped) == f"stopped after 5 steps, {stopped[-1]['done']:.0%} of the budget"
    again, _, whole = fit_sft(base, rows, rows[:2], FIT, tmp_path / "state.pt")
    assert all(torch.equal(weights[k], again[k]) for k in weights) and unfinished(whole) is None
    assert [{**h, "seconds": 0} for h in whole] == [{**h, "seconds": 0} for h in history]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_order_of_requests_changes_no_digit(tmp_path: Path, dtype: torch.dtype) -> None:
    base = tiny_base()
    adapters = {}
    for number in range(3):
        learner = Learner(base, LEARNER, seed=number)
        stir(learner, number)
        adapters[f"a{number}"] = learner.weights()
    draw = random.Random(1)
    asked = [
        ([draw.randrange(8, 300) for _ in range(draw.randrange(3, 50))], draw.choice(["a0", "a1", "a2", None]), k)
        for k in range(40)
    ]

    def sampled(order: list[int], names: list[str]) -> dict[int, tuple[float, ...]]:
        engine = LocalEngine(base.model, base.format.pad_id, dtype=dtype)
        for name in names:
            engine.publish_adapter(name, *adapters[name])

        async def ask() -> list[tuple[float, ...]]:
            found = await asyncio.gather(
                *(
                    engine.sample(asked[k][0], adapter=asked[k][1], sampling=Sampling(12, 1.0, (2,), asked[k][2]))
                    for k in order
                )
            )
            return [(*s.ids, *s.logprobs) for s in found]

        return dict(zip(order, asyncio.run(ask()), strict=True))

    first = sampled(list(range(40)), ["a0", "a1", "a2"])
    for seed in range(3):
        order = random.Random(seed).sample(range(40), 40)
        assert sampled(order, ["a2", "a0", "a1"]) == first


def test_earlier_requests_change_no_digit_after_the_cache_is_cleared() -> None:
    base = tiny_base()
    engine = LocalEngine(base.model, base.format.pad_id)
    prompts = [[k + 8, *range(20, 60 + k)] for k in range(9)]

    async def ask() -> list[tuple[float, ...]]:
        found = await asyncio.gather(
            *(engine.sample(p, adapter=None, sampling=Sampling(8, 1.0, (), k)) for k, p in enumerate(prompts))
        )
        return [(*s.ids, *s.logprobs) for s in found]

    first = asyncio.run(ask())
    engine.clear_cache()
    assert asyncio.run(ask()) == first


def test_adapters_on_disk_are_compared_bit_by_bit(tmp_path: Path) -> None:
    """The digest of the first test sees one flipped bit."""
    base = tiny_base()
    learner = Learner(base, LEARNER)
    from training.models.lora import save_weights

    weights, config = learner.weights()
    for name in ("clone", "serving", "policy"):
        save_weights(weights, config, tmp_path / name, {})
    before = digests(tmp_path)
    key = next(iter(weights))
    weights[key].view(-1).view(torch.int32)[0] ^= 1
    save_weights(weights, config, tmp_path / "policy", {})
    assert before != digests(tmp_path) and read_adapter(tmp_path / "policy")[0].keys() == weights.keys()


def test_held_out_rows_are_sampled_evenly_where_they_are_many() -> None:
    rows = [Row((k, 1, 2, 3), (False, True, True, True)) for k in range(100)]
    some = sampled(rows, 80)
    assert [row.ids[0] for row in some] == list(range(0, 100, 5))
    assert sampled(rows, 400) == rows and len(sampled(rows, 1)) == FEWEST_EVALUATED
    assert sampled(rows[:3], 1) == rows[:3] and sampled([], 50) == []
