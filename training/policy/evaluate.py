"""Evaluates policies in a real environment: the same starts and seeds for each, success decided by the environment.

The environment is user code. An exception in one episode is counted and does not end the evaluation.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from typing import Any, cast

import numpy as np

from ingest.errors import UserError
from training.engines import Engine
from training.environment import Environment, Observation, ScoredEpisode, Start, ToolCall
from training.learning.trajectory import Trajectory, seed_of
from training.models.chat import ChatFormat
from training.policy.rollout import Limits, rollout
from training.policy.system import SystemShown


@dataclass(frozen=True)
class Run:
    """One policy's episodes: outcomes in the order of the starts, their kinds, and the trajectories.

    `faults` has one text per episode: the error that the environment raised, or an empty string. An episode with a
    fault has no success and an empty trajectory.
    """

    name: str
    success: tuple[bool, ...]
    kinds: tuple[str, ...]
    trajectories: tuple[Trajectory, ...]
    faults: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Success rate over the episodes without a fault."""
        return float(np.mean([s for s, fault in zip(self.success, self.all_faults, strict=True) if not fault]))

    @property
    def all_faults(self) -> tuple[str, ...]:
        return self.faults or ("",) * len(self.success)

    def only(self, numbers: Sequence[int]) -> Run:
        """The run restricted to these episodes, which must have no fault."""
        success, kinds = tuple(self.success[k] for k in numbers), tuple(self.kinds[k] for k in numbers)
        trajectories = tuple(self.trajectories[k] for k in numbers) if self.trajectories else ()
        return Run(self.name, success, kinds, trajectories)


AT_ONCE = 64
"""Episodes that one process plays at a time: the engine's caches grow with them."""
MIN_SCORED = 0.9
"""Smallest share of the planned pairs that the judge must have scored; a comparison of fewer decides nothing."""


@dataclass(frozen=True)
class Difference:
    """The gain of the second run over the first, with a 95 % interval over the paired episodes."""

    before: float
    after: float
    low: float
    high: float
    episodes: int

    @property
    def gain(self) -> float:
        return self.after - self.before


def load_environment(path: str) -> Environment:
    """An environment by import path, `package.module:Class`, created without arguments.

    Modules in the current directory are found, as with `python -m`. Raises UserError.
    """
    module, _, name = path.partition(":")
    _see_current_directory(module.partition(".")[0])
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"environment {path!r} cannot be loaded ({error}); expected 'package.module:Class'") from error
    try:
        return cast(Environment, made())
    except Exception as error:  # noqa: BLE001 - user code
        raise UserError(
            f"environment {path!r} cannot be created ({_told(error)}); expected 'package.module:Class', "
            "a class whose constructor needs no arguments"
        ) from error


def environment_code(path: str) -> str:
    """A digest of the source of an environment's module. A changed source is a new environment."""
    load_environment(path)
    module = sys.modules[path.partition(":")[0]]
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""  # not written in Python


def _see_current_directory(top: str) -> None:
    """Put the current directory first in sys.path if it has the module; console scripts do not include it."""
    here = os.getcwd()
    if here not in sys.path and top and PathFinder.find_spec(top, [here]) is not None:
        sys.path.insert(0, here)


def check_environment(path: str, seed: int = 0) -> None:
    """Load an environment and open one episode, before hours of training. Raises UserError."""
    environment, expected = load_environment(path), "see docs/environment.md"
    try:
        starts = environment.starts(1, seed)
        if not starts or not isinstance(starts[0], Start):
            found = f"{starts!r:.80}" if not starts else f"a {type(starts[0]).__name__}"
            raise TypeError(f"starts(1, {seed}) returned {found}, expected one training.environment.Start")
        episode: Any = environment.episode(starts[0], seed)
        for name in ("observe", "respond", "success", "facts"):
            if not callable(method := getattr(episode, name, None)):
                raise TypeError(f"its episodes have no method {name}()")
            waits = inspect.iscoroutinefunction(method)
            if inspect.ismethod(method) and not hasattr(method, "__wrapped__"):
                if waits != (name in ("observe", "respond")):
                    raise TypeError(f"{name}() of its episodes must {'not ' if waits else ''}be `async def`")
    except Exception as error:  # noqa: BLE001 - user code
        raise UserError(f"environment {path!r} does not open an episode ({_told(error)}); {expected}") from error


class EnvironmentFault(Exception):
    """An exception, or an invalid answer, of an environment in one episode."""


