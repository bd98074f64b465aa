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
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training.offline import played
from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.policy.episodes import as_record, as_text
from training.policy.evaluate import Run
from training.policy.offline.values import auc
from training.progress import bars

STREAM = 777
"""Seed of the tasks; the evaluation of a home plays those of the home's own seed."""


def play(loop: Loop, episodes: int) -> list[Run]:
    """The runs of clone, start and candidate on the same tasks."""
    if not loop.settings.environment:
        raise UserError(f"{loop.settings.home} has no real environment; set `environment` to 'package.module:Class'")
    clone, candidate = loop.read("clone"), loop.read("candidate")
    own = {"clone": clone.directory / "adapter", "candidate": candidate.directory / "adapter"}
    return played(loop, own | fits.started(clone, candidate), episodes, STREAM)


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
        right = auc(torch.tensor(score), torch.tensor(good))
        means = (f"{fmean(good):.3f}", f"{fmean(score):.3f}", "" if right is None else f"{right:.3f}")
        grid.add_row(kind or "all", str(len(at)), *means)
    return grid


def failures(run: Run, kind: str) -> str:
    """The failed conversations of a kind as text."""
    episodes = zip(run.success, run.kinds, run.trajectories, strict=True)
    failed = [trajectory for success, name, trajectory in episodes if not success and name == kind]
    return "\n".join(as_text(as_record(trajectory, 0, k, 0)) for k, trajectory in enumerate(failed))


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
