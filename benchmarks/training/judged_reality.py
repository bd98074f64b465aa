"""Where practice and reality disagree: clone, start of practice and candidate in the real environment, judged as well.

    python -m benchmarks.training.judged_reality --home artifacts/demo --episodes 300

Prints, for each policy and kind of task, its success, the judge's mean score, and how often the judge ranks a success
above a failure (AUC). If a kind's success falls and its score falls with it, the judge is right and the world misled
practice; if its score rises, practice has found what the judge likes. `--failures KIND` prints the candidate's failed
conversations of a kind instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.recipes import EvaluationRecipe
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.policy.evaluate import Run
from training.progress import bars, track

STREAM = 777
"""Seed of the tasks; the evaluation of a home plays those of the home's own seed."""


def auc(scores: Sequence[float], success: Sequence[bool]) -> float:
    """The share of pairs (success, failure) in which the success has the higher score; ties count half. NaN without a
    pair."""
    values, good = np.array(scores, float), np.array(success, bool)
    above, below = values[good][:, None], values[~good][None, :]
    if not above.size or not below.size:
        return float("nan")
    return float((above > below).mean() + 0.5 * (above == below).mean())


def play(loop: Loop, episodes: int) -> list[Run]:
    """The runs of clone, start and candidate on the same tasks."""
    settings, how = loop.settings, loop.settings.evaluation
    if not settings.environment:
        raise UserError(f"{settings.home} has no real environment; set `environment` to 'package.module:Class'")
    clone, candidate = loop.read("clone"), loop.read("candidate")
    own = {"clone": clone.directory / "adapter", "candidate": candidate.directory / "adapter"}
    recipe = EvaluationRecipe(
        settings.base, settings.engine, settings.compact, loop.show_system, settings.environment,
        own | fits.started(clone, candidate), episodes, STREAM, how.temperature, how.min_p, loop.limits, settings.vllm,
        settings.chat,
    )  # fmt: skip
    return asyncio.run(loop.play(recipe, track("episodes in the real environment")))


def judged(loop: Loop, run: Run) -> list[float]:
    """The judge's score of each episode, each shown alone; an unscored one counts 0."""
    with loop.practice() as practice:
        found = asyncio.run(practice.judge([[t] for t in run.trajectories], list(range(len(run.trajectories)))))
    return [judgement.scores[0] or 0.0 for judgement in found]


def table(run: Run, scores: Sequence[float]) -> Table:
    """One row per kind of task, the whole run last."""
    grid = Table("kind", "n", "success", "judged", "AUC", title=run.name)
    for kind in [*sorted(set(run.kinds)), ""]:
        at = [k for k, name in enumerate(run.kinds) if kind in ("", name)]
        good, score = [run.success[k] for k in at], [scores[k] for k in at]
        cells = (np.mean(good), np.mean(score), auc(score, good))
        grid.add_row(kind or "all", str(len(at)), *(f"{value:.3f}" for value in cells))
    return grid


def failures(run: Run, kind: str) -> str:
    """The failed conversations of a kind as text."""
    lines = []
    for success, name, trajectory in zip(run.success, run.kinds, run.trajectories, strict=True):
        if success or name != kind:
            continue
        lines.append(f"--- ended: {trajectory.ended}")
        for message in trajectory.messages:
            calls = [f"{c['name']}({json.dumps(c['arguments'])})" for c in message.get("tool_calls") or ()]
            lines.append(f"{message['role']}: {' '.join([message.get('content') or '', *calls]).strip()}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a home with a finished candidate")
    parser.add_argument("--episodes", type=int, default=300, help="tasks for each policy")
    parser.add_argument("--failures", metavar="KIND", default="", help="print the candidate's failures of this kind")
    arguments = parser.parse_args()
    loop = Loop(Settings(home=arguments.home))
    with bars(Console(stderr=True)):
        runs = play(loop, arguments.episodes)
        if arguments.failures:
            print(failures(next(run for run in runs if run.name == "candidate"), arguments.failures))
            return
        tables = [table(run, judged(loop, run)) for run in runs]
    for one in tables:
        Console().print(one)


if __name__ == "__main__":
    main()
