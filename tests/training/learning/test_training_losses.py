"""The policy losses against plain re-implementations, and gradients that do not depend on how rows are laid out."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_samples import random_rows, stir, tiny_base

from training.learning.batch import Row, collate
from training.learning.head import logprobs_of_learned
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Sft, Tokens
from training.learning.policy_losses import Cispo, PpoClip
from training.models.base import Base
from training.models.lora import LoraSettings

CISPO, PPO = Cispo(kl_penalty=0.0), PpoClip(kl_penalty=0.0)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def rows(base: Base) -> list[Row]:
    """Drawn by a policy a little away from the learner's: ratios on both sides of every bound."""
    learner, rng, found = learner_of(base), random.Random(5), []
    for row in random_rows(5, base.model.config.vocab_size):
        batch = collate([row], base.format.pad_id)
        with torch.no_grad():
            logprobs = learner._logprobs(batch.ids_BT, batch.trained_BT)[0].tolist()
        found.append(replace(row, logprobs=tuple(p + rng.gauss(0.0, 0.8) for p in logprobs)))
    return found


def learner_of(base: Base, micro_tokens: int = 8192) -> Learner:
    """A learner with a non-trivial adapter that never moves: what `.grad` holds after a step is the gradient."""
    shape = LearnerSettings(
        lora=LoraSettings(rank=4, alpha=8),
        learning_rate=1e-30,
        max_grad_norm=1e9,
        bf16=False,
        micro_tokens=micro_tokens,
    )
    learner = Learner(base, shape)
    learner.keep_reference()
    stir(learner)
    return learner


def gradient(learner: Learner, rows: list[Row], loss: Any = CISPO) -> torch.Tensor:
    learner.policy_step(rows, loss)
    assert all(p.grad is not None for p in learner.parameters)
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None])


def plain_gradient(learner: Learner, rows: list[Row], loss: Any) -> torch.Tensor:
    """Row by row, unpadded, over all positions, through peft's own forward pass, token by token in scalars."""
    learner.optimizer.zero_grad()
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.ids])
        logprobs = learner.model(ids).logits[0, :-1].log_softmax(-1)
        with torch.no_grad(), learner.model.disable_adapter():  # the reference: B was zero when it was kept
            reference = learner.model(ids).logits[0, :-1].log_softmax(-1)
        sampled = iter(row.logprobs)
        for t in range(1, len(row.ids)):
            if row.trained[t]:
                token = logprobs[t - 1, row.ids[t]]
                total = total + plain_loss(token, next(sampled), row.advantage, loss)
                d = reference[t - 1, row.ids[t]] - token
                total = total + loss.kl_penalty * (torch.exp(d) - d - 1)
    (total / sum(row.learned for row in rows)).backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None])


def plain_loss(logprob: torch.Tensor, sampler: float, advantage: float, loss: Any) -> torch.Tensor:
    """One token, as the papers write it (MiniMax-M1 eq. 4-5; PPO, DAPO clip-higher, dual-clip PPO eq. 4)."""
    ratio = torch.exp(logprob - sampler)
    if loss.form == "cispo":
        return -min(ratio.item(), loss.max_importance_weight) * advantage * logprob
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    bounded = ratio if low <= ratio.item() <= high else torch.tensor(low if ratio.item() < low else high)
    objective = min(ratio * advantage, bounded * advantage, key=lambda x: x.item())
    if advantage < 0 and objective.item() < loss.dual_clip * advantage:
        objective = torch.tensor(loss.dual_clip * advantage)
    return -objective


# ----- one token


