"""Behaviour cloning: a LoRA adapter that imitates the production agent, trained on all its conversations.

The first retraining starts from the clone, and evaluations compare with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ingest.errors import UserError
from ingest.records import Conversation
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.fits import FitSettings, fit_sft, split_latest, unfinished
from training.models.base import Base, context_length
from training.models.chat import ChatFormat
from training.models.lora import save_weights
from training.policy.lengths import conversation_rows
from training.policy.system import SystemShown


def policy_rows(
    conversations: Sequence[Conversation], chat: ChatFormat, show_system: SystemShown, max_tokens: int = 1 << 40
) -> list[Row]:
    """Rows with the agent's tokens learned; rows longer than `max_tokens` are cut (see lengths.py)."""
    return conversation_rows(conversations, chat, show_system, max_tokens)[0]


def fit_clone(
    base: Base,
    conversations: Sequence[Conversation],
    out: Path,
    settings: FitSettings,
    *,
    show_system: SystemShown,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
) -> dict[str, Any]:
    """Clone the agent of `conversations` (oldest first) into the peft directory `out`; returns its manifest.

    Raises UserError if no conversation gives a row.
    """
    train, held_out = split_latest(conversations, 0.05)
    context = context_length(base.model.config)
    rows, counts = conversation_rows(train, base.format, show_system, context)
    if not rows:
        raise UserError(f"there is nothing to clone: {counts.text()}")
    unseen, held_out_counts = conversation_rows(held_out, base.format, show_system, context)
    weights, config, history = fit_sft(
        base,
        rows,
        unseen[:200],
        settings,
        checkpoint,
        seed,
        on_progress=on_progress,
        stop=stop,
    )
    manifest = {
        "role": "policy",
        "base": base.name,
        "rows": len(rows),
        "row_counts": counts.as_dict(),
        "held_out_counts": held_out_counts.as_dict(),
        "mean_tokens": float(np.mean([len(r.ids) for r in rows])),
        "history": history,
        "partial": unfinished(history),
        "show_system": sorted(show_system) if isinstance(show_system, frozenset) else show_system,
    }
    save_weights(weights, config, out, manifest)
    return manifest
