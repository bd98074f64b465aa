"""The rows that expressions are searched on, and how an expression is judged on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from worldmodel.derive.expressions import Expression, evaluate
from worldmodel.derive.situation import Row
from worldmodel.derive.values import UNKNOWN, freeze
from worldmodel.learn.guards import Table

FEWEST = 3
PRECISION = 0.9
GOOD = 0.985
NO_VALUES = ("shape(", "form(", "prefix(", "type(", "said(", "known/", "has(", "prev/", "missing/", "at/")
KINDS = ("arg/", "item/", "ans/", "each(", "pick/", "rec/", "now/", "told/", "last/", "sum(", "len(", "all/", "did",
         "n/", "since/")  # fmt: skip


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


class Rows:
    """The rows of one form, with an index from values to the sources that hold them."""

    def __init__(self, rows: Sequence[Row], conversations: Sequence[str] = (), passed: Sequence[Row] = ()) -> None:
        self.rows, self.conversations, self.passed = rows, conversations, passed
        self._table: Table | None = None
        self._index: list[dict[Any, list[str]]] | None = None
        self._defined: Counter[str] | None = None

    @property
    def table(self) -> Table:
        if self._table is None:
            self._table = Table(self.rows)
        return self._table

    @property
    def index(self) -> list[dict[Any, list[str]]]:
        if self._index is None:
            self._index, self._defined = [], Counter()
            for row in self.rows:
                found: dict[Any, list[str]] = defaultdict(list)
                for name, value in row.items():
                    if value is not UNKNOWN and not name.startswith(NO_VALUES):
                        found[freeze(value)].append(name)
                        self._defined[name] += 1
                self._index.append(found)
        return self._index

    def judge(self, expression: Expression, targets: Sequence[Any], at: Iterable[int]) -> Found:
        right = wrong = 0
        for i in at:
            value = evaluate(expression, self.rows[i])
            if value is not UNKNOWN:
                if freeze(value) == freeze(targets[i]):
                    right += 1
                else:
                    wrong += 1
        return Found(expression, right, wrong)