numbers = st.floats(-3.0, 3.0)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.floats(-2.0, 2.0), st.sampled_from(["cispo", "ppo"]))
def test_value_and_gradient_equal_those_of_the_papers(logprob: float, gap: float, advantage: float, form: str) -> None:
    loss = CISPO if form == "cispo" else PPO
    ours, plain = (torch.tensor([logprob], dtype=torch.float64, requires_grad=True) for _ in range(2))
    sampler, weight = torch.tensor([logprob - gap]).double(), torch.tensor([advantage]).double()
    found = loss(Tokens(ours, weight, sampler)).total
    expected = plain_loss(plain[0], sampler.item(), weight.item(), loss)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
    found.backward()
    if expected.requires_grad:
        expected.backward()
    assert ours.grad is not None
    assert ours.grad.item() == pytest.approx(0.0 if plain.grad is None else plain.grad.item(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.5, 1.0, False),  # already more likely than clip-higher allows
        (1.25, 1.0, True),  # 1 + 0.2 < 1.25 < 1 + 0.28: the room that clip-higher adds
        (0.7, 1.0, True),  # a good token that has become rarer may come back
        (0.7, -1.0, False),
        (1.5, -1.0, True),
        (3.5, -1.0, False),  # dual clip: beyond 3 a bad token stops pulling
    ],
)
def test_ppo_clips_at_its_bounds(ratio: float, advantage: float, moves: bool) -> None:
    logprobs = torch.tensor([math.log(ratio)], requires_grad=True)
    PPO(Tokens(logprobs, torch.tensor([advantage]), torch.zeros(1))).total.backward()
    assert logprobs.grad is not None and bool(logprobs.grad.abs() > 0) == moves


def test_cispo_caps_the_weight_and_keeps_the_gradient() -> None:
    logprobs = torch.tensor([math.log(2.0), math.log(50.0)], requires_grad=True)
    found = CISPO(Tokens(logprobs, torch.ones(2), torch.zeros(2)))
    found.total.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([-2.0, -5.0])
    assert found.metrics["clipped"] == 1


def test_k3_is_the_divergence_in_expectation() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 30, dtype=torch.float64).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum().item()
    weighted = sum(
        p.exp().item() * Cispo(kl_penalty=1.0)(Tokens(p[None], torch.zeros(1), p[None], r[None])).metrics["kl"]
        for p, r in zip(policy, reference, strict=True)
    )
    assert weighted == pytest.approx(exact, rel=1e-9)


def test_k3_and_its_gradient_vanish_at_the_reference() -> None:
    logprobs = torch.tensor([-0.5, -3.0], requires_grad=True)
    found = Cispo(kl_penalty=1.0)(Tokens(logprobs, torch.zeros(2), logprobs.detach(), logprobs.detach()))
    found.total.backward()
    assert found.total.item() == 0 and logprobs.grad is not None and not logprobs.grad.any()


@pytest.mark.parametrize("loss", [CISPO, PPO])
def test_on_policy_the_gradient_is_reinforce(loss: Any) -> None:
    torch.manual_seed(0)
    logprobs = (-4 * torch.rand(20)).requires_grad_()
    advantages = torch.randn(20)
    loss(Tokens(logprobs, advantages, logprobs.detach())).total.backward()
    assert logprobs.grad is not None and torch.allclose(logprobs.grad, -advantages)


def test_sft_is_cross_entropy() -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(7)
    ours = Sft()(Tokens(logits.log_softmax(-1)[range(7), targets], torch.ones(7))).total
    assert ours.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item())


# ----- whole rows


def test_learned_positions_alone_give_the_full_forward_s_logprobs(base: Base, rows: list[Row]) -> None:
    batch = collate(rows, base.format.pad_id)
    with torch.no_grad():
        hidden = base.model.get_decoder()(input_ids=batch.ids_BT[:, :-1]).last_hidden_state
        head = base.model.get_output_embeddings()
        logprobs, entropy = logprobs_of_learned(hidden, head, batch.ids_BT, batch.trained_BT)
        expected, spread = [], []
        for row in rows:
            full = base.model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)
            at = [t for t, learned in enumerate(row.trained) if learned]
            expected += [full[t - 1, row.ids[t]].item() for t in at]
            spread += torch.distributions.Categorical(logits=full[[t - 1 for t in at]]).entropy().tolist()
    assert logprobs.tolist() == pytest.approx(expected, abs=1e-4)
    assert entropy.tolist() == pytest.approx(spread, abs=1e-4)


