"""The LoRA learner: rows in, better adapter out. It knows losses, not algorithms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel

from training.learning.batch import Batch, Row, by_length, collate
from training.learning.head import logprobs_of_learned
from training.learning.losses import GrpoSettings, LossSum, grpo, sft
from training.models.base import Base
from training.models.devices import recomputes, sharing_weights
from training.models.lora import LoraSettings, adapter_weights, load_weights, new_adapter
from training.tiny.passes.learning import SmallBody

LENGTHS = 32
"""On CPUs, lengths are multiples of this: each new shape costs a product its preparation (measured: 1.2 times)."""


class LearnerSettings(BaseModel):
    """How an adapter is optimised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora: LoraSettings = Field(default_factory=LoraSettings, description="The adapter's shape.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak rate; LoRA takes about ten times full training's.")
    warmup_steps: int = Field(20, ge=0, description="Steps over which the rate rises linearly.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="What the rate does afterwards.")
    max_grad_norm: float = Field(0.5, gt=0, description="Gradient norm above which gradients are scaled down.")
    micro_tokens: int = Field(4096, ge=64, description="Padded tokens in one forward pass.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay on the factors.")
    bf16: bool = Field(True, description="Autocast to bfloat16; the factors stay in float32.")
    gradient_checkpointing: bool | None = Field(
        None, description="Recompute activations in the backward pass; null: for bases of a billion parameters."
    )


class Learner:
    """An adapter in training, beside the base's own frozen weights. `progress` runs from 0 to 1, for the schedule."""

    def __init__(self, base: Base, settings: LearnerSettings, seed: int = 0, start: Path | None = None) -> None:
        self.settings, self.pad_id, self.step = settings, base.format.pad_id, 0
        self.model: PeftModel = new_adapter(sharing_weights(base.model), settings.lora, seed)
        if start is not None:
            load_weights(self.model, start)
        self.model.train()
        if recomputes(settings.gradient_checkpointing, base.model):
            self._adapted.gradient_checkpointing_enable({"use_reentrant": False})
        small = SmallBody.fits(base.model)
        self._body = SmallBody(self.model, torch.bfloat16 if settings.bf16 else torch.float32) if small else None
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )
        self._reference: dict[str, torch.Tensor] | None = None

    # ----- steps

    def sft_step(self, rows: Sequence[Row], progress: float = 0.0) -> dict[str, float]:
        return self._step(rows, progress, lambda logprobs_N, batch, _: sft(logprobs_N, batch.weights_N))

    def grpo_step(self, rows: Sequence[Row], settings: GrpoSettings, progress: float = 0.0) -> dict[str, float]:
        """One step on sampled rows; each needs the sampler's log-probabilities."""
        if any(not row.logprobs for row in rows):
            raise ValueError("a policy step needs the sampler's log-probabilities for every row")

        def loss(logprobs_N: torch.Tensor, batch: Any, reference_N: torch.Tensor | None) -> LossSum:
            return grpo(logprobs_N, batch.sampler_N, batch.advantages_N, reference_N, settings)

        return self._step(rows, progress, loss, with_reference=settings.kl_penalty > 0)

    def keep_reference(self) -> None:
        """Remember the adapter as it is now: the one that the divergence is measured from."""
        self._reference = {k: v.detach().clone() for k, v in self._factors().items()}

    @torch.no_grad()
    def evaluate(self, rows: Sequence[Row]) -> float:
        """Mean cross-entropy over the learned tokens of `rows`, in nats."""
        self.model.eval()
        total = 0.0
        for group in by_length(rows, self.settings.micro_tokens):
            batch = self._collated(group)
            total -= self._logprobs(batch.ids_BT, batch.trained_BT)[0].sum().item()
        self.model.train()
        return total / max(1, sum(r.learned for r in rows))

    def _step(
        self, rows: Sequence[Row], progress: float, loss: Callable[..., LossSum], with_reference: bool = False
    ) -> dict[str, float]:
        rate = self._rate(progress)
        for options in self.optimizer.param_groups:
            options["lr"] = rate
        tokens = sum(row.learned for row in rows)
        if not tokens:
            raise ValueError(f"nothing to learn: none of {len(rows)} rows has a learned token")
        sums: dict[str, float] = defaultdict(float)
        self.optimizer.zero_grad(set_to_none=True)
        for group in by_length(rows, self.settings.micro_tokens):
            for name, value in self._accumulate(group, tokens, loss, with_reference).items():
                sums[name] += value
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm).item()
        self.optimizer.step()
        self.step += 1
        return {**{k: v / tokens for k, v in sums.items()}, "grad_norm": norm, "tokens": tokens, "lr": rate}

    def _accumulate(
        self, rows: Sequence[Row], tokens: int, loss: Callable[..., LossSum], with_reference: bool
    ) -> dict[str, float]:
        """Add one micro-batch's gradient; on running out of memory, its two halves'."""
        try:
            gradients, metrics = self._gradients(rows, tokens, loss, with_reference)
        except RuntimeError as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        else:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            return metrics
        half = len(rows) // 2
        first = self._accumulate(rows[:half], tokens, loss, with_reference)
        second = self._accumulate(rows[half:], tokens, loss, with_reference)
        return {name: value + second[name] for name, value in first.items()}

    def _gradients(
        self, rows: Sequence[Row], tokens: int, loss: Callable[..., LossSum], with_reference: bool
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, float]]:
        """Gradients of one micro-batch, all or none: a backward pass that broke off leaves nothing half added."""
        batch = self._collated(rows)
        reference_N = self._reference_logprobs(batch.ids_BT, batch.trained_BT) if with_reference else None
        logprobs_N, entropy_N = self._logprobs(batch.ids_BT, batch.trained_BT)
        found = loss(logprobs_N, batch, reference_N)
        gradients = torch.autograd.grad(found.total / tokens, self.parameters)
        return gradients, {**found.metrics, "entropy": entropy_N.sum().item()}

    def _collated(self, rows: Sequence[Row]) -> Batch:
        batch = collate(rows, self.pad_id, LENGTHS if self._body is not None else 1)
        return batch.to(self.parameters[0].device)

    def _logprobs(self, ids_BT: torch.Tensor, trained_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device, head = self.parameters[0].device, self._adapted.get_output_embeddings()
        hidden_BTD = self._body(ids_BT[:, :-1]) if self._body is not None else None
        with torch.autocast(device.type, dtype=torch.bfloat16) if self.settings.bf16 else nullcontext():
            if hidden_BTD is None:
                body = self._adapted.get_decoder()
                hidden_BTD = body(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
            return logprobs_of_learned(hidden_BTD, head, ids_BT, trained_BT)

    @torch.no_grad()
    def _reference_logprobs(self, ids_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
        if self._reference is None:
            raise ValueError("no reference adapter was kept; call keep_reference() first")
        factors = self._factors()
        held = {k: v.data for k, v in factors.items()}
        try:
            for k, v in factors.items():
                v.data = self._reference[k]
            return self._logprobs(ids_BT, trained_BT)[0]
        finally:
            for k, v in factors.items():
                v.data = held[k]

    @property
    def _adapted(self) -> PreTrainedModel:
        """The base with the adapter's layers in it, without peft's wrapper around the forward pass."""
        return cast(PreTrainedModel, self.model.base_model.model)

    def _factors(self) -> dict[str, torch.nn.Parameter]:
        return {k: p for k, p in self.model.named_parameters() if p.requires_grad}

    def _rate(self, progress: float) -> float:
        rate = self.settings.learning_rate * min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        if self.settings.schedule == "cosine":
            rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return rate

    # ----- state

    def weights(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The adapter as an engine takes it (a copy)."""
        return adapter_weights(self.model)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to reach the same weights."""
        return {
            "step": self.step,
            "factors": {k: v.detach() for k, v in self._factors().items()},
            "reference": self._reference,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self._reference = state["step"], state["reference"]
        for name, parameter in self._factors().items():
            parameter.data.copy_(state["factors"][name])
        self.optimizer.load_state_dict(state["optimizer"])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate; on CPUs that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a training state so that a kill leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)
