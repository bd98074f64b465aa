"""What records are created with: the fields that a creating answer does not show and later reads do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from worldmodel.derive.expressions import Const, Source, evaluate
from worldmodel.derive.rules import BORN, Effect
from worldmodel.derive.situation import Row
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import FEWEST, PRECISION, Mark, Recorded, Rows, sightings_of

MOST_ROWS = 300
FEWEST_CONSTANT = 8
"""A constant with less support is dropped for a source that is right in all rows, those after later writes included."""
ROUNDS = 3
"""Fields may follow from fields, as a total from a discount: the later rounds know what those before them found."""
_Place = tuple[str, str, str]
"""The tool that creates, the link by which its answer names the record, and the type of that."""
_Births = Mapping[_Place, Mapping[str, list[tuple[int, Any]]]]
"""Of each field: in which of the creating calls, and as what it was shown."""


class _Gathered(NamedTuple):
    rows: Mapping[_Place, list[Row]]
    """What was known at each creating call."""
    births: _Births
    """Fields as they were shown before a write named the record."""
    kept: _Births
    """Fields as they were shown from the first write on that named the record: it may have changed them."""


def learn_births(
    conversations: Mapping[str, Sequence[Recorded]], writes: AbstractSet[str]
) -> dict[str, list[Effect]]:
    """By tool: the first values of the fields of what it creates, each in an order in which they follow."""
    rows, births, kept = _gather(conversations, writes)
    effects: dict[str, list[Effect]] = defaultdict(list)
    for place, shown in rows.items():
        found = _effects(place, births[place], shown)
        copied = _effects(place, {f: births[place].get(f, []) + seen for f, seen in kept[place].items()}, shown)
        sure = {e.field: e for e in copied if not e.against and isinstance(e.expression, Source)}
        few = {e.field for e in found if isinstance(e.expression, Const) and e.support < FEWEST_CONSTANT}
        known = {e.field for e in found} - (few & sure.keys())
        effects[place[0]] += [e for e in found if e.field in known]
        effects[place[0]] += [e for name, e in sure.items() if name not in known]
    return effects


def _gather(
    conversations: Mapping[str, Sequence[Recorded]], writes: AbstractSet[str]
) -> _Gathered:
    rows: dict[_Place, list[Row]] = defaultdict(list)
    births: dict[_Place, dict[str, list[tuple[int, Any]]]] = defaultdict(lambda: defaultdict(list))
    kept: dict[_Place, dict[str, list[tuple[int, Any]]]] = defaultdict(lambda: defaultdict(list))
    for recorded in conversations.values():
        seen: dict[Mark, dict[str, list[Any]]] | None = None
        for one in recorded:
            for mark, link in one.created.items() if one.acted else ():
                if seen is None:
                    seen = defaultdict(dict)
                    for (of, field), sightings in sightings_of(recorded).items():
                        seen[of][field] = sightings
                place = (one.step.tool, link, mark[0])
                if len(rows[place]) >= MOST_ROWS or mark not in seen:
                    continue
                until = _changed(recorded, mark, one.at, writes)
                for field, sightings in seen[mark].items():
                    first = next((s for s in sightings if s.at > one.at), None)
                    if first is not None and all(s.at != one.at for s in sightings):
                        to = births if first.at < until else kept
                        to[place][field].append((len(rows[place]), first.value))
                rows[place].append({**one.row, **one.answer})
    return _Gathered(rows, births, kept)


def _changed(recorded: Sequence[Recorded], mark: Mark, at: int, writes: AbstractSet[str]) -> int:
    """The next call that may change a record which was created at `at`."""
    for one in recorded[at + 1 :]:
        if one.acted and one.step.tool in writes and mark in one.marks:
            return one.at
    return len(recorded)


def _effects(place: _Place, fields: Mapping[str, list[tuple[int, Any]]], rows: list[Row]) -> list[Effect]:
    tool, link, type_ = place
    found: list[Effect] = []
    left = {field: shown for field, shown in sorted(fields.items()) if len(shown) >= FEWEST}
    for _ in range(ROUNDS):
        new = []
        for field, shown in left.items():
            recipe = find(Rows([rows[k] for k, _ in shown]), [value for _, value in shown])
            if recipe is not None and recipe.precision >= PRECISION and recipe.support >= FEWEST:
                new.append(Effect(link, type_, field, recipe.expression, recipe.support, recipe.against))
        if not new:
            break
        left = {field: shown for field, shown in left.items() if all(effect.field != field for effect in new)}
        found += new
        values = [{BORN + e.field: evaluate(e.expression, row) for e in new} for row in rows]
        rows = [{**row, **{n: v for n, v in more.items() if v is not UNKNOWN}}
                for row, more in zip(rows, values, strict=True)]  # fmt: skip
    return found
