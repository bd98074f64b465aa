"""The learner: better adapters, resumed to the bit, in peft's format, over a base that never changes."""

from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from training_samples import conversations, random_rows, stir, tiny_base

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.local import LocalEngine
from training.learning.batch import Row, by_length, collate, epochs
from training.learning.fits import FitSettings, fit_sft
from training.learning.learner import Learner, LearnerSettings, load_state, save_state
from training.learning.policy_losses import Cispo, PpoClip
from training.models.base import Base
from training.models.lora import (
    LoraSettings,
    load_weights,
    manifest_of,
    new_adapter,
    save_adapter,
    save_weights,
    settings_of,
)
from training.policy.clone import policy_rows

SMALL = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=3e-3, warmup_steps=0, bf16=False)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def rows(base: Base) -> list[Row]:
    return policy_rows(conversations(24), base.format, show_system=False)


def weights_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# ----- batches


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(64, 300))
def test_groups_hold_every_row_once_within_their_budget(lengths: list[int], tokens: int) -> None:
    rows = [Row((9,) * n, (False, *[True] * (n - 1))) for n in lengths]
    groups = by_length(rows, tokens)
    assert sorted(id(r) for g in groups for r in g) == sorted(map(id, rows))
    assert all(len(g) == 1 or len(g) * max(len(r.ids) for r in g) <= tokens for g in groups)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 40), st.integers(0, 3))
def test_epochs_use_every_row_and_resume(count: int, start: int, seed: int) -> None:
    rows = [Row((9, k), (False, True)) for k in range(count)]
    first, total = [], 0
    stream = epochs(rows, 64, seed)
    while total < count:
        first.append(next(stream))
        total += len(first[-1])
    assert sorted(r.ids[1] for g in first for r in g) == list(range(count))
    expected = list(itertools.islice(epochs(rows, 64, seed), start, start + 3))
    assert list(itertools.islice(epochs(rows, 64, seed, start=start), 3)) == expected


# ----- supervised


def test_sft_lowers_the_loss_and_reports_it(base: Base, rows: list[Row]) -> None:
    learner = Learner(base, SMALL)
    before = learner.evaluate(rows)
    with torch.no_grad():
        plain = torch.nn.functional.cross_entropy(
            torch.cat([base.model(torch.tensor([r.ids])).logits[0, :-1][list(r.trained[1:])] for r in rows]),
            torch.cat([torch.tensor(r.ids[1:])[list(r.trained[1:])] for r in rows]),
        )
    assert before == pytest.approx(plain.item(), rel=1e-4)
    first = learner.sft_step(rows)["loss"]
    assert first == pytest.approx(before, rel=1e-4)
    for _ in range(12):
        learner.sft_step(rows)
    assert learner.evaluate(rows) < before / 2


def test_the_base_is_bit_identical_after_training(base: Base, rows: list[Row]) -> None:
    held = {k: v.clone() for k, v in base.model.state_dict().items()}
    learner = Learner(base, SMALL)
    learner.sft_step(rows)
    inside = {k.replace(".base_layer.", "."): v for k, v in learner._adapted.state_dict().items() if ".lora_" not in k}
    assert weights_equal(held, dict(base.model.state_dict())) and weights_equal(held, inside)


def test_a_restored_learner_reaches_the_same_weights(base: Base, rows: list[Row], tmp_path: Path) -> None:
    shape = SMALL.model_copy(update={"warmup_steps": 5, "schedule": "cosine", "weight_decay": 0.1})
    whole, stopped = Learner(base, shape, seed=3), Learner(base, shape, seed=3)
    for learner in (whole, stopped):
        learner.keep_reference()
        for k in range(2):
            learner.sft_step(rows[8 * k : 8 * k + 8], k / 4)
    save_state(stopped.state(), tmp_path / "state.pt")
    resumed = Learner(base, shape, seed=99)
    resumed.restore(load_state(tmp_path / "state.pt"))
    for learner in (whole, resumed):
        learner.sft_step(rows[16:], 0.5)
        learner.policy_step(
            [Row(r.ids, r.trained, 1.0, (-1.0,) * r.learned) for r in rows[:3]], Cispo(kl_penalty=0.5), 0.75
        )
    assert weights_equal(whole.weights()[0], resumed.weights()[0]) and whole.step == resumed.step == 4


