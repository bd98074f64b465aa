"""Are invented records like those that production's users meant?

    python -m benchmarks.fidelity.intents --desk 3000

A world without adapters is fitted to the support desk's own production. Of each held-out conversation, the records that
it read before any write are invented again, by a world that knows only the user's first message (`alike`), or not even
that (`any`). Prints, by record type and field, how often the invented value is production's: of the fields with at most
twelve values, each of which several conversations have.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.fidelity.errors import without_model
from benchmarks.fidelity.users import desk_conversations, transitions_of
from worldmodel import WorldModel
from worldmodel.derive.values import same
from worldmodel.fit import Learned, learn
from worldmodel.steps import OK

MOST_VALUES = 12


def measure(learned: Learned, model: WorldModel) -> dict[str, Any]:
    """By type and field: the number of records, and the shares of equal values in both kinds of worlds."""
    assert model.rules is not None
    kinds = {
        (type_, name) for type_, fields in model.shapes.fields.items() for name, values in fields.items()
        if 1 < len(values.common) <= MOST_VALUES and values.rest < 0.05 * sum(n for _, n in values.common)
    }  # fmt: skip
    right: dict[str, Counter[tuple[str, str]]] = {"alike": Counter(), "any": Counter()}
    total: Counter[tuple[str, str]] = Counter()
    for number, cid in enumerate(learned.split.test):
        for (type_, key), fields in _first_seen(learned, model, cid).items():
            total.update((type_, name) for name in fields if (type_, name) in kinds)
            for kind, text in (("alike", learned.users.get(cid, "")), ("any", "")):
                world = model.world(messages=[{"role": "user", "content": text}] if text else None, seed=number)
                assert world.holes is not None
                made = asyncio.run(world.holes.inventor.record(type_, key))
                equal = [n for n, v in fields.items() if (type_, n) in kinds and same(made.get(n), v)]
                right[kind].update((type_, name) for name in equal)
    return {
        f"{type_} {name}": {"n": n, **{kind: round(found[type_, name] / n, 3) for kind, found in right.items()}}
        for (type_, name), n in sorted(total.items())
    }


def _first_seen(learned: Learned, model: WorldModel, cid: str) -> dict[tuple[str, Any], Mapping[str, Any]]:
    """The records that a conversation read one by one before it wrote anything."""
    assert model.rules is not None
    session, found = model.rules.session(), dict[tuple[str, Any], dict[str, Any]]()
    readers = {site.tool: type_ for type_, (site, _) in _readers(model).items()}
    for step in learned.steps[cid]:
        if step.outcome == OK and step.tool in model.rules.writes:
            break
        if step.outcome == OK and step.tool in readers:
            body = model.rules.layout.read(step.tool, step.content)
            for type_, key, name, value in session.store.shown(step.tool, step.arguments, body):
                if type_ == readers[step.tool]:
                    found.setdefault((type_, key), {}).setdefault(name, value)
    return dict(found)


def _readers(model: WorldModel) -> Mapping[str, Any]:
    world = model.world()
    assert world.holes is not None
    inventor = world.holes.inventor
    return {type_: found for type_, found in inventor.readers.items() if inventor.invents(type_)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desk", type=int, default=3000, help="conversations of the support desk")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    played = desk_conversations(arguments.desk, arguments.seed)
    learned = learn([call for one in played for call in transitions_of(one)], played)
    print(json.dumps(measure(learned, without_model(learned)), indent=1))


if __name__ == "__main__":
    main()
