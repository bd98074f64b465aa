"""Tasks: the customer's goals, the database's content, and the right end state.

A task is a pure function of its id (`evaluation:7:12` is task 12 of seed 7). Order numbers of production and evaluation
are disjoint, so no order of the evaluation occurs in a trace.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from ..shared import split_of
from .database import Order, Product, catalogue
from .language.words import CITIES, DAYS, FIRST_NAMES, LAST_NAMES, STREETS

KINDS = {"cancel": 14, "return": 18, "refund": 16, "address": 13, "track": 14, "product": 14, "mixed": 11}
"""Kinds of task, with their frequency in per cent."""

TEMPERAMENTS = {"patient": 28, "terse": 20, "impatient": 18, "forgetful": 18, "chatty": 16}
PAIRS = (
    ("address", "product"),
    ("refund", "track"),
    ("cancel", "product"),
    ("address", "refund"),
    ("track", "product"),
    ("refund", "product"),
)
STATUS_FOR = {"cancel": "processing", "address": "processing", "track": "shipped"}


@dataclass(frozen=True)
class Goal:
    """One goal of the customer, with the facts that a right answer states. Unused fields are empty."""

    kind: str
    order_id: int = 0
    item: str = ""
    cents: int = 0
    address: str = ""
    city: str = ""
    day: str = ""
    code: str = ""
    product: Product | None = None
    stock: int = 0
    asks_to_cancel: bool = False
    """The customer asks for a cancellation, but the order has shipped, so a return is needed."""


@dataclass(frozen=True)
class Task:
    """One customer's goals and the content of the database."""

    task_id: str
    kind: str
    temperament: str
    customer: str
    knows_number: bool
    """Whether the customer knows the order number; if not, only name and item."""
    goals: tuple[Goal, ...]
    orders: tuple[Order, ...]
    stock_seed: int
    search_burst: int
    """The number of searches before the desk answers 429."""


@lru_cache(maxsize=4096)
def make_task(task_id: str) -> Task:
    """The task with an id. Raises ValueError for an id that is not `<split>:<seed>:<number>`."""
    split = split_of(task_id)
    rng = random.Random(f"task {task_id}")
    kind = _draw(rng, KINDS)
    wants = rng.choice(PAIRS) if kind == "mixed" else (kind,)
    customer = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    orders = _orders(rng, split, customer, next((k for k in wants if k != "product"), "product"), wants)
    stock_seed = rng.randrange(41)
    temperament = _draw(rng, TEMPERAMENTS)
    return Task(
        task_id=task_id,
        kind=kind,
        temperament=temperament,
        customer=customer,
        knows_number=rng.random() < 0.85,
        goals=tuple(_goal(rng, k, orders[0], stock_seed) for k in wants),
        orders=orders,
        stock_seed=stock_seed,
        search_burst=rng.choice((2, 2, 3)),
    )


def _draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_order_id(rng: random.Random, split: str) -> int:
    """An order number of five digits. One number in seven belongs to evaluation, the others to production."""
    while True:
        number = rng.randint(10000, 99999)
        if (number % 7 == 3) == (split == "evaluation"):
            return number


def draw_address(rng: random.Random) -> str:
    return f"{rng.randint(1, 99)} {rng.choice(STREETS)} Street"


def _orders(
    rng: random.Random, split: str, customer: str, kind: str, wants: tuple[str, ...]
) -> tuple[Order, ...]:
    """The task's orders: first the order of the goals, then the customer's other orders and those of others."""
    products = list({p.line: p for p in rng.sample(catalogue(), 40)}.values())
    ids: set[int] = set()
    while len(ids) < 8:
        ids.add(draw_order_id(rng, split))
    own = rng.choice((1, 1, 2, 2, 3, 4))
    orders = []
    for k, number in enumerate(sorted(ids, key=lambda n: rng.random())):
        who = customer if k < own else f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        orders.append(_order(rng, number, who, products[k], _status(rng, kind) if k == 0 else None))
    if "address" in wants and orders[0].status != "processing":
        raise AssertionError("an address can only be changed before shipping")
    return tuple(orders)


def _status(rng: random.Random, kind: str) -> str:
    if kind == "return":
        return rng.choice(("shipped", "delivered"))
    return STATUS_FOR.get(kind) or "shipped"


def _order(rng: random.Random, number: int, customer: str, product: Product, status: str | None) -> Order:
    status = status or rng.choice(("processing", "shipped", "delivered"))
    parcel = None
    if status != "processing":
        state = "delivered" if status == "delivered" else "in transit"
        parcel = (state, rng.choice(CITIES), rng.choice(DAYS))
    code = f"R-{rng.randint(1000, 9999)}"
    return Order(number, customer, product.name, product.cents, status, draw_address(rng), code, parcel)


def _goal(rng: random.Random, kind: str, order: Order, stock_seed: int) -> Goal:
    if kind == "product":
        row = rng.randrange(len(catalogue()))
        return Goal("product", product=catalogue()[row], stock=((row + 1) * 37 + stock_seed) % 41)
    city, day = order.parcel[1:] if order.parcel else ("", "")
    amount = rng.randint(1, order.cents // 100 - 1) * 100 + rng.choice((0, 5, 25, 40, 50, 75, 90, 99))
    address = draw_address(rng)
    while address == order.address:
        address = draw_address(rng)
    return Goal(
        kind,
        order_id=order.id,
        item=order.item,
        cents=amount if kind == "refund" else 0,
        address=address if kind == "address" else "",
        city=city if kind == "track" else "",
        day=day if kind == "track" else "",
        code=order.return_code if kind == "return" else "",
        asks_to_cancel=kind == "return" and rng.random() < 0.6,
    )
