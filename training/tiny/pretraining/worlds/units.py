"""Quantities in two units: the world may show one, take the other, and the user may name either."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.tiny.pretraining.worlds import lexicon


@dataclass(frozen=True)
class Unit:
    """A large and a small unit; `factor` small ones are a large one. `padded`: the large one has all its decimals."""

    large: str
    small: str
    factor: int
    padded: bool = False
    before: bool = False
    """The sign of the large unit stands before the number."""

    def draw(self, rng: random.Random) -> int:
        """A quantity, in small units."""
        whole = rng.randint(0, 10 ** rng.randint(1, 3) - 1)
        if self.factor == 60:
            return whole % 100 * 60 + rng.choice((0, 0, 15, 30, 30, 45))
        step = self.factor // rng.choice((1, 2, 4, 10, 10, 20, 100))
        return max(1, whole * self.factor + rng.randrange(0, self.factor, max(1, step)))

    def number(self, quantity: int) -> str:
        """The quantity in large units, as digits."""
        whole, rest = divmod(quantity, self.factor)
        if rest == 0:
            return str(whole)
        if self.factor == 60:
            return f"{quantity / 60:.2f}".rstrip("0")
        decimals = f"{rest:0{len(str(self.factor)) - 1}d}"
        return f"{whole}.{decimals if self.padded else decimals.rstrip('0')}"

    def value(self, quantity: int, small: bool) -> int | float:
        """The quantity as JSON: an integer of small units, or a number of large ones."""
        if small:
            return quantity
        text = self.number(quantity)
        return float(text) if "." in text else int(text)

    def spoken(self, quantity: int, small: bool = False) -> str:
        if small:
            return f"{quantity} {self.small}"
        return f"{self.large}{self.number(quantity)}" if self.before else f"{self.number(quantity)} {self.large}"


UNITS = (
    Unit("kg", "grams", 1000), Unit("km", "meters", 1000), Unit("m", "cm", 100), Unit("m", "mm", 1000),
    Unit("hours", "minutes", 60), Unit("min", "seconds", 60), Unit("s", "ms", 1000), Unit("liters", "ml", 1000),
    Unit("kW", "watts", 1000), Unit("of 1", "percent", 100, padded=True), Unit("GB", "MB", 1000),
    Unit("€", "hundredths", 100, padded=True, before=True), Unit("£", "pence", 100, padded=True, before=True),
    Unit("$", "hundredths", 100, padded=True, before=True), Unit("points", "subpoints", 100, padded=True),
)  # fmt: skip

DECIMAL = tuple(unit for unit in UNITS if unit.factor != 60)

ENDS = (". ", ", ", " ", "\n", "? ")
Around = tuple[str, str, str]
"""The text before a label, between a label and its number, and after the number."""


def units_row(
    rng: random.Random, encode: Callable[[str], list[int]], length: int, loose: bool = False
) -> tuple[list[int], list[bool]]:
    """Labelled quantities in one unit and then, in another order, in the other unit; the second list is learned.

    With `loose`, the text around them is random: it varies more than any set of patterns.
    """
    ids: list[int] = []
    known: list[bool] = []

    def write(text: str, learned: bool = False) -> None:
        tokens = encode(text)
        ids.extend(tokens)
        known.extend([learned] * len(tokens))

    around = _loosely_around if loose else _around
    while len(ids) < length:
        unit = rng.choice(DECIMAL if loose else UNITS)
        drawn = [(label, unit.draw(rng)) for label in (_loose_labels(rng) if loose else _labels(rng))]
        large_first = rng.random() < 0.6
        for learned in (False, True):
            before, between, after = around(rng, unit, small=learned == large_first)
            rng.shuffle(drawn)
            for label, quantity in drawn:
                write(before + label + between)
                write(str(quantity) if learned == large_first else unit.number(quantity), learned)
                write(after, learned)
            if loose:
                write(" ".join(rng.choices(lexicon.COMMON, k=rng.randint(0, 6))) + rng.choice((" ", ". ", "\n")))
    return ids[:length], known[:length]


def _labels(rng: random.Random) -> list[str]:
    return rng.sample(lexicon.NOUNS, rng.randint(1, 4))


def _loose_labels(rng: random.Random) -> list[str]:
    """One to four words or ids."""
    count = rng.choice((1, 1, 1, 2, 3, 4))
    ids = [f"{rng.choice('ABKTX')}-{rng.randint(100, 99999)}" for _ in range(count)]
    return ids if rng.random() < 0.25 else rng.sample(lexicon.COMMON, count)


def _loosely_around(rng: random.Random, unit: Unit, small: bool) -> Around:
    """Random words around a label and its number; the unit is mostly named."""

    def words(most: int) -> str:
        return " ".join(rng.choices(lexicon.COMMON, k=rng.randint(0, most)))

    name = unit.small if small else unit.large
    named = rng.random() < 0.8
    if rng.random() < 0.4:
        key = rng.choice(lexicon.COMMON)
        if named:
            key = rng.choice((name.replace(" ", "_"), rng.choice(lexicon.QUANTITIES)))
        return rng.choice(('{"', f'{words(1)} {{"{rng.choice(lexicon.COMMON)}":"')), f'","{key}":', "}"
    sign = name if unit.before and not small else ""
    unit_name = f" {name}" if named and not sign else ""
    return f"{words(3)} ".lstrip(), f" {words(3)} {sign}".replace("  ", " "), unit_name + rng.choice(ENDS)


def _around(rng: random.Random, unit: Unit, small: bool) -> Around:
    name = unit.small if small else unit.large
    if unit.before and not small:
        return rng.choice((("", f" {name}", ". "), ("", f": {name}", "\n"), ("the ", f" is {name}", ", ")))
    key = name.replace(" ", "_")
    return rng.choice((
        ("", " ", f" {name}. "), ("the ", " is ", f" {name}, "), ("", f" in {name}: ", "\n"),
        ('{"', f'":{{"{key}":', "}}"), ('{"name":"', f'","{key}":', "}"),
    ))  # fmt: skip
