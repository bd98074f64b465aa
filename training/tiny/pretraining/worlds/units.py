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

Said = Callable[[Unit, int], tuple[str, str, str]]


def units_row(
    rng: random.Random, encode: Callable[[str], list[int]], length: int
) -> tuple[list[int], list[bool]]:
    """Labelled quantities in one unit and then, in another order, in the other unit; the second list is learned."""
    ids: list[int] = []
    known: list[bool] = []
    while len(ids) < length:
        unit = rng.choice(UNITS)
        drawn = [(label, unit.draw(rng)) for label in rng.sample(lexicon.NOUNS, rng.randint(1, 4))]
        large_first = rng.random() < 0.6
        for learned in (False, True):
            before, between, after = _surroundings(rng, unit, small=learned == large_first)
            rng.shuffle(drawn)
            for label, quantity in drawn:
                number = str(quantity) if learned == large_first else unit.number(quantity)
                for text, mark in ((before + label + between, False), (number, learned), (after, learned)):
                    tokens = encode(text)
                    ids += tokens
                    known += [mark] * len(tokens)
    return ids[:length], known[:length]


def _surroundings(rng: random.Random, unit: Unit, small: bool) -> tuple[str, str, str]:
    """The text before a label, between a label and its number, and after the number."""
    name = unit.small if small else unit.large
    if unit.before and not small:
        return rng.choice((("", f" {name}", ". "), ("", f": {name}", "\n"), ("the ", f" is {name}", ", ")))
    key = name.replace(" ", "_")
    return rng.choice((
        ("", " ", f" {name}. "), ("the ", " is ", f" {name}, "), ("", f" in {name}: ", "\n"),
        ('{"', f'":{{"{key}":', "}}"), ('{"name":"', f'","{key}":', "}"),
    ))  # fmt: skip
