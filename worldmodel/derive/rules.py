"""Rules as data: tests, trees, expressions, and what they say about one tool. JSON by msgspec, versioned.

An expression names its sources as `Situation.row` does. It is UNKNOWN where a source is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.schema import Schema
from worldmodel.derive.situation import Row, as_text
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze, is_date, is_number, is_scalar, same, text_of

VERSION = 1
ZERO_WHERE_MISSING = ("n/", "did/", "did_on/", "since/")


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """A source's value; counters that nothing has raised are 0."""
    value = row.get(name, UNKNOWN)
    if value is UNKNOWN and name.startswith(ZERO_WHERE_MISSING):
        return 0
    if value is UNKNOWN and name.startswith(("plus(", "minus(")):
        left, _, right = name[name.index("(") + 1 : -1].partition("|")
        a, b = value_of(row, left), value_of(row, right)
        if is_number(a) and is_number(b):
            return a + b if name.startswith("plus") else a - b
    return value


# ----- tests and trees


class Test(msgspec.Struct, frozen=True):
    """A claim about a situation: `is` (true), `absent`, `=`, `<`, `<=`, `in`; false where a source is unknown."""

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
    if is_number(left) and is_number(right) or is_date(left) and is_date(right):
        return left < right if op == "<" else left <= right
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


# ----- expressions


class Const(msgspec.Struct, frozen=True, tag="const"):
    value: Any


class Absent(msgspec.Struct, frozen=True, tag="absent"):
    """The field is left out."""


class Source(msgspec.Struct, frozen=True, tag="source"):
    name: str


class Text(msgspec.Struct, frozen=True, tag="text"):
    """A text with values in it."""

    parts: tuple[Expression, ...]


class Linear(msgspec.Struct, frozen=True, tag="linear"):
    """`constant + sum(factor * source)`, without the noise of floats; a whole number where all sources are."""

    terms: tuple[tuple[float, str], ...]
    constant: float = 0.0


class Product(msgspec.Struct, frozen=True, tag="product"):
    """`factor * left * right + constant`."""

    left: str
    right: str
    factor: float = 1.0
    constant: float = 0.0


class Quotient(msgspec.Struct, frozen=True, tag="quotient"):
    left: str
    right: str
    factor: float = 1.0


class Append(msgspec.Struct, frozen=True, tag="append"):
    """The list with one item more, at its end (or at its start)."""

    list: str
    item: Expression
    first: bool = False


class Concat(msgspec.Struct, frozen=True, tag="concat"):
    """The list with the items of another list after it."""

    list: str
    tail: Expression


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """The list without the items that are, or that hold, a value."""

    list: str
    item: str


class Build(msgspec.Struct, frozen=True, tag="build"):
    """An object field by field."""

    fields: dict[str, Expression]


class Each(msgspec.Struct, frozen=True, tag="each"):
    """One object for each item of a list; its fields are sources `item/<field>`."""

    list: str
    item: Expression


class FirstItem(msgspec.Struct, frozen=True, tag="first_item"):
    """A field of the first item of a list that a tree says `1` to; of the last item where it says so to none."""

    list: str
    tree: Tree
    field: str


class First(msgspec.Struct, frozen=True, tag="first"):
    """The first of several that is known."""

    options: tuple[Expression, ...]


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    """A tree whose labels number the options; unknown where a leaf is not sure enough."""

    tree: Tree
    options: tuple[Expression, ...]
    sure: float = 0.9


Scalar = Const | Absent | Source | Text | Linear | Product | Quotient
Collection = Append | Concat | Remove | Build | Each
Expression = Scalar | Collection | First | FirstItem | Choice


def evaluate(expression: Expression, row: Mapping[str, Any]) -> Any:
    """The value of an expression in a situation; ABSENT, or UNKNOWN where something it needs is."""
    match expression:
        case Const(value):
            return value
        case Absent():
            return ABSENT
        case Source(name):
            return value_of(row, name)
        case Linear(terms, constant):
            return _linear(terms, constant, row)
        case Product(left, right, factor, constant):
            a, b = value_of(row, left), value_of(row, right)
            if not (is_number(a) and is_number(b)):
                return UNKNOWN
            whole = is_whole(a, b, factor, constant)
            return tidy(a * b * factor + constant, whole) if whole or constant else a * b * factor
        case Quotient(left, right, factor):
            a, b = value_of(row, left), value_of(row, right)
            return a / b * factor if is_number(a) and is_number(b) and b else UNKNOWN
        case Text(parts):
            texts = [as_text(evaluate(part, row)) for part in parts]
            return UNKNOWN if None in texts else "".join(t for t in texts if t is not None)
        case First(options):
            for option in options:
                value = evaluate(option, row)
                if value is not UNKNOWN:
                    return value
            return UNKNOWN
        case Choice(tree, options, sure):
            leaf, _ = leaf_of(tree, row)
            label, share = leaf.best()
            return evaluate(options[int(label)], row) if share >= sure and label.isdigit() else UNKNOWN
        case _:
            return _collection(expression, row)


