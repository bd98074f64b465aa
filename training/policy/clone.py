"""Behaviour cloning: the production agent as a LoRA, from its own conversations, good and bad alike.

It is what the retrained policy starts from and is compared with: production as it is, on our base.
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
from training.models.base import Base
from training.models.chat import ChatFormat
from training.models.lora import save_weights


def policy_rows(
    conversations: Sequence[Conversation], chat: ChatFormat, show_system: bool, longest: int = 2048
) -> list[Row]:
    """One row a conversation, what the agent wrote being learned; conversations longer than `longest` are left out."""
    rows = []
    for conversation in conversations:
        messages = [m for m in conversation.messages if show_system or m["role"] != "system"]
        if not any(m["role"] == "assistant" for m in messages) or messages[0]["role"] == "assistant":
            continue
        ids, trained = chat.example(messages, conversation.tools)
        if len(ids) <= longest:
            rows.append(Row(tuple(ids), tuple(trained)))
    return rows


def fit_clone(
    base: Base,
    conversations: Sequence[Conversation],
    out: Path,
    settings: FitSettings,
    *,
    show_system: bool,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
) -> dict[str, Any]:
    """Clone the agent of `conversations` (oldest first) into the peft directory `out`; returns its manifest."""
    train, held_out = split_latest(conversations, 0.05)
    rows = policy_rows(train, base.format, show_system)
    if not rows:
        raise UserError("no conversation has an assistant's turn to learn from; ingest traces with message content")
    weights, config, history = fit_sft(
        base,
        rows,
        policy_rows(held_out, base.format, show_system)[:200],
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
        "mean_tokens": float(np.mean([len(r.ids) for r in rows])),
        "history": history,
        "partial": unfinished(history),
        "show_system": show_system,
    }
    save_weights(weights, config, out, manifest)
    return manifest
