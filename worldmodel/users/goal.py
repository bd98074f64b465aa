"""The goal of a user, mined from a recorded conversation: what was wanted, what was known, and what was told when.

Read this file first. A fact is a value that the user told: something with a digit or an `@`, or a value that occurs in
the conversation's calls. Nothing here knows a system: the names of a fact are those under which the calls have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from worldmodel.steps import Step, content_leaves, is_identifier, leaves, words_of

Said = Sequence[tuple[str, str]]
"""(speaker, text) in order, with speakers "user" and "agent"."""
LONGEST_FACT = 120
LONG_WORD = 4
"""A question about a fact without a name has a word of so many letters or more that only the fact's message has."""
_TOKEN = re.compile(r"[\w#@.+-]*\w")
_QUESTION = re.compile("[?\uff1f\u061f]")


@dataclass(frozen=True)
class Fact:
    """A value that a user told. `turn` is the number of the message that told it first, from 0; `names` are the
    arguments and fields that have this value in the conversation's calls."""

    text: str
    turn: int
    names: frozenset[str] = frozenset()

    def is_in(self, text: str) -> bool:
        """Whether a text has the value, as a word of its own."""
        return has_value(text, self.text)


@dataclass(frozen=True)
class Temperament:
    """How a recorded user wrote: messages, words a message, new facts a message, and messages after the first that told
    nothing new."""

    messages: int
    words: float
    facts: float
    idle: int


@dataclass(frozen=True)
class Goal:
    """The messages of a recorded user, in order, and the facts in them. The first message states the intent."""

    messages: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()

    @cached_property
    def temperament(self) -> Temperament:
        count = len(self.messages)
        told = {fact.turn for fact in self.facts}
        words = sum(len(text.split()) for text in self.messages)
        idle = sum(turn not in told for turn in range(1, count))
        return Temperament(count, words / max(1, count), len(self.facts) / max(1, count), idle)

    def notes(self) -> str:
        """The goal's data in words, for a prompt that has room for them."""
        how = self.temperament
        lines = [f"You write {how.messages} messages of about {how.words:.0f} words."]
        if self.facts:
            listed = ", ".join(f"{fact.text} ({fact.turn + 1})" for fact in self.facts)
            lines.append(f"What you know, and in which message you first say it unless you are asked: {listed}")
        return "\n".join(lines)

    def answers(self, name: str) -> bool:
        """Whether the recorded user told a value of this argument or field."""
        return any(name in fact.names for fact in self.facts)

    def ahead(self, said: Said, reply: str) -> list[Fact]:
        """Return the facts that a reply tells before the recorded user did, and that the agent does not ask for."""
        turn = sum(speaker == "user" for speaker, _ in said)
        heard = "\n".join(text for _, text in said)
        question = said[-1][1] if said and said[-1][0] == "agent" else ""
        return [
            fact for fact in self.facts
            if fact.turn > turn and fact.is_in(reply) and not fact.is_in(heard) and not self.asked(fact, question)
        ]  # fmt: skip

    def due(self, said: Said) -> list[Fact]:
        """Return the facts that the recorded user had told by this turn, that nobody has said yet, and that a question
        of the agent asks for now."""
        turn = sum(speaker == "user" for speaker, _ in said)
        heard = "\n".join(text for _, text in said)
        question = said[-1][1] if said and said[-1][0] == "agent" else ""
        if not is_question(question):
            return []
        return [f for f in self.facts if f.turn <= turn and not f.is_in(heard) and self.asked(f, question)]

    def asked(self, fact: Fact, question: str) -> bool:
        """Whether a message of the agent asks for a fact: it has a word of the fact's name. For a fact without a name,
        it is a question with a long word that the user wrote only in the message with the fact."""
        heard = words_of(question)
        named = frozenset(word for name in fact.names for word in words_of(name))
        if named:
            return bool(named & heard)
        others = words_of(" ".join((*self.messages[: fact.turn], *self.messages[fact.turn + 1 :])))
        own = {word for word in words_of(self.messages[fact.turn]) - others if len(word) >= LONG_WORD}
        return is_question(question) and bool(own & heard)

    def recorded(self, said: Said, fits: Callable[[str], bool] = lambda text: True) -> str | None:
        """Return the first recorded message up to this turn that was not said yet, or else that of this turn; None if
        the recorded user wrote no message so late. It tells nothing ahead. Messages that do not fit are passed over,
        and the later ones come so much earlier."""
        mine = [text for speaker, text in said if speaker == "user"]
        turn = len(mine)
        for at, text in enumerate(self.messages):
            if at > turn:
                break
            if text in mine and at < turn:
                continue
            if fits(text):
                return text
            turn += 1
        return None


def mine_goal(messages: Iterable[str], steps: Iterable[Step] = ()) -> Goal:
    """Return the goal of a user who wrote these messages, in order, in a conversation with these calls."""
    texts = tuple(messages)
    names: dict[str, set[str]] = {}
    for step in steps:
        for key, value in (*leaves(dict(step.arguments)), *content_leaves(step.content)):
            if key and 3 <= len(value) <= LONGEST_FACT:
                names.setdefault(value, set()).add(key)
    facts: dict[str, Fact] = {}
    for turn, text in enumerate(texts):
        folded = text.casefold()
        valued = [v for v in names if v.casefold() in folded and tells(v) and has_value(text, v)]
        for value in (*valued, *tokens_of(text)):
            if value not in facts:
                facts[value] = Fact(value, turn, frozenset(names.get(value, ())))
    return Goal(texts, tuple(facts.values()))


def tells(value: str) -> bool:
    """Whether a value of a call says something of its own: a number, an address, several words, or a proper name."""
    return bool(re.search(r"\d", value)) or "@" in value or " " in value.strip() or value[:1].isupper()


def tokens_of(text: str) -> list[str]:
    """Return the identifiers, addresses, dates and longer numbers of a message. What is longer than a
    fact (`LONGEST_FACT`) is pasted data and none of these."""
    found = (match.group().lstrip("#@.+-") for match in _TOKEN.finditer(text))
    short = (token for token in found if len(token) <= LONGEST_FACT)
    return [t for t in short if is_identifier(t) or "@" in t or (len(t) >= 4 and re.search(r"\d", t) is not None)]


def has_value(text: str, value: str) -> bool:
    """Whether a text has a value as a word of its own, in any case."""
    return re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text, re.IGNORECASE) is not None


def is_question(text: str) -> bool:
    return _QUESTION.search(text) is not None
