"""Tables by what a call or a record says (`worldmodel.learn.search.lookups`)."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from worldmodel.derive.expressions import Expression, Lookup, evaluate
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import Rows
from worldmodel.learn.search.lookups import lookups
from worldmodel.sentences import expression

KINDS = [f"K{chr(65 + k)}" for k in range(16)]
SEATS = ("stalls", "circle", "box")


@pytest.fixture
def rows() -> Rows:
    rng = random.Random(7)
    made = [
        {"arg/kind": rng.choice(KINDS), "arg/count": rng.randint(1, 6), "rec/seat/zone": rng.choice(SEATS),
         "arg/note": f"note {i}", "arg/id": f"A-{100 + i % 8}"}
        for i in range(200)
    ]  # fmt: skip
    return Rows(made, [f"c{i // 4}" for i in range(200)])


def _made(seed: int, *sources: str, rows: Rows) -> list[Any]:
    """A value for each thing that these sources say."""
    rng = random.Random(seed)
    table: dict[tuple[Any, ...], Any] = {}
    return [table.setdefault(tuple(row[s] for s in sources), round(rng.uniform(5, 95), 2)) for row in rows.rows]


def _right(found: Expression, rows: Rows, targets: list[Any]) -> int:
    return sum(evaluate(found, row) == target for row, target in zip(rows.rows, targets, strict=True))


def test_a_value_by_kind_is_a_table(rows: Rows) -> None:
    targets = [f"the {x} one" for x in _made(1, "arg/kind", rows=rows)]
    found = find(rows, targets)
    assert found is not None and isinstance(found.expression, Lookup) and found.expression.of == ("arg/kind",)
    assert _right(found.expression, rows, targets) == 200
    assert "argument kind" in expression(found.expression)
    again = msgspec.json.decode(msgspec.json.encode(found.expression), type=Expression)
    assert again == found.expression


def test_a_value_by_two_sources_is_a_table(rows: Rows) -> None:
    rows = Rows([row for row in rows.rows if row["arg/kind"] < "KG"], [c for c, row in zip(rows.conversations, rows.rows, strict=True) if row["arg/kind"] < "KG"])  # noqa: E501  # fmt: skip
    targets = [f"{x}" for x in _made(2, "arg/kind", "rec/seat/zone", rows=rows)]
    (first, *_) = lookups(rows, targets, range(len(targets)))
    assert isinstance(first, Lookup) and set(first.of) == {"arg/kind", "rec/seat/zone"}
    assert _right(first, rows, targets) >= len(targets) - 1  # one entry is seen once


@pytest.mark.parametrize("places", [0, 1, 2])
def test_a_rate_by_kind_is_a_table(rows: Rows, places: int) -> None:
    rates = _made(3, "arg/kind", rows=rows)
    targets = [round(rate * row["arg/count"], places) for rate, row in zip(rates, rows.rows, strict=True)]
    (first, *_) = lookups(rows, targets, range(len(targets)))
    assert _right(first, rows, targets) >= 195


def test_what_is_by_no_source_is_no_table(rows: Rows) -> None:
    rng = random.Random(5)
    assert lookups(rows, [rng.choice("abcdefgh") for _ in rows.rows], range(200)) == []


def test_a_records_own_value_is_no_table(rows: Rows) -> None:
    targets = [f"name {x}" for x in _made(4, "arg/id", rows=rows)]
    assert not any("arg/id" in repr(found) for found in lookups(rows, targets, range(200)))


def test_an_entry_needs_two_conversations(rows: Rows) -> None:
    made = [*rows.rows, {"arg/kind": "KZ", "arg/count": 1}, {"arg/kind": "KZ", "arg/count": 2}]
    targets = [*(f"the {x} one" for x in _made(1, "arg/kind", rows=rows)), "private", "private"]
    (first, *_) = lookups(Rows(made, [*rows.conversations, "last", "last"]), targets, range(202))
    assert evaluate(first, {"arg/kind": "KZ"}) is UNKNOWN
    assert "private" not in repr(first)
