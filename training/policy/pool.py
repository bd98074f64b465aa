"""Runs practice and evaluation in worker processes: the same episodes from the same seeds, in less time.

Worker k of N takes the items k, k + N, ...: whole groups, so that the members of a group stay in one world, and single
episodes of an evaluation. The result of an item is a function of its own seed, so it does not depend on the batch,
except for the last digit of a log-probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ingest.records import Scenario
from training.judging.ruler import Judgement
from training.learning.trajectory import Trajectory
from training.policy.evaluate import Player, Run
from training.policy.practice import Practice, Practising
from training.policy.served import Probe
from training.workers import Tell, Workers, dealt_back, portable


class PracticePool(Practising):
    """Practice in worker processes, each with the objects that `opener` (picklable) creates: engine, worlds, judge.

    Closed by closing `workers`.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    @classmethod
    def open(cls, opener: Callable[[], Practice], count: int) -> PracticePool:
        """Start `count` workers. Raises what `opener` raises, or WorkerDied."""
        return cls(Workers(opener, count))

    def __enter__(self) -> PracticePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def load_adapter(self, name: str, path: Path) -> None:
        self.workers.each(_load_adapter, (name, path))

    def unload_adapter(self, name: str) -> None:
        self.workers.each(_unload_adapter, name)

    async def groups(
        self,
        scenarios: Sequence[Scenario],
        seeds: Sequence[int],
        size: int,
        adapter: str,
        on_done: Tell = lambda count: None,
    ) -> list[list[Trajectory | Exception]]:
        count = len(self.workers)
        shares = [(scenarios[k::count], seeds[k::count], size, adapter) for k in range(count)]
        return dealt_back(await self.workers.map(_groups, shares, on_done))

    async def judge(self, groups: Sequence[Sequence[Trajectory]], seeds: Sequence[int]) -> list[Judgement]:
        count = len(self.workers)
        return dealt_back(await self.workers.map(_judge, [(groups[k::count], seeds[k::count]) for k in range(count)]))

    async def probe(self, adapter: str, probe: Probe) -> list[list[float]]:
        found = await self.workers.map(_probe, [(adapter, probe)] * len(self.workers))
        return [logprobs for part in found for logprobs in part]

    async def plant(self, trajectories: Sequence[Trajectory], seeds: Sequence[int], size: int) -> list[Judgement]:
        count = len(self.workers)
        shares = [(trajectories[k::count], seeds[k::count], size) for k in range(count)]
        return dealt_back(await self.workers.map(_plant, shares))


async def play(workers: Workers, name: str, episodes: int, on_done: Tell = lambda count: None) -> Run:
    """The same result as Player.play, from workers that each have a Player."""
    count = len(workers)
    runs: list[Run] = await workers.map(_play, [(name, range(k, episodes, count)) for k in range(count)], on_done)
    return Run(
        name,
        tuple(dealt_back([run.success for run in runs])),
        tuple(dealt_back([run.kinds for run in runs])),
        tuple(dealt_back([run.trajectories for run in runs])),
        tuple(dealt_back([run.all_faults for run in runs])),
    )


# ----- in the worker


def _load_adapter(practice: Practice, share: tuple[str, Path], _: Tell) -> None:
    practice.load_adapter(*share)


def _unload_adapter(practice: Practice, name: str, _: Tell) -> None:
    practice.unload_adapter(name)


async def _groups(
    practice: Practice, share: tuple[Sequence[Scenario], Sequence[int], int, str], tell: Tell
) -> list[list[Trajectory | Exception]]:
    groups = await practice.groups(*share, tell)
    return [[portable(t) if isinstance(t, Exception) else t for t in group] for group in groups]


async def _judge(
    practice: Practice, share: tuple[Sequence[Sequence[Trajectory]], Sequence[int]], _: Tell
) -> list[Judgement]:
    return await practice.judge(*share)


async def _probe(practice: Practice, share: tuple[str, Probe], _: Tell) -> list[list[float]]:
    return await practice.probe(*share)


async def _plant(
    practice: Practice, share: tuple[Sequence[Trajectory], Sequence[int], int], _: Tell
) -> list[Judgement]:
    return await practice.plant(*share)


async def _play(player: Player, share: tuple[str, Sequence[int]], tell: Tell) -> Run:
    return await player.play(*share, tell)
