"""How often rules for a gate's slices refuse a candidate, by what it truly gains in a slice.

    python -m benchmarks.training.gate_slices          about ten seconds of CPU time, no model

Gains of scenarios are normal with a deviation of 0.4, cut to -1..1. `lower` refuses if the lower bound of the slice's
95 % interval is below the margin of -0.1, `upper` if the upper bound is, `test` is the gate's rule with four slices.
"""

from __future__ import annotations

import numpy as np

from training.policy.evaluate import chance_of_fall, paired
from training.policy.gate import LEVEL

MARGIN, DEVIATION, SLICES = 0.1, 0.4, 4


def refused(gains_N: np.ndarray) -> tuple[bool, bool, bool]:
    """Whether each rule refuses a candidate with these gains in one slice: lower, upper, test."""
    before_N = np.zeros(len(gains_N))
    found = paired(before_N, gains_N, draws=800)
    by_test = found.gain < -MARGIN and chance_of_fall(before_N, gains_N, draws=2000) < LEVEL / SLICES
    return found.low < -MARGIN, found.high < -MARGIN, by_test


def main(runs: int = 200) -> None:
    rng = np.random.default_rng(0)
    print("scenarios  true gain  lower  upper  test")
    for scenarios in (12, 32, 64):
        for gain in (0.05, 0.0, -0.1, -0.2, -0.3):
            drawn = (np.clip(rng.normal(gain, DEVIATION, scenarios), -1, 1) for _ in range(runs))
            lower, upper, test = np.mean([refused(gains_N) for gains_N in drawn], axis=0)
            print(f"{scenarios:9d}  {gain:9.2f}  {lower:5.2f}  {upper:5.2f}  {test:4.2f}")


if __name__ == "__main__":
    main()
