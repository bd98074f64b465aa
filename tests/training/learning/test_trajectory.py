"""What an episode's answers are worth in practice."""

from __future__ import annotations

import pytest
from training_samples import start

from training.environment import Observation
from training.learning.trajectory import Trajectory


def seen(provenance: str, support: float, is_error: bool = False) -> Observation:
    return Observation("{}", is_error, "timeout" if is_error else "", provenance=provenance, support=support)


@pytest.mark.parametrize(
    ("observations", "worth"),
    [
        ([], 1.0),
        ([seen("derived", 0.1, is_error=True), seen("derived", 0.9)], 1.0),  # a drawn timeout is a fair sample
        ([seen("replayed", 0.5), seen("real", 1.0)], 1.0),
        ([seen("generated", 0.6), seen("derived", 0.2)], 0.8),
        ([seen("abstained", 0.0)], 0.0),
    ],
)
def test_only_invented_answers_count_less(observations: list[Observation], worth: float) -> None:
    episode = Trajectory(start(), 0, [], observations=observations)
    assert episode.supported() == pytest.approx(worth)
