"""Tests of a situation, and the decision trees made of them. JSON by msgspec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from worldmodel.derive.functions import apply
from worldmodel.derive.values import ABSENT, UNKNOWN, amount_in, is_date, is_number, is_part, is_scalar, same, text_of

ZERO_WHERE_MISSING = ("n/", "did/", "did_on/", "refused/", "since/")
COMPOUND = ("plus(", "minus(", "times(", "days(", "is(", "into(", "without(")
"""Sources made of two others, `kind(left|right)`; `is(source|text)` is 1 where the source is that text, else 0;
`into` is where a step leads from a path, `without` a list without an item, `days` how many the left date is later."""
AS_AMOUNT = "#"
"""How the name of a source ends that is the number which the text of another one shows: "14.35"."""


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """A source's value; counters that nothing has raised are 0."""
    value = row.get(name, UNKNOWN)
    if value is UNKNOWN and name.startswith(ZERO_WHERE_MISSING):
        return 0
    if value is UNKNOWN and name.startswith(COMPOUND):
        kind, left, right = parts_of(name)
        a = value_of(row, left)
        if kind == "is":
            if a is UNKNOWN:
                return 0 if left.startswith("arg/") else UNKNOWN  # an argument may be left out
            return int(is_scalar(a) and text_of(a) == right)
        b = value_of(row, right)
        if kind in ("into", "days"):
            return apply("entered" if kind == "into" else "days_between", (a, b))
        if kind == "without":
            return [one for one in a if not contains([one], b)] if isinstance(a, list) and b is not UNKNOWN else UNKNOWN
        if is_number(a) and is_number(b):
            return a + b if kind == "plus" else a - b if kind == "minus" else a * b
    if value is UNKNOWN and name.endswith(AS_AMOUNT):
        found = amount_in(value_of(row, name.removesuffix(AS_AMOUNT)))
        return UNKNOWN if found is None else found
    return value


@lru_cache(maxsize=10_000)
def parts_of(name: str) -> tuple[str, str, str]:
    """The kind of a compound source and the two that it is made of, which may be compound themselves."""
    kind, _, inside = name.partition("(")
    depth = 0
    for at, char in enumerate(inside[:-1]):
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            return kind, inside[:at], inside[at + 1 : -1]
    return kind, inside[:-1], ""


class Test(msgspec.Struct, frozen=True):
    """A claim about a situation: `is` (true), `absent`, `=`, `<`, `<=`, `>`, `in`, `has` (a list, an item or a value
    in one), `part` (of a text); false where a source is unknown, so that `>` is not the opposite of `<=`."""

    __test__ = False

    left: str
    op: str
    right: Any = None
    against_source: bool = False

    def holds(self, row: Mapping[str, Any]) -> bool:
        left = value_of(row, self.left)
        if self.op == "absent":
            return left is ABSENT
        if self.op == "known":
            return left is not UNKNOWN
        if left is UNKNOWN or left is ABSENT:
            return False
        if self.op == "is":
            return left is True
        right = value_of(row, self.right) if self.against_source else self.right
        if right is UNKNOWN or right is ABSENT:
            return False
        return compare(self.op, left, right)


def compare(op: str, left: Any, right: Any) -> bool:
    if op == "=":
        return same(left, right)
    if op == "in":
        return contains(right, left)
    if op == "has":
        return contains(left, right)
    if op == "part":
        return is_part(left, right)
    if is_number(left) and is_number(right) or is_date(left) and is_date(right):
        return left < right if op == "<" else left > right if op == ">" else left <= right
    return False


def contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, dict):
        return isinstance(part, str) and part in whole
    if isinstance(whole, list):
        return any(same(item, part) for item in whole) or any(
            isinstance(item, dict) and any(is_scalar(v) and same(v, part) for v in item.values()) for item in whole
        )
    return False


class Leaf(msgspec.Struct, frozen=True, tag="leaf"):
    """How often each label was seen here, and in which conversations (a few of them)."""

    counts: dict[str, int]
    seen_in: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def best(self) -> tuple[str, float]:
        label = max(self.counts, key=lambda name: (self.counts[name], name))
        return label, self.counts[label] / self.n

    def draw(self, u: float, among: Sequence[str] | None = None) -> str | None:
        """The label at quantile `u` of the leaf's odds, rare ones last."""
        kept = {k: n for k, n in self.counts.items() if among is None or k in among}
        total = sum(kept.values())
        if not total:
            return None
        u *= total
        for label in sorted(kept, key=lambda name: (-kept[name], name)):
            if u < kept[label]:
                return label
            u -= kept[label]
        return max(kept, key=lambda name: kept[name])


class Split(msgspec.Struct, frozen=True, tag="split"):
    test: Test
    yes: Split | Leaf
    no: Split | Leaf


Tree = Split | Leaf


def leaf_of(tree: Tree, row: Mapping[str, Any]) -> tuple[Leaf, list[tuple[Test, bool]]]:
    """The leaf of a situation, and the tests on the way to it."""
    path = []
    while isinstance(tree, Split):
        holds = tree.test.holds(row)
        path.append((tree.test, holds))
        tree = tree.yes if holds else tree.no
    return tree, path