@pytest.mark.parametrize(
    "loss",
    [CISPO, PPO, Cispo(kl_penalty=0.7), PpoClip(kl_penalty=0.7)],
    ids=["cispo", "ppo", "+kl", "ppo+kl"],
)
@pytest.mark.parametrize("count", [1, 5])
def test_the_learner_s_gradient_is_the_plain_one(base: Base, rows: list[Row], loss: Any, count: int) -> None:
    learner = learner_of(base)
    expected = plain_gradient(learner, rows[:count], loss)
    assert expected.norm() > 1e-3
    assert torch.allclose(gradient(learner, rows[:count], loss), expected, rtol=1e-3, atol=1e-5 * expected.norm())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() < 1e-4 * a.norm())


def test_micro_batches_padding_and_order_leave_the_gradient_alone(base: Base, rows: list[Row]) -> None:
    together = gradient(learner_of(base), rows)
    assert close(together, gradient(learner_of(base, micro_tokens=64), rows))  # about a row each
    assert close(together, gradient(learner_of(base), rows[::-1]))
    assert close(together, gradient(learner_of(base, micro_tokens=100), [*rows[2:], *rows[:2]]))


def test_a_rollout_split_into_two_rows_weighs_the_same(base: Base, rows: list[Row]) -> None:
    row = max(rows, key=lambda r: len(r.ids))
    cut = len(row.ids) // 2
    before = sum(row.trained[:cut])
    first = Row(row.ids[:cut], row.trained[:cut], row.advantage, row.logprobs[:before])
    second = replace(row, trained=(False,) * cut + row.trained[cut:], logprobs=row.logprobs[before:])
    assert first.learned and second.learned
    others = [r for r in rows if r is not row]
    assert close(gradient(learner_of(base), [*others, row]), gradient(learner_of(base), [*others, first, second]))


def test_tokens_of_others_have_no_gradient(base: Base, rows: list[Row]) -> None:
    row = rows[0]
    answered = replace(row, ids=(*row.ids, 21, 22, 23), trained=(*row.trained, False, False, False))
    assert close(gradient(learner_of(base), [row]), gradient(learner_of(base), [answered]))
    other = replace(answered, ids=(*row.ids, 33, 32, 31))
    assert close(gradient(learner_of(base), [answered]), gradient(learner_of(base), [other]))


def test_advantages_weigh_rows(base: Base, rows: list[Row]) -> None:
    one, two = rows[0], rows[1]
    alone = [gradient(learner_of(base), [replace(r, advantage=1.0)]) * r.learned for r in (one, two)]
    for first, second in ((2.0, 0.0), (0.5, -1.5)):
        found = gradient(learner_of(base), [replace(one, advantage=first), replace(two, advantage=second)])
        assert close((first * alone[0] + second * alone[1]) / (one.learned + two.learned), found)


def test_invalid_rows_are_refused(base: Base) -> None:
    with pytest.raises(ValueError, match="3 ids but 2 marks"):
        Row((1, 2, 3), (False, True))
    with pytest.raises(ValueError, match="first token"):
        Row((1, 2), (True, False))
    with pytest.raises(ValueError, match="2 learned tokens but 1"):
        Row((1, 2, 3), (False, True, True), 1.0, (-0.5,))
    with pytest.raises(ValueError, match="every row"):
        learner_of(base).policy_step([Row((9, 10), (False, True))], CISPO)


def test_token_weights_scale_the_loss_and_not_the_metric() -> None:
    logprobs_N = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    found = Sft()(Tokens(logprobs_N, torch.ones(3), weights_N=torch.tensor([8.0, 1.0, 1.0])))
    (gradient,) = torch.autograd.grad(found.total, logprobs_N)
    assert found.total.item() == 14 and found.metrics["loss"] == 7 and gradient.tolist() == [-8, -1, -1]
    rows = [Row((1, 2, 3), (False, True, True), weights=(8.0, 1.0)), Row((1, 2), (False, True))]
    assert collate(rows, 0).weights_N.tolist() == [8.0, 1.0, 1.0] and collate(rows[1:], 0).weights_N is None
    with pytest.raises(ValueError, match="2 learned tokens but 1 weights"):
        Row((1, 2, 3), (False, True, True), weights=(8.0,))
