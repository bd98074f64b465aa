"""How much of what the traces determine the rules alone answer, without a model.

    python -m benchmarks.derive --seeds 200                 random systems with known rules (benchmarks/systems.py)
    python -m benchmarks.derive --desk 3000                 the support desk's production (examples/support_desk)
    python -m benchmarks.derive --lake DIR                  a lake, split by entity and time as `world fit` splits it

Prints JSON: for random systems the share of determined calls answered exactly (median, worst tenth, worst seeds); for a
lake the measures of the card, for rules alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.systems import System
from examples.support_desk.environment import SupportDesk
from examples.support_desk.production import play
from ingest.records import Transition
from training.models.edits import canonical
from worldmodel.card.make import ask_rules, questions
from worldmodel.card.measures import summary
from worldmodel.derive.engine import Engine, Session
from worldmodel.fit import learn
from worldmodel.generate.resolver import Resolver
from worldmodel.learn.induce import induce
from worldmodel.profiles import learn_profiles
from worldmodel.steps import OK, steps_of_messages


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


def desk_transitions(conversations: int, seed: int) -> list[Transition]:
    """The calls of the support desk's own production, without the telemetry."""
    found = []
    for number, start in enumerate(SupportDesk("production").starts(conversations, seed)):
        recorded, _ = asyncio.run(play(start, seed, number))
        for at, step in enumerate(steps_of_messages(recorded.messages)):
            wrong = "" if step.outcome == OK else step.outcome
            found.append(
                Transition(recorded.conversation_id, at, step.tool, dict(step.arguments), step.content, bool(wrong),
                           wrong, step.latency_ms, recorded.started_at_ns)
            )  # fmt: skip
    return found


def measure_transitions(transitions: Sequence[Transition]) -> dict[str, Any]:
    """Rules alone on held-out conversations, with the card's own split, questions and measures."""
    learned = learn(transitions)
    split = learned.split
    seen = learned.part((*split.train, *split.calibrate))
    began = time.perf_counter()
    rules, facts = induce(seen)
    seconds = time.perf_counter() - began
    engine = Engine(rules, facts)
    steps = [step for part in seen.values() for step in part]
    profiles = learn_profiles(steps)
    resolver = cast(Resolver, SimpleNamespace(frame=learned.frame))
    asked = questions(learned.part(split.test), seen, resolver, rules=engine)
    began = time.perf_counter()
    judged = ask_rules(engine, asked)
    spent = time.perf_counter() - began
    tools = {}
    for tool in sorted({q.truth.tool for q in asked}):
        found = summary([j for j in judged if j.truth.tool == tool], profiles)
        tools[tool] = _brief(found)
    return {
        "calls": len(asked),
        "learn_s": round(seconds, 1),
        "ms_a_call": round(1000 * spent / max(1, len(asked)), 2),
        "shared_entities": split.shared_entities,
        "overall": _brief(summary(judged, profiles)),
        "tools": tools,
    }


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    errors = found["errors"]
    return {
        "n": found["n"],
        "exact": _rounded(found["exact_match"]),
        "derivable": [found["derivable"]["n"], _rounded(found["derivable"]["exact_match"])],
        "state_changing": [found["state_changing"]["n"], _rounded(found["state_changing"]["exact_match"])],
        "read_after_write": [
            found["read_after_write"]["n"],
            _rounded(found["read_after_write"]["exact_match"]),
            _rounded(found["read_after_write"]["derivable"]),
        ],
        "outcome_f1": _rounded(found["outcome_f1"]),
        "errors": [_rounded(errors["real"]), _rounded(errors["simulated"]), _rounded(errors["ratio"])],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many random systems")
    parser.add_argument("--first", type=int, default=0, help="the first system's seed")
    parser.add_argument("--conversations", type=int, default=220, help="recorded conversations of each system")
    parser.add_argument("--lake", type=Path, help="measure a lake instead")
    parser.add_argument("--desk", type=int, default=0, help="measure this many conversations of the support desk")
    arguments = parser.parse_args()
    if arguments.lake is not None:
        from ingest.lake import Lake

        print(json.dumps(measure_transitions(Lake.open(arguments.lake).transitions()), indent=1))
        return
    if arguments.desk:
        print(json.dumps(measure_transitions(desk_transitions(arguments.desk, arguments.first + 1)), indent=1))
        return
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    print(json.dumps(measure_systems(seeds, arguments.conversations), indent=1))


if __name__ == "__main__":
    main()
