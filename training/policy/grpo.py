"""GRPO with RULER in a learned world: rollouts of scenarios in groups, relative scores, one policy step, repeated.

The loop is on-policy: sample, judge, centre, one optimizer step, publish the new adapter under a new name. Every
`evaluate_every` steps the candidate is compared with the adapter that the run started from, on held-out scenarios in
the same worlds with the same judge. The best adapter is kept, because the last one is often not the best.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ingest.atomic import write_text
from ingest.errors import UserError
from ingest.records import Scenario
from training.judging.advantages import JudgeNoise, Scored, advantages, kept_share
from training.judging.ruler import Judgement
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.learner import Learner, LearnerSettings, load_state, save_state
from training.learning.losses import Drawing
from training.learning.policy_losses import Cispo, PolicyLoss
from training.learning.trajectory import Trajectory, seed_of
from training.models.base import Base
from training.models.lora import save_weights, settings_of
from training.policy.episodes import write_episodes
from training.policy.evaluate import MIN_SCORED, Difference, paired
from training.policy.order import order_of
from training.policy.practice import Practising, finished_pairs
from training.policy.rollout import Limits
from training.policy.served import Probe, StaleAdapter, check_served

EPISODES = "episodes"
"""Directory beside the adapter with every practice episode (episodes.py)."""


class TrainSettings(BaseModel):
    """Settings of one retraining. The defaults were chosen for the tiny base (docs/training.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(16, ge=1, description="Optimizer steps.")
    groups: int = Field(16, ge=1, description="Scenarios per step.")
    group_size: int = Field(8, ge=2, description="Episodes per scenario.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature in practice.")
    min_p: float = Field(0.05, ge=0, lt=1, description="Tokens below min_p times the largest probability are excluded.")
    learner: LearnerSettings = Field(
        default_factory=lambda: LearnerSettings(preset="policy", warmup_steps=3, schedule="cosine", micro_tokens=2048),
        description="The optimiser.",
    )
    loss: PolicyLoss = Field(default_factory=Cispo, description="The policy loss.")
    limits: Limits = Field(default_factory=Limits, description="Length limits of an episode.")
    changes_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="By this share at most a score is lowered where an episode changes other things than the recorded "
        "conversation did, if that one succeeded.",
    )
    min_score_spread: float = Field(0.05, ge=0, description="Groups whose scores spread less are dropped.")
    planted_groups: int = Field(
        4, ge=0, description="Planted groups of copies per evaluation, which measure the judge's noise."
    )
    held_out: int = Field(64, ge=0, description="Held-out scenarios that select the best adapter.")
    evaluate_every: int = Field(8, ge=1, description="Steps between evaluations on them.")
    keep_episodes: bool = Field(True, description="Store every practice episode beside the adapter.")
    seed: int = Field(0, description="Random seed; equal seeds give equal runs.")


@dataclass
class _Step:
    """The result of one step's rollouts."""

    rows: list[Row]
    metrics: dict[str, float]


