"""What the example environments have in common: task ids, streams of starts, timeouts, and how answers are written."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from training.environment import Observation, Start

SPLITS = ("production", "evaluation")


def split_of(task_id: str) -> str:
    """The split of a task id. Raises ValueError for an id that is not `<split>:<seed>:<number>`."""
    split = task_id.partition(":")[0]
    if split not in SPLITS or task_id.count(":") != 2:
        raise ValueError(f"a task id is <split>:<seed>:<number> with split in {SPLITS}, got {task_id!r}")
    return split


class Streams(ABC):
    """The starts of one split: `evaluation` (default), or `production`, which the traces are made from."""

    def __init__(self, split: str = "evaluation") -> None:
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, got {split!r}")
        self._split = split

    def starts(self, n: int, seed: int) -> list[Start]:
        """The first `n` starts of stream `seed`. The streams of the two splits are disjoint."""
        return [self._start(f"{self._split}:{seed}:{k}") for k in range(n)]

    @abstractmethod
    def _start(self, task_id: str) -> Start:
        """The start of a task."""


class Timeouts:
    """Decides which calls time out, by each tool's rate. The call after a timeout never does."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = rates
        self._last: set[str] = set()

    def hits(self, tool: str, rng: random.Random) -> bool:
        """Whether this call of the tool times out."""
        if tool in self._last:
            self._last.discard(tool)
        elif rng.random() < self._rates.get(tool, 0.0):
            self._last.add(tool)
            return True
        return False


def dumps(value: Any) -> str:
    """A value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def body_of(seen: Observation) -> dict[str, Any]:
    """An observation as an object; a learned world can return anything."""
    try:
        value = json.loads(seen.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
