"""Replace personal and secret values in assembled conversations, before any row is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson

from ingest.conversations.assembly import Assembled
from ingest.conversations.links import Link
from ingest.messages.chatform import Turn, as_text
from ingest.messages.normal import Evaluation
from ingest.privacy.fields import Known
from ingest.privacy.screen import Told, may_hold
from ingest.privacy.scrub import Scrubber
from ingest.records import Message

_TOLD = {"text", "reasoning", "tool_call", "tool_call_response"}  # parts whose content is in the message too
_MAX_KEPT = 100  # lists of tools that hold nothing, as JSON


@dataclass
class _Done:
    """The replacements in one message so far, with their counts: of texts, and of JSON values by their ``id``."""

    texts: dict[str, tuple[str, Counter[str]]] = field(default_factory=dict)
    values: dict[int, tuple[Any, Counter[str]]] = field(default_factory=dict)


class Privacy:
    """Replaces values in conversations. Calls are linked before, with the originals; later steps see surrogates only.

    ``totals`` counts the replaced places by ``table.column`` and kind.
    """

    def __init__(self, scrubber: Scrubber) -> None:
        self.scrubber = scrubber
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.conversations = 0
        self._known: dict[str, Known] = {}
        self._ids: dict[str, str] = {}
        self._plain_tools: set[str] = set()

    def conversation(self, c: Assembled, told: Told | None = None) -> Assembled:
        """Return the conversation with surrogates. Objects are copied only where a value is replaced. ``told`` has all
        texts of the conversation; with it, most conversations need not be searched."""
        known = self._learned(c) if told is None or self.scrubber.fields.may_learn(told.whole) else {}
        if told and not known and self._is_plain(c.conversation_id, told):
            self._ids[c.conversation_id] = c.conversation_id
            self._known[c.conversation_id] = known
            return c
        before = self._replaced()
        calls: dict[int, dict[str, Any]] = {}
        plain = told.plain_turns() if told and not known else [False] * len(c.thread.turns)
        turns = [self._turn(*x, known, calls) for x in zip(c.thread.turns, plain, strict=True)]
        tools = self._tools(c.thread.tools, told)
        conversation_id = self._id(c.conversation_id)
        self.conversations += self._replaced() > before
        self._known[conversation_id] = known
        new = {id(turn): made for turn, made in zip(c.thread.turns, turns, strict=True)}
        links = [self._link(x, new, calls) for x in c.links]
        thread = replace(c.thread, turns=turns, tools=tools)
        return replace(c, conversation_id=conversation_id, thread=thread, links=links)

    def evaluation(self, e: Evaluation, conversation_id: str | None) -> tuple[str | None, Evaluation]:
        """Return the conversation id and the judgement, both with the surrogates of the conversation."""
        at = self._id(conversation_id) if conversation_id else conversation_id
        known = self._known.get(at or "", {})
        label = self._value("outcomes.label", e.label, known)
        return at, replace(e, label=label, explanation=self._value("outcomes.explanation", e.explanation, known))

    def _learned(self, c: Assembled) -> Known:
        known: Known = {}
        fields = self.scrubber.fields
        for turn in c.thread.turns:
            message = turn.message
            if content := message.get("content"):
                fields.learn_text(content, known)
            for call in message.get("tool_calls") or ():
                fields.learn(call.get("arguments"), known)
            for part in turn.parts:
                if part["type"] not in _TOLD:
                    fields.learn(part, known)
        if any(value.kind == "secret" for value in known.values()):
            for message in (turn.message for turn in c.thread.turns):
                fields.weaken(message.get("content"), known)
                for call in message.get("tool_calls") or ():
                    fields.weaken(call.get("arguments"), known)
        return known

    def _replaced(self) -> int:
        return sum(map(Counter.total, self.counts.values()))

    def _is_plain(self, conversation_id: str, told: Told) -> bool:
        return not may_hold(f"{conversation_id}\n{told.whole}") and self._are_plain(told.tools)

    def _are_plain(self, tools: str) -> bool:
        """Whether the tools of a conversation, as JSON, have nothing to replace. Agents have few sets of tools, so this
        is cached."""
        if tools not in self._plain_tools:
            if may_hold(tools):
                return False
            self._keep_plain(tools)
        return True

    def _keep_plain(self, tools: str) -> None:
        if len(self._plain_tools) >= _MAX_KEPT:
            self._plain_tools.clear()
        self._plain_tools.add(tools)

    def _tools(self, tools: list[Any], told: Told | None) -> list[Any]:
        if told and self._are_plain(told.tools):
            return tools
        made = [self._value("conversations.tools", tool, {}) for tool in tools]
        if any(a is not b for a, b in zip(made, tools, strict=True)):
            return made
        if told:
            self._keep_plain(told.tools)
        return tools

    def _turn(self, turn: Turn, is_plain: bool, known: Known, calls: dict[int, dict[str, Any]]) -> Turn:
        if is_plain:
            for call in turn.message.get("tool_calls") or ():
                calls[id(call)] = call  # type: ignore[assignment]
            return turn
        message = cast(Message, dict(turn.message))
        done = _Done()
        if content := message.get("content"):
            text, counts = self._counted("messages.content", content, known)
            message["content"] = text
            done.texts[content] = text, counts
        for call in message.get("tool_calls") or ():
            calls[id(call)] = self._call(call, known, done)  # type: ignore[arg-type]
        if made := message.get("tool_calls"):
            message["tool_calls"] = cast(Any, [calls[id(call)] for call in made])
        if message.get("tool_call_id"):
            message["tool_call_id"] = self._id(message["tool_call_id"])
        return turn.saying(message, [self._part(part, done, known) for part in turn.parts])

    def _call(self, call: dict[str, Any], known: Known, done: _Done) -> dict[str, Any]:
        new = {**call, "id": self._id(call["id"])}
        if "arguments" in call:
            new["arguments"], counts = self._counted("tool_calls.arguments", call["arguments"], known)
            done.values[id(call["arguments"])] = new["arguments"], counts
        return new

    def _counted(self, column: str, value: Any, known: Known) -> tuple[Any, Counter[str]]:
        """Return a value with surrogates and their counts, and add the counts to the column's."""
        counts: Counter[str] = Counter()
        made = self.scrubber.value(value, known, counts)
        _add(self.counts[column], counts)
        return made, counts

    def _part(self, part: dict[str, Any], done: _Done, known: Known) -> dict[str, Any]:
        """Return a part with surrogates. Content that is also in the message is not searched again."""
        total = self.counts["message_bodies.parts"]
        made: dict[str, Any] = {}
        for key, item in part.items():
            if isinstance(item, str) and item in done.texts:
                made[key], counts = done.texts[item]
                _add(total, counts)
            elif id(item) in done.values:
                made[key], counts = done.values[id(item)]
                _add(total, counts)
            elif key == "response" and isinstance(item, dict | list) and (text := as_text(item)) in done.texts:
                told, counts = done.texts[str(text)]
                made[key] = item if told == text else orjson.loads(told)
                _add(total, counts)
            else:
                made[key] = item if key == "type" else self.scrubber.value(item, known, total)
        return made

    def _link(self, x: Link, turns: dict[int, Turn], calls: dict[int, dict[str, Any]]) -> Link:
        answer = turns[id(x.answer)] if x.answer else None
        call = calls[id(x.call)]
        return Link(call, turns[id(x.call_turn)], answer, None, x.repairs, x.ran)

    def _value(self, column: str, value: Any, known: Known) -> Any:
        return self.scrubber.value(value, known, self.counts[column])

    def _id(self, text: str) -> str:
        """Return an id, with surrogates if it contains personal data, such as an e-mail address."""
        found = self._ids.get(text)
        if found is None:
            found = self._ids[text] = self._value("conversations.conversation_id", text, {})
        return found

    def known_of(self, conversation_id: str) -> Known:
        """Return the personal values of a conversation by its original id. Its judgements need them."""
        return self._known.get(self._id(conversation_id), {})

    def remember(self, conversation_id: str, known: Known) -> None:
        """Replace all known values by those of one conversation, from ``known_of`` in another process."""
        self._known = {self._id(conversation_id): known}

    def totals(self) -> Totals:
        """Return what was replaced so far."""
        return Totals(self.counts, self.conversations, self.scrubber.values, self.scrubber.allowed)


