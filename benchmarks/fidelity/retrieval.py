"""The retrieval index at scale: time and memory of building it and of a look-up.

    python -m benchmarks.fidelity.retrieval --transitions 1000000

Transitions of twelve made-up tools with records, amounts, dates and states. The index is built in a process of its own
and opened in this one; then calls that are not in it are looked up. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.retrieval import Entry, features_of
from worldmodel.steps import OK, Step

MIB = 1 << 20
TOOLS = 12
STATES = ("open", "paid", "sent", "closed")


def call(rng: random.Random, records: int) -> tuple[str, dict[str, Any], str]:
    """A tool, its arguments, and what was known of the record before."""
    number = rng.randrange(records)
    arguments = {
        "id": f"R-{number:08d}", "cents": rng.randrange(1, 100_000), "day": f"2026-{rng.randrange(1, 13):02d}",
        "mode": rng.choice(("fast", "slow", "later")), "tags": ["t"] * rng.randrange(4),
    }  # fmt: skip
    state = STATES[number % 4]
    record = {"id": arguments["id"], "state": state, "town": f"T{number % 997}", "lines": [1] * (number % 5)}
    return f"tool_{rng.randrange(TOOLS)}", arguments, json.dumps(record)


def entries(count: int, seed: int = 0) -> Iterator[Entry]:
    """Recorded calls, eight a conversation."""
    rng = random.Random(seed)
    for number in range(count):
        tool, arguments, state = call(rng, count)
        step = Step(tool, arguments, state, OK if rng.random() < 0.9 else "conflict", 100.0)
        yield Entry(f"c{number // 8}", step, features_of(tool, arguments, [state]), True)


def build(count: int, path: Path, told: Any) -> None:
    """Build and keep an index; send its time and the peak of this process's memory."""
    began, cpu = time.perf_counter(), time.process_time()
    TransitionIndex.of(entries(count)).save(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told.put((time.perf_counter() - began, time.process_time() - cpu, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        context = multiprocessing.get_context("spawn")
        told = context.Queue()
        child = context.Process(target=build, args=(args.transitions, path, told))
        child.start()
        wall, cpu, peak = told.get()
        child.join()
        index = TransitionIndex.load(path)
        rng = random.Random("asked")
        spent, used = [], []
        for _ in range(args.calls):
            tool, arguments, state = call(rng, args.transitions)
            features = features_of(tool, arguments, [state])
            began, at = time.perf_counter(), time.process_time()
            found = index.nearest_of(tool, features, 3)
            spent.append(1000 * (time.perf_counter() - began))
            used.append(1000 * (time.process_time() - at))
            if len(found) != 3:
                raise RuntimeError(f"{len(found)} transitions found, expected 3")
        print(json.dumps({
            "transitions": args.transitions,
            "build_s": round(wall, 1),
            "build_cpu_s": round(cpu, 1),
            "build_peak_mib": round(peak),
            "file_mib": round(path.stat().st_size / MIB),
            "memory_mib": round(psutil.Process().memory_info().rss / MIB),
            "ms_a_look_up": {name: round(sorted(of)[len(of) // 2], 2) for name, of in (("wall", spent), ("cpu", used))},
            "ms_a_look_up_p95": round(sorted(used)[int(0.95 * len(used))], 2),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