def test_the_learning_rate_rises_then_falls(base: Base) -> None:
    learner = Learner(base, SMALL.model_copy(update={"warmup_steps": 4, "schedule": "cosine"}))
    row = [Row((9, 10, 11), (False, True, True))]
    rates = [learner.sft_step(row, progress)["lr"] for progress in (0, 0, 0, 0, 0.5, 1.0)]
    assert rates[:4] == pytest.approx([0.25 * 3e-3, 0.5 * 3e-3, 0.75 * 3e-3, 3e-3])
    assert rates[4:] == pytest.approx([0.525 * 3e-3, 0.05 * 3e-3])


def test_a_batch_without_learned_tokens_is_refused(base: Base) -> None:
    learner = Learner(base, SMALL)
    with pytest.raises(ValueError, match="none of 1 rows"):
        learner.sft_step([Row((9, 10), (False, False))])
    assert all(torch.isfinite(p).all() for p in learner.parameters)


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_running_out_of_memory_halves_the_batch_and_changes_nothing(base: Base, broken: str) -> None:
    rows = random_rows(6, base.model.config.vocab_size)
    learners = [Learner(base, SMALL.model_copy(update={"max_grad_norm": 1e9})) for _ in range(2)]
    for learner in learners:
        stir(learner)
        learner._body = None  # transformers' layers can be broken from outside
    failures = []

    def allocate(large: bool) -> None:
        if large:
            failures.append(1)
            raise torch.OutOfMemoryError("more than there is")

    layer = learners[1]._adapted.model.layers[0].mlp.down_proj
    if broken == "forward":
        layer.register_forward_pre_hook(lambda module, args: allocate(len(args[0]) > 2))
    else:  # some of the gradients are there already when this layer's turn comes
        layer.register_full_backward_hook(lambda module, grads, out: allocate(len(out[0]) > 2))
    for learner in learners:
        learner.sft_step(rows)
    assert len(failures) >= 3  # six rows, then three and three
    for one, other in zip(learners[0].parameters, learners[1].parameters, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6)


# ----- a whole fit

BY_TOKENS = FitSettings(learner=SMALL, max_tokens=10**9, max_epochs=6, step_tokens=300, evaluations=4)


def fitted(base: Base, rows: list[Row], held_out: list[Row], **more: Any) -> Any:
    return fit_sft(base, rows, held_out, BY_TOKENS, **more)


