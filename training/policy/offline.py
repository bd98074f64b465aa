"""Offline training: from recorded conversations and their outcomes, without a world.

No new behaviour is explored, so actions that the agent never took are not learned. It is meant for agents whose tools
cannot be simulated, and as a baseline for practice in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from ingest.records import Conversation
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.fits import FitSettings, fit_sft, split_latest, unfinished
from training.learning.learner import LearnerSettings
from training.learning.offline_losses import AsymRe, OfflineLoss
from training.models.base import Base
from training.models.lora import save_weights, settings_of
from training.policy.clone import policy_rows


class OfflineSettings(BaseModel):
    """Settings of one offline retraining."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: OfflineLoss = Field(default_factory=AsymRe, description="The method: how outcomes weight conversations.")
    fit: FitSettings = Field(
        default_factory=lambda: FitSettings(
            learner=LearnerSettings(preset="policy", schedule="cosine", max_grad_norm=1.0), max_tokens=1_500_000
        ),
        description="The fit. Its adapter has the shape of the start adapter.",
    )
    held_out_share: float = Field(0.1, gt=0, lt=1, description="Latest conversations; their successes select weights.")


def fit_offline(
    base: Base,
    conversations: Sequence[Conversation],
    start: Path,
    out: Path,
    settings: OfflineSettings,
    *,
    show_system: bool,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
) -> dict[str, Any]:
    """Retrain the adapter `start` on conversations with outcomes (oldest first); writes `out`, returns its manifest.

    The weights with the highest likelihood of held-out successes are kept. Raises UserError if outcomes are missing or
    all equal, and for a method whose ratio needs log-probabilities, which recorded conversations do not have.
    """
    if settings.loss.needs_sampler:
        raise UserError(
            f"{settings.loss.method} weights by the probability ratio of the policy to the recorded agent, and traces "
            "carry no log-probabilities of the recorded agent. Use asymre, kto or reward_weighted_sft"
        )
    scored = rewarded(conversations)
    if len({reward for _, reward in scored}) < 2:
        raise UserError(
            f"offline learning needs outcomes that differ, got {len(scored)} conversations with outcomes; record "
            "gen_ai.evaluation.result for some, good and bad"
        )
    train, held_out = split_latest(scored, settings.held_out_share)
    rows = offline_rows(train, base, settings, show_system)
    best = max(reward for _, reward in held_out)
    successes = policy_rows([c for c, reward in held_out if reward == best], base.format, show_system)[:200]
    learner = settings.fit.learner.model_copy(update={"lora": settings_of(start)})
    weights, config, history = fit_sft(
        base, rows, successes, settings.fit.model_copy(update={"learner": learner}), checkpoint, seed, start,
        on_progress, stop, settings.loss,
    )  # fmt: skip
    manifest = {
        "role": "policy",
        "base": base.name,
        "method": settings.loss.method,
        "start": start.name,
        "conversations": len(scored),
        "rows": len(rows),
        "mean_reward": sum(reward for _, reward in scored) / len(scored),
        "history": history,
        "partial": unfinished(history),
        "settings": settings.model_dump(mode="json"),
    }
    save_weights(weights, config, out, manifest)
    return manifest


def rewarded(conversations: Sequence[Conversation]) -> list[tuple[Conversation, float]]:
    """The conversations with a known outcome, with their last score scaled to [0, 1]."""
    found = []
    for conversation in conversations:
        scores = [score for o in conversation.outcomes if (score := o.get("score")) is not None]
        if scores:
            found.append((conversation, min(1.0, max(0.0, scores[-1]))))
    return found


def offline_rows(
    scored: Sequence[tuple[Conversation, float]], base: Base, settings: OfflineSettings, show_system: bool
) -> list[Row]:
    """Rows of the conversations, each with the advantage that the method assigns to its reward."""
    weights = settings.loss.advantages([reward for _, reward in scored])
    rows = []
    for (conversation, _), weight in zip(scored, weights, strict=True):
        for row in policy_rows([conversation], base.format, show_system):
            if weight:
                rows.append(Row(row.ids, row.trained, weight))
    return rows
