"""Many worlds at once: memory, and answers a second, of worlds that are all alive.

    python -m benchmarks.worlds --world artifacts/world --worlds 1000 --calls 10
    python -m benchmarks.worlds --desk 2000 --worlds 1000 --calls 10

With `--desk`, a world without adapters is fitted to that many conversations of the support desk's production. Each
world is grounded in one held-out conversation with a seed of its own, and makes the first calls of that conversation.
No model is asked: what it would invent is drawn. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.derive import desk_transitions
from benchmarks.fidelity.errors import without_model
from training.environment import ToolCall
from worldmodel.fit import learn
from worldmodel.generate.retrieval import read_conversations
from worldmodel.steps import Step
from worldmodel.world import Episode, Grounding, World, WorldModel

MIB = 1 << 20


async def measure(
    model: WorldModel, held_out: Sequence[Sequence[Step]], worlds: int, calls: int
) -> dict[str, Any]:
    """Make all worlds, keep them, and call each of them."""
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.perf_counter()
    alive: list[Episode] = []
    for number in range(worlds):
        steps = held_out[number % len(held_out)]
        alive.append(World(model, number, Grounding(tuple(steps))).episode())
    made = time.perf_counter() - began
    began, asked, abstained = time.perf_counter(), 0, 0
    for number, episode in enumerate(alive):
        for step in held_out[number % len(held_out)][:calls]:
            if not episode.ended:
                await episode.observe(ToolCall(step.tool, dict(step.arguments)))
                asked += 1
        abstained += bool(episode.ended)
    spent = time.perf_counter() - began
    after = process.memory_info().rss
    return {
        "worlds": worlds,
        "calls": asked,
        "ended_early": abstained,
        "memory_mib": round(after / MIB),
        "of_which_worlds_mib": round((after - before) / MIB),
        "ms_to_make_a_world": round(1000 * made / worlds, 2),
        "ms_a_call": round(1000 * spent / max(1, asked), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a fitted world")
    parser.add_argument("--desk", type=int, default=2000, help="without --world: conversations to fit one to")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=10)
    args = parser.parse_args()
    if args.world is not None:
        model = WorldModel.load(args.world)
        model = replace(model, resolver=replace(model.resolver, writes=False, blocked=frozenset()))
        held_out = list(read_conversations(args.world / "held_out.parquet").values())
    else:
        learned = learn(desk_transitions(args.desk, 0))
        model = without_model(learned)
        held_out = [list(steps) for steps in learned.part(learned.split.test).values()]
    print(json.dumps(asyncio.run(measure(model, held_out, args.worlds, args.calls))))


if __name__ == "__main__":
    main()
