"""Draws the content of a task's database: tariffs, and the contracts of the customer and of two others.

The order of the draws is part of the tasks: another order gives other tasks for the same ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta

from .database import Contract, Invoice, Meter, Reading, Rows, Tariff
from .language.words import FIRST, LAST, PERIODS, PLACES, STREETS, TARIFFS

PRICES = {"power": range(241, 389), "gas": range(81, 139)}


def draw_day(rng: random.Random, first: str, span: int) -> str:
    """One of the `span` days from `first` on, as an ISO date."""
    return (date.fromisoformat(first) + timedelta(days=rng.randrange(span))).isoformat()


def draw_rows(rng: random.Random, split: str, own: int) -> Rows:
    """The database: first the customer's `own` contracts, then those of two others."""
    rows = Rows(tariffs=[t for fuel in TARIFFS for t in _draw_tariffs(rng, fuel)])
    name, iban4, postcode = _draw_name(rng), f"{rng.randrange(10000):04d}", f"{rng.randint(20000, 79999)}"
    streets = rng.sample(STREETS, own + 2)
    invoice_numbers = iter(rng.sample(range(100000, 999999), 40)[::-1])
    meter_numbers = iter(rng.sample(range(100000, 999999), 16))
    for k, street in enumerate(streets):
        number = _draw_contract_no(rng, split)
        while number in {c.contract_no for c in rows.contracts}:
            number = _draw_contract_no(rng, split)
        fuel = rng.choice(("power", "power", "gas"))
        holder = (name, iban4) if k < own else (f"{_draw_name(rng)} jr", f"{rng.randrange(10000):04d}")
        tariffs = [t.name for t in rows.tariffs if t.fuel == fuel]
        contract = _draw_contract(rng, number, holder, street, postcode, fuel, tariffs)
        rows.contracts.append(contract)
        _add_meters(rng, rows, contract, meter_numbers)
        for j, period in enumerate(PERIODS):
            rows.invoices.append(_draw_invoice(rng, f"R-{next(invoice_numbers)}", number, j, period))
    return rows


def _draw_name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def _draw_contract_no(rng: random.Random, split: str) -> str:
    """A number of this split: those of the evaluation leave 2 when divided by 5."""
    while True:
        number = rng.randint(10000, 99999)
        if (number % 5 == 2) == (split == "evaluation"):
            return f"C-{number}"


def _draw_tariffs(rng: random.Random, fuel: str) -> list[Tariff]:
    """Four tariffs on offer, two of them green."""
    offered, prices = rng.sample(TARIFFS[fuel], 4), rng.sample(PRICES[fuel], 4)
    green = set(rng.sample(range(4), 2))
    return [
        Tariff(code, name, fuel, prices[k], rng.randrange(790, 1690, 10), int(k in green))
        for k, (name, code) in enumerate(offered)
    ]


def _draw_contract(
    rng: random.Random,
    number: str,
    holder: tuple[str, str],
    street: str,
    postcode: str,
    fuel: str,
    tariffs: list[str],
) -> Contract:
    """A contract of a holder (name, last digits of the IBAN)."""
    eur, tariff = rng.randint(60, 180), rng.choice(tariffs)
    return Contract(
        number, *holder, f"{rng.randint(1, 99)} {street}", postcode, fuel, tariff, eur,
        eur_from=draw_day(rng, "2025-01-01", 300),
        tariff_from=draw_day(rng, "2024-03-01", 400),
        fixed_until=None,
        min_eur=round(eur * rng.uniform(0.7, 0.85)),
        max_eur=round(eur * rng.uniform(1.3, 1.6)),
        max_days=rng.choice((14, 21, 28)),
    )  # fmt: skip


def _add_meters(rng: random.Random, rows: Rows, contract: Contract, numbers: Iterator[int]) -> None:
    """Add one or two meters of a contract, each with its last reading."""
    prefix = "1EM" if contract.fuel == "power" else "7GA"
    for place in rng.sample(PLACES, rng.choice((1, 2, 2))):
        meter_no = f"{prefix}{next(numbers)}"
        last, step = rng.randint(3000, 88000), rng.randint(300, 2400)
        calibrated = rng.choice((None, "2029-12-31", "2031-12-31"))
        rows.meters.append(Meter(meter_no, contract.contract_no, place, last + step, step, calibrated))
        day, source = draw_day(rng, "2025-08-01", 200), rng.choice(("customer", "fitter", "remote"))
        rows.readings.append(Reading(len(rows.readings) + 1, meter_no, day, last, source))


def _draw_invoice(rng: random.Random, invoice_no: str, contract_no: str, index: int, period: str) -> Invoice:
    """The invoice of a period, due in the month after it. Only the newest one (index 0) is open."""
    year, month = (2026, 3 - index) if index < 3 else (2025, 15 - index)
    due, state = f"{year}-{month:02d}-{rng.randint(3, 27):02d}", "paid"
    if index == 0:
        due, state = draw_day(rng, "2026-03-19", 14), "open"
    return Invoice(invoice_no, contract_no, period, rng.randint(4000, 19900), due, state)
