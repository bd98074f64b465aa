"""Calibration of support: the share of held-out answers with this support that were right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

Curve = Sequence[Sequence[float]]
"""(support, share that was right) steps, rising."""
Curves = Mapping[str, Curve]
"""By provenance."""
FEWEST = 10
"""A step of a curve stands on so many answers, the last one aside."""


def fit_support(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Isotonic regression of correctness on support (pool adjacent violators). Returns rising (support, share) steps.

    One right and one wrong case are added to each step, so that few answers do not give a share of 0 or 1."""
    blocks: list[list[float]] = []
    grouped: dict[float, list[bool]] = defaultdict(list)
    for support, was_right in pairs:
        grouped[round(support, 3)].append(was_right)
    for support, found in sorted(grouped.items()):
        blocks.append([support, float(sum(found)), float(len(found))])
        while len(blocks) > 1 and (
            blocks[-2][2] < FEWEST or blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]
        ):
            _, hits, n = blocks.pop()
            blocks[-1][1] += hits
            blocks[-1][2] += n
    return [(support, (hits + 1) / (n + 2)) for support, hits, n in blocks]


def calibrated(curve: Curve, support: float) -> float:
    """Return the calibrated support; without a curve, the support itself."""
    if not curve:
        return support
    found = curve[0][1]
    for start, share in curve:
        if support + 5e-4 >= start:
            found = share
    return found
