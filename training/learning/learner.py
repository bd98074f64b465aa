"""The LoRA learner: computes a `Loss` on rows and updates the adapter."""

from __future__ import annotations

import math
import numbers
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel

from ingest.atomic import replacing
from training.learning.batch import Batch, Layout, Row, by_length, collate
from training.learning.head import Finish, finish_of, logprobs_of_learned
from training.learning.losses import WHOLE, Drawing, Loss, Sft, Tokens
from training.learning.prefixes import micro_batches, pack
from training.learning.presets import Kind, learning_rate
from training.models.base import Base, sliding_window
from training.models.devices import autocasts, recomputes, sharing_weights
from training.models.lora import LoraSettings, adapter_weights, load_weights, new_adapter
from training.models.parallel import add_up, add_up_gradients, from_first, is_first, own_share, processes, wait_for_all
from training.models.sharding import shard_layers
from training.tiny.passes.decoding import SmallDecoder
from training.tiny.passes.learning import SmallBody

LENGTHS = 32
"""On CPUs, lengths are multiples of this, because each new shape must be compiled (measured: 1.2 times faster)."""


class LearnerSettings(BaseModel):
    """Settings of the optimizer and of the adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora: LoraSettings = Field(default_factory=LoraSettings, description="The adapter's shape.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; null: the preset for the base's size.")
    preset: Kind = Field("supervised", description="Which preset: rates for policy gradients are lower.")
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Learning-rate schedule after the warm-up.")
    max_grad_norm: float = Field(0.5, gt=0, description="Gradients with a larger norm are scaled down to it.")
    micro_tokens: int = Field(4096, ge=64, description="Padded tokens in one forward pass.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay on the factors.")
    share_prompts: bool = Field(True, description="Run a shared prompt once per group (not for the narrowest bases).")
    shard: bool = Field(False, description="Shard the base's layers over the processes of `accelerate launch` (FSDP2).")
    bf16: bool | None = Field(
        None,
        description="Autocast to bfloat16; the factors stay in float32. null: on accelerators and on CPUs that "
        "multiply it fast (AMX, AVX-512 BF16).",
    )
    gradient_checkpointing: bool | None = Field(
        None, description="Recompute activations in the backward pass; null: for bases of a billion parameters."
    )


class Learner:
    """An adapter in training beside the base's frozen weights. `progress` runs from 0 to 1 and drives the schedule.

    `drawing` is the distribution of the log-probabilities: the one that the learned tokens were sampled from.
    """

    def __init__(
        self, base: Base, settings: LearnerSettings, seed: int = 0, start: Path | None = None, drawing: Drawing = WHOLE
    ) -> None:
        self.settings, self.pad_id, self.step, self.drawing = settings, base.format.pad_id, 0, drawing
        self._sharded = settings.shard and processes() > 1
        own = base.model if self._sharded else sharing_weights(base.model)
        self.model: PeftModel = new_adapter(own, settings.lora, seed)
        if start is not None:
            load_weights(self.model, start)
        self.model.train()
        self._autocasts = autocasts(settings.bf16, base.model.device)
        products = torch.bfloat16 if self._autocasts else torch.float32
        small = SmallDecoder.fits(base.model) and not self._sharded
        self._finish: Finish | None = None if small else finish_of(self._adapted)
        if recomputes(settings.gradient_checkpointing, base.model):
            self._adapted.gradient_checkpointing_enable({"use_reentrant": False})
        if self._sharded:
            shard_layers(self._adapted)
        self._body = SmallBody(self.model, products) if small else None
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.peak_rate = settings.learning_rate or learning_rate(base.model, settings.preset)
        self.optimizer = torch.optim.AdamW(
            self.parameters, self.peak_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )
        self._reference: dict[str, torch.Tensor] | None = None

    # ----- steps

    def sft_step(self, rows: Sequence[Row], progress: float = 0.0) -> dict[str, float]:
        return self.policy_step(rows, Sft(), progress)

    def policy_step(self, rows: Sequence[Row], loss: Loss, progress: float = 0.0) -> dict[str, float]:
        """One optimizer step on `rows`; returns the loss's metrics, each a mean over the learned tokens.

        Raises ValueError if no token is learned, or if the loss needs the sampler's log-probabilities and a row has
        none: without a recorded log-probability there is no importance ratio.
        """
        rows = from_first(rows)
        if loss.needs_sampler and any(not row.logprobs for row in rows):
            raise ValueError("a policy step needs the sampler's log-probabilities for every row")
        tokens = sum(row.learned for row in rows)
        if not tokens:
            raise ValueError(f"nothing to learn: none of {len(rows)} rows has a learned token")
        rate = self._rate(progress)
        for options in self.optimizer.param_groups:
            options["lr"] = rate
        if loss.sequence_level:
            rows = [row if row.rollout else replace(row, rollout=f"row {k}") for k, row in enumerate(rows)]
        work = _Work(loss, loss.count(rows), self._rollouts(rows, loss) if loss.sequence_level else {})
        sums: dict[str, float] = defaultdict(float)
        self.optimizer.zero_grad(set_to_none=True)
        for group, counts in self._own_batches(self._micro_batches(rows)):
            for name, value in self._accumulate(group, work, counts).items():
                sums[name] += value
        sums = add_up(sums)
        add_up_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm).item()
        self.optimizer.step()
        self.step += 1
        return {**{k: v / tokens for k, v in sums.items()}, "grad_norm": norm, "tokens": tokens, "lr": rate}

    def keep_reference(self) -> None:
        """Store the current adapter as the reference of the KL penalty."""
        self._reference = {k: v.detach().clone() for k, v in self._factors().items()}

    @torch.no_grad()
    def evaluate(self, rows: Sequence[Row]) -> float:
        """Mean cross-entropy over the learned tokens of `rows`, in nats."""
        self.model.eval()
        total = 0.0
        for group, counts in self._own_batches(self._micro_batches(rows)):
            batch = self._collated(group)
            total -= counts * self._logprobs(batch.ids_BT, batch.trained_BT, batch.layout)[0].sum().item()
        total = add_up({"total": total})["total"]
        self.model.train()
        return total / max(1, sum(r.learned for r in rows))

    @torch.no_grad()
    def logprobs_at(self, ids: Sequence[int], positions: Sequence[int]) -> list[float]:
        """The adapted model's log-probabilities of the ids at `positions` (ascending, without 0)."""
        marks = [k in set(positions) for k in range(len(ids))]
        batch = self._collated([Row(tuple(ids), tuple(marks))])
        drawing, self.drawing = self.drawing, WHOLE
        self.model.eval()
        try:
            return self._logprobs(batch.ids_BT, batch.trained_BT, batch.layout)[0].tolist()
        finally:
            self.drawing = drawing
            self.model.train()

    @torch.no_grad()
    def _rollouts(self, rows: Sequence[Row], loss: Loss) -> dict[str, _Rollout]:
        """The sums over whole rollouts, by the rollout's name."""
        found: dict[str, _Rollout] = {}
        for group in self._micro_batches(rows):
            batch = self._collated(group)
            logprobs_N, _ = self._logprobs(batch.ids_BT, batch.trained_BT, batch.layout)
            reference_N = self._reference_of(batch) if loss.needs_reference else None
            gaps = [other_N.to(logprobs_N.device) if other_N is not None else logprobs_N
                    for other_N in (batch.sampler_N, reference_N)]  # fmt: skip
            at = 0
            for row in group:
                own = slice(at, at + row.learned)
                ratio, distance = ((logprobs_N[own] - other_N[own]).cpu().double().sum().item() for other_N in gaps)
                before = found.get(row.rollout, _Rollout(0.0, 0.0, 0))
                sums = (before.ratio + ratio, before.distance + distance, before.tokens + row.learned)
                found[row.rollout] = _Rollout(*sums)
                at += row.learned
        return found

    def _accumulate(self, rows: Sequence[Row], work: _Work, counts: bool = True) -> dict[str, float]:
        """Add one micro-batch's gradient, if it counts. If memory runs out, add the gradients of its two halves."""
        try:
            gradients, metrics = self._gradients(rows, work)
        except RuntimeError as error:
            if len(rows) == 1 or self._sharded or not is_out_of_memory(error):
                raise  # with sharded layers the other processes would not run the halves
        else:
            if not counts:
                return {}
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            return metrics
        half = len(rows) // 2
        first = self._accumulate(rows[:half], work)
        second = self._accumulate(rows[half:], work)
        return {name: value + second[name] for name, value in first.items()}

    def _gradients(self, rows: Sequence[Row], work: _Work) -> tuple[tuple[torch.Tensor, ...], dict[str, float]]:
        """Gradients of one micro-batch. They are added only if the whole backward pass succeeds."""
        batch = self._collated(rows)
        reference_N = self._reference_of(batch) if work.loss.needs_reference else None
        logprobs_N, entropy_N = self._logprobs(batch.ids_BT, batch.trained_BT, batch.layout)
        found = work.loss(_tokens(rows, batch, logprobs_N, reference_N, work.rollouts))
        gradients = torch.autograd.grad(found.total / work.count, self.parameters)
        return gradients, {**found.metrics, "entropy": entropy_N.sum().item()}

    def _own_batches(self, batches: Sequence[list[Row]]) -> list[tuple[list[Row], bool]]:
        """This process's share of the micro-batches. With sharded layers, processes with fewer batches repeat one that
        does not count (False), because all processes must run each layer equally often.
        """
        found = [(batch, True) for batch in own_share(batches)]
        missing = -(-len(batches) // processes()) - len(found) if self._sharded else 0
        return found + [(batches[0], False)] * missing

    def _micro_batches(self, rows: Sequence[Row]) -> list[list[Row]]:
        split = micro_batches if self._shares else by_length
        return split(rows, self.settings.micro_tokens)

    def _collated(self, rows: Sequence[Row]) -> Batch:
        device = self.parameters[0].device
        packed = pack(rows) if self._shares else None
        if packed is not None:
            return packed.to(device)
        return collate(rows, self.pad_id, LENGTHS if self._body is not None else 1).to(device)

    def _logprobs(
        self, ids_BT: torch.Tensor, trained_BT: torch.Tensor, layout: Layout | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device, head = self.parameters[0].device, self._adapted.get_output_embeddings()
        hidden_BTD = self._own_pass(ids_BT[:, :-1], layout) if self._body is not None else None
        with torch.autocast(device.type, dtype=torch.bfloat16) if self._autocasts else nullcontext():
            if hidden_BTD is None:
                body = self._adapted.get_decoder()
                where = _placed(layout, device) if layout is not None else {}
                hidden_BTD = body(input_ids=ids_BT[:, :-1], use_cache=False, **where).last_hidden_state
            return logprobs_of_learned(hidden_BTD, head, ids_BT, trained_BT, self._normalized)

    def _normalized(self, head_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [N, V] of the sampling distribution from the head's output."""
        return self.drawing.logprobs(self._finish(head_NV) if self._finish is not None else head_NV, ids_N)

    def _own_pass(self, ids_BT: torch.Tensor, layout: Layout | None) -> torch.Tensor:
        assert self._body is not None
        if layout is None:
            return self._body(ids_BT)
        placed = layout.without_last()
        return self._body(ids_BT, placed.shared, placed.members)

    @torch.no_grad()
    def _reference_logprobs(
        self, ids_BT: torch.Tensor, trained_BT: torch.Tensor, layout: Layout | None = None
    ) -> torch.Tensor:
        if self._reference is None:
            raise ValueError("no reference adapter was kept; call keep_reference() first")
        factors = self._factors()
        held = {k: v.data for k, v in factors.items()}
        try:
            for k, v in factors.items():
                v.data = self._reference[k]
            return self._logprobs(ids_BT, trained_BT, layout)[0]
        finally:
            for k, v in factors.items():
                v.data = held[k]

    def _reference_of(self, batch: Batch) -> torch.Tensor:
        return self._reference_logprobs(batch.ids_BT, batch.trained_BT, batch.layout)

    @property
    def _shares(self) -> bool:
        """Whether prompts are shared: our masks need transformers' pass, with plain full attention."""
        config = self._adapted.config
        layers = set(getattr(config, "layer_types", None) or ["full_attention"])
        plain = sliding_window(config) is None and layers == {"full_attention"}
        sdpa = config._attn_implementation == "sdpa"
        return self.settings.share_prompts and (self._body is None or self._body.wide) and bool(plain and sdpa)

    @property
    def _adapted(self) -> PreTrainedModel:
        """The base with the adapter's layers, without peft's wrapper around the forward pass."""
        return cast(PreTrainedModel, self.model.base_model.model)

    def _factors(self) -> dict[str, torch.nn.Parameter]:
        return {k: p for k, p in self.model.named_parameters() if p.requires_grad}

    def _rate(self, progress: float) -> float:
        rate = self.peak_rate * min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        if self.settings.schedule == "cosine":
            rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return rate

    # ----- state

    def weights(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """A copy of the adapter's weights and configuration, as an engine takes them."""
        return adapter_weights(self.model)

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs to reach the same weights."""
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


@dataclass(frozen=True)
class _Rollout:
    """Sums over a rollout's learned tokens: log p - log sampler, log p - log reference, 1."""

    ratio: float
    distance: float
    tokens: int


@dataclass(frozen=True)
class _Work:
    """One optimizer step's loss, its divisor, and the sums over rollouts if the loss needs them."""

    loss: Loss
    count: float
    rollouts: Mapping[str, _Rollout]


def _placed(layout: Layout, device: torch.device) -> dict[str, torch.Tensor]:
    """A layout as arguments for transformers, for all tokens but the last."""
    placed = layout.without_last()
    return {"position_ids": placed.positions_BT.to(device), "attention_mask": placed.seen_B1TT.to(device)}


def _tokens(
    rows: Sequence[Row],
    batch: Batch,
    logprobs_N: torch.Tensor,
    reference_N: torch.Tensor | None,
    sums: Mapping[str, _Rollout],
) -> Tokens:
    """The input of a loss, on the log-probabilities' device."""
    device = logprobs_N.device

    def there(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.to(device)

    own = [sums[row.rollout] for row in rows for _ in range(row.learned)] if sums else []
    ratio, distance, length = (
        torch.tensor([value(r) for r in own], device=device) if own else None
        for value in (lambda r: r.ratio, lambda r: r.distance, lambda r: float(r.tokens))
    )
    return Tokens(
        logprobs_N, batch.advantages_N.to(device), there(batch.sampler_N), reference_N, there(batch.weights_N),
        ratio, distance, length, sum(r.distance for r in sums.values()) / max(1, len(sums)),
    )  # fmt: skip


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate memory; on CPUs that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a training state (tensors, and plain values as in JSON) atomically. Of several processes, the first writes.

    Raises TypeError for other values, which `load_state` would not read.
    """
    if is_first():
        with replacing(path) as beside:
            torch.save(_plain(state), beside)
    wait_for_all()


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state. The file cannot execute code: other objects than tensors and plain values are refused."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _plain(value: Any) -> Any:
    """NumPy numbers as Python numbers, since the safe loader refuses others."""
    if isinstance(value, torch.Tensor) or value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"a training state holds {type(value).__name__}; keep tensors, numbers, texts, lists, dicts")
