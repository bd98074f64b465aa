"""Runs rows that begin alike as one row that holds their beginning once.

The members of a group have the same prompt, which for agents (tool catalogues, policies) is most of a row. Recorded
conversations of one agent share its system prompt and its tools. One long row holds the common tokens, then each
member's part. A member attends to the common tokens and to itself. Gradients equal those of single rows.

Axes: B rows (one here), T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence

import torch

from training.learning.batch import Batch, Layout, Row, by_length

MIN_SHARED = 64
"""Shorter prompts are not shared, because the mask costs more (ART uses the same value)."""
MIN_SHARE = 0.1
"""Nor is a smaller part of the rows' mean length."""
MOST_PACKED = 8192
"""Longest packed row: transformers' pass has a mask with the square of its length."""


def prompt_of(row: Row) -> tuple[int, ...]:
    """The ids that a row can share: all before the token that precedes the first learned one."""
    return row.ids[: max(0, row.trained.index(True) - 1)] if row.learned else ()


def common_prefix(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, at most the prompt of each (`prompt_of`)."""
    prompts = [prompt_of(row) for row in rows]
    return len(os.path.commonprefix([min(prompts), max(prompts)]))


def micro_batches(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Rows to run together: those that begin alike, whose common tokens count once in `tokens`, and others by length.

    First come the members of groups, which share a whole prompt, then rows that share their beginning: conversations of
    one agent have its system prompt and its tools in common.
    """
    batches, single = _shared_batches(_by(rows, prompt_of), tokens)
    more, single = _shared_batches(_by(single, lambda row: prompt_of(row)[:MIN_SHARED]), tokens)
    return batches + more + by_length(single, tokens)


def _by(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    families: dict[Hashable, list[Row]] = {}
    for row in rows:
        families.setdefault(key(row), []).append(row)
    return list(families.values())


def _shared_batches(families: Sequence[list[Row]], tokens: int) -> tuple[list[list[Row]], list[Row]]:
    """The batches of the families that are worth packing, and the rows of the others."""
    batches: list[list[Row]] = []
    single: list[Row] = []
    tokens = min(tokens, MOST_PACKED)
    for family in families:
        if not worth_packing(family):
            single += family
            continue
        shared, room = common_prefix(family), 0
        for row in family:
            own = len(row.ids) - shared
            if room < own:
                batches.append([])
                room = tokens - shared
            batches[-1].append(row)
            room -= own
    return batches, single


def worth_packing(rows: Sequence[Row]) -> bool:
    """Whether these rows share enough tokens for one packed row."""
    shared = common_prefix(rows) if len(rows) > 1 else 0
    return shared >= max(MIN_SHARED, MIN_SHARE * sum(len(row.ids) for row in rows) / len(rows))


def pack(rows: Sequence[Row]) -> Batch | None:
    """Rows that begin alike as one row; None for other rows. Learned tokens keep the order of the rows."""
    if not worth_packing(rows):
        return None
    shared = common_prefix(rows)
    ids, trained = list(rows[0].ids[:shared]), [False] * shared
    for row in rows:
        ids += row.ids[shared:]
        trained += row.trained[shared:]
    return Batch(
        torch.tensor([ids]),
        torch.tensor([trained]),
        torch.tensor([row.advantage for row in rows for _ in range(row.learned)]),
        _joined([row.logprobs for row in rows]),
        _joined([row.weights or [1.0] * row.learned for row in rows]) if any(row.weights for row in rows) else None,
        Layout(shared, tuple(len(row.ids) - shared for row in rows)),
    )


def _joined(parts: Sequence[Sequence[float]]) -> torch.Tensor | None:
    values = [value for part in parts for value in part]
    return torch.tensor(values) if values else None
