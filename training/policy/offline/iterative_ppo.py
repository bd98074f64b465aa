"""Iterative PPO on recorded conversations (arXiv 2511.21638): no world, no user, one turn at a time.

The value model gives the expected outcome after any turn. With it as the reward, the multi-turn problem becomes a
single-turn one: sample several turns at a recorded point of a conversation, score each by its value, and take a clipped
policy-gradient step. The turns are sampled by the policy in training, so the importance ratio has real
log-probabilities; those of the recorded turns are not needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from ingest.records import Conversation
from training.engines import Sample, Sampling
from training.engines.local import LocalEngine
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.learner import Learner, LearnerSettings, load_state, save_state
from training.learning.offline_losses import METHOD
from training.learning.policy_losses import PolicyLoss, PpoClip
from training.learning.trajectory import seed_of
from training.models.base import Base, context_length
from training.models.lora import settings_of
from training.policy.lengths import conversation_rows
from training.policy.offline.values import Value, ValueReport, ValueSettings, turn_ends, turn_starts
from training.policy.order import order_of
from training.policy.system import SystemShown

VALUE_SHARE = 0.4
"""Share of the progress that the value model's fit is reported as."""


class IterativePpo(BaseModel):
    """Policy gradient on turns sampled at recorded points, with the value model as the reward."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["iterative_ppo"] = Field("iterative_ppo", description=METHOD)
    value: ValueSettings = Field(default_factory=ValueSettings, description="The value model.")
    learner: LearnerSettings = Field(
        default_factory=lambda: LearnerSettings(preset="policy", schedule="cosine"),
        description="The optimizer. The adapter has the shape of the start adapter.",
    )
    policy_loss: PolicyLoss = Field(default_factory=PpoClip, description="The policy loss.")
    steps: int = Field(60, ge=1, description="Optimizer steps.")
    points: int = Field(16, ge=1, description="Recorded points per step.")
    samples: int = Field(8, ge=2, description="Turns sampled at each point; their mean value is the baseline.")


@dataclass(frozen=True)
class Point:
    """A recorded conversation up to a turn of the agent."""

    prompt: tuple[int, ...]
    tools: Sequence[Mapping[str, Any]]


class TurnPolicy:
    """One Iterative PPO run: value model, policy and the points to practise on."""

    def __init__(
        self,
        base: Base,
        scored: tuple[Sequence[tuple[Conversation, float]], Sequence[tuple[Conversation, float]]],
        start: Path,
        settings: IterativePpo,
        show_system: SystemShown,
        seed: int,
    ) -> None:
        """`scored`: conversations with outcomes, to train on and held out."""
        self.base, self.settings, self.seed = base, settings, seed
        (self.rows, self.points), (self.held_out, self.held_out_points) = (
            _points(part, base, show_system) for part in scored
        )
        if not self.rows or not self.held_out:
            raise UserError("iterative_ppo has no turn of the agent to train on, or none held out; ingest more traces")
        mean = float(np.mean([row.advantage for row in self.rows]))
        self.value = Value(base, settings.value, mean, seed)
        shape = settings.learner.model_copy(update={"lora": settings_of(start)})
        self.learner = Learner(base, shape, seed, start=start)
        self.learner.keep_reference()
        lengths = [e - s + 1 for row in self.rows for s, e in zip(turn_starts(row), turn_ends(row), strict=True)]
        self.turn_tokens = int(np.ceil(1.25 * np.percentile(lengths, 99)))
        self.report: ValueReport | None = None
        self.history: list[dict[str, float]] = []

    def train(
        self,
        checkpoint: Path | None = None,
        on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
        stop: Stop = never,
    ) -> None:
        """Fit the value model, then take the steps. With `checkpoint`, a killed run resumes at its last step.

        Raises UserError if the value model predicts held-out outcomes no better than their mean: the policy would be
        trained on noise.
        """
        self._resume(checkpoint)
        if self.report is None:
            self.report = self.value.fit(
                self.rows, self.held_out, self.seed, lambda done, m: on_progress(VALUE_SHARE * done, m), stop
            )
            if stop():
                return
            self._save(checkpoint)
        report = self.report
        if report.cross_entropy >= report.base_rate_cross_entropy:
            raise UserError(
                f"the value model predicts the outcomes of {report.turns} held-out turns no better than their mean "
                f"({report.cross_entropy:.3f} and {report.base_rate_cross_entropy:.3f} nats): its values are noise. "
                "Record more conversations with outcomes, or use the method asymre"
            )
        asyncio.run(self._steps(checkpoint, on_progress, stop))

    async def _steps(
        self, checkpoint: Path | None, on_progress: Callable[[float, dict[str, float]], None], stop: Stop
    ) -> None:
        engine = LocalEngine(self.base.model, self.base.format.pad_id)
        try:
            while self.learner.step < self.settings.steps and not stop():
                name = self._publish(engine)
                metrics = await self._step(engine, name)
                engine.unload_adapter(name)
                self.history.append({"step": self.learner.step, **metrics})
                self._save(checkpoint)
                done = self.learner.step / self.settings.steps
                on_progress(VALUE_SHARE + (1 - VALUE_SHARE) * done, metrics)
            if self.history and "held_out_value" not in self.history[-1]:
                self.history[-1]["held_out_value"] = await self._held_out_value(engine)
        finally:
            await engine.close()

    async def _step(self, engine: LocalEngine, name: str) -> dict[str, float]:
        number, settings = self.learner.step, self.settings
        chosen = [self.points[k] for k in order_of(number, settings.points, len(self.points), self.seed)]
        turns = await self._sample(engine, name, chosen, settings.samples, number)
        values = self._values(chosen, turns)
        rows = []
        for point, samples, scores in zip(chosen, turns, values, strict=True):
            mean = sum(scores) / len(scores)
            for sample, score in zip(samples, scores, strict=True):
                if score != mean:
                    rows.append(_row(point, sample, score - mean))
        flat = [score for scores in values for score in scores]
        spread = float(np.mean([np.std(scores) for scores in values]))
        metrics = {"value": sum(flat) / len(flat), "spread": spread, "loss": 0.0}
        if not rows:
            self.learner.step += 1
            return metrics
        return {**metrics, **self.learner.policy_step(rows, settings.policy_loss, number / settings.steps)}

    async def _held_out_value(self, engine: LocalEngine) -> float:
        """Mean value of one sampled turn at each of at most 64 held-out points."""
        name = self._publish(engine)
        points = self.held_out_points[:64]
        turns = await self._sample(engine, name, points, 1, -1)
        return float(np.mean([scores[0] for scores in self._values(points, turns)]))

    def _publish(self, engine: LocalEngine) -> str:
        name = f"turns@{self.learner.step}"
        engine.publish_adapter(name, *self.learner.weights())
        engine.clear_cache()  # so that a step depends on nothing but the adapter and the seeds
        return name

    async def _sample(
        self, engine: LocalEngine, name: str, points: Sequence[Point], samples: int, number: int
    ) -> list[list[Sample]]:
        """`samples` turns at each point."""
        context = context_length(self.base.model.config)
        runs = []
        for place, point in enumerate(points):
            room = max(1, min(self.turn_tokens, context - len(point.prompt)))
            for member in range(samples):
                seed = seed_of(self.seed, "turn", number, place, member)
                how = Sampling(room, stop_ids=self.base.format.stop_ids, seed=seed, learned=True)
                runs.append(engine.sample(point.prompt, adapter=name, sampling=how))
        found = await asyncio.gather(*runs)
        return [list(found[k : k + samples]) for k in range(0, len(found), samples)]

    def _values(self, points: Sequence[Point], turns: Sequence[Sequence[Sample]]) -> list[list[float]]:
        """Each turn's value. A turn that was cut off or that is malformed has 0: no recorded turn is like it."""
        flat = [(point, sample) for point, samples in zip(points, turns, strict=True) for sample in samples]
        scores = self.value.scores([(*point.prompt, *sample.ids) for point, sample in flat])
        kept = iter(
            score if sample.stopped and not self.base.format.parse(sample.ids, point.tools).malformed else 0.0
            for (point, sample), score in zip(flat, scores, strict=True)
        )
        return [[next(kept) for _ in samples] for samples in turns]

    # ----- state

    def _save(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            report = asdict(self.report) if self.report else None
            found = {"value": self.value.state(), "report": report, "history": self.history}
            save_state({"learner": self.learner.state(), **found}, checkpoint)

    def _resume(self, checkpoint: Path | None) -> None:
        if checkpoint is not None and checkpoint.is_file():
            state = load_state(checkpoint)
            self.learner.restore(state["learner"])
            self.value.load(state["value"])
            self.report, self.history = ValueReport(**state["report"]), state["history"]

    def manifest(self) -> dict[str, Any]:
        """The run's figures: the value model's quality, and the steps."""
        done = self.learner.step
        partial = None if done >= self.settings.steps else f"stopped after {done} of {self.settings.steps} steps"
        value = asdict(self.report) if self.report else None
        return {"value": value, "rows": len(self.points), "history": self.history, "partial": partial}


def _points(
    scored: Sequence[tuple[Conversation, float]], base: Base, show_system: SystemShown
) -> tuple[list[Row], list[Point]]:
    """Rows with their conversation's outcome as `advantage`, and the points before their turns."""
    rows, points = [], []
    context = context_length(base.model.config)
    for conversation, reward in scored:
        for row in conversation_rows([conversation], base.format, show_system, context)[0]:
            rows.append(Row(row.ids, row.trained, reward))
            points += [Point(row.ids[:at], conversation.tools) for at in turn_starts(row)]
    return rows, points


def _row(point: Point, sample: Sample, advantage: float) -> Row:
    marks = (*[False] * len(point.prompt), *[True] * len(sample.ids))
    return Row((*point.prompt, *sample.ids), marks, advantage, sample.logprobs)
