"""Fill the holes in three ways on the same calls: by the model under a schema, by the model freely, by drawn values.

Exact match is not informative for invented records, so field F1, value types and the share of usable answers are
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worldmodel.card.ask import Question, ask_world
from worldmodel.card.measures import Judged, field_f1, value_types
from worldmodel.steps import OK
from worldmodel.world import WorldModel

MOST_HOLES = 120
WAYS = ("by_schema", "freely", "drawn")


async def ask_holes(
    model: WorldModel, asked: Sequence[Question], most: int = MOST_HOLES, wanted: Sequence[str] = WAYS
) -> dict[str, Any]:
    """Return the measures of each way, over the calls that the rules leave open and that succeeded in production."""
    if model.rules is None or not most:
        return {"n": 0}
    drawn = _with(model, writes=False)
    open_ = [
        question
        for question, judged in zip(asked, await ask_world(drawn, asked, worlds=0), strict=True)
        if judged.provenance == "generated" and question.truth.outcome == OK == judged.outcome
    ]
    some = open_[:: max(1, -(-len(open_) // most))] if open_ else []
    ways = {
        "by_schema": _with(model, writes=True, by_schema=True),
        "freely": _with(model, writes=True, by_schema=False),
        "drawn": drawn,
    }
    out: dict[str, Any] = {"n": len(some)}
    for name in wanted:
        way = ways[name]
        before = way.resolver.tally.copy()
        judged = await ask_world(way, some, worlds=0)
        out[name] = {**_measures(judged, way), "usable": _usable(way, before)}
    return out


def _with(model: WorldModel, **how: Any) -> WorldModel:
    resolver = replace(model.resolver, tally=type(model.resolver.tally)(), **how)
    return WorldModel(resolver, None, model.rules, model.shapes, model.name, curves=model.curves)


def _measures(judged: Sequence[Judged], model: WorldModel) -> dict[str, float | None]:
    return {"field_f1": field_f1(judged), "value_types": value_types(judged, model.shapes)}


def _usable(model: WorldModel, before: Any) -> float | None:
    """Return the share of the model's bodies that could be used without a repair."""
    tally = model.resolver.tally - before
    return tally["usable"] / tally["asked"] if tally["asked"] else None
