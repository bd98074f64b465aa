"""What is known of a system: the forms, guards and effects of each tool. JSON by msgspec, versioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.expressions import Expression, evaluate, item_row
from worldmodel.derive.schema import Schema
from worldmodel.derive.situation import Row, sums
from worldmodel.derive.trees import Split, Tree, leaf_of, value_of
from worldmodel.derive.values import UNKNOWN, freeze, is_scalar, restored, storable, text_of

VERSION = 3
BORN = "new/"
"""How the sources start that are fields of a record which the call creates."""
OWN = "rec/=/"
"""How the name of a source starts that is another field of the same answer."""


class Slot(msgspec.Struct, frozen=True):
    """One field of a form: its expression (None: left open), and how often it was right and wrong. Its `own` expression
    has other fields of the same answer among its sources."""

    path: str
    expression: Expression | None
    support: int = 0
    against: int = 0
    held_out: float | None = None
    own: bool = False


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
    varied: bool = False
    """Whether the error's class is that of its text, and differs with the values in it."""

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


class Law(msgspec.Struct, frozen=True):
    """A value that follows from the call and the records that it names: a number that successes keep to, or a list that
    they answer. It is a source of the guard and of the slots, called `law/...`. `of` says what it was learned from."""

    name: str
    expression: Expression
    of: str = ""
    support: int = 0
    against: int = 0


def with_laws(row: Row, laws: Sequence[Law]) -> Row:
    """A situation with the values of laws, each of which may use those before it."""
    if not laws:
        return row
    row = dict(row)
    for law in laws:
        value = evaluate(law.expression, row)
        if value is not UNKNOWN:
            row[law.name] = value
            row.update(sums(law.name, value))
    return row


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
    laws: tuple[Law, ...] = ()
    unknown: dict[str, int] = {}
    """The refusals of records that nothing was known of."""
    held_out: dict[str, float] = {}
    untried: dict[str, tuple[Any, ...]] = {}
    """Of a write: by the source of a record's field, common values with which no success was ever seen."""

    def never_done(self, row: Row) -> str:
        """Why a success would be unlike all that were seen, in words; empty where it would not."""
        for source, values in self.untried.items():
            value = row.get(source, UNKNOWN)
            if value is not UNKNOWN and value in values:
                return f"{self.tool} was never seen to succeed where {source.rpartition('/')[2]} is {show(value)}"
        return ""

    def sources(self, row: Row) -> Row:
        """A situation with what the tool's laws and its tests of items say."""
        row = with_laws(row, self.laws)
        return {**row, **{item.name: item.holds(row) for item in self.items}} if self.items else row

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
    return msgspec.json.format(msgspec.json.encode(storable(msgspec.to_builtins(rules))), indent=1)


def decode(data: bytes) -> Rules:
    return msgspec.convert(restored(msgspec.json.decode(data)), type=Rules)


def show(value: Any) -> str:
    """A value in a plain sentence."""
    return text_of(value) if is_scalar(value) else str(freeze(value))[:80]
