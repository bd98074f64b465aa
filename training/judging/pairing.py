"""Values that the agent tells of the wrong record: the amount of January in a sentence on September.

A record is an object in a tool's JSON answer, with the fields of the objects around it and the call's arguments, or a
text in a list. Records that show the same id are one. A sentence names values of a field if records of the same shape
show them there, or if no record shows them and production's tools mostly show such a word there. A value fits its
record if, of every field that the sentence names values of, the record has at least one. Other values are mispaired.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.judging.answered import Messages, with_calls
from training.judging.words import plain, writings

_VALUE = re.compile(r"[A-Za-z]{3,}(?![A-Za-z0-9])|[A-Za-z0-9]*\d[A-Za-z0-9.,:-]*")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n")
_AMOUNT = re.compile(r"\d+(?:\.\d+)?")
FEWEST = 5
"""Fewest conversations that show a word, before its field is known in others."""
MOSTLY = 0.8
"""Least share of a word's sightings in that field."""
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
        found = _values_of(str(value))
        self.fields[name] |= _writings_of(found)
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
        spread: Counter[str] = Counter()
        for messages in conversations:
            fields = [field for _, record in _records(messages) for field in record.fields.items()]
            shown = [(name, word) for name, values in fields for word in values if word.isalpha()]
            spread.update({word for _, word in shown})
            for name, word in shown:
                seen[word][name] += 1
        top = {w: counts.most_common(1)[0] for w, counts in seen.items() if spread[w] >= FEWEST}
        return cls({word: name for word, (name, n) in top.items() if n >= MOSTLY * seen[word].total()})

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
                    found |= self._astray(_values_of(sentence) - own, joined)
        return len(found)

    def _astray(self, said: set[str], records: Sequence[_Record]) -> set[str]:
        """The values of one sentence that fit none of the records that show them."""
        homes = {value: [record for record in records if record.has(value)] for value in said}
        foreign: dict[str, set[str]] = defaultdict(set)
        for value in said:
            if not homes[value] and value in self.field_of:
                foreign[self.field_of[value]].add(value)
        return {
            value
            for value, shown in homes.items()
            if shown and not any(_fits(value, home, said, foreign, records) for home in shown)
        }


def _fits(
    value: str, home: _Record, said: set[str], foreign: Mapping[str, set[str]], records: Sequence[_Record]
) -> bool:
    """Whether `home` has, of each of its fields of which the sentence names other values than this one, one of them.
    `foreign`: by field, said words that no record shows."""
    alike = [record for record in records if record.shapes & home.shapes]
    for name, values in home.fields.items():
        others = set(foreign.get(name, ()))
        for record in alike:
            others |= record.fields[name] & said if name in record.fields else set()
        others.discard(value)
        if others and values - _writings_of({value}) and not others & values:
            return False
    return True


def _values_of(text: str) -> set[str]:
    """Lower-case words of three letters or more, amounts, and other texts of two characters or more with a digit."""
    found = set()
    for match in _VALUE.finditer(text):
        value = match[0].rstrip(".,:-").lower().replace(",", "")
        if len(value) > 1:
            found.add(plain(value) if _AMOUNT.fullmatch(value) else value)
    return found


def _writings_of(values: set[str]) -> set[str]:
    """The values, and amounts in their other units."""
    amounts = {value for value in values if _AMOUNT.fullmatch(value)}
    return values | writings(amounts)


def _records(messages: Messages) -> Iterator[tuple[int, _Record]]:
    """The number of a message, and a record in it, for tools' answers that are no errors."""
    for number, (message, call) in enumerate(with_calls(messages)):
        if message["role"] != "tool" or message.get("is_error"):
            continue
        try:
            body = json.loads(message.get("content") or "")
        except ValueError:
            continue
        arguments = call.get("arguments")
        given = _record(arguments if isinstance(arguments, Mapping) else {}, {})
        for record in _read(body, "", given.fields):
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
        record = _record(value, above)
        yield record
        for key, part in value.items():
            if isinstance(part, Mapping | list):
                yield from _read(part, key, record.fields)


def _record(shown: Mapping[str, Any], above: Mapping[str, set[str]]) -> _Record:
    """The record of an object's texts and numbers."""
    scalars = {k: v for k, v in shown.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    record = _Record(shapes={frozenset(scalars)})
    for name, values in above.items():
        record.fields[name] |= values
    for name, value in scalars.items():
        record.add(name, value)
    return record


def _join(joined: list[_Record], record: _Record) -> None:
    """Add a record, as one with those that have an id in common with it."""
    if len(joined) < MOST_RECORDS:
        same = [other for other in joined if other.ids & record.ids]
        for other in same:
            record.take(other)
        joined[:] = [*(other for other in joined if not any(other is one for one in same)), record]
