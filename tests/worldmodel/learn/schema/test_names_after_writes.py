"""What a write says of a record stands between two reads, and does not decide how they compare."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.learn.induce import induce
from worldmodel.learn.schema.records import learn_schema
from worldmodel.steps import OK, Step


def hostel(k: int) -> list[Step]:
    """`list_beds` says a status in capitals, `get_bed` does not; `clean` changes it and says it as `get_bed` does."""
    rng = random.Random(f"hostel {k}")
    beds = {f"B-{n}": rng.choice(["free", "taken", "dirty"]) for n in rng.sample(range(100, 999), 3)}
    steps = []

    def said(tool: str, arguments: dict[str, Any], body: Any) -> None:
        steps.append(Step(tool, arguments, json.dumps(body), OK))

    for _ in range(3):
        said("list_beds", {}, {"beds": [{"bed": bed, "status": status.upper()} for bed, status in beds.items()]})
        bed = rng.choice(list(beds))
        if rng.random() < 0.7:
            beds[bed] = "free" if beds[bed] != "free" else "dirty"
            said("clean", {"bed": bed}, {"bed": bed, "status": beds[bed]})
        said("get_bed", {"bed": bed}, {"bed": bed, "status": beds[bed]})
    return steps


DAYS = {f"c{k}": hostel(k) for k in range(60)}


def test_two_reads_write_one_field_in_two_ways_though_writes_come_between() -> None:
    schema = learn_schema(DAYS, writes={"clean"})
    named = {site.tool: site.alias.get("status", "status") for site in schema.sites}
    assert named["list_beds"] != named["get_bed"] == named["clean"]


def test_a_read_is_not_said_to_write_since_two_answers_of_a_write_differ() -> None:
    rules, _ = induce(DAYS)
    assert set(rules.writes) == {"clean"}
