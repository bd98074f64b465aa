"""Synthetic failures for the judge: successful conversations with one perturbed value or one claim of another.

A judge that is trained on production only knows production's failures. A policy trained with it finds others: the right
steps for the wrong product, a misspelt day, another customer's number, a confirmation of something else. So one value
of a successful conversation is perturbed, in the user's request, in the agent's message or in a call, or the agent
confirms what it did not do; the result counts as a failure. The code is independent of the domain: values are numbers,
and words that occur in tools' answers.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from training.judging.answered import Messages
from training.judging.claims import Claims
from training.models.edits import dumps

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*")
GARBLED = 0.25
"""Share of the perturbations that misspell a word instead of replacing it with another value."""
TRIES = 20
"""How many messages of other conversations are tried as a claim."""


class Counterfactuals:
    """Learns which values occur at which place in tools' answers, and replaces one with another of its kind."""

    def __init__(self, conversations: Sequence[Messages], claims: Claims | None = None) -> None:
        self._places: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        self._claims = claims or Claims({})
        self._said: list[str] = []
        seen: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
        for messages in conversations:
            for place, word in _values(messages):
                self._places[word.lower()][place] += 1
                seen[place][word] = None
            self._said += [m["content"] for m in messages if _speaks(m) and self._claims.would_lack(m["content"], ())]
        self._words = {place: list(words) for place, words in seen.items()}

    def of(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """The conversation with one value perturbed or one claim replaced; None if it has neither."""
        # _misspoken stands for two kinds: the user's values and the agent's.
        kinds: list[Callable[[Messages, random.Random], list[dict[str, Any]] | None]]
        kinds = [self._misspoken, self._misspoken, self._miscalled, self._misclaimed, self._mispaired]
        rng.shuffle(kinds)
        return next((told for kind in kinds if (told := kind(messages, rng))), None)

    def _misspoken(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """With a value perturbed that the user or the agent says."""
        known = self._known(messages)
        found = [
            (number, word)
            for number, message in enumerate(messages)
            if (message["role"] == "user" and message.get("content")) or _speaks(message)
            for word in self._perturbable(message["content"], known)
        ]
        if not found:
            return None
        speaker = rng.choice(sorted({messages[number]["role"] for number, _ in found}))
        number, word = rng.choice([f for f in found if messages[f[0]]["role"] == speaker])
        other = self._other(word, rng)
        told = [dict(message) for message in messages]
        for at, message in enumerate(told):
            if at == number or (speaker == "user" and message["role"] == "user"):  # a user repeats the same value
                message["content"] = _replaced(message.get("content") or "", word, other)
        return told

    def _miscalled(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """With a value perturbed in a call, and in everything that tools and agent say from there on."""
        known = self._known(messages)
        found = [
            (number, word)
            for number, message in enumerate(messages)
            for call in message.get("tool_calls") or ()
            for word in self._perturbable(_text(call["arguments"]), known)
        ]
        if not found:
            return None
        number, word = rng.choice(found)
        other = self._other(word, rng)
        told = [dict(message) for message in messages]
        for message in told[number:]:
            if message["role"] != "user" and message.get("content"):
                message["content"] = _replaced(message["content"], word, other)
            if message.get("tool_calls"):
                message["tool_calls"] = [
                    {**call, "arguments": _replaced(_text(call["arguments"]), word, other)}
                    for call in message["tool_calls"]
                ]
        return told

    def _misclaimed(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """With a message of the agent replaced by one that claims an act which did not happen here."""
        places = [number for number, message in enumerate(messages) if _speaks(message)]
        claims = rng.sample(self._said, min(TRIES, len(self._said)))
        text = next((text for text in claims if self._claims.would_lack(text, messages)), None)
        if not places or text is None:
            return None
        number = rng.choice(places)
        told = [dict(message) for message in messages]
        told[number]["content"] = self._retold(text, messages, rng)
        return told

    def _mispaired(self, messages: Messages, rng: random.Random) -> list[dict[str, Any]] | None:
        """With a value in a message of the agent replaced by another one that tools showed at the same place."""
        shown: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
        for place, word in _values(messages, numbers=True):
            shown[place][word] = None
        found = [
            (number, word, other)
            for number, message in enumerate(messages)
            if _speaks(message)
            for words in shown.values()
            for word in words
            if re.search(_alone(word), message["content"])
            for other in words
            if other.lower() != word.lower()
        ]
        if not found:
            return None
        number, word, other = rng.choice(found)
        told = [dict(message) for message in messages]
        told[number]["content"] = _replaced(told[number]["content"], word, other)
        return told

    def _retold(self, text: str, messages: Messages, rng: random.Random) -> str:
        """A message of another conversation with this one's values: numbers, and words of the same place."""
        own: dict[tuple[str, int], str] = dict(_values(messages))
        numbers = sorted({w for m in messages for w in _WORD.findall(m.get("content") or "") if _is_number(w)})

        def retell(match: re.Match[str]) -> str:
            if _is_number(match[0]):
                return rng.choice(numbers) if numbers else match[0]
            place = self._place(match[0])
            return own.get(place, match[0]) if place else match[0]

        return _WORD.sub(retell, text)

    @staticmethod
    def _known(messages: Messages) -> set[str]:
        return {word.lower() for _, word in _values(messages)}

    def _perturbable(self, text: str, known: set[str]) -> list[str]:
        """The words of a text that are values: numbers, and words that this conversation's tools have said."""
        words = [match[0] for match in _WORD.finditer(text)]
        return [w for w in words if _is_number(w) or (w.lower() in known and self._others(w))]

    def _other(self, word: str, rng: random.Random) -> str:
        if _is_number(word):
            return _another_number(word, rng)
        if rng.random() < GARBLED:
            return _misspelt(word, rng)
        other = rng.choice(self._others(word))
        return other.capitalize() if word[0].isupper() else other.lower() if word.islower() else other

    def _others(self, word: str) -> list[str]:
        """Other words at the place where this one occurs most often; empty for an unknown word."""
        place = self._place(word)
        return [w for w in self._words[place] if w.lower() != word.lower()] if place else []

    def _place(self, word: str) -> tuple[str, int] | None:
        """The place where a word occurs most often."""
        places = self._places.get(word.lower())
        return max(places.items(), key=lambda p: p[1])[0] if places else None


def _speaks(message: Mapping[str, Any]) -> bool:
    """Whether the agent speaks to the user and calls no tool."""
    return message["role"] == "assistant" and bool(message.get("content")) and not message.get("tool_calls")


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else dumps(arguments)


def _replaced(text: str, word: str, other: str) -> str:
    """The text with a word replaced wherever it stands alone."""
    return re.sub(_alone(word), lambda _: other, text)


def _alone(word: str) -> str:
    return rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])"


def _values(messages: Messages, numbers: bool = False) -> Iterator[tuple[tuple[str, int], str]]:
    """Words in the texts of tools' JSON answers, with their place: (key, index of the word). `numbers`: these too."""
    for message in messages:
        if message["role"] == "tool":
            try:
                answer = json.loads(message.get("content") or "")
            except ValueError:
                continue
            for key, text in _texts(answer, ""):
                for number, match in enumerate(_WORD.finditer(text)):
                    if len(match[0]) > 2 and (numbers or not _is_number(match[0])):
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
