"""Practice: episodes in worlds, with users and a judge on one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ingest.errors import UserError
from ingest.records import Scenario
from training.engines import Engine
from training.environment import ComparedEpisode, Episode, Start
from training.judging.advantages import kept_share
from training.judging.ruler import Judgement, Ruler
from training.learning.trajectory import Trajectory, seed_of
from training.models.chat import ChatFormat
from training.policy.rollout import Limits, gather, rollout
from training.policy.served import Probe
from training.policy.system import SystemShown


class World(Protocol):
    """One sampled world. Each member of a group has its own episode in it."""

    def episode(self) -> Episode:
        """A new episode in this world."""
        ...


class WorldFactory(Protocol):
    """Creates worlds: worldmodel.WorldModel, or a real environment with the same interface."""

    def world(self, scenario: Scenario, *, seed: int) -> World:
        """The world of a scenario and a seed."""
        ...


class Practising(Protocol):
    """The interface of practice, in this process (Practice) or in several (PracticePool)."""

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a peft directory under a name; its files have been read when this returns."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter."""
        ...

    async def groups(
        self,
        scenarios: Sequence[Scenario],
        seeds: Sequence[int],
        size: int,
        adapter: str,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Trajectory | Exception]]:
        """`size` episodes per scenario, each group in one world. A failed episode is returned as its exception."""
        ...

    async def judge(self, groups: Sequence[Sequence[Trajectory]], seeds: Sequence[int]) -> list[Judgement]:
        """RULER's judgement of each group; no group may be empty."""
        ...

    async def plant(self, trajectories: Sequence[Trajectory], seeds: Sequence[int], size: int) -> list[Judgement]:
        """RULER's judgement of groups of `size` verbatim copies each, to measure the judge's noise."""
        ...

    async def probe(self, adapter: str, probe: Probe) -> list[list[float]]:
        """Every engine's log-probabilities of a probe's tokens under an adapter."""
        ...

    async def singles(
        self,
        scenarios: Sequence[Scenario],
        seeds: Sequence[int],
        adapter: str,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Trajectory | Exception]:
        """One episode per scenario. A failed episode is returned as its exception."""
        return [group[0] for group in await self.groups(scenarios, seeds, 1, adapter, on_done)]


def finished_pairs(
    before: Sequence[Trajectory | Exception], after: Sequence[Trajectory | Exception]
) -> dict[int, tuple[Trajectory, Trajectory]]:
    """The pairs in which neither episode failed, by their number. Raises the first error if there are none."""
    pairs = list(zip(before, after, strict=True))
    kept = {k: (a, b) for k, (a, b) in enumerate(pairs) if isinstance(a, Trajectory) and isinstance(b, Trajectory)}
    errors = [error for pair in pairs for error in pair if isinstance(error, Exception)]
    if errors and not kept:  # one cause for all of them (memory, an adapter)
        raise errors[0]
    return kept


@dataclass
class Practice(Practising):
    """`chat` is the policy's chat format; `show_system`: whether its prompt contains the system prompt. A judge's score
    is lowered by up to `changes_weight` of it where an episode changes other things than a recorded success did.

    Each call starts with an empty cache (the engine's, and what `forget` clears), so that its result depends only on
    its arguments, and a resumed run reproduces the digits of an uninterrupted one.
    """

    engine: Engine
    chat: ChatFormat
    worlds: WorldFactory
    ruler: Ruler
    limits: Limits = field(default_factory=Limits)
    temperature: float = 1.0
    show_system: SystemShown = False
    min_p: float = 0.0
    forget: Callable[[], None] = lambda: None
    changes_weight: float = 0.0

    def load_adapter(self, name: str, path: Path) -> None:
        self.engine.load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        self.engine.unload_adapter(name)

    async def groups(
        self,
        scenarios: Sequence[Scenario],
        seeds: Sequence[int],
        size: int,
        adapter: str,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Trajectory | Exception]]:
        if not adapter:  # the base would answer, without any error
            raise UserError("practice without an adapter's name would sample from the bare base; name an adapter")
        self._start_afresh()
        runs = []
        for scenario, seed in zip(scenarios, seeds, strict=True):
            world = self.worlds.world(scenario, seed=seed)
            start = Start(scenario.scenario_id, scenario.system, tuple(scenario.tools), scenario.first_user_message)
            for member in range(size):
                runs.append(self._run(world, start, adapter, seed_of(seed, "member", member)))
        done = await gather(runs, at_once=max(1, len(runs)), on_done=on_done)
        return [done[k : k + size] for k in range(0, len(done), size)]

    async def judge(self, groups: Sequence[Sequence[Trajectory]], seeds: Sequence[int]) -> list[Judgement]:
        self._start_afresh()
        found = await asyncio.gather(*(self.ruler.judge(g, seed) for g, seed in zip(groups, seeds, strict=True)))
        for group, judgement in zip(groups, found, strict=True):
            judgement.scores = [
                None if score is None else score * kept_share(trajectory.as_recorded, self.changes_weight)
                for score, trajectory in zip(judgement.scores, group, strict=True)
            ]
        return found

    async def probe(self, adapter: str, probe: Probe) -> list[list[float]]:
        asked = [
            self.engine.next_token_logprobs(probe.ids[:k], [probe.ids[k]], adapter=adapter) for k in probe.positions
        ]
        return [[found[0] for found in await asyncio.gather(*asked)]]

    async def plant(self, trajectories: Sequence[Trajectory], seeds: Sequence[int], size: int) -> list[Judgement]:
        self._start_afresh()
        planted = zip(trajectories, seeds, strict=True)
        return await asyncio.gather(*(self.ruler.judge([t] * size, seed, planted=True) for t, seed in planted))

    def _start_afresh(self) -> None:
        self.engine.clear_cache()
        self.forget()

    def _run(self, world: World, start: Start, adapter: str, seed: int) -> Callable[[], Any]:
        async def run() -> Trajectory:
            episode = world.episode()
            trajectory = await rollout(
                self.engine, self.chat, episode, start, adapter=adapter, seed=seed,
                temperature=self.temperature, min_p=self.min_p, limits=self.limits, show_system=self.show_system,
                learned=True,
            )  # fmt: skip
            self._note(trajectory, episode)
            return trajectory

        return run

    def _note(self, trajectory: Trajectory, episode: Episode) -> None:
        """Write down what an episode knows of itself once it has ended."""
        if isinstance(episode, ComparedEpisode):
            trajectory.as_recorded = episode.as_recorded()
