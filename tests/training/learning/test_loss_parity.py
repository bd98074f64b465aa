"""Advantages and losses beside the libraries': TRL's own code is run, ART's and Tinker's formulas are written out.

Batches are fixed; equality is to 1e-6. The learner's gradients do not depend on padding, packing, micro-batches or on
how a rollout is split into rows.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_samples import random_rows, stir, tiny_base

from training.judging.advantages import advantages
from training.learning.batch import Row, collate
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Sft, Tokens
from training.learning.policy_losses import Cispo, DrGrpo, Gspo, PolicyLoss, PpoClip
from training.models.base import Base
from training.models.lora import LoraSettings

LENGTHS = (5, 2, 7, 3, 7, 1, 4, 6)
WIDTH = max(LENGTHS)
SEEN = importlib.util.find_spec("trl") is not None
TRL = pytest.mark.skipif(not SEEN, reason="TRL is not installed (pip install -e .[dev])")


def padded() -> dict[str, torch.Tensor]:
    """A batch [B, T] in double precision, ratios on both sides of every bound, with a mask of ragged lengths."""
    draw = torch.Generator().manual_seed(4)
    shape = (len(LENGTHS), WIDTH)
    logprobs = -3 * torch.rand(shape, generator=draw, dtype=torch.float64)
    gaps = 1.2 * torch.randn(shape, generator=draw, dtype=torch.float64)
    return {
        "logprobs": logprobs,
        "sampler": logprobs - gaps,
        "reference": logprobs + 0.3 * torch.randn(shape, generator=draw, dtype=torch.float64),
        "advantages": torch.randn(len(LENGTHS), generator=draw, dtype=torch.float64),
        "mask": (torch.arange(WIDTH)[None] < torch.tensor(LENGTHS)[:, None]).double(),
    }


def ours(loss: Any, batch: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Our loss of that batch, divided by our count of its rows, and its gradient [B, T]."""
    logprobs = batch["logprobs"].clone().requires_grad_()
    chosen = batch["mask"].bool()
    gaps = ((batch["logprobs"] - batch["sampler"]) * batch["mask"]).sum(1)
    distances = ((batch["logprobs"] - batch["reference"]) * batch["mask"]).sum(1)
    each = torch.tensor(LENGTHS)
    tokens = Tokens(
        logprobs[chosen],
        batch["advantages"].repeat_interleave(each),
        batch["sampler"][chosen],
        batch["reference"][chosen] if loss.needs_reference else None,
        rollout_ratio_N=gaps.repeat_interleave(each),
        rollout_distance_N=distances.repeat_interleave(each),
        rollout_tokens_N=each.repeat_interleave(each).double(),
    )
    rows = [Row((1,) * (n + 1), (False, *[True] * n)) for n in LENGTHS]
    found = loss(tokens).total / loss.count(rows)
    found.backward()
    assert logprobs.grad is not None
    return found.item(), logprobs.grad


def trl_loss(batch: dict[str, torch.Tensor], **config: Any) -> tuple[float, torch.Tensor]:
    """What TRL's GRPOTrainer itself makes of the batch: its `_compute_loss`, with the log-probabilities given."""
    from trl import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    beta, level = config.pop("beta", 0.0), config.pop("importance_sampling_level", "token")
    args = GRPOConfig(
        output_dir="unused", bf16=False, use_cpu=True, report_to=[], use_bias_correction_kl=False, **config
    )
    logprobs = batch["logprobs"].clone().requires_grad_()
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction="sum": x
    )
    trainer = object.__new__(GRPOTrainer)
    trainer.__dict__.update(
        args=args, loss_type=args.loss_type, beta=beta, importance_sampling_level=level,
        epsilon_low=args.epsilon, epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        max_completion_length=args.max_completion_length, aux_loss_enabled=False, top_entropy_quantile=1.0,
        _entropy_bonus_enabled=False,
        off_policy_mask_threshold=None, use_vllm=False, model=SimpleNamespace(training=True), accelerator=accelerator,
        current_gradient_accumulation_steps=1, _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None)
    count = len(LENGTHS)
    loss = trainer._compute_loss(
        None,
        {
            "prompt_ids": torch.ones(count, 1, dtype=torch.long),
            "prompt_mask": torch.ones(count, 1, dtype=torch.long),
            "completion_ids": torch.ones(count, WIDTH, dtype=torch.long),
            "completion_mask": batch["mask"],
            "advantages": batch["advantages"],
            "old_per_token_logps": batch["sampler"],
            "ref_per_token_logps": batch["reference"],
            "num_items_in_batch": batch["mask"].sum() * args.steps_per_generation,
        },
    )
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad


