"""What the agent says only after a certain act: "cancelled" after a successful `cancel_order`, learned from successes.

A small judge sees that a call succeeded and that the agent confirms something. It hardly compares the two. Production's
agent rarely confirms what it did not do, so a judge does not learn from outcomes to check it, and a policy that
practises with such a judge learns to confirm anything. An agent that writes freely has few phrases that always follow
one act. Then nothing is learned, and nothing is counted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.judging.answered import Messages, with_calls

FEWEST = 20
"""Fewest successful conversations with a phrase."""
ALWAYS = 0.98
"""Least share of them in which the act comes before the phrase."""
COMMON = 0.5
"""An act in more than this share of the successes says nothing."""
_PART = re.compile(r"[A-Za-z']+|\d[\d.]*")


@dataclass(frozen=True)
class Claims:
    """The act that precedes a phrase of one or two words. An act is a tool's name, with " ok" if it succeeded."""

    act: Mapping[str, str]

    @classmethod
    def of(cls, successes: Iterable[Messages]) -> Claims:
        """Learn the phrases from successful conversations."""
        said: Counter[str] = Counter()
        after: dict[str, Counter[str]] = defaultdict(Counter)
        done: Counter[str] = Counter()
        count = 0
        for messages in successes:
            count += 1
            known: set[str] = set()
            for acts, phrases in _statements(messages):
                fresh = phrases - known
                known |= fresh
                said.update(fresh)
                for phrase in fresh:
                    after[phrase].update(acts)
            done.update(_all_acts(messages))
        found = {}
        for phrase, n in said.items():
            if n >= FEWEST:
                surely = [a for a, k in after[phrase].items() if k >= ALWAYS * n and done[a] <= COMMON * count]
                if surely:
                    found[phrase] = min(surely, key=lambda act: (done[act], -len(act), act))
        return cls(found)

    def unfounded(self, messages: Messages) -> int:
        """How many messages of the agent contain a phrase whose act did not come before it."""
        return sum(bool(self._lacking(phrases, acts)) for acts, phrases in _statements(messages))

    def would_lack(self, text: str, messages: Messages) -> bool:
        """Whether the text would be unfounded even at the end of the conversation."""
        return bool(self._lacking(_phrases(text), _all_acts(messages)))

    def _lacking(self, phrases: Iterable[str], acts: set[str]) -> list[str]:
        return [phrase for phrase in phrases if phrase in self.act and self.act[phrase] not in acts]


def _statements(messages: Messages) -> Iterator[tuple[set[str], set[str]]]:
    """Per message of the agent with text: the acts before it, and its phrases with a word that nobody else has used."""
    heard: set[str] = set()
    for message, acts in _with_acts(messages):
        text = message.get("content") or ""
        if message["role"] in ("user", "tool"):
            heard |= _phrases(text)
        elif message["role"] == "assistant" and text:
            yield acts, {phrase for phrase in _phrases(text) if not heard.issuperset(phrase.split())}


def _with_acts(messages: Messages) -> Iterator[tuple[Mapping[str, Any], set[str]]]:
    """Every message with the acts before it."""
    acts: set[str] = set()
    for message, call in with_calls(messages):
        yield message, set(acts)
        if message["role"] == "tool":
            name = message.get("name") or call.get("name", "")
            acts |= {name} if message.get("is_error") else {name, f"{name} ok"}


def _all_acts(messages: Messages) -> set[str]:
    """The acts of a whole conversation."""
    *_, (_, acts) = _with_acts([*messages, {"role": "end"}])
    return acts


def _phrases(text: str) -> set[str]:
    """The words, and the pairs of neighbouring words, with # for a number."""
    words = ["#" if part[0].isdigit() else part.lower() for part in _PART.findall(text)]
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))} - {"#"}