class Grpo:
    """One retraining run. `train` runs all of it; a killed run resumes at its last step."""

    def __init__(
        self,
        base: Base,
        practice: Practising,
        scenarios: Sequence[Scenario],
        start: Path,
        out: Path,
        settings: TrainSettings,
    ) -> None:
        """`start` is the champion, or the clone before the first promotion. Practice starts from it, the KL penalty is
        relative to it, and a candidate must beat it on the held-out scenarios.
        """
        if len(scenarios) < settings.held_out + settings.groups:
            raise UserError(
                f"{len(scenarios)} scenarios are too few: {settings.held_out} are held out and a step needs "
                f"{settings.groups}; ingest more conversations or lower `groups` and `held_out`"
            )
        self.base, self.practice = base, practice
        self.settings, self.out, self.start = settings, out, start
        cut = len(scenarios) - settings.held_out
        self.scenarios, self.held_out = list(scenarios[:cut]), list(scenarios[cut:])
        shape = settings.learner.model_copy(update={"lora": settings_of(start)})
        drawing = Drawing(settings.temperature, settings.min_p)
        self.learner = Learner(base, shape, settings.seed, start=start, drawing=drawing)
        self.learner.keep_reference()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"step": 0, "gain": 0.0, "weights": self.learner.weights()[0], "difference": None}
        self.seconds = 0.0
        self.noise = JudgeNoise()
        self._baseline: list[Trajectory | Exception] | None = None

    async def train(
        self, on_step: Callable[[dict[str, Any]], None] = lambda metrics: None, stop: Stop = never
    ) -> dict[str, Any]:
        """Train, write the best adapter to `out`, and return its manifest.

        If `stop` returns True between two steps, the best adapter so far is written, and the manifest's `partial` gives
        the number of steps. The state stays on disk, so that a later call continues to the result of a full run.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.practice.load_adapter("start", self.start)
        self._publish()
        while self.learner.step < self.settings.steps:
            if self.learner.step and stop():
                return await self._finish_early()
            began = time.monotonic()
            step = await self._practise(self.learner.step)
            probes = Probe.several(step.rows)
            before = [self.learner.logprobs_at(probe.ids, probe.positions) for probe in probes]
            if step.rows:
                learned = self.learner.policy_step(step.rows, self.settings.loss, self._done())
            else:
                learned = {"loss": 0.0}
                self.learner.step += 1
            self._publish()
            if probes:
                learned["served_gap"] = await self._check_served(probes, before)
            metrics = {"step": self.learner.step, **step.metrics, **learned}
            if self.held_out and self._due():
                metrics.update(await self._look_at_candidate())
            self.seconds += time.monotonic() - began
            self.history.append({**metrics, "alarms": alarms(metrics), "seconds": round(self.seconds, 2)})
            self._save()
            on_step(self.history[-1])
        return self._finish()

    # ----- practice

    async def _practise(self, number: int) -> _Step:
        """Sample, judge and convert to rows the episodes of this step's scenarios."""
        chosen = self._choose(number)
        seeds = [seed_of(self.settings.seed, number, s.scenario_id) for s in chosen]
        began = time.monotonic()
        groups = await self.practice.groups(chosen, seeds, self.settings.group_size, self._name())
        sampled = time.monotonic()
        kept = [[t for t in group if isinstance(t, Trajectory)] for group in groups]
        failures = [t for group in groups for t in group if isinstance(t, Exception)]
        if failures and not any(kept):  # one cause for all of them (memory, an adapter): no step would learn anything
            raise failures[0]
        lived = [(group, seed) for group, seed in zip(kept, seeds, strict=True) if group]
        judged = await self.practice.judge([group for group, _ in lived], [seed for _, seed in lived])
        if number % self.settings.evaluate_every == 0:
            await self._measure_noise([(group[0], seed) for group, seed in lived[: self.settings.planted_groups]])
        rows, dropped = self._rows([group for group, _ in lived], judged)
        if self.settings.keep_episodes:
            write_episodes(self.out.with_name(EPISODES), number + 1, [group for group, _ in lived])
        flat = [t for group in kept for t in group]
        metrics = _describe(flat, judged, sum(map(len, groups)) - len(flat))
        metrics.update(dropped_groups=dropped, rows=len(rows), sample_seconds=sampled - began)
        metrics.update(judge_noise=self.noise.deviation, position_bias=self.noise.position_bias)
        metrics["judge_seconds"] = time.monotonic() - sampled
        return _Step(rows, metrics)

    def _choose(self, number: int) -> list[Scenario]:
        """This step's scenarios, each once: two groups of one scenario would have equal seeds and episodes."""
        chosen = order_of(number, self.settings.groups, len(self.scenarios), self.settings.seed)
        return [self.scenarios[k] for k in chosen]

    def _rows(self, groups: list[list[Trajectory]], judged: Sequence[Judgement]) -> tuple[list[Row], int]:
        """Rows with an advantage. An episode in which the world abstained is excluded. Other unsupported answers reduce
        the weight of their episode, within the mean, so a group's advantages sum to zero.
        """
        self._check_drawing(groups)
        rows, dropped = [], 0
        for group, judgement in zip(groups, judged, strict=True):
            weights = [t.supported() if t.sampled_tokens() and t.ended != "abstained" else 0.0 for t in group]
            scored = self._scored(group, judgement, weights)
            dropped += bool(scored.dropped)
            reasons = judgement.explanations or [""] * len(group)
            for trajectory, score, advantage, reason in zip(
                group, judgement.scores, scored.advantages, reasons, strict=True
            ):
                trajectory.reward = score
                trajectory.extra.update(advantage=advantage, reason=reason)
                if advantage:
                    rows += trajectory.rows(advantage)
        return rows, dropped

    def _scored(self, group: Sequence[Trajectory], judgement: Judgement, weights: Sequence[float]) -> Scored:
        """The group's advantages. Where the changes differ from the recorded success in some members only, that is a
        difference without noise; where they do in all alike, all scores are lowered alike, and noise with them."""
        least = self.settings.min_score_spread
        share, *others = {kept_share(t.as_recorded, self.settings.changes_weight) for t in group}
        if others:
            return advantages(judgement.scores, least, weights)
        return advantages(judgement.scores, share * least, weights, lambda members: share * self.noise.spread(members))

    def _check_drawing(self, groups: Sequence[Sequence[Trajectory]]) -> None:
        """Raise UserError if practice samples from another distribution than the learner expects."""
        wanted = self.learner.drawing
        for trajectory in (t for group in groups for t in group):
            drawn = Drawing(trajectory.temperature, trajectory.min_p)
            if drawn != wanted:
                raise UserError(
                    f"practice samples with {drawn}, but the learner expects {wanted}; use the same values for both"
                )

    async def _measure_noise(self, chosen: Sequence[tuple[Trajectory, int]]) -> None:
        """Plant groups of verbatim copies and measure the deviation of the judge's scores."""
        if chosen:
            trajectories, seeds = [t for t, _ in chosen], [s for _, s in chosen]
            for judgement in await self.practice.plant(trajectories, seeds, self.settings.group_size):
                self.noise.add(judgement.scores, judgement.positions)

    # ----- selection of the best adapter

    async def _look_at_candidate(self) -> dict[str, float]:
        """Compare candidate and start on held-out scenarios, judged in pairs; keep the candidate if it is the best.

        The best of several gains over few pairs is mostly noise, so a candidate is kept only if the judge scored
        `MIN_SCORED` of the pairs; an alarm says so otherwise. Pairs with a failed episode count as not scored.
        """
        seeds = [seed_of(self.settings.seed, "held out", s.scenario_id) for s in self.held_out]
        if self._baseline is None:
            self._baseline = await self.practice.singles(self.held_out, seeds, "start")
        elif failed := [k for k, one in enumerate(self._baseline) if isinstance(one, Exception)]:
            again = [self.held_out[k] for k in failed], [seeds[k] for k in failed]
            for k, one in zip(failed, await self.practice.singles(*again, "start"), strict=True):
                self._baseline[k] = one
        candidates = await self.practice.singles(self.held_out, seeds, self._name())
        pairs = finished_pairs(self._baseline, candidates)
        judged = await self.practice.judge([*pairs.values()], [seeds[k] for k in pairs])
        scores = [j.scores for j in judged if None not in j.scores]
        share = len(scores) / len(self.held_out)
        if not scores:
            return {"held_out_scored": share}
        found = paired(np.array([s[0] for s in scores], float), np.array([s[1] for s in scores], float))
        if share >= MIN_SCORED and found.gain > self.best["gain"]:
            weights = self.learner.weights()[0]
            self.best = {"step": self.learner.step, "gain": found.gain, "weights": weights, "difference": _plain(found)}
        return {"held_out_gain": found.gain, "held_out_scored": share}

    # ----- state

    def _name(self) -> str:
        return f"policy@{self.learner.step}"

    def _publish(self) -> None:
        """Publish the current adapter under a new name, so that no request can use a stale one."""
        served = self.out.with_name("serving")
        save_weights(*self.learner.weights(), served, {"role": "policy", "step": self.learner.step})
        self.practice.load_adapter(self._name(), served)
        self.practice.unload_adapter(f"policy@{self.learner.step - 1}")

    async def _check_served(self, probes: Sequence[Probe], before: Sequence[Sequence[float]]) -> float:
        """The mean gap between engines and learner under the newest name, in nats. If the first probe looks stale, all
        of them decide. Raises StaleAdapter."""
        try:
            return await self._gap(probes[:1], before[:1])
        except StaleAdapter:
            if len(probes) == 1:
                raise
            return await self._gap(probes, before)

    async def _gap(self, probes: Sequence[Probe], before: Sequence[Sequence[float]]) -> float:
        now = [value for probe in probes for value in self.learner.logprobs_at(probe.ids, probe.positions)]
        found = [await self.practice.probe(self._name(), probe) for probe in probes]
        earlier = [value for values in before for value in values]
        engines = [[value for values in one for value in values] for one in zip(*found, strict=True)]
        return max(check_served(self._name(), served, now, earlier) for served in engines)

    def _done(self) -> float:
        """The share of the run that is done (0 to 1), for the learning-rate schedule."""
        return self.learner.step / self.settings.steps

    def _due(self) -> bool:
        """Whether this step's adapter is evaluated on the held-out scenarios."""
        return self.learner.step == self.settings.steps or self.learner.step % self.settings.evaluate_every == 0

    @property
    def _state_path(self) -> Path:
        return self.out.with_name(f"{self.out.name}.state.pt")

    def _save(self) -> None:
        state = {"learner": self.learner.state(), "history": self.history, "best": self.best, "seconds": self.seconds}
        state["noise"] = asdict(self.noise)
        save_state(state, self._state_path)
        write_text(self.out.with_name("history.jsonl"), "".join(json.dumps(h) + "\n" for h in self.history))

    def _resume(self) -> None:
        if self._state_path.is_file():
            state = load_state(self._state_path)
            self.learner.restore(state["learner"])
            self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]
            self.noise = JudgeNoise(**state["noise"])

    async def _finish_early(self) -> dict[str, Any]:
        """End a run early. It evaluates its last adapter once more, which a full run would not do, so the state on disk
        does not include that evaluation.
        """
        if self.held_out and not self._due():
            await self._look_at_candidate()
        return self._finish(f"stopped after {self.learner.step} of {self.settings.steps} steps")

    def _finish(self, partial: str | None = None) -> dict[str, Any]:
        if not self.held_out:
            self.best = {**self.best, "step": self.learner.step, "weights": self.learner.weights()[0]}
        manifest = {
            "role": "policy",
            "base": self.base.name,
            "start": str(self.start.name),
            "kl_reference": "start",
            "judge_noise": {
                "deviation": self.noise.deviation,
                "position_bias": self.noise.position_bias,
                "planted_groups": self.noise.groups,
            },
            "best_step": self.best["step"],
            "held_out_gain": self.best["gain"],
            "held_out_difference": self.best["difference"],
            "steps": self.learner.step,
            "partial": partial,
            "seconds": round(self.seconds, 1),
            "history": self.history,
            "settings": self.settings.model_dump(),
        }
        save_weights(self.best["weights"], self.learner.weights()[1], self.out, manifest)
        if partial is None:
            self._state_path.unlink(missing_ok=True)
        return manifest


