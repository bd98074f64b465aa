"""Tasks: the customer's wish, the database's content, the right end state, and the facts the customer must be told.

A task is a pure function of its id, `<split>:<seed>:<number>`. Contract numbers of the two splits are disjoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from ..shared import split_of
from .database import TODAY, Contract, Invoice, Meter, Rows, Tariff
from .rows import draw_day, draw_rows

CASES: dict[str, dict[str, int]] = {
    "reading": {"fine": 10, "typo high": 3, "typo low": 2, "high but true": 3},
    "instalment": {"fine": 9, "limit": 6, "limit declined": 3},
    "switch": {"fine": 10, "fixed term": 4, "arrears": 2},
    "defer": {"fine": 8, "limit": 4, "limit declined": 2, "already deferred": 3},
    "invoice": {"fine": 14},
    "usage": {"fine": 10},
    "advice": {"fine": 10},
}
"""Kinds of task and their cases, with weights; a kind's weight is the sum of its cases'."""

TEMPERAMENTS = {"calm": 45, "brief": 30, "impatient": 25}

Fact = tuple[str, Any]
"""Type (date, eur, kwh, ct, days, tariff) and value."""

Change = tuple[str, tuple[Any, ...]]
"""An SQL statement and its values."""


@dataclass(frozen=True)
class Task:
    """One customer's wish and the database's content."""

    task_id: str
    kind: str
    case: str
    temperament: str
    rows: Rows
    knows_number: bool
    says_number: bool
    says_iban: bool
    effective: str
    """The date from which a queued change applies."""
    words: dict[str, Any]
    """What the customer knows: contract, name, amounts."""
    facts: tuple[Fact, ...]
    """What the customer must be told."""
    changes: tuple[Change, ...]
    """The statements that lead to the right end state."""

    @property
    def known_numbers(self) -> frozenset[float]:
        """The numbers that the customer knows; a message that repeats them tells nothing new."""
        return frozenset(float(value) for value in self.words.values() if isinstance(value, int))


@dataclass
class Draft:
    """A task in the making. Drawing a wish may change the contract and the rows."""

    rng: random.Random
    case: str
    rows: Rows
    contract: Contract
    effective: str

    def draw_meter(self) -> Meter:
        return self.rng.choice([m for m in self.rows.meters if m.contract_no == self.contract.contract_no])

    def invoice_indices(self) -> list[int]:
        """The indices of the contract's invoices in `rows.invoices`, the newest first."""
        return [k for k, i in enumerate(self.rows.invoices) if i.contract_no == self.contract.contract_no]


@dataclass(frozen=True)
class Wish:
    """What the customer knows and must be told, and the changes that fulfil the wish (see Task)."""

    words: dict[str, Any]
    facts: tuple[Fact, ...]
    changes: tuple[Change, ...] = ()