@TRL
@pytest.mark.parametrize("kl", [0.0, 0.3], ids=["", "+kl"])
@pytest.mark.parametrize(
    ("loss", "config"),
    [
        (Cispo(), {"loss_type": "cispo", "epsilon_high": 5.0}),
        (PpoClip(dual_clip=None), {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}),
        (
            DrGrpo(dual_clip=None, max_tokens=9),
            {"loss_type": "dr_grpo", "epsilon": 0.2, "epsilon_high": 0.28, "max_completion_length": 9},
        ),
        (
            Gspo(clip_low=0.2, clip_high=0.3),
            {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": 0.3, "importance_sampling_level": "sequence"},
        ),
    ],
    ids=lambda v: getattr(v, "form", ""),
)
def test_losses_equal_those_of_trl(loss: Any, config: dict[str, Any], kl: float) -> None:
    batch = padded()
    value, gradient = ours(loss.model_copy(update={"kl_penalty": kl}), batch)
    expected, theirs = trl_loss(batch, beta=kl, **config)
    assert value == pytest.approx(expected, abs=1e-6) and value != 0
    assert torch.allclose(gradient, theirs, rtol=0, atol=1e-6) and theirs.abs().max() > 1e-3


def trl_advantages(rewards: list[float | None], size: int) -> list[float]:
    """TRL's lines for `scale_rewards="none"` with a reward function that may give None (grpo_trainer.py, 1.16)."""
    from trl.trainer.grpo_trainer import nanstd  # noqa: F401 - the file whose lines these are

    values = torch.tensor([float("nan") if r is None else r for r in rewards])
    means = torch.nanmean(values.view(-1, size), dim=1).repeat_interleave(size)
    return torch.nan_to_num(values - means, nan=0.0).tolist()


@TRL
def test_advantages_equal_those_of_trl_and_tinker() -> None:
    for rewards in ([0.1, 0.9, 0.4, 0.6], [1.0, None, 0.0, 0.5], [0.2, 0.2, 0.9, None, 0.1, 0.0, 1.0, 0.6]):
        found = advantages(rewards, 0.0).advantages
        assert found == pytest.approx(trl_advantages(rewards, len(rewards)), abs=1e-6)
    rewards_G = [0.1, 0.9, 0.4, 0.6]  # tinker-cookbook rl/data_processing.py: rewards_G - rewards_G.mean()
    assert advantages(rewards_G, 0.0).advantages == pytest.approx(
        (torch.tensor(rewards_G) - torch.tensor(rewards_G).mean()).tolist(), abs=1e-6
    )


def test_the_on_policy_loss_equals_that_of_art_and_tinker() -> None:
    """ART's `loss_fn` (src/art/loss.py): -min(prob_ratio clipped to [0, 5]) sg * advantage * new_logprobs, a mean over
    the assistant's tokens. Tinker's `importance_sampling`: -(exp(logprobs - sampling_logprobs) * advantages), a sum.
    """
    batch = padded()
    mask, each = batch["mask"], batch["advantages"][:, None]
    for_art = batch["logprobs"].clone().requires_grad_()
    ratio = (for_art - batch["sampler"]).exp()
    art = -(ratio.detach().clamp(0.0, 5.0) * each * for_art * mask).sum() / mask.sum()
    art.backward()
    value, gradient = ours(Cispo(kl_penalty=0.0), batch)
    assert for_art.grad is not None
    assert value == pytest.approx(art.item(), abs=1e-6) and torch.allclose(gradient, for_art.grad, rtol=0, atol=1e-6)

    for_tinker = batch["logprobs"].clone().requires_grad_()
    (-((for_tinker - batch["sampler"]).exp() * each * mask).sum()).backward()
    _, gradient = ours(Cispo(kl_penalty=0.0, max_importance_weight=1e9), batch)
    assert for_tinker.grad is not None
    assert torch.allclose(gradient * mask.sum(), for_tinker.grad, rtol=0, atol=1e-6)


# ----- layouts


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def rows(base: Base) -> list[Row]:
    learner, found = learner_of(base), []
    for k, row in enumerate(random_rows(6, base.model.config.vocab_size)):
        batch = collate([row], base.format.pad_id)
        with torch.no_grad():
            logprobs = learner._logprobs(batch.ids_BT, batch.trained_BT)[0].tolist()
        found.append(replace(row, logprobs=tuple(p + 0.4 * ((k + i) % 5 - 2) for i, p in enumerate(logprobs))))
    return found


def learner_of(base: Base, micro_tokens: int = 8192) -> Learner:
    """An adapter that never moves: what `.grad` holds after a step is the gradient."""
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


def gradient(learner: Learner, rows: list[Row], loss: Any) -> torch.Tensor:
    learner.policy_step(rows, loss)
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None])


