"""The desk's database: SQLite in memory, one copy per episode, cloned from a serialised template.

The catalogue is the same in all episodes. Customers, orders, parcels and stock belong to the episode.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from functools import lru_cache

from .language.words import COLOURS, MATERIALS, NOUNS

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE products (
    sku TEXT PRIMARY KEY, line TEXT NOT NULL, name TEXT NOT NULL, cents INTEGER NOT NULL, stock INTEGER NOT
NULL );
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, item TEXT NOT NULL, cents INTEGER NOT NULL,
    status TEXT NOT NULL, address TEXT NOT NULL, return_code TEXT
);
CREATE TABLE parcels (order_id INTEGER PRIMARY KEY, state TEXT NOT NULL, city TEXT NOT NULL, day TEXT NOT
NULL); CREATE TABLE refunds (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE handovers (id INTEGER PRIMARY KEY, reason TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Product:
    """One article: a product line ("Oak chair") in one colour. Prices are in cents."""

    sku: str
    line: str
    colour: str
    cents: int

    @property
    def name(self) -> str:
        return f"{self.line} {self.colour}"


@dataclass(frozen=True)
class Order:
    """One row of `orders`, with its parcel (state, city, day) if it has one."""

    id: int
    customer: str
    item: str
    cents: int
    status: str
    address: str
    return_code: str
    """The code that a return of this order gets; stored when the return is opened."""
    parcel: tuple[str, str, str] | None = None


@lru_cache(maxsize=1)
def catalogue() -> tuple[Product, ...]:
    """All products, in the order of the search pages; the same in every process."""
    rng = random.Random("catalogue")
    lines = rng.sample([f"{m} {n}" for m in MATERIALS for n in NOUNS], 24)
    skus = iter(rng.sample(range(100, 1000), 24 * len(COLOURS)))
    return tuple(
        Product(f"P{next(skus)}", line, colour, rng.randint(9, 89) * 100 + rng.choice((0, 50, 90, 95)))
        for line in lines
        for colour in rng.sample(COLOURS, rng.randint(4, 6))
    )


@lru_cache(maxsize=1)
def _template() -> bytes:
    with sqlite3.connect(":memory:") as db:
        db.executescript(SCHEMA)
        rows = [(p.sku, p.line, p.name, p.cents) for p in catalogue()]
        db.executemany("INSERT INTO products VALUES (?, ?, ?, ?, 0)", rows)
    return db.serialize()


def open_database(orders: tuple[Order, ...], stock_seed: int) -> sqlite3.Connection:
    """A new database with these orders and their customers; stock levels depend on `stock_seed`."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(_template())
    customers = {name: k for k, name in enumerate(dict.fromkeys(o.customer for o in orders), start=1)}
    db.execute("BEGIN")
    db.executemany("INSERT INTO customers VALUES (?, ?)", [(k, name) for name, k in customers.items()])
    db.executemany(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, NULL)",
        [(o.id, customers[o.customer], o.item, o.cents, o.status, o.address) for o in orders],
    )
    db.executemany("INSERT INTO parcels VALUES (?, ?, ?, ?)", [(o.id, *o.parcel) for o in orders if o.parcel])
    db.execute("UPDATE products SET stock = (rowid * 37 + ?) % 41", (stock_seed,))
    db.execute("COMMIT")
    return db
