"""Lengths of rows, turns and episodes, from the recorded conversations and the base's context.

Every conversation without a row and every row that is cut is counted with its reason. A scenario whose prompt leaves no
room for an answer is refused before practice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingest.errors import UserError
from ingest.records import Conversation, Scenario
from training.learning.batch import Row
from training.models.chat import ChatFormat, Message
from training.policy.rollout import Limits
from training.policy.system import SystemShown, shown_system

MEASURED = 400
"""Number of conversations, evenly spaced, whose lengths are measured."""
HEADROOM = 1.25
"""Limits are this factor times the recorded agent's tokens (99th percentile), to leave room for exploration."""


@dataclass
class RowCounts:
    """Counts of conversations. `left_out` and `cut` count the reasons for no row or a shorter row."""

    conversations: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RowCounts:
        """The counts of `as_dict`."""
        return cls(**{**told, "left_out": Counter(told["left_out"]), "cut": Counter(told["cut"])})

    def as_dict(self) -> dict[str, Any]:
        """For manifests."""
        return {**vars(self), "left_out": dict(self.left_out), "cut": dict(self.cut)}

    def text(self) -> str:
        """The counts on one line."""
        parts = [f"{self.conversations} conversations gave {self.rows} rows (longest: {self.longest} tokens)"]
        parts += [f"{count} left out: {why}" for why, count in sorted(self.left_out.items())]
        parts += [f"{count} cut: {why}" for why, count in sorted(self.cut.items())]
        return "; ".join(parts)


def shown_messages(conversation: Conversation, show_system: SystemShown) -> list[Message]:
    messages: list[Message] = []
    for message in conversation.messages:
        if message["role"] != "system":
            messages.append(message)
        elif text := shown_system(message["content"] or "", show_system):
            messages.append({**message, "content": text})
    return messages


def from_first_user(messages: Sequence[Message]) -> list[Message]:
    """The messages without what agent and tools said before the user's first one: practice begins there as well."""
    first = next((k for k, m in enumerate(messages) if m["role"] == "user"), len(messages))
    return [*(m for m in messages[:first] if m["role"] == "system"), *messages[first:]]


def conversation_rows(
    conversations: Iterable[Conversation], chat: ChatFormat, show_system: SystemShown, max_tokens: int
) -> tuple[list[Row], RowCounts]:
    """Rows with the agent's tokens learned, and counts of the conversations.

    A row longer than `max_tokens` is cut after the agent's last turn that fits.
    """
    rows: list[Row] = []
    counts = RowCounts()
    for conversation in conversations:
        counts.conversations += 1
        messages = from_first_user(shown_messages(conversation, show_system))
        if not any(m["role"] == "assistant" for m in messages):
            counts.left_out["no turn of the agent after a user's"] += 1
            continue
        try:
            written = chat.examples(messages, conversation.tools)
        except UserError as error:
            counts.left_out[str(error)[:200]] += 1
            continue
        kept = [cut_row(ids, trained, max_tokens) for ids, trained in written]
        whole = [row for row in kept if row is not None]
        if not whole:
            counts.left_out[f"the agent's first turn ends after {max_tokens} tokens"] += 1
        elif len(whole) < len(kept) or any(len(r.ids) < len(w[0]) for r, w in zip(whole, written, strict=False)):
            counts.cut[f"longer than {max_tokens} tokens"] += 1
        rows += whole
    counts.rows, counts.longest = len(rows), max((len(r.ids) for r in rows), default=0)
    return rows, counts


def cut_row(ids: Sequence[int], trained: Sequence[bool], max_tokens: int) -> Row | None:
    """A row of at most `max_tokens`, cut at the end of one of the agent's turns; None if no turn fits."""
    if len(ids) <= max_tokens:
        return Row(tuple(ids), tuple(trained)) if any(trained) else None
    ends = [k + 1 for k in range(max_tokens) if trained[k] and not (k + 1 < len(trained) and trained[k + 1])]
    return Row(tuple(ids[: ends[-1]]), tuple(trained[: ends[-1]])) if ends else None


def fitted_limits(
    given: Limits, conversations: Sequence[Conversation], chat: ChatFormat, context: int, show_system: SystemShown
) -> Limits:
    """`given`, raised to the lengths of the recorded conversations (if `from_data`) and limited by the context."""
    turns, turn_tokens, total = given.turns, given.turn_tokens, given.total_tokens
    if given.from_data and conversations:
        measured = _measured(conversations, chat, context, show_system)
        if measured is not None:
            turns = max(turns, measured[0])
            turn_tokens = max(turn_tokens, measured[1])
            total = max(total, measured[2])
    update = {"turns": turns, "turn_tokens": turn_tokens, "total_tokens": min(total, context)}
    return given.model_copy(update=update)


def _measured(
    conversations: Sequence[Conversation], chat: ChatFormat, context: int, show_system: SystemShown
) -> tuple[int, int, int] | None:
    """(turns, tokens of a turn, tokens of an episode) that a policy needs; None without measurable conversations."""
    step = max(1, len(conversations) // MEASURED)
    turns: list[int] = []
    lengths: list[int] = []
    totals: list[int] = []
    for conversation in conversations[::step]:
        messages = shown_messages(conversation, show_system)
        rows, _ = conversation_rows([conversation], chat, show_system, max_tokens=1 << 40)
        if not rows:
            continue
        turns.append(sum(m["role"] == "assistant" for m in messages))
        lengths += [n for row in rows for n in _turn_lengths(row)]
        totals.append(max(len(row.ids) for row in rows))
    if not totals:
        return None
    tokens = [math.ceil(HEADROOM * float(np.percentile(values, 99))) for values in (lengths, totals)]
    return math.ceil(float(np.percentile(turns, 99))), tokens[0], min(context, tokens[1])


def _turn_lengths(row: Row) -> list[int]:
    lengths: list[int] = []
    for k, mark in enumerate(row.trained):
        if mark and not row.trained[k - 1]:
            lengths.append(0)
        if mark:
            lengths[-1] += 1
    return lengths


def fitting_scenarios(
    scenarios: Sequence[Scenario], chat: ChatFormat, limits: Limits, show_system: SystemShown
) -> tuple[list[Scenario], dict[str, int]]:
    """The scenarios whose first prompt leaves room for a turn, and counts of the others by reason.

    Raises UserError if none fits.
    """
    kept: list[Scenario] = []
    refused: Counter[str] = Counter()
    longest = 0
    for scenario in scenarios:
        opening: list[Message] = [{"role": "user", "content": scenario.first_user_message}]
        if system := shown_system(scenario.system, show_system):
            opening.insert(0, {"role": "system", "content": system})
        try:
            tokens = len(chat.prompt(opening, scenario.tools))
        except UserError as error:
            refused[str(error)[:200]] += 1
            continue
        longest = max(longest, tokens)
        if tokens + min(limits.turn_tokens, 16) > limits.total_tokens:
            refused[f"its prompt leaves no room for a turn in {limits.total_tokens} tokens"] += 1
        else:
            kept.append(scenario)
    if scenarios and not kept:
        raise UserError(
            f"none of {len(scenarios)} scenarios can be practised: "
            + "; ".join(f"{count}: {why}" for why, count in refused.items())
            + f" (the longest prompt has {longest} tokens); raise limits.total_tokens, or choose a base with a longer "
            "context"
        )
    return kept, dict(refused)
