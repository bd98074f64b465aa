"""A supervised fit: an adapter trained on rows for a given time, the best of it kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from training.learning.batch import Row, epochs
from training.learning.learner import Learner, LearnerSettings, load_state, save_state
from training.models.base import Base
from training.models.lora import LoraSettings

T = TypeVar("T")


class FitSettings(BaseModel):
    """A supervised fit: how long, how often it is looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learner: LearnerSettings = Field(
        default_factory=lambda: LearnerSettings(
            lora=LoraSettings(rank=64, alpha=128), learning_rate=3e-3, schedule="cosine", max_grad_norm=1.0
        ),
        description="How the adapter is optimised.",
    )
    seconds: float = Field(240.0, gt=0, description="Time for training (evaluation not counted).")
    max_epochs: float = Field(8.0, gt=0, description="Stop after this many passes even if time is left.")
    step_tokens: int = Field(2048, ge=64, description="Padded tokens a step; many small steps beat few large ones.")
    evaluations: int = Field(6, ge=1, description="How many times the held-out loss is measured; the best is kept.")


def fit_sft(
    base: Base,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    settings: FitSettings,
    checkpoint: Path | None = None,
    seed: int = 0,
    start: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, float]]]:
    """Train an adapter on `rows`; the weights with the lowest held-out loss win.

    Returns (weights, peft configuration, history). With `checkpoint` a killed fit goes on where its last evaluation
    was. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("nothing to fit: no training rows")
    learner = Learner(base, settings.learner, seed, start)
    clock = {"seconds": 0.0, "tokens": 0.0, "evaluated": 0.0}
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"loss": math.inf, "weights": None}
    if checkpoint is not None and checkpoint.is_file():
        state = load_state(checkpoint)
        learner.restore(state["learner"])
        clock, history, best = state["clock"], state["history"], state["best"]
    budget = settings.max_epochs * sum(len(r.ids) for r in rows)
    running: list[float] = []
    for group in epochs(rows, settings.step_tokens, seed, start=learner.step):
        done = max(clock["seconds"] / settings.seconds, clock["tokens"] / budget)
        if done >= (clock["evaluated"] + 1) / settings.evaluations or (done >= 1 and not history):
            clock["evaluated"] = math.floor(min(done, 1.0) * settings.evaluations + 1e-9)
            loss = learner.evaluate(held_out) if held_out else sum(running) / max(1, len(running))
            mean = sum(running) / max(1, len(running))
            history.append({"step": learner.step, "held_out": loss, "loss": mean, **clock})
            running.clear()
            if loss < best["loss"]:
                best = {"loss": loss, "weights": learner.weights()[0]}
            if checkpoint is not None:
                save_state({"learner": learner.state(), "clock": clock, "history": history, "best": best}, checkpoint)
        if done >= 1:
            break
        began = time.monotonic()
        metrics = learner.sft_step(group, done)
        clock["seconds"] += time.monotonic() - began
        clock["tokens"] += sum(len(r.ids) for r in group)
        running.append(metrics["loss"])
        on_progress(min(1.0, done), metrics)
    on_progress(1.0, history[-1])
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return best["weights"], learner.weights()[1], history


def split_latest(items: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """The earlier part and the latest `share`, which is held out."""
    cut = len(items) - max(1, int(len(items) * share))
    return list(items[:cut]), list(items[cut:])
