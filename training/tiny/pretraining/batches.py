"""The batches of a pre-training run. Each is a function of the seed and the step, so that a resumed run draws the same.

Batches of worlds are drawn in pools and grouped by length; their place is a pool's number and a position in it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training.models.chat import SPECIAL_TOKENS, ChatFormat
from training.tiny.pretraining.choosing import Choosing
from training.tiny.pretraining.copying import copying_batch, draw_pool
from training.tiny.pretraining.rows import Row, draw_row
from training.tiny.pretraining.worlds.units import units_row

DRILL_TOKENS = 4096
WORLD_TOKENS = 8192
POOL_ROWS = 1500
LONGEST_ROW = 1024

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Token ids [B, T], mask of learned targets, and mask of the targets that count in the accuracy."""


@dataclass
class Batches:
    """Draws the batches of a run. `pool` and `at` are the place of the next batch of worlds."""

    seed: int
    chat: ChatFormat
    short_copies: int
    """Until this step, rows of copies are short."""
    pool: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        tokenizer = self.chat.tokenizer
        self._ordinary = np.arange(len(SPECIAL_TOKENS), len(tokenizer))
        self._digits = np.array(tokenizer.convert_tokens_to_ids(list("0123456789-")))
        self._groups: tuple[int, list[list[Row]]] = (-1, [])

    def draw(self, name: str, step: int, hardness: float) -> Batch:
        """The batch of a step: copy, choose, units, amounts (units in random text) or world.

        Batches of worlds have to be drawn in order.
        """
        numbers = np.random.default_rng([self.seed, step])
        drawers: dict[str, Callable[[], Batch]] = {
            "copy": lambda: self._copies(numbers, step),
            "choose": lambda: self._choices(numbers, hardness),
            "units": lambda: self._units(numbers, step, loose=False),
            "amounts": lambda: self._units(numbers, step, loose=True),
            "world": self._worlds,
        }
        return drawers[name]()

    def _copies(self, numbers: np.random.Generator, step: int) -> Batch:
        length = _length(numbers, 64, 96 if step < self.short_copies else 512)
        pool = draw_pool(numbers, self._ordinary, self._digits)
        ids_BT, known_BT = copying_batch(numbers, max(1, DRILL_TOKENS // length), length, pool)
        return torch.from_numpy(ids_BT), torch.from_numpy(known_BT), torch.from_numpy(known_BT)

    def _choices(self, numbers: np.random.Generator, hardness: float) -> Batch:
        length = _length(numbers, 64, 256)
        choosing = Choosing(numbers, self._ordinary, self._digits)
        choosing.hardness = hardness
        ids_BT, known_BT, deciding_BT = choosing.batch(DRILL_TOKENS // length, length)
        return torch.from_numpy(ids_BT), torch.from_numpy(known_BT), torch.from_numpy(deciding_BT)

    def _units(self, numbers: np.random.Generator, step: int, loose: bool) -> Batch:
        length, rng = _length(numbers, 96, 192), random.Random(f"units {self.seed} {step}")
        rows = [units_row(rng, self.chat.encode, length, loose) for _ in range(DRILL_TOKENS // length)]
        known_BT = torch.tensor([known for _, known in rows])
        return torch.tensor([ids for ids, _ in rows]), known_BT, known_BT

    def _worlds(self) -> Batch:
        if self._groups[0] != self.pool:
            self._groups = (self.pool, self._drawn_pool(random.Random(f"worlds {self.seed} {self.pool}")))
        groups = self._groups[1]
        rows = groups[self.at]
        self.pool, self.at = (self.pool + 1, 0) if self.at + 1 == len(groups) else (self.pool, self.at + 1)
        return _padded(rows, self.chat.pad_id)

    def _drawn_pool(self, rng: random.Random) -> list[list[Row]]:
        """Groups of rows of similar length, of at most WORLD_TOKENS padded tokens, in random order."""
        rows = [row for _, row in (draw_row(rng, self.chat) for _ in range(POOL_ROWS)) if len(row[0]) <= LONGEST_ROW]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > WORLD_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        return groups


def _length(numbers: np.random.Generator, low: int, high: int) -> int:
    return 32 * int(numbers.integers(low // 32, high // 32 + 1))


def _padded(rows: list[Row], pad_id: int) -> Batch:
    longest = 32 * math.ceil(max(len(ids) for ids, _ in rows) / 32)
    ids_BT = torch.full((len(rows), longest), pad_id)
    trained_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for k, (ids, trained) in enumerate(rows):
        ids_BT[k, : len(ids)] = torch.tensor(ids)
        trained_BT[k, : len(ids)] = torch.tensor(trained)
    return ids_BT, trained_BT, trained_BT
