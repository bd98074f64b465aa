"""Error rates of worlds by tool, through the world's own way of answering, without a model.

    python -m benchmarks.fidelity.errors --desk 6000        the support desk's production (examples/support_desk)
    python -m benchmarks.fidelity.errors --systems 10       random systems (benchmarks/systems.py)
    python -m benchmarks.fidelity.errors --stateful 10      random systems of four stateful kinds (benchmarks/kinds)

A world without adapters is fitted: what its model would write is drawn. Every held-out call is asked as the card asks
it. Prints JSON: per system the tools with at least 30 held-out calls and 5 errors, those whose simulated by real error
rate lies outside 0.8 to 1.25, those of which the whole 95 % interval does, and those that the card would block.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

from benchmarks.derive import desk_transitions
from benchmarks.kinds import KINDS
from benchmarks.stateful import StatefulSystem
from benchmarks.systems import System
from ingest.records import Transition
from training.engines import Engine as Sampler
from training.models.chat import ChatFormat
from worldmodel.card.ask import questions
from worldmodel.card.make import measure
from worldmodel.card.verdict import ENOUGH, RATIO
from worldmodel.control import measure_implicit
from worldmodel.derive.engine import Engine
from worldmodel.fit import Learned, learn
from worldmodel.generate.examples import build_index
from worldmodel.generate.resolver import Resolver
from worldmodel.generate.shapes import learn_shapes
from worldmodel.learn.induce import induce
from worldmodel.profiles import learn_profiles
from worldmodel.steps import OK, Step
from worldmodel.world import WorldModel

FEWEST_ERRORS = 5


def without_model(learned: Learned) -> WorldModel:
    """The world that a fit would give, but for its adapters: bodies are drawn."""
    trained = learned.part(learned.split.train)
    seen = learned.part((*learned.split.train, *learned.split.calibrate))
    rules = Engine(*induce(trained))
    shapes = learn_shapes(rules, trained, learned.users)
    shapes.implicit = measure_implicit(trained, rules.writes)
    profiles = learn_profiles(step for steps in trained.values() for step in steps)
    nobody, no_chat = cast(Sampler, None), cast(ChatFormat, None)
    index = build_index(seen, learned.frame)
    resolver = Resolver(nobody, no_chat, None, learned.frame, index, profiles, writes=False)
    return WorldModel(resolver, None, rules, shapes)


def transitions_of(conversations: Mapping[str, Sequence[Step]]) -> list[Transition]:
    """Calls as the lake's table has them, conversations one after another."""
    return [
        Transition(cid, at, s.tool, dict(s.arguments), s.content, s.outcome != OK, "" if s.outcome == OK else s.outcome,
                   s.latency_ms, number)
        for number, (cid, steps) in enumerate(conversations.items()) for at, s in enumerate(steps)
    ]  # fmt: skip


def error_rates(transitions: Sequence[Transition], most: int | None = None) -> dict[str, Any]:
    """Fit a world without adapters to most of these calls, and compare its error rates on the others."""
    learned = learn(transitions)
    model = without_model(learned)
    seen = learned.part((*learned.split.train, *learned.split.calibrate))
    asked = questions(learned.part(learned.split.test), seen, model.resolver, most, model.rules)
    card = asyncio.run(measure(model, asked, with_base=False, with_model=False))
    enough = {
        tool: entry for tool, entry in card["tools"].items()
        if entry["n"] >= ENOUGH and entry["errors"]["real"] * entry["n"] >= FEWEST_ERRORS
    }  # fmt: skip
    return {
        "calls": len(asked),
        "tools": {tool: [e["n"], *(round(e["errors"][k], 3) for k in ("real", "simulated", "ratio"))]
                  for tool, e in enough.items()},
        "outside": [tool for tool, e in enough.items() if not RATIO[0] <= e["errors"]["ratio"] <= RATIO[1]],
        "surely_outside": [tool for tool, e in enough.items()
                           if e["errors"]["ratio_ci"][1] < RATIO[0] or e["errors"]["ratio_ci"][0] > RATIO[1]],
        "blocked": {tool: e["why"] for tool, e in card["tools"].items() if e["status"] == "block"},
    }  # fmt: skip


def random_system(seed: int, conversations: int, stateful: bool) -> dict[str, list[Step]]:
    """The recorded conversations of a random system."""
    system: System | StatefulSystem
    if stateful:
        kinds = random.Random(seed).sample(sorted(KINDS), 4)
        system = StatefulSystem(seed, [KINDS[kind] for kind in kinds])
    else:
        system = System(seed)
    return {f"c{k}": [step for step, _ in system.conversation(f"{seed} {k}")] for k in range(conversations)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desk", type=int, default=0, help="conversations of the support desk")
    parser.add_argument("--systems", type=int, default=0, help="how many random systems")
    parser.add_argument("--stateful", type=int, default=0, help="how many random systems of stateful kinds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--conversations", type=int, default=500, help="recorded conversations of a random system")
    parser.add_argument("--most", type=int, help="ask at most so many held-out calls")
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    if args.desk:
        found.append(error_rates(desk_transitions(args.desk, args.first), args.most))
        print(json.dumps(found[-1]), flush=True)
    for number in range(max(args.systems, args.stateful)):
        for stateful in (False, True):
            if number < (args.stateful if stateful else args.systems):
                seed = args.first + number
                recorded = random_system(seed, args.conversations, stateful)
                found.append({"seed": seed, **error_rates(transitions_of(recorded), args.most)})
                print(json.dumps(found[-1]), flush=True)
    total = sum(len(one["tools"]) for one in found)
    print(json.dumps({"systems": len(found), "tools": total, **{name: sum(len(one[name]) for one in found)
                      for name in ("outside", "surely_outside", "blocked")}}))  # fmt: skip


if __name__ == "__main__":
    main()
