"""The gain from practice in the learned world, as a share of the gain from practice in the real environment.

    python -m benchmarks.transfer --home artifacts/demo

Trains the clone of a finished demo in the real environment with its true success as the reward; steps, groups, losses
and selection of the best step are the demo's. Then both policies play the same real episodes. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.records import Scenario
from training.engines.choose import open_engine
from training.environment import Environment, Episode, ScoredEpisode, Start
from training.judging.ruler import Judgement
from training.learning.trajectory import Trajectory
from training.models.base import load_base
from training.policy.evaluate import Run, difference, load_environment, run_policy
from training.policy.grpo import Grpo
from training.policy.practice import Practice
from training.policy.rollout import Limits
from training.progress import bars, track

PRACTICE_STREAM = 7_000
"""Seed of the environment's stream of training starts; evaluation uses the demo's own seed."""


@dataclass(frozen=True)
class RealWorld:
    """One start of the real environment. Equal seeds give equal environments, as members of a group need."""

    environment: Environment
    start: Start
    seed: int

    def episode(self) -> ScoredEpisode:
        return cast(ScoredEpisode, self.environment.episode(self.start, self.seed))


@dataclass(frozen=True)
class RealWorlds:
    """The real environment behind the interface of learned worlds."""

    environment: Environment
    starts: dict[str, Start]

    def world(self, scenario: Scenario, *, seed: int) -> RealWorld:
        return RealWorld(self.environment, self.starts[scenario.scenario_id], seed)


class TrueReward:
    """The environment's success behind the interface of RULER's scores."""

    async def judge(self, group: Sequence[Trajectory], seed: int = 0, planted: bool = False) -> Judgement:
        return Judgement([float(t.extra["success"]) for t in group])


class RealPractice(Practice):
    """Practice whose trajectories carry the environment's success."""

    def _note(self, trajectory: Trajectory, episode: Episode) -> None:
        trajectory.extra["success"] = cast(ScoredEpisode, episode).success()


def scenarios_of(starts: Sequence[Start]) -> list[Scenario]:
    """Starts in the form of production's scenarios."""
    return [
        Scenario(
            scenario_id=s.episode_id, conversation_id=s.episode_id, system=s.system, tools=list(s.tools),
            first_user_message=s.first_user_message, goal=(), facts=(), outcome=None, started_at_ns=0,
        )
        for s in starts
    ]  # fmt: skip


def train_in_reality(
    settings: Settings, limits: Limits, clone: Path, out: Path, count: int, steps: int
) -> dict[str, Any]:
    """GRPO on `count` real starts for `steps` steps; writes the best adapter to `out` and returns its manifest."""
    environment = load_environment(settings.environment)
    starts = environment.starts(count, PRACTICE_STREAM + settings.seed)
    base = load_base(settings.base, show_tools=not settings.compact)
    practice = RealPractice(
        open_engine(settings.engine, base), base.format,
        cast(Any, RealWorlds(environment, {s.episode_id: s for s in starts})), cast(Any, TrueReward()),
        limits, settings.train.temperature, show_system=not settings.compact,
        min_p=settings.train.min_p,
    )  # fmt: skip
    how = settings.train.model_copy(update={"seed": settings.seed, "steps": steps})
    report = track("practice in the real environment")
    loop = Grpo(base, practice, scenarios_of(starts), clone, out, how)
    return asyncio.run(loop.train(lambda m: report(int(m["step"]), how.steps, f"reward {m['reward']:.3f}")))


def play(settings: Settings, limits: Limits, name: str, adapter: Path) -> Run:
    """Plays one policy on the demo's evaluation episodes."""
    base = load_base(settings.base, show_tools=not settings.compact)
    engine = open_engine(settings.engine, base)
    engine.load_adapter(name, adapter)
    how, report = settings.evaluation, track(f"evaluation of the {name}")
    return asyncio.run(
        run_policy(
            engine, base.format, load_environment(settings.environment), name, name=name, episodes=how.episodes,
            seed=settings.seed, temperature=how.temperature, min_p=how.min_p, limits=limits,
            show_system=not settings.compact, on_done=lambda done: report(done, how.episodes, ""),
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a finished demo's home")
    arguments = parser.parse_args()
    settings = Settings(home=arguments.home)
    if not (arguments.home / "report.json").exists():
        raise UserError(f"{arguments.home} holds no finished demo; run `rehearsal demo --home {arguments.home}` first")
    with bars(Console(stderr=True)):
        loop = Loop(settings)
        clone, practised = loop.read("clone").directory / "adapter", loop.read("candidate")
        candidate, out = practised.directory / "adapter", arguments.home / "transfer" / "adapter"
        limits = loop.limits
        steps = practised.facts["steps"]  # as many steps as practice in the world took
        start, count = fits.first_start(clone.parent), len(loop.scenarios()) - settings.gate.scenarios
        trained = train_in_reality(settings, limits, start, out, count, steps)
        policies = ("clone", clone), ("world", candidate), ("real", out)
        before, world, real = (play(settings, limits, name, adapter) for name, adapter in policies)
    from_world, from_reality = difference(before, world), difference(before, real)
    figures = {
        "seed": settings.seed,
        "episodes": len(before.success),
        "success_before": before.rate,
        "gain_in_world": from_world.gain,
        "gain_in_world_ci": [from_world.low, from_world.high],
        "gain_in_reality": from_reality.gain,
        "gain_in_reality_ci": [from_reality.low, from_reality.high],
        "transfer": from_world.gain / from_reality.gain if from_reality.gain else None,
        "steps": steps,
        "best_step_in_world": practised.facts["best_step"],
        "best_step_in_reality": trained["best_step"],
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
