"""The provider's database: SQLite in memory, one per episode. Money is in cents, prices per kWh in tenths of a cent."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, field, fields
from typing import Any

SCHEMA = """
CREATE TABLE contracts (contract_no TEXT PRIMARY KEY, holder TEXT, iban4 TEXT, street TEXT, postcode TEXT, fuel TEXT,
    tariff TEXT, eur INTEGER, eur_from TEXT, tariff_from TEXT, fixed_until TEXT, min_eur INTEGER, max_eur INTEGER,
    max_days INTEGER);
CREATE TABLE meters (meter_no TEXT PRIMARY KEY, contract_no TEXT, place TEXT, expected INTEGER, margin INTEGER,
    calibrated TEXT);
CREATE TABLE readings (id INTEGER PRIMARY KEY, meter_no TEXT, day TEXT, kwh INTEGER, source TEXT);
CREATE TABLE invoices (invoice_no TEXT PRIMARY KEY, contract_no TEXT, period TEXT, cents INTEGER, due TEXT, state TEXT);
CREATE TABLE tariffs (code TEXT PRIMARY KEY, name TEXT, fuel TEXT, price INTEGER, base INTEGER, green INTEGER);
"""
TODAY = "2026-03-16"


@dataclass(frozen=True)
class Contract:
    """One row of `contracts`; the fields are the columns. `eur` is the monthly instalment, in whole euros."""

    contract_no: str
    holder: str
    iban4: str
    street: str
    postcode: str
    fuel: str
    tariff: str
    eur: int
    eur_from: str
    tariff_from: str
    fixed_until: str | None
    """End of the fixed term, during which the tariff cannot be changed; None without one."""
    min_eur: int
    max_eur: int
    max_days: int
    """The longest extension of an invoice's due date."""


@dataclass(frozen=True)
class Meter:
    """One row of `meters`. A reading above `expected` + `margin` has to be confirmed."""

    meter_no: str
    contract_no: str
    place: str
    expected: int
    margin: int
    calibrated: str | None


@dataclass(frozen=True)
class Reading:
    """One row of `readings`."""

    id: int
    meter_no: str
    day: str
    kwh: int
    source: str


@dataclass(frozen=True)
class Invoice:
    """One row of `invoices`. `state` is open, paid, overdue or deferred."""

    invoice_no: str
    contract_no: str
    period: str
    cents: int
    due: str
    state: str


@dataclass(frozen=True)
class Tariff:
    """One row of `tariffs`. `price` is per kWh in tenths of a cent, `base` per month in cents."""

    code: str
    name: str
    fuel: str
    price: int
    base: int
    green: int


@dataclass
class Rows:
    """The content of a database; the fields are the tables."""

    contracts: list[Contract] = field(default_factory=list)
    meters: list[Meter] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    tariffs: list[Tariff] = field(default_factory=list)


def open_database(rows: Rows) -> sqlite3.Connection:
    """A new database with these rows."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    db.execute("BEGIN")
    for table in fields(rows):
        content = [astuple(row) for row in getattr(rows, table.name)]
        marks = ", ".join("?" * len(content[0]))
        db.executemany(f"INSERT INTO {table.name} VALUES ({marks})", content)
    db.execute("COMMIT")
    return db


def state(db: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    """All values that tools can change."""
    queries = (
        "SELECT contract_no, tariff, eur FROM contracts ORDER BY 1",
        "SELECT meter_no, day, kwh FROM readings ORDER BY id",
        "SELECT invoice_no, due, state FROM invoices ORDER BY 1",
    )
    return [db.execute(query).fetchall() for query in queries]
