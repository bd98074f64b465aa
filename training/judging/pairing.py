"""Values that the agent says together although tools never showed them of one record: another month's amount.

A record is an object in a tool's JSON answer with what stands above it and the call's arguments, or a text in a list.
Records that show the same id are one. A value in a sentence is astray if its record has other values of a field of
which the sentence names a value, and none of those that it names: the amount of January in a sentence on September.
The named values are those of records of the same shape, and words that production's tools mostly show in that field.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.judging.words import plain, writings

Messages = Sequence[Mapping[str, Any]]
_VALUE = re.compile(r"[A-Za-z]{3,}(?![A-Za-z0-9])|[A-Za-z0-9]*\d[A-Za-z0-9.,:-]*")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n")
_AMOUNT = re.compile(r"\d+(?:\.\d+)?")
FEWEST = 5
"""Fewest sightings of a word before its field is known from other conversations."""
MOSTLY = 0.8
"""Least share of its sightings in that field."""
MOST_RECORDS = 60
"""The first records of a conversation that are compared."""
ID_LENGTH = 5
"""Letters and digits of the shortest text with a digit that joins two records."""


@dataclass
class _Record:
    """The values of a record's fields, the ids among them, and the sets of field names that it was shown with."""

    fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ids: set[str] = field(default_factory=set)
    shapes: set[frozenset[str]] = field(default_factory=set)

    def has(self, value: str) -> bool:
        return any(value in values for values in self.fields.values())

    def add(self, name: str, value: Any) -> None:
        found = values_of(str(value))
        self.fields[name] |= writings_of(found)
        if isinstance(value, str):
            self.ids |= {v for v in found if v.isalnum() and len(v) >= ID_LENGTH and any(c.isdigit() for c in v)}

    def take(self, other: _Record) -> None:
        """Add what another record of the same thing shows."""
        for name, values in other.fields.items():
            self.fields[name] |= values
        self.ids |= other.ids
        self.shapes |= other.shapes


@dataclass(frozen=True)
class Pairing:
    """The field in which production's tools mostly show a word."""

    field_of: Mapping[str, str]

    @classmethod
    def of(cls, conversations: Iterable[Messages]) -> Pairing:
        """Learn the words' fields."""
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for messages in conversations:
            for _, record in _records(messages):
                for name, values in record.fields.items():
                    for value in values:
                        if value.isalpha():
                            seen[value][name] += 1
        top = {word: (counts.most_common(1)[0], counts.total()) for word, counts in seen.items()}
        return cls({w: name for w, ((name, n), total) in top.items() if n >= FEWEST and n >= MOSTLY * total})

    def mispaired(self, messages: Messages, own: frozenset[str] = frozenset()) -> int:
        """How many values the agent says of another record. `own`: words that are no values."""
        found: set[str] = set()
        joined: list[_Record] = []
        shown = deque(_records(messages))
        for number, message in enumerate(messages):
            while shown and shown[0][0] < number:
                _join(joined, shown.popleft()[1])
            text = message.get("content")
            if message["role"] == "assistant" and text and joined:
                for sentence in _SENTENCE.split(text):
                    found |= self._astray(values_of(sentence) - own, joined)
        return len(found)

    def _astray(self, said: set[str], records: Sequence[_Record]) -> set[str]:
        homes = {value: [record for record in records if record.has(value)] for value in said}
        foreign: dict[str, set[str]] = defaultdict(set)
        for value in said:
            if not homes[value] and value in self.field_of:
                foreign[self.field_of[value]].add(value)
        return {
            value
            for value, of in homes.items()
            if of and not any(_fits(value, home, said, foreign, records) for home in of)
        }


def _fits(
    value: str, home: _Record, said: set[str], foreign: Mapping[str, set[str]], records: Sequence[_Record]
) -> bool:
    """Whether the record has one of the values that were said of each of its fields, apart from the value itself."""
    alike = [record for record in records if record.shapes & home.shapes]
    for name, values in home.fields.items():
        others = set(foreign.get(name, ()))
        for record in alike:
            others |= record.fields[name] & said if name in record.fields else set()
        others.discard(value)
        if others and values - writings_of({value}) and not others & values:
            return False
    return True


def values_of(text: str) -> set[str]:
    """Lower-case words of three letters or more, amounts, and other texts of two characters or more with a digit."""
    found = set()
    for match in _VALUE.finditer(text):
        value = match[0].rstrip(".,:-").lower().replace(",", "")
        if len(value) > 1:
            found.add(plain(value) if _AMOUNT.fullmatch(value) else value)
    return found


def writings_of(values: set[str]) -> set[str]:
    """The values, and amounts in their other units."""
    amounts = {value for value in values if _AMOUNT.fullmatch(value)}
    return values | writings(amounts)


def _records(messages: Messages) -> Iterator[tuple[int, _Record]]:
    """The number of a message, and a record in it, for tools' answers that are no errors."""
    called: list[Any] = []
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            called = [call["arguments"] for call in message["tool_calls"]]
        elif message["role"] == "tool":
            arguments, called = (called[0] if called else {}), called[1:]
            try:
                body = json.loads(message.get("content") or "")
            except ValueError:
                continue
            if not message.get("is_error"):
                above = _Record()
                for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
                    if isinstance(value, str | int | float) and not isinstance(value, bool):
                        above.add(name, value)
                for record in _read(body, "", above.fields):
                    yield number, record


def _read(value: Any, name: str, above: Mapping[str, set[str]]) -> Iterator[_Record]:
    """The records in a value; `above`: the fields that they share with what they stand in, without its ids."""
    if isinstance(value, list):
        for part in value:
            if isinstance(part, str | int | float):
                yield _record({name: part}, above)
            else:
                yield from _read(part, name, above)
    elif isinstance(value, Mapping):
        plain_ = {k: v for k, v in value.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
        record = _record(plain_, above)
        yield record
        for key, part in value.items():
            if isinstance(part, Mapping | list):
                yield from _read(part, key, record.fields)


def _record(shown: Mapping[str, Any], above: Mapping[str, set[str]]) -> _Record:
    record = _Record(shapes={frozenset(shown)})
    for name, values in above.items():
        record.fields[name] |= values
    for name, value in shown.items():
        record.add(name, value)
    return record


def _join(joined: list[_Record], record: _Record) -> None:
    """Add a record, as one with those that have an id in common with it."""
    if len(joined) < MOST_RECORDS:
        same = [other for other in joined if other.ids & record.ids]
        for other in same:
            record.take(other)
        joined[:] = [*(other for other in joined if not any(other is one for one in same)), record]
