"""Which field says whose record an answer shows, where records change all the time and writes are never repeated."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worldmodel.learn.induce import induce
from worldmodel.learn.schema.identifiers import looks_like_id
from worldmodel.steps import Step, outcome_of


def said(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    text = json.dumps(body)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


def day(k: int) -> list[Step]:
    """A tenant's bills, some of which are paid in parts; each read shows what is left now."""
    rng, steps = random.Random(f"bills {k}"), list[Step]()
    tenant = f"TN{rng.randrange(10**5, 10**6)}"
    bills = [{"id": f"B-{rng.randrange(1000, 9999)}", "left": f"{rng.randrange(20, 90)}.00", "state": "open"}
             for _ in range(3)]  # fmt: skip
    repairs = [{"id": f"{rng.choice('XYZ')}{n}", "state": "open", "left": "0.00"} for n in range(10, 13)]

    def show() -> Step:
        body = {"id": tenant, "rooms": k % 4 + 1, "bills": [dict(bill) for bill in bills], "repairs": repairs}
        return said("get_tenant", {"tenant_id": tenant}, body)

    for _ in range(3):
        steps.append(show())
        bill = rng.choice([b for b in bills if b["state"] != "paid"])
        amount = min(float(bill["left"]), rng.choice([5.0, 10.0, 90.0]))
        bill["left"] = f"{float(bill['left']) - amount:.2f}"
        bill["state"] = "paid" if bill["left"] == "0.00" else "part"
        receipt = f"RC{rng.randrange(10**6)}"
        answer = {"receipt": receipt, "bill_id": bill["id"], "left": bill["left"], "state": bill["state"]}
        steps.append(said("pay", {"bill_id": bill["id"], "amount": amount}, answer))
    return [*steps, show(), show()]


def test_records_that_every_write_changes_are_keyed_by_their_ids() -> None:
    rules, _ = induce({f"c{k}": day(k) for k in range(60)})
    sites = {(site.tool, site.path): site for site in rules.schema.sites}
    keys = {place: [part.source for part in site.keys] for place, site in sites.items()}
    assert keys[("get_tenant", "")] == ["field/id"]
    assert keys[("get_tenant", "bills[]")] == ["field/id"]
    assert keys[("pay", "")] == ["field/bill_id"], "not the receipt, which no call ever names"
    assert sites[("pay", "")].type == sites[("get_tenant", "bills[]")].type
    assert sites[("get_tenant", "repairs[]")].type != sites[("pay", "")].type, "their keys never meet"
    assert "pay" in rules.writes and "get_tenant" not in rules.writes


@pytest.mark.parametrize("value", ["A-2CB15A19", "INV-2025-0103", "P431783", "DR-324", "0f3b9c1e-77aa", "#W4821"])
def test_forms_of_identifiers(value: str) -> None:
    assert looks_like_id("x", value)


@pytest.mark.parametrize("value", ["2025-03-14", "2025-03-17T08:10:44+01:00", "10:45", "31.20", "15min", "10GB", 31,
                                   3.5, True, None, "Pump X32", "open", "a1@b.de"])  # fmt: skip
def test_forms_of_other_values(value: Any) -> None:
    assert not looks_like_id("x", value)


def test_a_plain_number_is_an_identifier_under_such_a_name_only() -> None:
    assert looks_like_id("order_no", 48213) and looks_like_id("orderId", "48213") and not looks_like_id("price", 48213)
