"""What users know: the arguments and fields whose values real users told, and which words of an agent ask for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingest.records import Conversation
from worldmodel.steps import steps_of_messages, words_of
from worldmodel.users.goal import Goal, Said, is_question, mine_goal

FEWEST = 3
"""Users know a field if users of at least so many conversations told its value before anybody else did."""
ASKS = 0.2
"""A question that names a field asks for it unless fewer of such questions were answered with a value."""
STATES = 0.5
"""A statement that names a field asks for it if at least so many of such statements were answered with a value."""


Heard = tuple[frozenset[str], bool, frozenset[str]]
"""The words of an agent's message, whether it is a question, and the names that the user's next message answers."""


@dataclass(frozen=True)
class Knowledge:
    """By name of an argument or field: in how many conversations users told its value, and which share of the agents'
    questions that name it, and of their other messages that name it, was answered with a value."""

    told: Mapping[str, int] = field(default_factory=dict)
    questions: Mapping[str, float] = field(default_factory=dict)
    statements: Mapping[str, float] = field(default_factory=dict)

    def asked(self, goal: Goal, said: Said) -> list[str]:
        """Return the names for which the agent's last message asks, and whose value the recorded user never told; those
        with the most words in the message first."""
        text = said[-1][1] if said and said[-1][0] == "agent" else ""
        heard, question = words_of(text), is_question(text)
        found = [
            (len(words), name) for name in self.told
            if (words := words_of(name)) and words <= heard and not goal.answers(name)
            and (self.questions.get(name, 1.0) >= ASKS if question else self.statements.get(name, 0.0) >= STATES)
        ]  # fmt: skip
        kept: list[str] = []
        for _, name in sorted(found, key=lambda one: (-one[0], one[1])):
            if not any(words_of(name) < words_of(other) for other in kept):
                kept.append(name)
        return kept

    def to_json(self) -> dict[str, Any]:
        return {"told": dict(self.told), "questions": dict(self.questions), "statements": dict(self.statements)}


def learn_knowledge(conversations: Iterable[Conversation]) -> Knowledge:
    """Learn from recorded conversations."""
    told: Counter[str] = Counter()
    turns: list[Heard] = []
    for conversation in conversations:
        names, answers = _told_in(conversation)
        told.update(names)
        turns += answers
    kept = {name: n for name, n in sorted(told.items()) if n >= FEWEST and words_of(name)}
    shares: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for name in kept:
        words = words_of(name)
        for question, found in shares.items():
            replies = [told_now for heard, asks, told_now in turns if asks == question and words <= heard]
            if replies:
                found[name] = round(sum(name in told_now for told_now in replies) / len(replies), 3)
    return Knowledge(kept, shares[True], shares[False])


def _told_in(conversation: Conversation) -> tuple[set[str], list[Heard]]:
    """The names whose values the user told before anybody else, and the agent's messages."""
    messages = conversation.messages
    written = [m["content"] or "" for m in messages if m["role"] == "user" and m.get("content")]
    goal = mine_goal(written, steps_of_messages(messages))
    names: set[str] = set()
    turns: list[Heard] = []
    shown: list[str] = []
    heard: str | None = None
    turn = 0
    for message in messages:
        content = message.get("content") or ""
        if message["role"] == "user" and content:
            before = "\n".join(shown)
            facts = [fact for fact in goal.facts if fact.turn == turn and not fact.is_in(before)]
            now = frozenset(name for fact in facts for name in fact.names)
            names |= now
            if heard is not None:
                turns.append((words_of(heard), is_question(heard), now))
            heard, turn = None, turn + 1
        elif message["role"] in ("assistant", "tool"):
            shown.append(content)
            if message["role"] == "assistant" and content and not message.get("tool_calls"):
                heard = content
    if heard is not None:
        turns.append((words_of(heard), is_question(heard), frozenset()))
    return names, turns
