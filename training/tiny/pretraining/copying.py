"""The copying curriculum: words that are repeated in random order.

Tool use needs copying: an id from the user's message into a call, an amount from an observation into an answer. Repeats
come in random order, so no fixed distance can be learned. Only tokens that can be known are learned: those inside a
repeat, after its first token. The model starts with an induction circuit (induction.py). The curriculum tunes it and
teaches numbers, in which one token of context is not enough.
"""

from __future__ import annotations

import numpy as np


def copying_batch(
    rng: np.random.Generator, rows: int, length: int, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [rows, length] and the mask of target positions that can be known.

    Each row draws 2-8 words of 4-9 tokens from `token_ids`, writes each once, then repeats them in random order.
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


def draw_pool(rng: np.random.Generator, ordinary: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """The tokens for a batch's words: all of them, the digits, or a dozen tokens that recur."""
    kind = rng.integers(4)
    if kind < 2:
        return ordinary
    return digits if kind == 2 else rng.choice(ordinary, 12, replace=False)