def _plain(found: Difference) -> dict[str, float]:
    return {"before": found.before, "after": found.after, "low": found.low, "high": found.high}


def _describe(trajectories: Sequence[Trajectory], judged: Sequence[Judgement], failed: int) -> dict[str, float]:
    """Metrics of a step."""
    rewards = [t.reward for t in trajectories if t.reward is not None]
    agreed = [t.as_recorded for t in trajectories if t.as_recorded is not None]
    provenance: dict[str, int] = {}
    for trajectory in trajectories:
        for source, count in trajectory.provenance().items():
            provenance[source] = provenance.get(source, 0) + count
    seen = max(1, sum(provenance.values()))
    moved = [(t.extra["advantage"], t.invented()) for t in trajectories if t.extra.get("advantage")]
    return {
        "reward": float(np.mean(rewards)) if rewards else math.nan,
        **({"as_recorded": float(np.mean(agreed))} if agreed else {}),
        "episodes": len(trajectories),
        "failed_episodes": failed,
        "unscored": len(trajectories) - len(rewards),
        "malformed": float(np.mean([t.malformed for t in trajectories])) if trajectories else 0.0,
        "calls": seen / max(1, len(trajectories)),
        "turns": float(np.mean([sum(m["role"] == "assistant" for m in t.messages) for t in trajectories])),
        "left": float(np.mean([t.ended == "left" for t in trajectories])),
        "abstained": float(np.mean([t.ended == "abstained" for t in trajectories])),
        "cut_off": float(np.mean([t.cut_off for t in trajectories])) if trajectories else 0.0,
        "order_disagreement": float(np.mean([j.disagreement for j in judged])) if judged else 0.0,
        "judge_tokens": sum(j.tokens for j in judged),
        "judge_failures": sum(j.failed_calls for j in judged),
        "invention_correlation": _correlation(moved),
        **{f"from_{source}": count / seen for source, count in sorted(provenance.items())},
    }


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < 8:
        return 0.0
    first, second = np.array(pairs).T
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def in_words(metrics: Mapping[str, Any]) -> str:
    """A step's most important metrics on one line."""
    parts = [
        f"reward {metrics['reward']:.3f}",
        *([f"changes as recorded {metrics['as_recorded']:.2f}"] if "as_recorded" in metrics else []),
        f"{metrics['rows']} rows",
        *(f"{metrics[k]} {what}" for k, what in (("dropped_groups", "groups dropped"), ("failed_episodes", "failed"),
                                                 ("unscored", "unscored")) if metrics[k]),
        *([f"{metrics['cut_off']:.0%} cut off"] if metrics["cut_off"] else []),
        *([f"{metrics['abstained']:.0%} ended without an answer"] if metrics.get("abstained") else []),
        *([f"{metrics['malformed']:.1f} malformed calls an episode"] if metrics["malformed"] else []),
        *([f"held-out gain {metrics['held_out_gain']:+.3f}"] if "held_out_gain" in metrics else []),
        *(f"alarm: {name}" for name in metrics["alarms"]),
    ]  # fmt: skip
    return ", ".join(parts)


def alarms(metrics: dict[str, float]) -> list[str]:
    """Conditions that a user should look at. Thresholds as published (docs/training.md, Alarms)."""
    episodes = max(1.0, metrics["episodes"] + metrics["failed_episodes"])
    raised = {
        "sampler and learner disagree": metrics.get("engine_kl", 0.0) > 0.01,
        "many episodes failed": metrics["failed_episodes"] / episodes > 0.05,
        "the judge often returns no valid score": metrics["unscored"] / episodes > 0.1,
        "advantages correlate with the share of invented answers": metrics["invention_correlation"] > 0.3,
        "entropy has collapsed": metrics.get("entropy", 1.0) < 0.005,
        "too few held-out pairs were scored to select this adapter": metrics.get("held_out_scored", 1.0) < MIN_SCORED,
    }
    return [name for name, up in raised.items() if up]


def lasting_alarms(history: Sequence[dict[str, Any]], last: int = 10) -> list[str]:
    """The alarms of more than half of the last steps; single ones can be noise."""
    recent = history[-last:]
    names = {name for step in recent for name in step["alarms"]}
    return sorted(n for n in names if sum(n in step["alarms"] for step in recent) > len(recent) / 2)
