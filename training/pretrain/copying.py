"""The copying curriculum: words that must be found again, in whatever order they come.

Tool use is made of copying: an id from the user's words into a call, an amount from an observation into an
answer. Trained on traces alone a small model does not find out; it does when the sequence is nothing but copies.
Repeats come in random order, so no fixed distance can be learned instead. Loss falls only on what can be known:
inside a repeat, after its first token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum, left when accuracy inside repeats reaches `until` or after `max_steps`."""

    vocabulary: int
    length: int
    until: float = 0.85
    max_steps: int = 1500


# `vocabulary` counts tokens that the words are drawn from; a slice past the end takes them all.
STAGES = (Stage(64, 48), Stage(128, 48), Stage(512, 48), Stage(3072, 64), Stage(3072, 96), Stage(3072, 192, 0.9))


def copying_batch(
    rng: np.random.Generator, rows: int, length: int, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [rows, length] and the mask of positions (as targets) that can be known.

    Each row draws 2-8 words of 4-9 tokens from `token_ids`, says each once, then repeats them in random order.
    """
    ids_BT = np.empty((rows, length), dtype=np.int64)
    known_BT = np.zeros((rows, length), dtype=bool)
    for row in range(rows):
        ids, known = _row(rng, length, token_ids)
        ids_BT[row], known_BT[row] = ids, known
    return ids_BT, known_BT


def _row(rng: np.random.Generator, length: int, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    most = max(2, min(8, length // 14))
    words = [rng.choice(token_ids, rng.integers(4, 10)) for _ in range(rng.integers(2, most + 1))]
    pieces, known = list(words), [np.zeros(len(w), dtype=bool) for w in words]
    total = sum(len(w) for w in words)
    while total < length:
        word = words[rng.integers(len(words))]
        mask = np.ones(len(word), dtype=bool)
        mask[0] = False
        pieces.append(word)
        known.append(mask)
        total += len(word)
    return np.concatenate(pieces)[:length], np.concatenate(known)[:length]
