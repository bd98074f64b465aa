"""LoRA layers of the local engine: factors beside the frozen weights, with a different adapter per row of a batch.

Reads and writes peft's format. peft's own layers use hooks and lookups on every call, which cost more than a small
model's matrix products.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ingest.errors import UserError

FOLDED_UP_TO = 1024
"""Maximum rows and columns of a layer that is folded: see `AdapterLinear` and `training.tiny.passes.learning`."""


@dataclass(eq=False)
class Factors:
    """One adapter: per module name, A [r, in] and B [out, r] with the scale alpha / r included in B.

    `folded` (per layer) and `fused` (of a whole small model) are W + B A, computed at first use.
    """

    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    folded: dict[str, torch.Tensor | None] = field(default_factory=dict)
    fused: list[Any] | None = None


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of a batch that use one adapter (None: the base without an adapter)."""

    factors: Factors | None
    start: int
    stop: int


def spans_of(owners: Sequence[Factors | None]) -> list[Span]:
    """A batch's rows as spans; rows with the same adapter are adjacent."""
    spans: list[Span] = []
    for row, factors in enumerate(owners):
        if spans and spans[-1].factors is factors:
            spans[-1] = Span(factors, spans[-1].start, row + 1)
        else:
            spans.append(Span(factors, row, row + 1))
    return spans


def read_adapter(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Weights and configuration of a peft directory. Raises UserError if there is no adapter."""
    config, weights = path / "adapter_config.json", path / "adapter_model.safetensors"
    if not config.is_file() or not weights.is_file():
        raise UserError(f"no adapter in {path}: expected adapter_config.json and adapter_model.safetensors")
    return load_file(weights), json.loads(config.read_text())


def to_factors(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, object], dtype: torch.dtype, device: torch.device
) -> Factors:
    """A copy of peft's state dict (`base_model.model.<module>.lora_A.weight`) as factors on a device."""
    rank, alpha = config["r"], config["lora_alpha"]
    assert isinstance(rank, int) and isinstance(alpha, int | float)
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    modules = {}
    for key, value in weights.items():
        if ".lora_A" not in key:
            continue
        name = key.split(".lora_A")[0].removeprefix("base_model.model.")
        other = weights[key.replace(".lora_A", ".lora_B")]
        first, second = value.detach().to(device, dtype, copy=True), (other.detach() * scale).to(device, dtype)
        modules[name] = (first, second)
    if not modules:
        raise UserError("the adapter holds no LoRA weights (no key with lora_A)")
    return Factors(modules)


@dataclass(frozen=True)
class _Part:
    """What a layer applies to the rows [start, stop) of a batch: nothing, the factors, or a folded weight."""

    start: int
    stop: int
    factors: tuple[torch.Tensor, torch.Tensor] | None = None
    weight: torch.Tensor | None = None


class AdapterLinear(nn.Module):
    """A frozen linear layer; `parts` assigns the rows of the current batch to adapters.

    A small layer on a CPU uses a part's folded `weight`, W + B A in its own precision: one product is faster than
    three. The frozen weights do not change.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.small = type(linear) is nn.Linear and linear.weight.device.type == "cpu"  # a quantised layer is a subclass
        self.small = self.small and max(linear.weight.shape) <= FOLDED_UP_TO
        self.parts: list[_Part] = []

    def fold(self, factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
        """The folded weight of an adapter; None for a layer that is not small."""
        return torch.addmm(self.linear.weight, factors[1], factors[0]) if self.small else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.parts) == 1:
            return self._through(x, self.parts[0])
        return torch.cat([self._through(x[p.start : p.stop], p) for p in self.parts]) if self.parts else self.linear(x)

    def _through(self, x: torch.Tensor, part: _Part) -> torch.Tensor:
        if part.weight is not None:
            return F.linear(x, part.weight, self.linear.bias)
        y = self.linear(x)
        if part.factors is not None:
            y = y + F.linear(F.linear(x, part.factors[0]), part.factors[1])
        return y


class AdapterSlots:
    """All adapters of an engine, and the assignment of rows to them."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self._layers: dict[str, AdapterLinear] = {}
        self._dtype, self._device = dtype, device
        self._held: dict[str, Factors] = {}
        self._active: list[Span] = []
        head = model.get_output_embeddings()  # type: ignore[operator]
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and module is not head:
                parent, _, leaf = name.rpartition(".")
                wrapped = AdapterLinear(module)
                setattr(model.get_submodule(parent), leaf, wrapped)
                self._layers[name] = wrapped

    def put(self, name: str, weights: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> None:
        factors = to_factors(weights, config, self._dtype, self._device)
        strange = set(factors.modules) - set(self._layers)
        if strange:
            layer = sorted(strange)[0]
            raise UserError(
                f"adapter {name!r} is for another base model: it has weights for {layer!r}, which this model lacks"
            )
        self._held[name] = factors

    def drop(self, name: str) -> None:
        self._held.pop(name, None)

    def check(self, name: str | None) -> None:
        """Raise UserError for an adapter that is not loaded."""
        if name is not None and name not in self._held:
            raise UserError(f"no adapter {name!r}; loaded are {sorted(self._held) or 'none'}")

    def get(self, name: str | None) -> Factors | None:
        self.check(name)
        return None if name is None else self._held[name]

    def activate(self, spans: Sequence[Span]) -> None:
        """Assign the rows of the next batches to adapters."""
        if list(spans) == self._active:
            return
        for name, layer in self._layers.items():
            layer.parts = [self._part(name, layer, span) for span in spans]
        self._active = list(spans)

    @staticmethod
    def _part(name: str, layer: AdapterLinear, span: Span) -> _Part:
        factors = span.factors.modules.get(name) if span.factors is not None else None
        if span.factors is None or factors is None:
            return _Part(span.start, span.stop)
        if name not in span.factors.folded:
            span.factors.folded[name] = layer.fold(factors)
        return _Part(span.start, span.stop, factors, span.factors.folded[name])
