"""Invented names of people and places. Each world has its own sounds, so no name can be learned by heart."""

from __future__ import annotations

import random

PLAIN = "b d f g h j k l m n p r s t v w z".split()
CLUSTERS = "vr zh kv tw dw zw fj gn hj mj pt vl zd shn tch".split()
VOWELS = "a e i o u y ai au ei ou".split()
CODAS = ["", "", "", *"n r l s m k nd rt sh x".split()]


class Sounds:
    """The sounds of one world's names. Every name has a cluster, which keeps it apart from well-known names."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.plain, self.clusters = rng.sample(PLAIN, 6), rng.sample(CLUSTERS, 3)
        self.vowels, self.codas = rng.sample(VOWELS, 4), rng.sample(CODAS, 4)

    def name(self) -> str:
        """One capitalised word of one to three syllables."""
        rng, count = self.rng, self.rng.choice((1, 2, 2, 2, 3))
        special = rng.randrange(count)
        onsets = [rng.choice(self.clusters if k == special else self.plain) for k in range(count)]
        return "".join(o + rng.choice(self.vowels) + rng.choice(self.codas) for o in onsets).capitalize()

    def person(self) -> str:
        return f"{self.name()} {self.name()}"

    def place(self) -> str:
        rng = self.rng
        return rng.choice(("{n}", "{n}", "{n} {d}", "{n}, zone {d}", "{d} {n} Row", "{n} Quay {d}")).format(
            n=self.name(), d=rng.randint(1, 99)
        )