def without_clock(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def test_a_killed_fit_resumes_to_the_same_weights(base: Base, rows: list[Row], tmp_path: Path) -> None:
    weights, _, history = fitted(base, rows[:18], rows[18:])
    assert len(history) == 4 and history[-1]["held_out"] < history[0]["held_out"]

    class Killed(Exception):
        pass

    def kill(done: float, metrics: dict[str, float]) -> None:
        if done > 0.6:
            raise Killed

    checkpoint = tmp_path / "deep" / "fit.pt"
    with pytest.raises(Killed):
        fitted(base, rows[:18], rows[18:], checkpoint=checkpoint, on_progress=kill)
    assert checkpoint.is_file()
    steps: list[float] = []
    again = fitted(base, rows[:18], rows[18:], checkpoint=checkpoint, on_progress=lambda d, m: steps.append(d))
    assert steps[0] > 0.4  # it did not start over
    assert weights_equal(weights, again[0]) and without_clock(history) == without_clock(again[2])
    assert not checkpoint.exists()


def test_a_fit_keeps_the_best_weights_on_held_out_rows(base: Base, tmp_path: Path) -> None:
    ask = base.format.prompt([{"role": "user", "content": "red or blue"}])

    def answer(text: str) -> Row:
        said = [*base.format.encode(text), *base.format.stop_ids]
        return Row((*ask, *said), (False,) * len(ask) + (True,) * len(said))

    gentle = SMALL.model_copy(update={"learning_rate": 2e-3})
    shape = BY_TOKENS.model_copy(update={"learner": gentle, "max_epochs": 30.0, "evaluations": 6})
    rows, held_out = [answer("done red"), answer("bye")] * 6, [answer("done blue")]
    weights, config, history = fit_sft(base, rows, held_out, shape)
    losses = [line["held_out"] for line in history]
    assert losses[-1] > min(losses) + 0.5  # the longer it trains the surer it is of the other colour
    save_weights(weights, config, tmp_path / "best", {})
    kept = Learner(base, SMALL, start=tmp_path / "best")
    assert kept.evaluate(held_out) == pytest.approx(min(losses), rel=1e-4)


def test_a_fit_without_rows_is_refused(base: Base) -> None:
    with pytest.raises(ValueError, match="no training rows"):
        fit_sft(base, [], [], BY_TOKENS)


# ----- adapters on disk


def test_peft_loads_saved_adapters_with_equal_results(base: Base, rows: list[Row], tmp_path: Path) -> None:
    learner = Learner(base, SMALL)
    learner.sft_step(rows)
    save_adapter(learner.model, tmp_path / "a", {"role": "policy"})
    theirs = PeftModel.from_pretrained(tiny_base().model, str(tmp_path / "a")).eval()
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        ours, other, bare = learner.model.eval()(ids).logits, theirs(ids).logits, base.model(ids).logits
    assert torch.allclose(ours, other, atol=1e-3) and (ours - bare).abs().max() > 1
    assert settings_of(tmp_path / "a").rank == 4 and manifest_of(tmp_path / "a") == {"role": "policy"}


def test_the_engine_serves_what_the_learner_holds(base: Base, rows: list[Row], tmp_path: Path) -> None:
    learner = Learner(base, SMALL)
    learner.sft_step(rows)
    save_weights(*learner.weights(), tmp_path / "a", {})
    engine = LocalEngine(base.model, base.format.pad_id)
    engine.load_adapter("saved", tmp_path / "a")
    engine.publish_adapter("held", *learner.weights())
    row = rows[0]

    async def both() -> list[tuple[float, ...]]:
        return [await engine.score(row.ids[:5], row.ids[5:], adapter=name) for name in ("saved", "held")]

    saved, held = asyncio.run(both())
    with torch.no_grad():
        whole = learner.model.eval()(torch.tensor([row.ids])).logits[0, 4:-1].log_softmax(-1)
    expected = whole.gather(-1, torch.tensor(row.ids[5:])[:, None])[:, 0].tolist()
    assert saved == held and saved == pytest.approx(expected, abs=1e-4)


def test_a_learner_starts_from_a_saved_adapter_of_its_own_shape_only(
    base: Base, rows: list[Row], tmp_path: Path
) -> None:
    first = Learner(base, SMALL)
    first.sft_step(rows)
    save_adapter(first.model, tmp_path / "a", {})
    assert weights_equal(Learner(base, SMALL, seed=7, start=tmp_path / "a").weights()[0], first.weights()[0])
    for other in (LoraSettings(rank=8), LoraSettings(rank=4, target_modules=["q_proj"])):
        with pytest.raises(UserError, match="adapter"):
            load_weights(new_adapter(tiny_base().model, other), tmp_path / "a")
    with pytest.raises(UserError, match="adapter_config.json"):
        Learner(base, SMALL, start=tmp_path / "nowhere")


def test_settings_of_a_saved_adapter_make_an_equal_one(base: Base, rows: list[Row], tmp_path: Path) -> None:
    narrow = SMALL.model_copy(update={"lora": LoraSettings(rank=2, alpha=6, target_modules=["q_proj", "up_proj"])})
    first = Learner(base, narrow)
    first.sft_step(rows)
    save_adapter(first.model, tmp_path / "a", {})
    again = Learner(base, SMALL.model_copy(update={"lora": settings_of(tmp_path / "a")}), start=tmp_path / "a")
    assert again.evaluate(rows) == pytest.approx(first.evaluate(rows), rel=1e-5)


def test_a_write_that_fails_leaves_the_old_adapter(base: Base, tmp_path: Path) -> None:
    learner = Learner(base, SMALL)
    save_adapter(learner.model, tmp_path / "a", {"version": 1})
    with pytest.raises(TypeError):
        save_adapter(learner.model, tmp_path / "a", {"version": {2}})  # no JSON
    assert manifest_of(tmp_path / "a") == {"version": 1}
    load_weights(learner.model, tmp_path / "a")
    save_adapter(learner.model, tmp_path / "a", {"version": 3})  # the half-written one is no obstacle
    assert manifest_of(tmp_path / "a") == {"version": 3} and manifest_of(tmp_path / "none") is None


# ----- policy steps


def test_the_divergence_starts_at_zero_and_is_the_one_from_the_kept_adapter(base: Base, rows: list[Row]) -> None:
    learner = Learner(base, SMALL)
    stir(learner, scale=0.02)
    sampled = [Row(r.ids, r.trained, 1.0, (-1.0,) * r.learned) for r in rows[:4]]
    with pytest.raises(ValueError, match="keep_reference"):
        learner.policy_step(sampled, Cispo(kl_penalty=0.1))
    learner.keep_reference()
    kept = learner.evaluate(sampled)
    first = learner.policy_step(sampled, Cispo(kl_penalty=0.1))
    assert first["kl"] == pytest.approx(0.0, abs=1e-9)
    moved = {k: v.clone() for k, v in learner.weights()[0].items()}
    batch = collate(sampled, base.format.pad_id)
    reference = learner._reference_logprobs(batch.ids_BT, batch.trained_BT)
    assert -reference.mean().item() == pytest.approx(kept, rel=1e-5)
    assert weights_equal(moved, learner.weights()[0])  # looking at the reference leaves the learner as it was
    assert learner.policy_step(sampled, Cispo(kl_penalty=0.1))["kl"] > 1e-4


def test_the_kl_penalty_alone_returns_to_the_reference(base: Base, rows: list[Row]) -> None:
    learner = Learner(base, SMALL)
    learner.keep_reference()
    stir(learner, scale=0.02)
    sampled = [Row(r.ids, r.trained, 0.0, (-1.0,) * r.learned) for r in rows[:6]]
    distances = [learner.policy_step(sampled, Cispo(kl_penalty=1.0))["kl"] for _ in range(10)]
    assert distances[-1] < distances[0] / 2


@pytest.mark.parametrize("loss", [Cispo(kl_penalty=0.0), PpoClip(kl_penalty=0.0)], ids=["cispo", "ppo_clip"])
def test_a_bandit_learns_the_best_arm(base: Base, loss: Any) -> None:
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    learner = Learner(base, SMALL)
    prompt = base.format.prompt([{"role": "user", "content": "red or blue"}])
    arms = [base.format.encode(word) for word in ("red", "green", "blue")]
    known = [Row((*prompt, *arm), (*[False] * len(prompt), *[True] * len(arm))) for arm in arms]
    for _ in range(30):
        learner.sft_step(known)
    assert learner.evaluate(known) < 1.0  # three words of about ln 3 nats each, in four tokens

    async def pulls(step: int) -> list[Any]:
        engine.publish_adapter(f"p@{step}", *learner.weights())
        asked = [Sampling(len(arms[2]), seed=100 * step + k) for k in range(64)]
        return await asyncio.gather(*(engine.sample(prompt, adapter=f"p@{step}", sampling=s) for s in asked))

    paid: list[float] = []
    for step in range(10):
        samples = asyncio.run(pulls(step))
        wins = [float(list(s.ids) == arms[2]) for s in samples]
        paid.append(sum(wins) / 64)
        rows = [
            Row((*prompt, *s.ids), (*[False] * len(prompt), *[True] * len(s.ids)), win - paid[-1], s.logprobs)
            for s, win in zip(samples, wins, strict=True)
        ]
        learned = learner.policy_step(rows, loss)
        assert learned["engine_kl"] < 1e-6 and math.isfinite(learned["grad_norm"])
    assert paid[0] < 0.6 and paid[-1] > 0.9
