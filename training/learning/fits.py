"""Supervised fits: train an adapter on rows for a number of tokens, and keep the best evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from training.learning.batch import Row, epochs
from training.learning.deadline import Stop, never
from training.learning.learner import Learner, LearnerSettings, load_state, save_state
from training.learning.losses import Loss, Sft
from training.models.base import Base
from training.models.lora import LoraSettings, manifest_of, settings_of

T = TypeVar("T")

EVALUATED = 0.3
"""All evaluations of a fit together read at most this share of its budget in held-out tokens."""
FEWEST_EVALUATED = 8


class FitSettings(BaseModel):
    """Budget and evaluations of a supervised fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learner: LearnerSettings = Field(
        default_factory=lambda: LearnerSettings(
            lora=LoraSettings(rank=64, alpha=128), schedule="cosine", max_grad_norm=1.0
        ),
        description="The optimizer's settings.",
    )
    max_tokens: int = Field(3_000_000, gt=0, description="Tokens to train on, prompts included, padding excluded.")
    max_epochs: float = Field(8.0, gt=0, description="Maximum number of epochs.")
    step_tokens: int = Field(2048, ge=64, description="Padded tokens per step.")
    evaluations: int = Field(6, ge=1, description="Number of held-out evaluations; the best weights are kept.")


def fit_sft(
    base: Base,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    settings: FitSettings,
    checkpoint: Path | None = None,
    seed: int = 0,
    start: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
    loss: Loss | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, float]]]:
    """Train an adapter on `rows`; keep the weights with the lowest held-out cross-entropy.

    `start` is a peft directory to start from. `loss` defaults to cross-entropy; its reference, if it has one, is
    `start`.

    Evaluations read a sample of `held_out` where the budget is small beside it (`EVALUATED`).

    Returns (weights, peft configuration, history). The budget is counted in tokens; `seconds` in the history are
    informative only. With `checkpoint`, a killed fit resumes at its last evaluation. If `stop` returns True between two
    steps, the fit returns its current result, `unfinished(history)` describes how far it came, and `checkpoint` is
    kept, so that a later call resumes at that step. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("nothing to fit: no training rows")
    held_out = sampled(held_out, EVALUATED * settings.max_tokens / settings.evaluations)
    learner = Learner(base, settings.learner, seed, start)
    loss = loss or Sft()
    if loss.needs_reference:
        learner.keep_reference()
    clock = {"seconds": 0.0, "tokens": 0.0, "evaluated": 0.0}
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"loss": math.inf, "weights": None}
    running: list[float] = []
    if checkpoint is not None and checkpoint.is_file():
        state = load_state(checkpoint)
        learner.restore(state["learner"])
        clock, history, best, running = state["clock"], state["history"], state["best"], state["running"]
    budget = min(settings.max_tokens, settings.max_epochs * sum(len(r.ids) for r in rows))

    def save() -> None:
        if checkpoint is not None:
            found = {"clock": clock, "history": history, "best": best, "running": running}
            save_state({"learner": learner.state(), **found}, checkpoint)

    def evaluate(done: float) -> None:
        nonlocal best
        mean = sum(running) / max(1, len(running))
        found = learner.evaluate(held_out) if held_out else mean
        history.append({"step": learner.step, "held_out": found, "loss": mean, "done": min(1.0, done), **clock})
        running.clear()
        if found < best["loss"]:
            best = {"loss": found, "weights": learner.weights()[0]}

    for group in epochs(rows, settings.step_tokens, seed, start=learner.step):
        done = clock["tokens"] / budget
        if done >= (clock["evaluated"] + 1) / settings.evaluations or (done >= 1 and not history):
            clock["evaluated"] = math.floor(min(done, 1.0) * settings.evaluations + 1e-9)
            evaluate(done)
            save()
        if done >= 1:
            break
        if stop():
            save()  # before the evaluation below, which an uninterrupted run does not make
            evaluate(done)
            return best["weights"], learner.weights()[1], history
        began = time.monotonic()
        metrics = learner.policy_step(group, loss, done)
        clock["seconds"] += time.monotonic() - began
        clock["tokens"] += sum(len(r.ids) for r in group)
        running.append(metrics["loss"])
        on_progress(min(1.0, done), metrics)
    on_progress(1.0, history[-1])
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return best["weights"], learner.weights()[1], history


def sampled(rows: Sequence[Row], tokens: float) -> list[Row]:
    """Evenly spaced rows that have about `tokens` tokens together; all if they have no more."""
    mean = sum(len(row.ids) for row in rows) / max(1, len(rows))
    count = min(len(rows), max(FEWEST_EVALUATED, int(tokens / max(1.0, mean))))
    return [rows[k * len(rows) // count] for k in range(count)]


def unfinished(history: Sequence[dict[str, float]]) -> str | None:
    """The manifest's text for a fit that was stopped before its budget was spent; None for a complete fit."""
    done = history[-1]["done"]
    return None if done >= 1 else f"stopped after {int(history[-1]['step'])} steps, {done:.0%} of the budget"


def warm_start(last: Path | None, base: Base, lora: LoraSettings) -> Path | None:
    """`last` if it is an adapter of the same base and shape; else None, and the fit starts anew."""
    manifest = manifest_of(last) if last is not None else None
    if last is None or manifest is None or manifest.get("base") != base.name:
        return None
    shape = settings_of(last)  # it lists every layer's name, also for "all-linear"
    modules = lora.target_modules in ("all-linear", shape.target_modules)
    return last if modules and (shape.rank, shape.alpha) == (lora.rank, lora.alpha) else None


def split_latest(items: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """The earlier part, and the latest `share` as the held-out part."""
    cut = len(items) - max(1, int(len(items) * share))
    return list(items[:cut]), list(items[cut:])
