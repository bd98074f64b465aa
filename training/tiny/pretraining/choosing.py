"""The choosing curriculum on random tokens: which of several similar list items was meant.

Copying looks up the token after a match. Choosing also needs the row in which all requested words occur. A small model
does not learn this from traces (measured: it takes any row). The skill is general, so it is trained before.
"""

from __future__ import annotations

import numpy as np


class Choosing:
    """Draws rows of random tokens: a request, a list of items that differ in one or two words, the id of the right one.

    `ordinary` are the tokens of words, `digits` those of most ids.
    """

    def __init__(self, rng: np.random.Generator, ordinary: np.ndarray, digits: np.ndarray) -> None:
        self.rng, self.ordinary, self.digits = rng, ordinary, digits
        self.hardness = 1.0
        """Hardness from 0 (short lists of short words that differ in one token) to 1."""
        self._few = np.random.default_rng(0).choice(ordinary, 32, replace=False)

    def batch(self, rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids [rows, length], the mask of targets that can be known, and the mask of those among them that
        decide: the first token in which the ids of a list differ."""
        found = [self._row(length) for _ in range(rows)]
        ids, known, deciding = (np.stack([part[k] for part in found]) for k in range(3))
        return ids, known, deciding

    def _row(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pieces: list[np.ndarray] = []
        marks: list[int] = []  # per token: 0 free, 1 known, 2 deciding
        while len(marks) < length:
            for tokens, mark in self._block():
                pieces.append(tokens)
                marks.extend(mark)
        mark_T = np.array(marks[:length])
        return np.concatenate(pieces)[:length], mark_T > 0, mark_T == 2

    def _words(self, low: int, high: int) -> np.ndarray:
        return self.rng.choice(self.ordinary, self.rng.integers(low, high + 1))

    def _block(self) -> list[tuple[np.ndarray, list[int]]]:
        """One request and its list. The request is first or last; the list has one page or two."""
        rng, h = self.rng, self.hardness
        things, ids = self._things()
        chosen = int(rng.integers(len(things)))
        wish = np.concatenate([self._words(0, round(5 * h)), self._asked(things[chosen]), self._words(0, round(8 * h))])
        between, before_id = self._words(1, 1 + round(h)), self._words(1, 1 + round(2 * h))
        page = rng.integers(1, len(things) + 1) if rng.random() < 0.3 * h else len(things)
        listed: list[np.ndarray] = []
        id_first = rng.random() < 0.35
        for at, (thing, identity) in enumerate(zip(things, ids, strict=True)):
            if at == page:
                listed.append(self._words(2, 8))
            listed += [before_id, identity, between, thing] if id_first else [thing, before_id, identity, between]
        cue = self._words(1, 1 + round(3 * h))
        if rng.random() < 1 - 0.4 * h:  # the answer repeats the token before the id in the list
            cue = np.concatenate([cue, before_id[-1:]])
        whole = np.concatenate([wish, *listed, cue] if rng.random() < 0.75 else [*listed, wish, cue])
        return [(whole, [0] * len(whole)), (ids[chosen], _marks(ids, chosen))]

    def _things(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """2 to 6 items with similar, distinct words; ids differ in their first token or after a common start."""
        rng = self.rng
        h = self.hardness
        count = int(rng.integers(2, 4 + round(3 * h)))
        shared = self._words(0, round(2 * h))
        own = rng.choice(self.ordinary if rng.random() < h * h else self._few, (max(3, count), 2), replace=False)
        one = rng.random() < 1 - 0.5 * h
        if not one and rng.random() < 0.6:  # distinguished only by both words together
            cells = rng.choice(6, count, replace=False)
            own = np.stack([own[:2, 0][cells % 2], own[cells // 2, 1]], axis=1)
        first = rng.random() < 0.4
        things = []
        for k in range(count):
            mine = own[k, 1:] if one else own[k]
            things.append(np.concatenate([mine, shared] if first else [shared, mine]))
        size = int(rng.integers(3, 6))
        pool = self.digits[: min(10, len(self.digits))] if rng.random() < 0.7 else self.ordinary
        starts = rng.choice(pool, count, replace=False)
        common = self._words(1, 3) if rng.random() < 0.4 else self._words(0, 0)
        ends = [rng.choice(pool, size - 1) for _ in range(count)]
        return things, [np.concatenate([common, starts[k : k + 1], ends[k]]) for k in range(count)]

    def _asked(self, thing: np.ndarray) -> np.ndarray:
        """The item's words as in a request: in order or not, one of them between irrelevant words."""
        rng = self.rng
        words = rng.permutation(thing) if rng.random() < 0.6 else thing
        if rng.random() < 0.4 * self.hardness and len(words) > 1:
            at = int(rng.integers(1, len(words)))
            words = np.concatenate([words[:at], self._words(1, 3), words[at:]])
        return words


def _marks(ids: list[np.ndarray], chosen: int) -> list[int]:
    """2 for the token of the chosen id that decides, 1 for the others."""
    own = ids[chosen]
    at = next(k for k, token in enumerate(own) if sum(token == i[k] for i in ids) < len(ids))
    return [2 if k == at else 1 for k in range(len(own))]
