"""Fits an adapter to recorded conversations and their outcomes, without a world.

The tools are never called, so what they answer to actions that the agent never took is not learned. It is meant for
agents whose tools cannot be simulated, and as a baseline for practice in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ingest.errors import UserError
from ingest.records import Conversation
from training.judging.outcomes import score_of
from training.judging.similar import SimilarSettings
from training.learning.batch import Row
from training.learning.choices import without_defaults_of
from training.learning.deadline import Stop, never
from training.learning.fits import FitSettings, fit_sft, split_latest, unfinished
from training.learning.learner import LearnerSettings
from training.learning.offline_losses import AsymRe, OfflineLoss, RewardWeightedSft
from training.models.base import Base
from training.models.lora import save_weights, settings_of
from training.policy.clone import policy_rows
from training.policy.offline.iterative_ppo import IterativePpo, TurnPolicy
from training.policy.system import SystemShown


def _kind(given: Any) -> str:
    method = given.get("method", "asymre") if isinstance(given, dict) else given.method
    return "turns" if method == "iterative_ppo" else "loss"


OfflineMethod = Annotated[
    Annotated[OfflineLoss, Tag("loss")] | Annotated[IterativePpo, Tag("turns")],
    Discriminator(_kind),
    without_defaults_of(AsymRe, "method"),
]
"""The offline method as a setting, selected by `method`; default AsymRE."""


class OfflineSettings(BaseModel):
    """Settings of one offline retraining."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: OfflineMethod = Field(default_factory=AsymRe, description="The method, with its own settings.")
    fit: FitSettings = Field(
        default_factory=lambda: FitSettings(
            learner=LearnerSettings(preset="policy", schedule="cosine", max_grad_norm=1.0), max_tokens=1_500_000
        ),
        description="The fit, except for iterative_ppo. Its adapter has the shape of the start adapter.",
    )
    rewards: Literal["outcomes", "ruler"] = Field(
        "outcomes", description="outcomes: as recorded; ruler: the judge at ruler.base_url compares similar ones."
    )
    similar: SimilarSettings = Field(SimilarSettings(), description="Groups of similar conversations, for ruler.")
    held_out_share: float = Field(0.1, gt=0, lt=1, description="Latest conversations; their successes select weights.")


class HeadStart(BaseModel):
    """The fit on recorded successes from which the first practice starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="False: the first practice starts from the clone itself.")
    fit: FitSettings = Field(
        default_factory=lambda: FitSettings(
            learner=LearnerSettings(preset="policy", schedule="cosine", max_grad_norm=1.0), max_tokens=600_000
        ),
        description="The fit, from the clone. Its adapter has the clone's shape.",
    )

    def offline(self) -> OfflineSettings:
        """The same as settings of `fit_offline`."""
        return OfflineSettings(loss=RewardWeightedSft(), fit=self.fit)


def fit_offline(
    base: Base,
    scored: Sequence[tuple[Conversation, float]],
    start: Path,
    out: Path,
    settings: OfflineSettings,
    *,
    show_system: SystemShown,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
) -> dict[str, Any]:
    """Retrain the adapter `start` on conversations with rewards in [0, 1] (oldest first, `rewarded` or
    `judge_similar`); writes `out`, returns its manifest.

    The weights with the highest likelihood of held-out successes are kept; `iterative_ppo` keeps its last weights.
    Raises UserError if rewards are missing or all equal, if no held-out conversation is a success, and for a method
    whose ratio needs log-probabilities, which recorded conversations do not have.
    """
    if not isinstance(settings.loss, IterativePpo) and settings.loss.needs_sampler:
        raise UserError(
            f"{settings.loss.method} weights by the probability ratio of the policy to the recorded agent, and traces "
            "carry no log-probabilities of the recorded agent. Use asymre, kto, reward_weighted_sft or iterative_ppo"
        )
    if len({reward for _, reward in scored}) < 2:
        raise UserError(
            f"offline learning needs rewards that differ, got {len(scored)} conversations with rewards; record "
            "gen_ai.evaluation.result for some, good and bad, or let a judge compare similar conversations "
            "(offline.rewards=ruler and ruler.base_url)"
        )
    train, held_out = split_latest(scored, settings.held_out_share)
    if isinstance(settings.loss, IterativePpo):
        run = TurnPolicy(base, (train, held_out), start, settings.loss, show_system, seed)
        run.train(checkpoint, on_progress, stop)
        (weights, config), facts = run.learner.weights(), run.manifest()
    else:
        weights, config, facts = _fit_weighted(
            base, train, held_out, start, settings, settings.loss, show_system, seed, checkpoint, on_progress, stop
        )
    manifest = {
        "role": "policy",
        "base": base.name,
        "method": settings.loss.method,
        "start": start.name,
        "conversations": len(scored),
        "mean_reward": sum(reward for _, reward in scored) / len(scored),
        **facts,
        "settings": settings.model_dump(mode="json"),
    }
    save_weights(weights, config, out, manifest)
    return manifest


def _fit_weighted(
    base: Base,
    train: Sequence[tuple[Conversation, float]],
    held_out: Sequence[tuple[Conversation, float]],
    start: Path,
    settings: OfflineSettings,
    loss: OfflineLoss,
    show_system: SystemShown,
    seed: int,
    checkpoint: Path | None,
    on_progress: Callable[[float, dict[str, float]], None],
    stop: Stop,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """A supervised fit whose rows are weighted by outcomes: weights, peft configuration, and the manifest's facts."""
    rows = offline_rows(train, base, loss, show_system)
    best = max(reward for _, reward in held_out)
    if best == min(reward for _, reward in (*train, *held_out)):
        raise UserError(
            f"the {len(held_out)} latest conversations, which select the weights, are all failures (reward {best}); "
            "raise offline.held_out_share"
        )
    successes = policy_rows([c for c, reward in held_out if reward == best], base.format, show_system)[:200]
    learner = settings.fit.learner.model_copy(update={"lora": settings_of(start)})
    weights, config, history = fit_sft(
        base, rows, successes, settings.fit.model_copy(update={"learner": learner}), checkpoint, seed, start,
        on_progress, stop, loss,
    )  # fmt: skip
    return weights, config, {"rows": len(rows), "history": history, "partial": unfinished(history)}


def rewarded(conversations: Sequence[Conversation], name: str = "") -> list[tuple[Conversation, float]]:
    """The conversations with a known outcome, with their last score (of the evaluation `name`) within [0, 1]."""
    scored = [(conversation, score_of(conversation, name)) for conversation in conversations]
    return [(conversation, min(1.0, max(0.0, score))) for conversation, score in scored if score is not None]


def offline_rows(
    scored: Sequence[tuple[Conversation, float]], base: Base, loss: OfflineLoss, show_system: SystemShown
) -> list[Row]:
    """Rows of the conversations, each with the advantage that the method assigns to its reward."""
    weights = loss.advantages([reward for _, reward in scored])
    rows = []
    for (conversation, _), weight in zip(scored, weights, strict=True):
        for row in policy_rows([conversation], base.format, show_system):
            if weight:
                rows.append(Row(row.ids, row.trained, weight))
    return rows