def later(day: str, days: int) -> str:
    """The ISO date `days` after an ISO date."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


@lru_cache(maxsize=4096)
def make_task(task_id: str) -> Task:
    """The task with an id. Raises ValueError for an id that is not `<split>:<seed>:<number>`."""
    split = split_of(task_id)
    rng = random.Random(f"wattline {task_id}")
    pairs = [(kind, case) for kind, cases in CASES.items() for case in cases]
    kind, case = rng.choices(pairs, [CASES[kind][case] for kind, case in pairs])[0]
    temperament = rng.choices(list(TEMPERAMENTS), list(TEMPERAMENTS.values()))[0]
    knows_number = rng.random() < 0.85
    rows = draw_rows(rng, split, own=rng.choice((1, 1, 2, 3) if knows_number else (1, 2, 3, 4)))
    contract = rng.choice([c for c in rows.contracts if c.holder == rows.contracts[0].holder])
    effective = rng.choice(("2026-04-01", "2026-04-15", "2026-05-01", "2026-05-15"))
    draft = Draft(rng, case, rows, contract, effective)
    wish = WISHES[kind](draft)
    contract = draft.contract
    rows.contracts = [contract if c.contract_no == contract.contract_no else c for c in rows.contracts]
    rng.shuffle(rows.contracts)
    said = contract.contract_no if rng.random() < 0.8 else contract.contract_no.removeprefix("C-")
    words = {
        "c": said, "name": contract.holder, "iban": contract.iban4, "street": contract.street,
        "postcode": contract.postcode, "fuel": contract.fuel, **wish.words,
    }  # fmt: skip
    return Task(
        task_id, kind, case, temperament, rows, knows_number,
        says_number=rng.random() < 0.7, says_iban=rng.random() < 0.4,
        effective=effective, words=words, facts=wish.facts, changes=wish.changes,
    )  # fmt: skip


# ----- the kinds of wish


def _reading(draft: Draft) -> Wish:
    rng, meter = draft.rng, draft.draw_meter()
    last = next(r.kwh for r in draft.rows.readings if r.meter_no == meter.meter_no)
    right = meter.expected + round(meter.margin * rng.uniform(-0.4, 0.4))
    said = right
    if draft.case == "typo high":
        said = right + rng.choice((10000, 20000, 9000))
    elif draft.case == "typo low":
        said = max(100, last - rng.randint(200, 2500))
    elif draft.case == "high but true":
        said = right = meter.expected + round(meter.margin * rng.uniform(2.5, 4))
    statement = "INSERT INTO readings (meter_no, day, kwh, source) VALUES (?, ?, ?, 'customer')"
    words = {"place": meter.place, "kwh": said, "right": right}
    return Wish(words, (("kwh", right - last),), ((statement, (meter.meter_no, TODAY, right)),))


def _usage(draft: Draft) -> Wish:
    meter = draft.draw_meter()
    last = next(r for r in draft.rows.readings if r.meter_no == meter.meter_no)
    return Wish({"place": meter.place}, (("kwh", last.kwh), ("date", last.day)))


def _instalment(draft: Draft) -> Wish:
    rng, contract = draft.rng, draft.contract
    low, high = contract.min_eur, contract.max_eur
    if draft.case == "fine":
        wanted = limit = rng.choice([x for x in range(low, high + 1) if abs(x - contract.eur) > 3])
    elif rng.random() < 0.7:
        wanted, limit = max(15, low - rng.randint(5, 35)), low
    else:
        wanted, limit = high + rng.randint(10, 60), high
    words = {"eur": wanted}
    if draft.case == "limit declined":
        return Wish(words, (("eur", limit),))
    statement = "UPDATE contracts SET eur = ? WHERE contract_no = ?"
    return Wish(words, (("date", draft.effective),), ((statement, (limit, contract.contract_no)),))


def _draw_tariff(rng: random.Random, offered: list[Tariff], fuel: str) -> tuple[Tariff, dict[str, Any]]:
    """The tariff that the customer wants, and how they describe it."""
    wish = rng.choice(("cheapest", "green", "named"))
    if wish == "named":
        best = rng.choice(offered)
    else:
        best = min((t for t in offered if t.green or wish == "cheapest"), key=lambda t: t.price)
    return best, {"wish": wish, "tariff": best.name, "fuel": fuel}


def _switch(draft: Draft) -> Wish:
    rng, rows, contract = draft.rng, draft.rows, draft.contract
    offered = [t for t in rows.tariffs if t.fuel == contract.fuel]
    best, words = _draw_tariff(rng, offered, contract.fuel)
    draft.contract = replace(contract, tariff=rng.choice([t.name for t in offered if t is not best]))
    if draft.case == "fixed term":
        until = draw_day(rng, "2026-05-01", 400)
        draft.contract = replace(draft.contract, fixed_until=until)
        return Wish(words, (("date", until),))
    if draft.case == "arrears":
        k = rng.choice(draft.invoice_indices()[1:])
        rows.invoices[k] = replace(rows.invoices[k], state="overdue")
        return Wish(words, (("eur", rows.invoices[k].cents / 100),))
    statement = "UPDATE contracts SET tariff = ? WHERE contract_no = ?"
    change = (statement, (best.name, contract.contract_no))
    return Wish(words, (("tariff", best.name), ("date", draft.effective)), (change,))


def _advice(draft: Draft) -> Wish:
    fuel = draft.rng.choice(("power", "gas"))
    best, words = _draw_tariff(draft.rng, [t for t in draft.rows.tariffs if t.fuel == fuel], fuel)
    return Wish(words, (("tariff", best.name), ("ct", best.price / 10)))


def _draw_invoice(draft: Draft) -> int:
    """The index of one of the contract's six invoices."""
    return draft.invoice_indices()[draft.rng.choices(range(6), (25, 17, 12, 16, 15, 15))[0]]


def _month(invoice: Invoice) -> str:
    return invoice.period.split()[0]


def _invoice(draft: Draft) -> Wish:
    invoice = draft.rows.invoices[_draw_invoice(draft)]
    return Wish({"month": _month(invoice)}, (("eur", invoice.cents / 100), ("date", invoice.due)))


def _defer(draft: Draft) -> Wish:
    rng, invoices, longest = draft.rng, draft.rows.invoices, draft.contract.max_days
    k = _draw_invoice(draft)
    deferred = draft.case == "already deferred"
    due = draw_day(rng, "2026-03-19", 14)
    invoices[k] = invoice = replace(invoices[k], due=due, state="deferred" if deferred else "open")
    allowed = draft.case == "fine" or deferred
    days = rng.choice((7, 10, 14) if allowed else (longest + 7, longest + 14, longest + 20))
    words = {"month": _month(invoice), "days": days}
    if deferred:
        return Wish(words, (("date", due),))
    if draft.case == "limit declined":
        return Wish(words, (("days", longest),))
    new_due = later(due, min(days, longest))
    statement = "UPDATE invoices SET due = ?, state = 'deferred' WHERE invoice_no = ?"
    return Wish(words, (("date", new_due),), ((statement, (new_due, invoice.invoice_no)),))


WISHES: dict[str, Callable[[Draft], Wish]] = {
    "reading": _reading,
    "instalment": _instalment,
    "switch": _switch,
    "defer": _defer,
    "invoice": _invoice,
    "usage": _usage,
    "advice": _advice,
}
