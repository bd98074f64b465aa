"""Policies in a real environment: the same starts and seeds for each, success by the environment's own code."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from ingest.errors import UserError
from training.engines import Engine
from training.environment import Environment, ScoredEpisode
from training.learning.trajectory import Trajectory, seed_of
from training.models.chat import ChatFormat
from training.policy.rollout import Limits, rollout


@dataclass(frozen=True)
class Run:
    """One policy's episodes: outcomes in the order of the starts, their kinds, and the trajectories."""

    name: str
    success: tuple[bool, ...]
    kinds: tuple[str, ...]
    trajectories: tuple[Trajectory, ...]

    @property
    def rate(self) -> float:
        return float(np.mean(self.success))


@dataclass(frozen=True)
class Difference:
    """How much better the second of two runs did, with a 95 % interval over the paired episodes."""

    before: float
    after: float
    low: float
    high: float
    episodes: int

    @property
    def gain(self) -> float:
        return self.after - self.before


def load_environment(path: str) -> Environment:
    """An environment by import path, `package.module:Class`, made without arguments."""
    module, _, name = path.partition(":")
    try:
        return cast(Environment, getattr(importlib.import_module(module), name)())
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"environment {path!r} cannot be loaded ({error}); expected 'package.module:Class'") from error


async def run_policy(
    engine: Engine,
    chat: ChatFormat,
    environment: Environment,
    adapter: str | None,
    *,
    name: str,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    min_p: float = 0.0,
    limits: Limits | None = None,
    show_system: bool = False,
    numbers: Sequence[int] | None = None,
    on_done: Callable[[int], None] = lambda count: None,
) -> Run:
    """Run a policy on the first `episodes` starts of the environment's stream `seed`, or on those of them that
    `numbers` names.

    An episode that breaks raises: an evaluation with holes would compare unlike things.
    """
    finished = 0

    async def one(number: int) -> tuple[bool, str, Trajectory]:
        nonlocal finished
        start = starts[number]
        episode = cast(ScoredEpisode, environment.episode(start, seed_of(seed, "episode", number)))
        trajectory = await rollout(
            engine, chat, episode, start, adapter=adapter, temperature=temperature, min_p=min_p,
            seed=seed_of(seed, "policy", number), limits=limits, show_system=show_system,
        )  # fmt: skip
        finished += 1
        on_done(finished)
        return episode.success(), str(episode.facts().get("kind", "")), trajectory

    starts = environment.starts(episodes, seed)
    done = await asyncio.gather(*(one(k) for k in (range(len(starts)) if numbers is None else numbers)))
    return Run(name, tuple(d[0] for d in done), tuple(d[1] for d in done), tuple(d[2] for d in done))


@dataclass(frozen=True)
class Player:
    """Policies (adapters of `engine`) at a real environment, and how they play there."""

    engine: Engine
    chat: ChatFormat
    environment: Environment
    episodes: int
    seed: int
    temperature: float = 1.0
    limits: Limits | None = None
    show_system: bool = False
    min_p: float = 0.0

    async def play(
        self, name: str, numbers: Sequence[int] | None = None, on_done: Callable[[int], None] = lambda count: None
    ) -> Run:
        """The adapter `name` in all episodes, or in those that `numbers` names; see run_policy."""
        return await run_policy(
            self.engine, self.chat, self.environment, name, name=name, episodes=self.episodes, seed=self.seed,
            temperature=self.temperature, limits=self.limits, show_system=self.show_system, numbers=numbers,
            on_done=on_done, min_p=self.min_p,
        )  # fmt: skip


def difference(before: Run, after: Run, draws: int = 4000, seed: int = 0) -> Difference:
    """The paired difference in success, with its bootstrap percentile interval (Efron 1979)."""
    if len(before.success) != len(after.success):
        raise ValueError("two runs are compared on the same starts")
    return paired(np.array(before.success, float), np.array(after.success, float), draws, seed)


def paired(before_N: np.ndarray, after_N: np.ndarray, draws: int = 4000, seed: int = 0) -> Difference:
    """The same for any two series of scores over the same cases."""
    gains_N = after_N - before_N
    rng = np.random.default_rng(seed)
    means = gains_N[rng.integers(len(gains_N), size=(draws, len(gains_N)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(float(before_N.mean()), float(after_N.mean()), float(low), float(high), len(gains_N))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.959964, successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def by_kind(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Success of each run on each kind of task."""
    kinds = sorted({k for run in runs for k in run.kinds})
    table: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        table[kind] = {"episodes": sum(k == kind for k in runs[0].kinds)}
        for run in runs:
            found = [s for s, k in zip(run.success, run.kinds, strict=True) if k == kind]
            table[kind][run.name] = {"rate": float(np.mean(found)), "interval": wilson(sum(found), len(found))}
    return table


def summary(before: Run, after: Run) -> dict[str, Any]:
    """The figures of a comparison, as a report shows them."""
    found = difference(before, after)
    rates: Mapping[str, Run] = {"before": before, "after": after}
    return {
        **asdict(found),
        "gain": found.gain,
        "intervals": {k: wilson(sum(r.success), len(r.success)) for k, r in rates.items()},
        "kinds": by_kind([before, after]),
    }
