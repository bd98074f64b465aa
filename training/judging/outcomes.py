"""Production's outcomes as scores: which evaluation counts, and what its label means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ingest.records import Conversation

LABELS = {
    **dict.fromkeys(("pass", "passed", "success", "succeeded", "resolved", "correct", "good", "yes", "true"), 1.0),
    **dict.fromkeys(("fail", "failed", "failure", "unresolved", "incorrect", "bad", "no", "false"), 0.0),
}
"""Scores of common labels, for evaluations that have no score."""


def score_of(conversation: Conversation, name: str = "") -> float | None:
    """The last known score of the conversation, of the evaluation `name` if it is given; None if there is none."""
    found = None
    for outcome in conversation.outcomes:
        if name and outcome.get("name") != name:
            continue
        score = outcome.get("score")
        if score is None:
            score = LABELS.get(str(outcome.get("label") or "").strip().lower())
        found = found if score is None else float(score)
    return found


def names_of(conversations: Sequence[Conversation]) -> dict[str, int]:
    """The number of conversations with a score, by the evaluation's name, most first."""
    counts: Counter[str] = Counter()
    for conversation in conversations:
        names = {str(outcome.get("name") or "") for outcome in conversation.outcomes}
        counts.update(name for name in names if score_of(conversation, name) is not None)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
