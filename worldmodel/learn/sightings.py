"""Recorded calls with their situations, and when each field of each record was shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldmodel.derive.situation import Row
from worldmodel.derive.store import Key
from worldmodel.steps import Step

Mark = tuple[str, Key]


@dataclass(frozen=True)
class Recorded:
    """One recorded call with its situation, the records it names and the records that its answer shows."""

    conversation: str
    at: int
    step: Step
    row: Row
    keys: Mapping[str, Key]
    marks: Mapping[Mark, str]
    """The records that the call names, and by which link."""
    shown: Sequence[tuple[str, Key, str, Any]]
    answer: Row


@dataclass
class Sighting:
    at: int
    tool: str
    value: Any


Sightings = Mapping[tuple[Mark, str], list[Sighting]]


def sightings_of(recorded: Sequence[Recorded]) -> Sightings:
    """For each field of each record of one conversation: when it was shown, by whom, and as what."""
    found: dict[tuple[Mark, str], list[Sighting]] = defaultdict(list)
    for one in recorded:
        for type_, key, name, value in one.shown:
            found[((type_, key), name)].append(Sighting(one.at, one.step.tool, value))
    return found
