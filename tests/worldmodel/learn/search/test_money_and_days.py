"""Shares of prices that are rounded to cents, lines of bills, days between dates, and numbers with fixed places."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import Any

from worldmodel.derive.expressions import Items, evaluate
from worldmodel.derive.functions import apply
from worldmodel.derive.situation import Row, sums
from worldmodel.derive.trees import leaf_of, value_of
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.columns import Table
from worldmodel.learn.guards import grow
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import Rows
from worldmodel.learn.search.formulas import formulas
from worldmodel.learn.slots import Parts, learn_slot


def bills(size: int) -> list[Row]:
    rng = random.Random(4)
    return [{"arg/days": rng.randrange(1, 30), "arg/plan": rng.choice("abc"),
             "rec/plan/price": rng.choice([9.0, 19.0, 49.0])} for _ in range(size)]  # fmt: skip


def share(row: Row) -> float:
    return round(row["rec/plan/price"] * row["arg/days"] / 30, 2)


def test_a_share_of_a_price_is_rounded_to_cents() -> None:
    rows = bills(60)
    found = find(Rows(rows), [share(row) for row in rows])
    assert found is not None and found.precision >= 0.97
    assert evaluate(found.expression, {"arg/days": 7, "rec/plan/price": 29.0}) == 6.77


def test_a_tax_on_amounts_in_cents_is_a_whole_number() -> None:
    """Of the subtotal less its discount, and within two limits where it is a fee."""
    rng = random.Random(5)
    rows: list[Row] = [{"law/subtotal": 10 * rng.randint(40, 900), "rec/promo/off": rng.choice([0, 200, 500])}
                       for _ in range(90)]  # fmt: skip
    tax = find(Rows(rows), [round((row["law/subtotal"] - row["rec/promo/off"]) * 0.075) for row in rows])
    assert tax is not None and tax.precision >= 0.97
    assert evaluate(tax.expression, {"law/subtotal": 10_000, "rec/promo/off": 1000}) == 675
    fee = find(Rows(rows), [min(499, max(99, round(row["law/subtotal"] * 0.08))) for row in rows])
    assert fee is not None and fee.precision >= 0.97
    said = [evaluate(fee.expression, {"law/subtotal": n, "rec/promo/off": 0}) for n in (500, 3000, 8800)]
    assert said == [99, 240, 499]


def test_a_whole_number_is_written_as_the_traces_write_it() -> None:
    """As 7 beside 7.5 (JavaScript), as 7.0 (Python), and always as 7 where there is no fraction."""
    rng = random.Random(6)
    rows: list[Row] = [{"arg/a": rng.randrange(1, 400), "arg/b": rng.randrange(1, 400)} for _ in range(60)]
    halves = [(row["arg/a"] + row["arg/b"]) / 2 for row in rows]
    parts = Parts(Rows(rows), Rows(rows[:45]), Rows(rows[45:]), list(range(45)), list(range(45, 60)))
    for targets, said in (
        ([int(n) if n.is_integer() else n for n in halves], [3, 3.5]),
        (halves, [3.0, 3.5]),
    ):
        slot = learn_slot("mean", targets, parts, in_text=False)
        given = [evaluate(slot.expression, {"arg/a": 2, "arg/b": b}) for b in (4, 5)]
        assert [(n, type(n)) for n in given] == [(n, type(n)) for n in said]


def test_a_number_may_be_rounded_to_six_places() -> None:
    rng = random.Random(7)
    rows: list[Row] = [{"arg/a": rng.randrange(1, 400), "arg/b": rng.randrange(2, 97)} for _ in range(60)]
    found = find(Rows(rows), [round(row["arg/a"] / row["arg/b"], 6) for row in rows])
    assert found is not None and evaluate(found.expression, {"arg/a": 2, "arg/b": 3}) == 0.666667


def test_a_formula_may_be_of_fields_that_few_rows_know() -> None:
    """It is offered beside formulas that are right by chance in more rows."""
    rng = random.Random(9)
    rows: list[Row] = []
    totals: list[int] = []
    for k in range(120):
        some = rng.randrange(1, 400)
        rows.append({f"arg/{name}": some + n for n, name in enumerate("abcd")})
        totals.append(some + 7)
        if k % 3 == 0:
            rows[-1] |= {"now/price": rng.randrange(20, 90), "now/tax": rng.randrange(20, 90)}
            totals[-1] = rows[-1]["now/price"] + rows[-1]["now/tax"]
    offered = formulas(Rows(rows), totals, range(len(rows)))
    assert 17 in [evaluate(found, {"now/price": 10, "now/tax": 7}) for found in offered]


def test_amounts_in_texts_are_numbers() -> None:
    rng = random.Random(8)
    rows: list[Row] = [
        {"rec/a/balance": f"{rng.randint(500, 9000) / 100:.2f}", "arg/amount": f"{rng.randint(1, 400) / 100:.2f}"}
        for _ in range(60)
    ]
    left = find(Rows(rows), [f"{float(r['rec/a/balance']) - float(r['arg/amount']):.2f}" for r in rows])
    assert left is not None and left.precision == 1.0
    assert evaluate(left.expression, {"rec/a/balance": "20.00", "arg/amount": "0.35"}) == "19.65"
    tree = grow(Table(rows), ["blocked" if float(r["rec/a/balance"]) >= 40 else "done" for r in rows])
    said = [leaf_of(tree, {"rec/a/balance": text, "arg/amount": "2.00"})[0].best()[0] for text in ("9.20", "88.10")]
    assert said == ["done", "blocked"]
    assert sums("arg/lines", [{"price": "2.50"}, {"price": "1.25"}]) == {"sum(arg/lines.price)": 3.75}


def test_amounts_are_written_in_several_ways() -> None:
    assert apply("hundredths", [1640]) == "16.40" and apply("grouped", [12_345]) == "12,345"
    assert apply("grouped_fixed", [1439.6]) == "1,439.60" and apply("half_up", [2.5]) == 3


def test_lists_of_always_as_many_objects_have_recipes_item_by_item() -> None:
    rows = bills(60)
    targets = [[{"what": "old", "amount": -share(r)}, {"what": f"new {r['arg/plan']}", "amount": 5}] for r in rows]
    found = find(Rows(rows), targets)
    assert found is not None and isinstance(found.expression, Items)
    said = evaluate(found.expression, {"arg/days": 7, "arg/plan": "b", "rec/plan/price": 29.0})
    assert said == [{"what": "old", "amount": -6.77}, {"what": "new b", "amount": 5}]


def test_an_item_that_is_added_can_have_an_object_inside() -> None:
    rng = random.Random(9)
    rows: list[Row] = [
        {"rec/m/loans": [{"id": k} for k in range(rng.randrange(4))], "arg/book": f"B{rng.randrange(90)}",
         "ans/loan": f"L{rng.randrange(900)}", "rec/book/title": f"Title {rng.randrange(900)}"}
        for _ in range(40)
    ]  # fmt: skip

    def after(row: Row) -> list[Any]:
        book = {"id": row["arg/book"], "title": row["rec/book/title"]}
        return [*row["rec/m/loans"], {"loan": row["ans/loan"], "book": book, "renewed": 0}]

    found = find(Rows(rows), [after(row) for row in rows])
    assert found is not None and found.precision == 1.0
    assert evaluate(found.expression, rows[3]) == after(rows[3])


def test_a_date_is_so_many_days_after_another() -> None:
    rng = random.Random(5)
    rows: list[Row] = []
    for _ in range(40):
        day = date(2026, 1, 1) + timedelta(days=rng.randrange(300))
        rows.append({"arg/day": str(day), "arg/n": rng.randrange(1, 9)})
    days = [date.fromisoformat(row["arg/day"]) for row in rows]
    later = {"always": [str(d + timedelta(days=7)) for d in days],
             "told": [str(d + timedelta(days=r["arg/n"])) for d, r in zip(days, rows, strict=True)]}  # fmt: skip
    for name, goal in (("always", "2026-03-04"), ("told", "2026-02-28")):
        found = find(Rows(rows), later[name])
        assert found is not None and evaluate(found.expression, {"arg/day": "2026-02-25", "arg/n": 3}) == goal


def test_a_window_before_a_date_is_a_number_of_days() -> None:
    rng = random.Random(6)
    rows: list[Row] = []
    labels: list[str] = []
    for _ in range(80):
        today = date(2026, 1, 1) + timedelta(days=rng.randrange(300))
        left = rng.randrange(0, 6)
        rows.append({"rec/visit/date": str(today + timedelta(days=left)), "now/today": str(today)})
        labels.append("too_late" if left < 2 else "ok")
    tree = grow(Table(rows), labels)
    for day, label in (("2026-12-31", "too_late"), ("2027-01-02", "ok")):
        assert leaf_of(tree, {"rec/visit/date": day, "now/today": "2026-12-30"})[0].best()[0] == label
    assert value_of({"a": "2026-03-01", "b": "2026-02-28"}, "days(a|b)") == 1


def test_functions_of_dates_and_places() -> None:
    cases: list[tuple[str, list[Any], Any]] = [
        ("days_later", ["2026-02-27T10:00", 2], "2026-03-01T10:00"), ("days_later", ["soon", 2], UNKNOWN),
        ("days_between", ["2026-03-01", "2026-02-27"], 2), ("fixed", [2.5, 2], "2.50"),
        ("rest", [[1, 2, 3]], [2, 3]), ("joined", [[1, "b"]], "1, b"),
    ]  # fmt: skip
    for name, values, goal in cases:
        assert apply(name, values) == goal
