"""What users say to what an agent said: which set phrases follow which messages of an agent.

`please try again` is an answer to a failure. The recorded user said it, so it is among the messages of the goal, and a
simulated user would say it to an agent that has just succeeded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from worldmodel.steps import words_of
from worldmodel.users.goal import Said, tokens_of

FEWEST = 3
"""A phrase of fewer conversations is somebody's own words, and a word of an agent is not kept."""
LONGEST = 12
"""Words of the longest set phrase."""
ALIKE = 0.4
"""Smallest share of common words of two messages of an agent that are compared."""
NEAR = 400
"""So many recorded messages, the most similar ones, are looked at."""
EXPECTED = 3.0
"""So often the phrase must be expected among them, at its share of all replies; else its absence says nothing."""
LEAST = 0.25
"""A phrase fits if it followed them at least so often, relative to all messages."""
MOST = 2000
"""Kinds of an agent's messages that are kept, the most frequent ones."""

Turn = tuple[str, str | None, str]
"""An agent's message, the user's reply to it (None: they left), and the conversation."""


@dataclass(frozen=True)
class Reactions:
    """`phrases`: the share of all replies, by set phrase. `after`: the words of an agent's messages, how often such a
    message was answered or left, and the phrases among the answers."""

    phrases: Mapping[str, float]
    after: Sequence[tuple[Sequence[str], int, Mapping[str, int]]]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Reactions:
        return cls(found.get("phrases", {}), [(words, n, said) for words, n, said in found.get("after", ())])

    def to_json(self) -> dict[str, Any]:
        return {"phrases": dict(self.phrases), "after": [[list(w), n, dict(said)] for w, n, said in self.after]}

    @cached_property
    def _kinds(self) -> list[tuple[frozenset[str], int, Mapping[str, int]]]:
        return [(frozenset(words), n, said) for words, n, said in self.after]

    def fits(self, said: Said, reply: str) -> bool:
        """Whether real users replied so to messages like the agent's last one. Own words always fit."""
        base = self.phrases.get(plain(reply))
        if base is None or not said or said[-1][0] != "agent":
            return True
        heard = words_of(said[-1][1])
        alike = [(len(heard & words) / max(1, len(heard | words)), n, found) for words, n, found in self._kinds]
        seen = times = 0
        for share, n, found in sorted(alike, key=lambda one: -one[0]):
            if share < ALIKE or seen >= NEAR:
                break
            seen, times = seen + n, times + found.get(plain(reply), 0)
        return base * seen < EXPECTED or times >= LEAST * base * seen


def learn_reactions(turns: Iterable[Turn]) -> Reactions:
    """Learn from the replies of recorded users after their first message, and their departures."""
    turns = list(turns)
    owners: dict[str, set[str]] = defaultdict(set)
    words: dict[str, set[str]] = defaultdict(set)
    for heard, reply, conversation in turns:
        if reply is not None and is_phrase(reply):
            owners[plain(reply)].add(conversation)
        for word in words_of(heard):
            words[word].add(conversation)
    often = {text for text, found in owners.items() if len(found) >= FEWEST}
    common = {word for word, found in words.items() if len(found) >= FEWEST}
    counts: Counter[str] = Counter(plain(reply) for _, reply, _ in turns if reply is not None)
    kinds: dict[tuple[str, ...], list[Any]] = {}
    for heard, reply, _ in turns:
        kind = kinds.setdefault(tuple(sorted(words_of(heard) & common)), [0, Counter()])
        kind[0] += 1
        if reply is not None and plain(reply) in often:
            kind[1][plain(reply)] += 1
    kept = sorted(kinds.items(), key=lambda one: (-one[1][0], one[0]))[:MOST]
    shares = {text: counts[text] / len(turns) for text in sorted(often)}
    return Reactions(shares, [(list(found), n, dict(sorted(said.items()))) for found, (n, said) in kept])


def is_phrase(text: str) -> bool:
    """Whether a reply can be a set phrase: it is short, and tells no number and no identifier."""
    short = 0 < len(text.split()) <= LONGEST
    return short and not tokens_of(text) and not any(char.isdigit() for char in text)


def plain(text: str) -> str:
    """A reply without case and spacing."""
    return " ".join(text.casefold().split())


NO_REACTIONS = Reactions({}, ())
