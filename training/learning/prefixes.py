"""Runs rows that share a prompt as one row that holds the prompt once.

The members of a group have the same prompt, which for agents (tool catalogues, policies) is most of a row. One long row
holds the prompt, then each member's part. A member attends to the prompt and to itself. Gradients equal those of single
rows.

Axes: B rows (one here), T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.learning.batch import Batch, Layout, Row, by_length

MIN_SHARED = 64
"""Shorter prompts are not shared, because the mask costs more (ART uses the same value)."""


def prompt_of(row: Row) -> tuple[int, ...]:
    """The ids that a row can share: all before the token that precedes the first learned one."""
    return row.ids[: max(0, row.trained.index(True) - 1)] if row.learned else ()


def micro_batches(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Rows to run together: families with one prompt, which counts once in `tokens`, and the other rows by length."""
    families: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        families.setdefault(prompt_of(row), []).append(row)
    batches: list[list[Row]] = []
    single: list[Row] = []
    for prompt, family in families.items():
        if len(prompt) < MIN_SHARED or len(family) == 1:
            single += family
            continue
        room = 0
        for row in family:
            own = len(row.ids) - len(prompt)
            if room < own:
                batches.append([])
                room = tokens - len(prompt)
            batches[-1].append(row)
            room -= own
    return batches + by_length(single, tokens)


def pack(rows: Sequence[Row]) -> Batch | None:
    """Rows with one long prompt as one row; None for other rows. Learned tokens keep the order of the rows."""
    prompt = prompt_of(rows[0])
    if len(rows) < 2 or len(prompt) < MIN_SHARED or any(prompt_of(row) != prompt for row in rows[1:]):
        return None
    shared = len(prompt)
    ids, trained, positions = list(prompt), [False] * shared, list(range(shared))
    owners = [-1] * shared
    for number, row in enumerate(rows):
        ids += row.ids[shared:]
        trained += row.trained[shared:]
        positions += range(shared, len(row.ids))
        owners += [number] * (len(row.ids) - shared)
    owner_T = torch.tensor(owners)
    seen_TT = (owner_T[:, None] == owner_T) | (owner_T == -1)
    seen_TT &= torch.tensor(positions)[:, None] >= torch.tensor(positions)
    return Batch(
        torch.tensor([ids]),
        torch.tensor([trained]),
        torch.tensor([row.advantage for row in rows for _ in range(row.learned)]),
        _joined([row.logprobs for row in rows]),
        _joined([row.weights or [1.0] * row.learned for row in rows]) if any(row.weights for row in rows) else None,
        Layout(torch.tensor([positions]), seen_TT[None, None]),
    )


def _joined(parts: Sequence[Sequence[float]]) -> torch.Tensor | None:
    values = [value for part in parts for value in part]
    return torch.tensor(values) if values else None
