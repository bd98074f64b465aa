"""How much of what the traces determine the rules alone answer, without a model.

    python -m benchmarks.derive --seeds 200                 random systems with known rules (benchmarks/systems.py)
    python -m benchmarks.derive --desk 3000                 the support desk's production (examples/support_desk)
    python -m benchmarks.derive --stateful 20               random stateful systems, per kind (benchmarks/kinds)
    python -m benchmarks.derive --scale 100000              time and memory of learning, median time of an answer
    python -m benchmarks.derive --lake DIR                  a lake, split by entity and time as `world fit` splits it
    python -m benchmarks.derive --recorded FILE             any recorded system; every fifth group is held out

A recorded system is one conversation a line: {"group": ..., "calls": [{"tool", "arguments", "content", "is_error",
"determined"}, ...]}; `group` may be missing, and so may `determined` (true).

Prints JSON: for random systems the share of determined calls answered exactly (median, worst tenth, worst seeds); for a
lake the measures of the card, for rules alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.kinds import KINDS
from benchmarks.stateful import StatefulSystem
from benchmarks.systems import System
from examples.support_desk.environment import SupportDesk
from examples.support_desk.production import play
from ingest.records import Transition
from training.models.edits import canonical
from worldmodel.card.ask import Question, ask_rules, questions
from worldmodel.card.ceiling import ceiling, lasting
from worldmodel.card.measures import HOLE, Judged, summary
from worldmodel.derive.engine import Engine, Session
from worldmodel.fit import learn
from worldmodel.generate.resolver import Resolver
from worldmodel.learn.induce import induce
from worldmodel.profiles import learn_profiles
from worldmodel.steps import OK, Step, outcome_of, steps_of_messages

Recording = list[tuple[Step, bool]]
"""One conversation: its calls, each with whether what was shown before it determines its answer."""


def measure_system(seed: int, train: int = 220, test: int = 50) -> dict[str, Any]:
    """Learn one random system from `train` conversations and ask it about `test` others."""
    system = System(seed)
    return {"seed": seed, **_measure(lambda k: system.conversation(f"{seed} {k}"), train, test)}


def measure_stateful(seed: object, kinds: Sequence[str], train: int = 150, test: int = 40) -> dict[str, Any]:
    """The same for a random system of some stateful kinds; `by` counts right and asked calls per kind."""
    system = StatefulSystem(seed, [KINDS[kind] for kind in kinds])
    found = _measure(lambda k: system.conversation(f"{seed} {k}"), train, test)
    by: dict[str, list[int]] = {kind: [0, 0] for kind in kinds}
    for tool, (right, asked) in found["by_tool"].items():
        of = by[system.kind_of[tool]]
        of[0], of[1] = of[0] + right, of[1] + asked
    return {"seed": seed, **found, "by": by}


def _measure(conversation: Callable[[int], Recording], train: int, test: int, most: int = 5) -> dict[str, Any]:
    recorded = {f"c{k}": [step for step, _ in conversation(k)] for k in range(train)}
    began = time.perf_counter()
    rules, facts = induce(recorded)
    learned = time.perf_counter() - began
    engine = Engine(rules, facts)
    spent = 0.0
    calls = 0
    wrong: Counter[str] = Counter()
    by_tool: dict[str, list[int]] = {}
    for k in range(train, train + test):
        session = Session(engine)
        for step, determined in conversation(k):
            began = time.perf_counter()
            answer = session.derive(step.tool, step.arguments, k, accidents=False)
            spent += time.perf_counter() - began
            calls += 1
            if determined:
                said = None if answer is None else answer.content
                right = said is not None and canonical(said) == canonical(step.content)
                counts = by_tool.setdefault(step.tool, [0, 0])
                counts[0], counts[1] = counts[0] + right, counts[1] + 1
                if not right:
                    wrong[f"{step.tool}:{step.outcome}:{'hole' if said is None else 'wrong'}"] += 1
            session.told(step.tool, step.arguments, step.content, step.outcome)
    exact, asked = (sum(counts[at] for counts in by_tool.values()) for at in (0, 1))
    return {"exact": exact / max(1, asked), "determined": asked, "calls": calls, "learn_s": learned,
            "ms": 1000 * spent / calls, "wrong": dict(wrong.most_common(most)), "by_tool": by_tool}  # fmt: skip


def measure_recorded(file: Path, every: int = 5) -> dict[str, Any]:
    """Learn a recorded system from its conversations except those of every fifth group, and ask it about these."""
    parts: tuple[list[Recording], list[Recording]] = ([], [])
    numbers: dict[str, int] = {}
    for line in file.read_text().splitlines():
        conversation = json.loads(line)
        group = conversation.get("group", str(len(numbers)))
        held_out = numbers.setdefault(group, len(numbers)) % every == every - 1
        parts[held_out].append([(_recorded(call), call.get("determined", True)) for call in conversation["calls"]])
    every_one = [*parts[0], *parts[1]]
    return _measure(every_one.__getitem__, len(parts[0]), len(parts[1]), most=40)


def _recorded(call: dict[str, Any]) -> Step:
    outcome = outcome_of(call["content"], call.get("is_error"), "")
    return Step(call["tool"], call["arguments"], call["content"], outcome)


def measure_kinds(seeds: Sequence[int], kinds: Sequence[str], train: int) -> dict[str, Any]:
    """Each kind by itself: the share of determined calls answered exactly, over all seeds, and its worst system."""
    out: dict[str, Any] = {}
    for kind in kinds:
        found = [measure_stateful(f"{kind} {seed}", [kind], train) for seed in seeds]
        right, asked = (sum(f["by"][kind][at] for f in found) for at in (0, 1))
        worst = min(found, key=lambda f: f["exact"])
        out[kind] = {"exact": round(right / max(1, asked), 3), "n": asked, "worst": round(worst["exact"], 3)}
        print(kind, json.dumps({**out[kind], "seed": worst["seed"], "wrong": worst["wrong"]}), flush=True)
    return out


def measure_mixtures(seeds: Sequence[int], kinds: Sequence[str], size: int, train: int) -> dict[str, Any]:
    """Systems of `size` kinds each: the median, the worst tenth, and every kind among others."""
    found = []
    by: dict[str, list[int]] = {kind: [0, 0] for kind in kinds}
    for seed in seeds:
        found.append(measure_stateful(seed, random.Random(seed).sample(list(kinds), min(size, len(kinds))), train))
        for kind, (right, asked) in found[-1]["by"].items():
            by[kind][0], by[kind][1] = by[kind][0] + right, by[kind][1] + asked
    shares = sorted(f["exact"] for f in found)
    return {
        "systems": len(found),
        "median": round(shares[len(shares) // 2], 3),
        "worst_tenth": round(shares[max(0, len(shares) // 10 - 1)], 3),
        "by_kind": {kind: [round(right / max(1, asked), 3), asked] for kind, (right, asked) in by.items()},
        "learn_s_median": round(sorted(f["learn_s"] for f in found)[len(found) // 2], 1),
        "ms_median": round(sorted(f["ms"] for f in found)[len(found) // 2], 2),
    }


def measure_systems(seeds: Sequence[int], train: int) -> dict[str, Any]:
    found = []
    for seed in seeds:
        found.append(measure_system(seed, train))
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in found[-1].items() if k != "by_tool"}
        print(json.dumps(shown), flush=True)
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
    began, cpu = time.perf_counter(), time.process_time()
    rules, facts = induce(seen)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
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
        "learn_cpu_s": round(cpu, 1),
        "ms_a_call": round(1000 * spent / max(1, len(asked)), 2),
        "shared_entities": split.shared_entities,
        "overall": _brief(summary(judged, profiles)),
        "lasting": lasting(engine, judged),
        "ceiling": ceiling(engine, asked),
        "misses": misses(asked, judged),
        "tools": tools,
    }


def misses(asked: Sequence[Question], judged: Sequence[Judged], most: int = 12) -> dict[str, int]:
    """The derivable calls that were not answered exactly, by tool, what production said and what is wrong."""
    found: Counter[str] = Counter()
    for question, one in zip(asked, judged, strict=True):
        if question.derivable and not one.exact:
            wrong = f"said {one.outcome}"
            if one.answer is not None and one.outcome == one.truth.outcome:
                wrong = "a hole" if one.answer.content == HOLE else "another body"
            found[f"{one.truth.tool}: {one.truth.outcome}, {wrong}"] += 1
    return dict(found.most_common(most))


def measure_scale(transitions: int, first: int) -> dict[str, Any]:
    """Learning from this many calls of one stateful system of four kinds, and the median time of an answer."""
    kinds = random.Random(first).sample(sorted(KINDS), 4)
    system = StatefulSystem(first, [KINDS[kind] for kind in kinds])
    recorded = {f"c{k}": [s for s, _ in system.conversation(f"{first} {k}")] for k in range(transitions // 16 + 1)}
    began, cpu = time.perf_counter(), time.process_time()
    rules, facts = induce(recorded)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    engine = Engine(rules, facts)
    spent = []
    for k in range(60):
        session = engine.session()
        for step, _ in system.conversation(f"{first} test {k}"):
            began = time.perf_counter()
            session.derive(step.tool, step.arguments, k)
            spent.append(1000 * (time.perf_counter() - began))
            session.told(step.tool, step.arguments, step.content, step.outcome)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"transitions": sum(map(len, recorded.values())), "kinds": kinds, "learn_s": round(seconds, 1),
            "learn_cpu_s": round(cpu, 1), "ms_median": round(sorted(spent)[len(spent) // 2], 2),
            "peak_gib": round(peak, 2)}  # fmt: skip


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
    parser.add_argument("--stateful", type=int, default=0, help="how many random systems of stateful kinds")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS), help="which of them")
    parser.add_argument("--mixed", type=int, default=0, help="kinds in one system; 0 measures each kind by itself")
    parser.add_argument("--scale", type=int, default=0, help="learn from this many calls, and time it")
    parser.add_argument("--recorded", type=Path, help="measure a recorded system, a file of JSON lines")
    arguments = parser.parse_args()
    if arguments.recorded is not None:
        print(json.dumps(measure_recorded(arguments.recorded), indent=1))
        return
    if arguments.scale:
        print(json.dumps(measure_scale(arguments.scale, arguments.first)))
        return
    if arguments.stateful:
        chosen = range(arguments.first, arguments.first + arguments.stateful)
        if arguments.mixed:
            print(json.dumps(measure_mixtures(chosen, arguments.kinds, arguments.mixed, arguments.conversations)))
        else:
            print(json.dumps(measure_kinds(chosen, arguments.kinds, arguments.conversations)))
        return
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