def _collection(expression: Expression, row: Mapping[str, Any]) -> Any:
    match expression:
        case Build(fields):
            values = {name: evaluate(inner, row) for name, inner in fields.items()}
            if any(v is UNKNOWN for v in values.values()):
                return UNKNOWN
            return {name: v for name, v in values.items() if v is not ABSENT}
        case Append(name, item, first):
            old, new = value_of(row, name), evaluate(item, row)
            old = [] if old is ABSENT else old
            if not isinstance(old, list) or new is UNKNOWN or new is ABSENT:
                return UNKNOWN
            return [new, *old] if first else [*old, new]
        case Concat(name, tail):
            old, new = value_of(row, name), evaluate(tail, row)
            return [*old, *new] if isinstance(old, list) and isinstance(new, list) else UNKNOWN
        case Remove(name, item):
            old, gone = value_of(row, name), value_of(row, item)
            if not isinstance(old, list) or gone is UNKNOWN:
                return UNKNOWN
            return [one for one in old if not contains([one], gone)]
        case FirstItem(name, tree, field):
            return _first_item(value_of(row, name), tree, field, row)
        case Each(name, item):
            items = value_of(row, name)
            if not isinstance(items, list):
                return UNKNOWN
            out = [evaluate(item, {**row, **item_row(one)}) for one in items]
            return UNKNOWN if any(v is UNKNOWN for v in out) else out
    raise TypeError(f"no expression: {expression!r}")


def _first_item(items: Any, tree: Tree, field: str, row: Mapping[str, Any]) -> Any:
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        return UNKNOWN
    for item in items:
        if leaf_of(tree, {**row, **item_row(item)})[0].best()[0] == "1":
            return item.get(field, UNKNOWN)
    return items[-1].get(field, UNKNOWN)


def item_row(item: Any) -> Row:
    if isinstance(item, dict):
        return {f"item/{name}": value for name, value in item.items()}
    return {"item/": item}


def _linear(terms: Sequence[tuple[float, str]], constant: float, row: Mapping[str, Any]) -> Any:
    if len(terms) == 1 and not constant and is_number(value_of(row, terms[0][1])):
        return tidy(terms[0][0] * value_of(row, terms[0][1]), True, exact=True)
    total, whole = constant, float(constant).is_integer()
    for factor, name in terms:
        value = value_of(row, name)
        if value is ABSENT:
            value = 0
        if not is_number(value):
            return UNKNOWN
        total += factor * value
        whole = whole and isinstance(value, int) and float(factor).is_integer()
    return tidy(total, whole)


def is_whole(*values: float) -> bool:
    return all(float(v).is_integer() and not (isinstance(v, float) and v != int(v)) for v in values)


def tidy(value: float, whole: bool, exact: bool = False) -> Any:
    if not math.isfinite(value):
        return UNKNOWN
    if exact:
        return int(value) if float(value).is_integer() else value
    if whole and float(value).is_integer():
        return int(value)
    for digits in (0, 2, 4):
        rounded = round(value, digits)
        if abs(rounded - value) < 1e-9 * max(1.0, abs(value)):  # what is left is the noise of the sum
            return int(rounded) if digits == 0 else rounded
    return value


# ----- what is known of a tool


class Slot(msgspec.Struct, frozen=True):
    """One field of a form: its expression (None: left open), and how often it was right and wrong."""

    path: str
    expression: Expression | None
    support: int = 0
    against: int = 0
    held_out: float | None = None


class Form(msgspec.Struct, frozen=True):
    """One way a tool answers: an outcome, and its body slot by slot. `template` is for text and error bodies: the
    slots are the values of its gaps, numbered from 0."""

    outcome: str
    slots: tuple[Slot, ...]
    template: Any = None
    text: bool = False
    n: int = 0
    call: str = ""
    example: str = ""
    """A recorded call with this answer, shortened."""

    @property
    def complete(self) -> bool:
        return all(slot.expression is not None for slot in self.slots)


class Effect(msgspec.Struct, frozen=True):
    """What a success changes in a record that its answer does not show. `lag` names the tools that show it only
    from their second read on."""

    link: str
    type: str
    field: str
    expression: Expression
    support: int = 0
    against: int = 0
    lag: tuple[str, ...] = ()


class ItemTest(msgspec.Struct, frozen=True):
    """Whether a tree says `1` to some item of a list: what an error that names one item looks for in all of them."""

    name: str
    list: str
    tree: Tree

    def holds(self, row: Mapping[str, Any]) -> bool:
        items = value_of(row, self.list)
        if not isinstance(items, list):
            return False
        return any(leaf_of(self.tree, {**row, **item_row(item)})[0].best()[0] == "1" for item in items)


class ToolRules(msgspec.Struct, frozen=True):
    """All rules of one tool. `guard` decides among forms, `accidents` among `none` and what passes by itself."""

    tool: str
    n: int
    forms: dict[str, Form]
    guard: Tree
    accidents: Tree | None = None
    effects: tuple[Effect, ...] = ()
    items: tuple[ItemTest, ...] = ()
    unknown: dict[str, int] = {}
    """The refusals of records that nothing was known of."""
    held_out: dict[str, float] = {}

    def passing(self) -> set[str]:
        """The outcomes that pass by themselves."""
        found: set[str] = set()
        waiting = [self.accidents] if self.accidents is not None else []
        while waiting:
            tree = waiting.pop()
            if isinstance(tree, Split):
                waiting += [tree.yes, tree.no]
            else:
                found |= {self.forms[label].outcome for label in tree.counts if label in self.forms}
        return found


class Rules(msgspec.Struct, frozen=True):
    """Everything learned about one system without a model."""

    schema: Schema
    tools: dict[str, ToolRules]
    writes: tuple[str, ...] = ()
    version: int = VERSION


def encode(rules: Rules) -> bytes:
    return msgspec.json.format(msgspec.json.encode(rules), indent=1)


def decode(data: bytes) -> Rules:
    return msgspec.json.decode(data, type=Rules)


def show(value: Any) -> str:
    """A value in a plain sentence."""
    return text_of(value) if is_scalar(value) else str(freeze(value))[:80]
