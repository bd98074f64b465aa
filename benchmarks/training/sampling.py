"""Speed of rollouts and judging, in one process and in several.

    python -m benchmarks.training.sampling --home artifacts/demo

Uses the clone, world and judge of a finished demo. It runs the groups of one practice step, with equal seeds, for each
number of processes in turn, so that other load on the machine affects all. Prints medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.learning.trajectory import Trajectory, seed_of
from training.policy.practice import Practising
from training.workers import cores


def live(practice: Practising, loop: Loop, number: int) -> tuple[float, float, int]:
    """Seconds to sample and seconds to judge one step's groups, and the number of policy tokens."""
    how = loop.settings.train
    chosen = loop.scenarios()[number * how.groups : (number + 1) * how.groups]
    seeds = [seed_of(loop.settings.seed, "benchmark", s.scenario_id) for s in chosen]

    async def step() -> tuple[float, float, int]:
        began = time.monotonic()
        groups = await practice.groups(chosen, seeds, how.group_size, "clone")
        sampled = time.monotonic()
        lived = [[t for t in group if isinstance(t, Trajectory)] for group in groups]
        await practice.judge([g for g in lived if g], [s for g, s in zip(lived, seeds, strict=True) if g])
        tokens = sum(t.sampled_tokens() for group in lived for t in group)
        return sampled - began, time.monotonic() - sampled, tokens

    return asyncio.run(step())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a finished demo's home")
    parser.add_argument("--steps", type=int, default=4, help="steps per number of processes")
    arguments = parser.parse_args()
    if not (arguments.home / "report.json").exists():
        raise UserError(f"{arguments.home} holds no finished demo; run `rehearsal demo --home {arguments.home}` first")
    took: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    with ExitStack() as stack:
        opened = {}
        for count in sorted({1, cores()}):
            loop = Loop(Settings(home=arguments.home, practice_workers=count))
            opened[count] = (stack.enter_context(loop.practice()), loop)
            opened[count][0].load_adapter("clone", loop.read("clone").directory / "adapter")
        for number in range(arguments.steps):
            for count, (practice, loop) in opened.items():
                took[count].append(live(practice, loop, number))
    print("| processes | sampling, s | judging, s | policy tokens/s | speed-up of a step over one process |")
    print("| --- | --- | --- | --- | --- |")
    alone = statistics.median(sampled + judged for sampled, judged, _ in took[1])
    for count, steps in sorted(took.items()):
        sampled, judged = (statistics.median(step[k] for step in steps) for k in (0, 1))
        speed = statistics.median(tokens / seconds for seconds, _, tokens in steps)
        whole = statistics.median(s + j for s, j, _ in steps)
        print(f"| {count} | {sampled:.1f} | {judged:.1f} | {speed:.0f} | {whole / alone:.2f} |")


if __name__ == "__main__":
    main()
