"""Expressions: how the value of one field follows from a situation. JSON by msgspec.

An expression names its sources as `Situation.row` does. It is UNKNOWN where a source is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.functions import apply
from worldmodel.derive.situation import Row, as_text
from worldmodel.derive.trees import Tree, compare, contains, leaf_of, value_of
from worldmodel.derive.values import ABSENT, UNKNOWN, is_number, is_scalar, text_of

JOINS = "\x1f"
"""Between the two values that an entry of a table is for."""


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
    """The list with one item more, at its end (or at its start); with `once` only where it does not have it."""

    list: str
    item: Expression
    first: bool = False
    once: bool = False


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


class Items(msgspec.Struct, frozen=True, tag="items"):
    """A list of always as many items, each with an expression of its own."""

    items: tuple[Expression, ...]


class FirstItem(msgspec.Struct, frozen=True, tag="first_item"):
    """A field of the first item of a list that a tree says `1` to; of the last item where it says so to none."""

    list: str
    tree: Tree
    field: str


class First(msgspec.Struct, frozen=True, tag="first"):
    """The first of several that is known."""

    options: tuple[Expression, ...]


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    """A tree whose labels number the options; unknown where a leaf is not sure enough. With `looks`, the tree sees the
    numbers in the items that options add, `opt/<option>.<field>`: an account gets no item where the amount is 0."""

    tree: Tree
    options: tuple[Expression, ...]
    sure: float = 0.9
    looks: bool = False


class Call(msgspec.Struct, frozen=True, tag="call"):
    """A function (`worldmodel.derive.functions`) of other expressions."""

    function: str
    of: tuple[Expression, ...]


class Condition(msgspec.Struct, frozen=True):
    """What an item of a list must fulfil: its field (`""`: the item itself) against a value; `holds` is a text that
    contains it, `starts` one that begins with it."""

    field: str
    op: str
    value: Expression


class Select(msgspec.Struct, frozen=True, tag="select"):
    """The items of a list that fulfil all conditions, in an order, a part of them, and some of their fields.

    `order` is a field, `falling` its direction; `skip` and `take` cut; `fields` says what of each item is kept: nothing
    said keeps all of it, one name under `only` keeps the bare value."""

    list: str
    where: tuple[Condition, ...] = ()
    order: str = ""
    falling: bool = False
    skip: Expression | None = None
    take: Expression | None = None
    fields: tuple[str, ...] = ()
    only: str = ""


class Lookup(msgspec.Struct, frozen=True, tag="lookup"):
    """A table by what one or two sources hold: a fee for each tariff. Unknown for what the traces do not show."""

    of: tuple[str, ...]
    table: dict[str, Any]


Scalar = Const | Absent | Source | Text | Linear | Product | Quotient | Lookup
Collection = Append | Concat | Remove | Build | Each | Items | Select
Expression = Scalar | Collection | First | FirstItem | Choice | Call


def evaluate(expression: Expression, row: Mapping[str, Any]) -> Any:
    """The value of an expression in a situation; ABSENT, or UNKNOWN where something it needs is, or where a number is
    too large to calculate with."""
    match expression:
        case Const(value):
            return value
        case Absent():
            return ABSENT
        case Source(name):
            return value_of(row, name)
        case Linear() | Product() | Quotient():
            try:
                value = _calculated(expression, row)
            except OverflowError:
                return UNKNOWN
            return value if is_number(value) else UNKNOWN
        case Text(parts):
            texts = [as_text(evaluate(part, row)) for part in parts]
            return UNKNOWN if None in texts else "".join(t for t in texts if t is not None)
        case Lookup(of, table):
            key = entry([value_of(row, name) for name in of])
            return UNKNOWN if key is None else table.get(key, UNKNOWN)
        case First(options):
            for option in options:
                value = evaluate(option, row)
                if value is not UNKNOWN:
                    return value
            return UNKNOWN
        case Call(function, of):
            return apply(function, [evaluate(inner, row) for inner in of])
        case Choice(tree, options, sure, looks):
            leaf, _ = leaf_of(tree, looked(options, row) if looks else row)
            label, share = leaf.best()
            return evaluate(options[int(label)], row) if share >= sure and label.isdigit() else UNKNOWN
        case _:
            return _collection(expression, row)


def entry(values: Sequence[Any]) -> str | None:
    """Where a `Lookup` has its value for these; None if one of them is no scalar."""
    return JOINS.join(map(text_of, values)) if all(map(is_scalar, values)) else None


def is_given(expression: Expression, row: Mapping[str, Any]) -> bool:
    """Whether a field is present, though its value is not known: its tree says where it is left out."""
    match expression:
        case First(options):
            return is_given(options[-1], row)
        case Choice(tree, options, _, looks):
            leaf, _ = leaf_of(tree, looked(options, row) if looks else row)
            return not leaf.best()[0].isdigit() and any(isinstance(option, Absent) for option in options)
        case _:
            return False


def looked(options: Sequence[Expression], row: Mapping[str, Any]) -> Row:
    """A situation with the numbers in the items that options add to lists."""
    out = dict(row)
    for number, option in enumerate(options):
        item = evaluate(option.item, row) if isinstance(option, Append) else None
        if isinstance(item, dict):
            out.update({f"opt/{number}.{name}": value for name, value in item.items() if is_number(value)})
    return out


def _collection(expression: Expression, row: Mapping[str, Any]) -> Any:
    match expression:
        case Build(fields):
            values = {name: evaluate(inner, row) for name, inner in fields.items()}
            if any(v is UNKNOWN for v in values.values()):
                return UNKNOWN
            return {name: v for name, v in values.items() if v is not ABSENT}
        case Append(name, item, first, once):
            old, new = value_of(row, name), evaluate(item, row)
            old = [] if old is ABSENT else old
            if not isinstance(old, list) or new is UNKNOWN or new is ABSENT:
                return UNKNOWN
            if once and contains(old, new):
                return old
            return [new, *old] if first else [*old, new]
        case Concat(name, tail):
            old, new = value_of(row, name), evaluate(tail, row)
            return [*old, *new] if isinstance(old, list) and isinstance(new, list) else UNKNOWN
        case Remove(name, item):
            old, gone = value_of(row, name), value_of(row, item)
            if not isinstance(old, list) or gone is UNKNOWN:
                return UNKNOWN
            return [one for one in old if not contains([one], gone)]
        case Items(parts):
            made = [evaluate(part, row) for part in parts]
            return UNKNOWN if any(v is UNKNOWN or v is ABSENT for v in made) else made
        case FirstItem(name, tree, field):
            return _first_item(value_of(row, name), tree, field, row)
        case Each(name, item):
            items = value_of(row, name)
            if not isinstance(items, list):
                return UNKNOWN
            out = [evaluate(item, {**row, **item_row(one)}) for one in items]
            return UNKNOWN if any(v is UNKNOWN for v in out) else out
        case Select():
            return select(expression, row)
    raise TypeError(f"no expression: {expression!r}")


def _first_item(items: Any, tree: Tree, field: str, row: Mapping[str, Any]) -> Any:
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        return UNKNOWN
    for item in items:
        if leaf_of(tree, {**row, **item_row(item)})[0].best()[0] == "1":
            return item.get(field, UNKNOWN)
    return items[-1].get(field, UNKNOWN)


def select(wanted: Select, row: Mapping[str, Any]) -> Any:
    """The items that a `Select` takes of its list."""
    items = value_of(row, wanted.list)
    if not isinstance(items, list):
        return UNKNOWN
    for condition in wanted.where:
        value = evaluate(condition.value, row)
        if value is UNKNOWN or value is ABSENT:
            return UNKNOWN
        items = [item for item in items if fulfils(condition.op, field_of(item, condition.field), value)]
    if wanted.order:
        values = [field_of(item, wanted.order) for item in items]
        if not (all(map(is_number, values)) or all(isinstance(v, str) for v in values)):
            return UNKNOWN
        items = sorted(items, key=lambda item: field_of(item, wanted.order), reverse=wanted.falling)
    start, most = (None if e is None else evaluate(e, row) for e in (wanted.skip, wanted.take))
    if any(v is not None and not (isinstance(v, int) and v >= 0) for v in (start, most)):
        return UNKNOWN
    items = items[start or 0 :]
    items = items if most is None else items[:most]
    if wanted.only:
        values = [field_of(item, wanted.only) for item in items]
        return UNKNOWN if any(v is UNKNOWN or v is ABSENT for v in values) else values
    if wanted.fields:
        if not all(isinstance(item, dict) for item in items):
            return UNKNOWN
        return [{n: item[n] for n in wanted.fields if item.get(n, ABSENT) is not ABSENT} for item in items]
    return [dict(item) if isinstance(item, dict) else item for item in items]


def field_of(item: Any, name: str) -> Any:
    return item.get(name, UNKNOWN) if name and isinstance(item, dict) else UNKNOWN if name else item


def fulfils(op: str, value: Any, goal: Any) -> bool:
    """Whether a field of an item stands in this relation to a value."""
    if value is UNKNOWN or value is ABSENT:
        return False
    if op == "holds" and isinstance(value, list):
        return contains(value, goal)
    if op in ("holds", "starts", "holds_any_case"):
        if not (isinstance(value, str) and isinstance(goal, str)):
            return False
        if op == "holds_any_case":
            return goal.lower() in value.lower()
        return goal in value if op == "holds" else value.startswith(goal)
    if op in (">", ">="):
        return compare("<" if op == ">" else "<=", goal, value)
    return compare(op, value, goal)


def item_row(item: Any) -> Row:
    if isinstance(item, dict):
        return {f"item/{name}": value for name, value in item.items()}
    return {"item/": item}


def _calculated(expression: Linear | Product | Quotient, row: Mapping[str, Any]) -> Any:
    if isinstance(expression, Linear):
        return _linear(expression.terms, expression.constant, row)
    a, b, factor = value_of(row, expression.left), value_of(row, expression.right), expression.factor
    if not (is_number(a) and is_number(b)):
        return UNKNOWN
    if isinstance(expression, Quotient):
        return a / b * factor if b else UNKNOWN
    whole = is_whole(a, b, factor, expression.constant)
    return tidy(a * b * factor + expression.constant, whole) if whole or expression.constant else a * b * factor


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
            return rounded
    return value