def _add(total: Counter[str], counts: Counter[str]) -> None:
    """Add counts. Most are empty, and the test is cheaper than an update."""
    if counts:
        total.update(counts)


@dataclass
class Totals:
    """Counts of replacements by ``table.column`` and kind. By kind, ``values`` holds the surrogates in use and
    ``allowed`` the values on the allow-list."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    conversations: int = 0
    values: dict[str, set[str]] = field(default_factory=dict)
    allowed: dict[str, set[str]] = field(default_factory=dict)

    def merge(self, other: Totals) -> None:
        """Add the totals of another process."""
        for column, n in other.counts.items():
            self.counts.setdefault(column, Counter()).update(n)
        for mine, others in ((self.values, other.values), (self.allowed, other.allowed)):
            for kind, found in others.items():
                mine.setdefault(kind, set()).update(found)
        self.conversations += other.conversations

    def report(self) -> dict[str, Any]:
        """Return the counts only, without values: places by column and kind, different values by kind."""
        by_column = {column: dict(sorted(n.items())) for column, n in sorted(self.counts.items()) if n}
        total: Counter[str] = Counter()
        for column, n in self.counts.items():
            if column != "message_bodies.parts":  # these repeat what the message says
                total += n
        return {
            "replaced": dict(sorted(total.items())),
            "values": {kind: len(found) for kind, found in sorted(self.values.items())},
            "columns": by_column,
            "conversations": self.conversations,
            "allowed": {kind: len(found) for kind, found in sorted(self.allowed.items())},
        }
