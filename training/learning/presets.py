"""Default learning rates of adapters by size of the base. A setting overrides them.

LoRA takes about ten times the rate of full fine-tuning, at any rank (Thinking Machines, LoRA Without Regret; TRL,
lora_without_regret.md: 1e-5 for GRPO on 7B). Smaller models take more. The first row was measured on the shipped base
(docs/training.md); the others are published figures, not measured here.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

Kind = Literal["supervised", "policy", "world"]

RATES: tuple[tuple[float, dict[Kind, float]], ...] = (
    (20e6, {"supervised": 3e-3, "policy": 8e-4, "world": 2e-3}),
    (500e6, {"supervised": 1e-3, "policy": 1e-4, "world": 1e-3}),
    (3e9, {"supervised": 3e-4, "policy": 3e-5, "world": 3e-4}),
    (float("inf"), {"supervised": 1e-4, "policy": 1e-5, "world": 1e-4}),
)
"""(Number of parameters below which a row applies, peak rate by kind of training.)"""


def learning_rate(model: nn.Module, kind: Kind) -> float:
    """The default learning rate for adapters of this model."""
    size = sum(p.numel() for p in model.parameters())
    return next(rates[kind] for below, rates in RATES if size < below)
