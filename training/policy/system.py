"""Which part of a system prompt the policy reads.

A real base reads all of it. The prompts of a base with the compact format leave out what all conversations have in
common, which an adapter learns anyway, and keep what differs: the date, the customer, the agent's name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ingest.records import Conversation

SystemShown = bool | frozenset[str]
"""All of the system prompt, none of it, or all sentences but these."""

COMMON = 0.95
"""Sentences in so many of the prompts are common to all."""
MOST_CHARACTERS = 600
"""Where more than this is left on average, nothing is shown: a compact prompt has no room for it."""
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


def shown_system(text: str, shown: SystemShown) -> str:
    """The part of a system prompt that the policy reads."""
    if isinstance(shown, bool):
        return text if shown else ""
    return "\n".join(sentence for sentence in _sentences(text) if sentence not in shown)


def differing(conversations: Sequence[Conversation]) -> SystemShown:
    """The sentences that system prompts have in common, to be left out; False if nothing else, or too much, is left."""
    prompts = [m["content"] for c in conversations for m in c.messages[:1] if m["role"] == "system" and m["content"]]
    counts = Counter(sentence for text in prompts for sentence in set(_sentences(text)))
    common = frozenset(sentence for sentence, count in counts.items() if count >= COMMON * len(prompts))
    left = sum(len(shown_system(text, common)) for text in prompts)
    return common if 0 < left <= MOST_CHARACTERS * len(prompts) else False


def _sentences(text: str) -> list[str]:
    return [sentence for part in _SENTENCES.split(text) if (sentence := part.strip())]