def split(row: Row, name: str) -> list[Row]:
    """The row as two, each with its own part of the learned tokens, both of one rollout."""
    cut = next(k for k in range(2, len(row.ids)) if 0 < sum(row.trained[:k]) < row.learned)
    before = sum(row.trained[:cut])
    return [
        Row(row.ids[:cut], row.trained[:cut], row.advantage, row.logprobs[:before], rollout=name),
        replace(row, trained=(False,) * cut + row.trained[cut:], logprobs=row.logprobs[before:], rollout=name),
    ]


@pytest.mark.parametrize(
    "loss",
    [Cispo(), PpoClip(), DrGrpo(), Gspo(clip_low=0.2, clip_high=0.3), Sft()],
    ids=lambda v: getattr(v, "form", "sft"),
)
def test_the_batch_layout_does_not_change_the_gradient(base: Base, rows: list[Row], loss: Any) -> None:
    whole = gradient(learner_of(base), rows, loss)
    assert whole.norm() > 1e-4
    halves = [part for k, row in enumerate(rows) for part in split(row, f"rollout {k}")]
    layouts: dict[str, Callable[[], torch.Tensor]] = {
        "micro-batches of about a row": lambda: gradient(learner_of(base, 64), rows, loss),
        "another order": lambda: gradient(learner_of(base), rows[::-1], loss),
        "two rows a rollout": lambda: gradient(learner_of(base), halves, loss),
        "two rows a rollout, apart": lambda: gradient(learner_of(base, 64), halves[::2] + halves[1::2], loss),
    }
    for name, layout in layouts.items():
        assert (layout() - whole).norm() < 1e-5 * whole.norm(), name


def test_a_field_that_an_algorithm_does_not_use_is_refused() -> None:
    from pydantic import TypeAdapter, ValidationError

    read = TypeAdapter(PolicyLoss).validate_python
    assert read({"kl_penalty": 0.1}) == Cispo(kl_penalty=0.1)
    assert read({"form": "gspo"}) == Gspo() and read({"form": "dr_grpo", "max_tokens": 7}) == DrGrpo(max_tokens=7)
    with pytest.raises(ValidationError, match="max_importance_weight"):
        read({"form": "ppo_clip", "max_importance_weight": 3.0})
    with pytest.raises(ValidationError, match="reinforce"):
        read({"form": "reinforce"})
