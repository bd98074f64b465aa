"""Synthetic failures for the judge: successful conversations with one perturbed value.

A judge that is trained on production only knows production's failures. A policy trained with it finds others: the right
steps for the wrong product, a misspelt day, another customer's number. So one value of a successful conversation is
perturbed, in the user's request or in the agent's message, and the result counts as a failure. The code is independent
of the domain: values are numbers, and words that occur in tools' answers.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
_WORD = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*")
GARBLED = 0.25
"""Share of the perturbations that misspell a word instead of replacing it with another value."""


class Counterfactuals:
    """Learns which values occur at which place in tools' answers, and replaces one with another of its kind."""

    def __init__(self, conversations: Sequence[Messages]) -> None:
        self._places: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        seen: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
        for messages in conversations:
            for place, word in _values(messages):
                self._places[word.lower()][place] += 1
                seen[place][word] = None
        self._words = {place: list(words) for place, words in seen.items()}

    def of(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """The conversation with one value perturbed; None if it has no value to perturb."""
        known = {word.lower() for _, word in _values(messages)}
        found = [
            (number, match[0])
            for number, message in enumerate(messages)
            if message["role"] in ("user", "assistant") and message.get("content") and not message.get("tool_calls")
            for match in _WORD.finditer(message["content"])
            if _is_number(match[0]) or (match[0].lower() in known and self._others(match[0]))
        ]
        if not found:
            return None
        speaker = rng.choice(sorted({messages[number]["role"] for number, _ in found}))
        number, word = rng.choice([f for f in found if messages[f[0]]["role"] == speaker])
        other = self._other(word, rng)
        whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])")
        told = [dict(message) for message in messages]
        for at, message in enumerate(told):
            if at == number or (speaker == "user" and message["role"] == "user"):  # a user repeats the same value
                message["content"] = whole.sub(lambda _: other, message.get("content") or "")
        return told

    def _other(self, word: str, rng: random.Random) -> str:
        if _is_number(word):
            return _another_number(word, rng)
        if rng.random() < GARBLED:
            return _misspelt(word, rng)
        other = rng.choice(self._others(word))
        return other.capitalize() if word[0].isupper() else other.lower() if word.islower() else other

    def _others(self, word: str) -> list[str]:
        """Other words at the place where this one occurs most often; empty for an unknown word."""
        places = self._places.get(word.lower())
        if not places:
            return []
        place = max(places.items(), key=lambda p: p[1])[0]
        return [w for w in self._words[place] if w.lower() != word.lower()]


def _values(messages: Messages) -> Iterator[tuple[tuple[str, int], str]]:
    """Words in the texts of tools' JSON answers, with their place: (key, index of the word)."""
    for message in messages:
        if message["role"] == "tool":
            try:
                answer = json.loads(message.get("content") or "")
            except ValueError:
                continue
            for key, text in _texts(answer, ""):
                for number, match in enumerate(_WORD.finditer(text)):
                    if len(match[0]) > 2 and not _is_number(match[0]):
                        yield (key, number), match[0]


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        if "error" not in value:
            for inner, part in value.items():
                yield from _texts(part, str(inner))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)


def _is_number(word: str) -> bool:
    return sum(c.isdigit() for c in word) >= 2


def _another_number(word: str, rng: random.Random) -> str:
    """The number with one or all of its digits replaced."""
    places = [k for k, c in enumerate(word) if c.isdigit()]
    letters = list(word)
    for k in rng.sample(places, rng.randint(1, len(places))):
        letters[k] = rng.choice([d for d in "0123456789" if d != letters[k] and (k != places[0] or d != "0")])
    return "".join(letters)


def _misspelt(word: str, rng: random.Random) -> str:
    k = rng.randrange(len(word))
    letter = rng.choice([c for c in "abcdefghijklmnopqrstuvwxyz" if c != word[k].lower()])
    return word[:k] + (letter.upper() if word[k].isupper() else letter) + word[k + 1 :]
