"""How much of what the traces determine the rules alone answer, without a model.

    python -m benchmarks.derive --seeds 200                 random systems with known rules (benchmarks/systems.py)
    python -m benchmarks.derive --lake DIR                  a lake, split by entity and time as `world fit` splits it

Prints JSON: for random systems the share of determined calls answered exactly (median, worst tenth, worst seeds); for a
lake the measures of the card, for rules alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.systems import System
from training.edits import canonical
from worldmodel.derive.engine import Engine, Session
from worldmodel.learn.induce import induce
from worldmodel.steps import Step


def measure_system(seed: int, train: int = 220, test: int = 50) -> dict[str, Any]:
    """Learn one random system from `train` conversations and ask it about `test` others."""
    system = System(seed)
    recorded = {f"c{k}": [step for step, _ in system.conversation(f"{seed} {k}")] for k in range(train)}
    began = time.perf_counter()
    rules, facts = induce(recorded)
    learned = time.perf_counter() - began
    engine = Engine(rules, facts)
    right = asked = spent = 0.0
    wrong: dict[str, int] = {}
    calls = 0
    for k in range(train, train + test):
        session = Session(engine)
        for step, determined in system.conversation(f"{seed} {k}"):
            began = time.perf_counter()
            answer = session.derive(step.tool, step.arguments, k, accidents=False)
            spent += time.perf_counter() - began
            calls += 1
            if determined:
                asked += 1
                good = answer is not None and answer.content is not None
                if good and answer is not None and canonical(answer.content or "") == canonical(step.content):
                    right += 1
                else:
                    said = "hole" if not good else "wrong"
                    mark = f"{step.tool}:{step.outcome}:{said}"
                    wrong[mark] = wrong.get(mark, 0) + 1
            session.told(step.tool, step.arguments, step.content, step.outcome)
    top = dict(sorted(wrong.items(), key=lambda p: -p[1])[:5])
    return {"seed": seed, "exact": right / max(1, asked), "determined": int(asked), "calls": calls,
            "learn_s": learned, "ms": 1000 * spent / calls, "wrong": top}  # fmt: skip


def measure_systems(seeds: Sequence[int], train: int) -> dict[str, Any]:
    found = []
    for seed in seeds:
        found.append(measure_system(seed, train))
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found[-1].items()}), flush=True)
    shares = sorted(f["exact"] for f in found)
    return {
        "systems": len(found),
        "determined_exact_median": shares[len(shares) // 2],
        "determined_exact_worst_tenth": shares[max(0, len(shares) // 10 - 1) if len(shares) >= 10 else 0],
        "learn_s_median": sorted(f["learn_s"] for f in found)[len(found) // 2],
        "ms_median": sorted(f["ms"] for f in found)[len(found) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many random systems")
    parser.add_argument("--first", type=int, default=0, help="the first system's seed")
    parser.add_argument("--conversations", type=int, default=220, help="recorded conversations of each system")
    parser.add_argument("--lake", type=Path, help="measure a lake instead")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    print(json.dumps(measure_systems(seeds, arguments.conversations), indent=1))


if __name__ == "__main__":
    main()
