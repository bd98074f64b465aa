"""What all conversations share: records that say the same at the start of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import msgspec

from worldmodel.derive.schema import EPISODE, Schema
from worldmodel.derive.store import ANSWERS, Facts
from worldmodel.learn.rows import Recorded
from worldmodel.steps import OK, call_key

MOST_ANSWERS, LONGEST = 5000, 4000
"""Answers that are kept, and the characters of each."""
AGREEMENT, MOSTLY = 0.97, 0.9
"""The share of sightings that agree, of a field by itself, and of one whose type agrees as a whole."""
FEWEST = 5
_Values = Mapping[tuple[str, Any, str], Mapping[str, Any]]
"""By (type, key, field): what each conversation showed first."""


class Origins(Mapping[tuple[str, Any], Mapping[str, Any]]):
    """Facts as a conversation meets them: without those that nobody but itself has shown."""

    def __init__(self, facts: Facts, own: Mapping[tuple[str, Any], Set[str]]) -> None:
        self._facts, self._own = facts, own

    def __getitem__(self, mark: tuple[str, Any]) -> Mapping[str, Any]:
        fields, own = self._facts[mark], self._own.get(mark)
        left = {n: v for n, v in fields.items() if n not in own} if own else fields
        if not left:
            raise KeyError(mark)
        return left

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return (mark for mark in self._facts if mark in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Shared(NamedTuple):
    """What conversations share: the facts, and by conversation which fields of which records it alone has shown."""

    facts: Facts
    alone: Mapping[str, Mapping[tuple[str, Any], Set[str]]]

    def but_of(self, conversation: str) -> Facts:
        """The facts without those that only this conversation has shown: as a new one would meet its records."""
        own = self.alone.get(conversation)
        return Origins(self.facts, own) if own else self.facts


NOTHING = Shared({}, {})


def shared_facts(
    conversations: Mapping[str, Sequence[Recorded]], schema: Schema, writes: set[str], creates: set[str]
) -> tuple[Schema, Shared]:
    """The schema with the fields that say the same in all conversations, and what they say of each record. `writes` are
    seen to change something, `creates` may have made what their answers show.

    Counted is what is shown before anything was written. What a record is shown as after writes that neither named nor
    showed it counts too, for fields where that agrees: nothing changes them in passing.
    """
    first: dict[tuple[str, Any, str], dict[str, Any]] = defaultdict(dict)
    untouched: dict[tuple[str, Any, str], dict[str, Any]] = defaultdict(dict)
    for cid, recorded in conversations.items():
        written, touched = False, set[Any]()
        for one in recorded:
            acts = one.step.tool in writes or one.step.tool in creates
            for type_, key, name, value in one.shown if not acts else ():
                if type_ != EPISODE and (type_, key) not in touched:
                    untouched[(type_, key, name)].setdefault(cid, value)
                    if not written:
                        first[(type_, key, name)].setdefault(cid, value)
            if acts and one.acted:
                written = written or one.step.tool in writes
                touched.update((*one.marks, *one.created, *((type_, key) for type_, key, *_ in one.shown)))
    wide, narrow = _shared(untouched), _shared(first)
    facts: dict[tuple[str, Any], dict[str, Any]] = defaultdict(dict)
    alone: dict[str, dict[tuple[str, Any], set[str]]] = defaultdict(lambda: defaultdict(set))
    for place, values in untouched.items():
        type_, key, name = place
        values = values if (type_, name) in wide else first.get(place, {}) if (type_, name) in narrow else {}
        if values:
            facts[(type_, key)][name] = usual(values.values())
        if len(values) == 1:
            alone[next(iter(values))][(type_, key)].add(name)
    for mark, values in _answers(conversations, writes, creates).items():
        outcome, content = usual(values.values())
        facts[mark] = {"outcome": outcome, "content": content}
        if len(values) == 1:
            alone[next(iter(values))][mark].update(facts[mark])
    names: dict[str, list[str]] = defaultdict(list)
    for type_, name in sorted(wide | narrow):
        names[type_].append(name)
    schema = msgspec.structs.replace(schema, shared={t: tuple(n) for t, n in names.items()})
    return schema, Shared(dict(facts), {cid: dict(own) for cid, own in alone.items()})


def _answers(
    conversations: Mapping[str, Sequence[Recorded]], writes: set[str], creates: set[str]
) -> dict[tuple[str, Any], dict[str, tuple[str, str]]]:
    """What reads answered before anything was written, by conversation: those of tools that answer equal calls alike in
    all conversations. A refusal that only one has met may have passed by itself."""
    found: dict[tuple[str, Any], dict[str, tuple[str, str]]] = defaultdict(dict)
    for cid, recorded in conversations.items():
        for one in recorded:
            step = one.step
            if step.tool not in writes and len(step.content) <= LONGEST:
                mark = (f"{ANSWERS}{step.tool}", (call_key(step.tool, step.arguments),))
                found[mark].setdefault(cid, (step.outcome, step.content))
            if (step.tool in writes or step.tool in creates) and one.acted:
                break
    alike = {type_ for type_, _ in _shared({(*mark, ""): values for mark, values in found.items()})}
    kept = {mark: values for mark, values in found.items()
            if mark[0] in alike and (len(values) > 1 or next(iter(values.values()))[0] == OK)}  # fmt: skip
    often = sorted(kept, key=lambda mark: -len(kept[mark]))
    return {mark: kept[mark] for mark in often[:MOST_ANSWERS]}


def _shared(shown: _Values) -> set[tuple[str, str]]:
    """(type, field) of what conversations agree on. Where they do on nearly all fields of a type, its records are the
    same at the start of each, and a field that something else changes now and then is no exception."""
    agree: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for (type_, _, name), values in shown.items():
        if len(values) > 1:
            marks = Counter(map(repr, values.values()))
            total[(type_, name)] += marks.total() - 1
            agree[(type_, name)] += marks.most_common(1)[0][1] - 1
    pooled: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (type_, name), n in total.items():
        pooled[type_][0] += agree[(type_, name)]
        pooled[type_][1] += n
    same = {type_ for type_, (hits, n) in pooled.items() if hits >= AGREEMENT * n}
    return {place for place, n in total.items()
            if n >= FEWEST and agree[place] >= (MOSTLY if place[0] in same else AGREEMENT) * n}  # fmt: skip


def usual(values: Iterable[Any]) -> Any:
    """The value that is met most often."""
    found = list(values)
    texts = list(map(repr, found))
    return found[texts.index(Counter(texts).most_common(1)[0][0])]
