"""Recorded calls with their situations, the rows that expressions are searched on, and how an expression is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from worldmodel.derive.expressions import Append, Expression, evaluate
from worldmodel.derive.situation import Row
from worldmodel.derive.store import Key
from worldmodel.derive.trees import contains, value_of
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze
from worldmodel.learn.columns import Table
from worldmodel.steps import Step

FEWEST = 3
PRECISION = 0.9
GOOD = 0.985
NO_VALUES = ("shape(", "form(", "prefix(", "type(", "said(", "known/", "has(", "prev/", "missing/", "at/")
KINDS = ("arg/", "item/", "items(", "ans/", "new/", "each(", "pick/", "rec/", "law/", "now/", "told/", "last/", "sum(",
         "len(", "view/", "among/", "all/", "did", "refused/", "n/", "since/")  # fmt: skip


class Found(NamedTuple):
    """An expression with how often it was right and wrong on the rows it was searched on."""

    expression: Expression
    support: int
    against: int

    @property
    def precision(self) -> float:
        total = self.support + self.against
        return self.support / total if total else 0.0


def rank(name: str) -> tuple[int, int, int]:
    """Plainer sources first: of two that are equal everywhere, the first is taken."""
    kind = next((k for k, start in enumerate(KINDS) if name.startswith(start)), len(KINDS))
    return kind, name.count(">"), len(name)


class Frozen:
    """Frozen values of lists and objects, and the index of each row, made once however many searches see them. What is
    kept here is kept alive, so that no identity is used twice."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Any, Any]] = {}
        self._indexes: dict[int, tuple[Row, dict[Any, list[str]]]] = {}
        self._skipped: dict[str, bool] = {}
        self._texts: dict[int, tuple[Any, str]] = {}
        self._searched: dict[Any, tuple[list[Row], Found | None]] = {}

    def searched(
        self, rows: Sequence[Row], targets: Sequence[Any], which: Any, search: Callable[[], Found | None]
    ) -> Found | None:
        """What a search for these targets found in these rows, made once. `which` says which search it is."""
        mark = (which, tuple(map(id, rows)), tuple(map(self._exactly, targets)))
        known = self._searched.get(mark)
        if known is None:
            known = self._searched[mark] = (list(rows), search())
        return known[1]

    def _exactly(self, value: Any) -> Any:
        """What tells two values apart that are equal, as 1 and 1.0 are, or objects in another order."""
        if value.__class__ is not list and value.__class__ is not dict:
            return value.__class__, value
        known = self._texts.get(id(value))
        if known is None:
            known = self._texts[id(value)] = (value, repr(value))
        return known[1]

    def of(self, value: Any) -> Any:
        if value.__class__ is not list and value.__class__ is not dict:
            return freeze(value)
        known = self._values.get(id(value))
        if known is None:
            known = self._values[id(value)] = (value, freeze(value))
        return known[1]

    def index(self, row: Row) -> dict[Any, list[str]]:
        known = self._indexes.get(id(row))
        if known is None:
            found: dict[Any, list[str]] = defaultdict(list)
            for name, value in row.items():
                skipped = self._skipped.get(name)
                if skipped is None:
                    skipped = self._skipped[name] = name.startswith(NO_VALUES)
                if not skipped and value is not UNKNOWN:
                    found[self.of(value)].append(name)
            known = self._indexes[id(row)] = (row, found)
        return known[1]


class Rows:
    """The rows of one form, with an index from values to the sources that hold them."""

    def __init__(
        self, rows: Sequence[Row], conversations: Sequence[str] = (), passed: Sequence[Row] = (),
        known: Frozen | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.conversations, self.passed = rows, conversations, passed
        self.known = known if known is not None else Frozen()
        self._table: Table | None = None

    def part(self, at: Sequence[int]) -> Rows:
        """Some of the rows, by themselves."""
        cids = [self.conversations[i] for i in at] if self.conversations else ()
        return Rows([self.rows[i] for i in at], cids, known=self.known)

    @property
    def table(self) -> Table:
        if self._table is None:
            self._table = Table(self.rows)
        return self._table

    def sources(self, at: int, value: Any) -> Sequence[str]:
        """The names of the sources that have a (frozen) value in a row."""
        return self.known.index(self.rows[at]).get(value, ())

    def judge(self, expression: Expression, targets: Sequence[Any], at: Iterable[int]) -> Found:
        right = wrong = 0
        for i in at:
            value = evaluate(expression, self.rows[i])
            if value is not UNKNOWN:
                if freeze(value) == freeze(targets[i]):
                    right += 1
                else:
                    wrong += 1
            elif isinstance(expression, Append):
                agrees = _agrees(expression, self.rows[i], targets[i])
                right, wrong = right + (agrees is True), wrong + (agrees is False)
        return Found(expression, right, wrong)


def _agrees(expression: Append, row: Row, target: Any) -> bool | None:
    """Whether a list is what an addition to an unknown list may give: it has the item, at its end or start, and not the
    one that was taken out."""
    item = evaluate(expression.item, row)
    if not isinstance(target, list) or item is UNKNOWN or item is ABSENT:
        return None
    if expression.list.startswith("without("):
        gone = value_of(row, expression.list[expression.list.rindex("|") + 1 : -1])
        if gone is UNKNOWN or contains(target, gone) and freeze(gone) != freeze(item):
            return None if gone is UNKNOWN else False
    if expression.once:
        return contains(target, item)
    return bool(target) and freeze(target[0 if expression.first else -1]) == freeze(item)


# ----- recorded calls

Mark = tuple[str, Key]


@dataclass(frozen=True)
class Recorded:
    """One recorded call with its situation, the records it names and the records that its answer shows."""

    conversation: str
    at: int
    step: Step
    row: Row
    keys: Mapping[str, Key]
    marks: Mapping[Mark, str]
    """The records that the call names, and by which link."""
    shown: Sequence[tuple[str, Key, str, Any]]
    answer: Row
    created: Mapping[Mark, str]
    """The records that only the answer names, since they were created, and by which link."""
    found: Row
    """What was known of other records that only the answer names."""
    acted: bool = True
    """Whether it was a success, and one that may have changed something."""
    facts: frozenset[str] = frozenset()
    """The links whose records are facts that all conversations share."""


@dataclass
class Sighting:
    at: int
    tool: str
    value: Any


Sightings = Mapping[tuple[Mark, str], list[Sighting]]


def sightings_of(recorded: Sequence[Recorded]) -> Sightings:
    """For each field of each record of one conversation: when it was shown, by whom, and as what."""
    found: dict[tuple[Mark, str], list[Sighting]] = defaultdict(list)
    for one in recorded:
        for type_, key, name, value in one.shown:
            found[((type_, key), name)].append(Sighting(one.at, one.step.tool, value))
    return found