@contextmanager
def _environment() -> Iterator[None]:
    """Converts whatever the environment's code raises to an EnvironmentFault."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - user code
        raise EnvironmentFault(_told(error)) from error


class _Guarded:
    """Wraps an episode so that its errors are distinguished from ours."""

    def __init__(self, episode: ScoredEpisode) -> None:
        self._episode = episode

    async def observe(self, call: ToolCall) -> Observation:
        with _environment():
            seen = await self._episode.observe(call)
            if not isinstance(seen, Observation):
                raise TypeError(f"observe() returned a {type(seen).__name__}, expected an Observation")
            return seen

    async def respond(self, text: str) -> str | None:
        with _environment():
            said = await self._episode.respond(text)
            if not isinstance(said, str | None):
                raise TypeError(f"respond() returned a {type(said).__name__}, expected a text or None")
            return said


def _told(error: BaseException) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


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
    show_system: SystemShown = False,
    numbers: Sequence[int] | None = None,
    on_done: Callable[[int], None] = lambda count: None,
) -> Run:
    """Run a policy on the first `episodes` starts of the environment's stream `seed` (all, if it has fewer), or on
    those with an index in `numbers`.

    An error of the environment is a fault of that episode; other errors are raised.
    """
    finished, gate = 0, asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> tuple[bool, str, Trajectory, str]:
        async with gate:
            return await played(number)

    async def played(number: int) -> tuple[bool, str, Trajectory, str]:
        nonlocal finished
        start, drawn = starts[number], seed_of(seed, "policy", number)
        try:
            with _environment():
                episode = cast(ScoredEpisode, environment.episode(start, seed_of(seed, "episode", number)))
            trajectory = await rollout(
                engine, chat, _Guarded(episode), start, adapter=adapter, temperature=temperature, min_p=min_p,
                seed=drawn, limits=limits, show_system=show_system,
            )  # fmt: skip
            with _environment():
                return bool(episode.success()), str(episode.facts().get("kind", "")), trajectory, ""
        except EnvironmentFault as fault:
            return False, str(start.tags.get("kind", "")), Trajectory(start, drawn, [], ended="error"), str(fault)
        finally:
            finished += 1
            on_done(finished)

    starts = environment.starts(episodes, seed)[:episodes]
    chosen = range(len(starts)) if numbers is None else [k for k in numbers if k < len(starts)]
    done = await asyncio.gather(*(one(k) for k in chosen))
    success, kinds, trajectories, faults = zip(*done, strict=True) if done else ((), (), (), ())
    return Run(name, success, kinds, trajectories, faults)


@dataclass(frozen=True)
class Player:
    """Plays policies (adapters of `engine`) in a real environment, with fixed limits and sampling."""

    engine: Engine
    chat: ChatFormat
    environment: Environment
    episodes: int
    seed: int
    temperature: float = 1.0
    limits: Limits | None = None
    show_system: SystemShown = False
    min_p: float = 0.0

    async def play(
        self, name: str, numbers: Sequence[int] | None = None, on_done: Callable[[int], None] = lambda count: None
    ) -> Run:
        """Play the adapter `name` in all episodes, or in those with an index in `numbers`; see run_policy."""
        return await run_policy(
            self.engine, self.chat, self.environment, name, name=name, episodes=self.episodes, seed=self.seed,
            temperature=self.temperature, limits=self.limits, show_system=self.show_system, numbers=numbers,
            on_done=on_done, min_p=self.min_p,
        )  # fmt: skip


def difference(before: Run, after: Run, draws: int = 4000, seed: int = 0) -> Difference:
    """The paired difference in success, with its bootstrap percentile interval (Efron 1979).

    A start where either run has a fault is excluded from both.
    """
    before, after = without_faults(before, after)
    return paired(np.array(before.success, float), np.array(after.success, float), draws, seed)


def without_faults(before: Run, after: Run) -> tuple[Run, Run]:
    """Both runs without the starts where either has a fault. Raises UserError if none are left."""
    if len(before.success) != len(after.success):
        raise ValueError("two runs are compared on the same starts")
    faults = [a or b for a, b in zip(before.all_faults, after.all_faults, strict=True)]
    kept = [k for k, fault in enumerate(faults) if not fault]
    if not kept:
        why = f"raised an error in every episode; the first: {faults[0]}" if faults else "gave no starts"
        raise UserError(f"the real environment {why}")
    return before.only(kept), after.only(kept)


def paired(before_N: np.ndarray, after_N: np.ndarray, draws: int = 4000, seed: int = 0) -> Difference:
    """The paired difference of two series of scores over the same cases, with its bootstrap percentile interval."""
    gains_N = after_N - before_N
    rng = np.random.default_rng(seed)
    means = gains_N[rng.integers(len(gains_N), size=(draws, len(gains_N)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(float(before_N.mean()), float(after_N.mean()), float(low), float(high), len(gains_N))


def chance_of_fall(before_N: np.ndarray, after_N: np.ndarray, draws: int = 4000, seed: int = 0) -> float:
    """The probability of a mean fall at least as large as this one if the scores do not differ: a sign-flip test.

    It holds its level for few cases too, where the bootstrap's intervals are too narrow (Good 2005, section 3.2).
    """
    gains_N = after_N - before_N
    signs_DN = np.random.default_rng(seed).integers(0, 2, size=(draws, len(gains_N))) * 2 - 1
    as_low = (signs_DN * gains_N).mean(1) <= gains_N.mean() + 1e-12
    return float((1 + as_low.sum()) / (1 + draws))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.959964, successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def by_kind(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Success of each run per kind of task."""
    kinds = sorted({k for run in runs for k in run.kinds})
    table: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        table[kind] = {"episodes": sum(k == kind for k in runs[0].kinds)}
        for run in runs:
            found = [s for s, k in zip(run.success, run.kinds, strict=True) if k == kind]
            table[kind][run.name] = {"rate": float(np.mean(found)), "interval": wilson(sum(found), len(found))}
    return table


def summary(before: Run, after: Run, start: Run | None = None) -> dict[str, Any]:
    """The figures of a comparison, for the report. `faults` counts episodes that the environment ended with an error;
    the other figures are over the starts that both policies finished. `start` is the policy that practice started
    from: its success, and what practice adds to it.
    """
    practised = None if start is None else difference(start, after)
    texts = [fault for run in (before, after) for fault in run.all_faults if fault]
    faults = {
        "before": sum(map(bool, before.all_faults)), "after": sum(map(bool, after.all_faults)),
        "first": texts[0] if texts else "",
    }  # fmt: skip
    before, after = without_faults(before, after)
    found = difference(before, after)
    rates: Mapping[str, Run] = {"before": before, "after": after}
    return {
        **asdict(found),
        "gain": found.gain,
        "faults": faults,
        "intervals": {k: wilson(sum(r.success), len(r.success)) for k, r in rates.items()},
        "kinds": by_kind([before, after]),
        **({"start": {**asdict(practised), "gain": practised.gain}} if practised else {}),
    }
