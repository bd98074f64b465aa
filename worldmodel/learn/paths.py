"""Writes to a field that the call itself names: `settings.{group}.{name}`, or one for each item of a list argument; and
tools whose calls lead from place to place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.derive.expressions import Call, Const, First, Source
from worldmodel.derive.paths import fits, pattern_of
from worldmodel.derive.rules import Effect
from worldmodel.derive.schema import EPISODE, FOLLOWED
from worldmodel.derive.situation import Row
from worldmodel.derive.values import UNKNOWN, freeze
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import PRECISION, Mark, Recorded, Rows, Sightings
from worldmodel.steps import OK, Step

FEWEST = 5
MOST = 400
HOME = "."
"""Where the calls of a tool lead from at first."""


def learn_paths(
    conversations: Mapping[str, Sequence[Recorded]], seen: Mapping[str, Sightings]
) -> tuple[dict[str, list[Effect]], set[tuple[str, str]]]:
    """The effects by tool, and the (type, pattern) pairs that they explain."""
    rows: dict[tuple[str, str, str, str], list[tuple[Row, Any, str, str, Any]]] = defaultdict(list)
    for cid, recorded in conversations.items():
        for (mark, field), sightings in seen[cid].items():
            if "." not in field:
                continue
            for before, after in zip(sightings, sightings[1:], strict=False):
                found = _last_named(recorded, mark, field, before.at, after.at)
                if found is None:
                    continue
                one, link, pattern = found
                old = before.value
                row = {**one.row, **one.answer, f"rec/{link}/{pattern}": old}
                rows[(one.step.tool, link, mark[0], pattern)].append((row, after.value, cid, field, old))
    effects: dict[str, list[Effect]] = defaultdict(list)
    explained: set[tuple[str, str]] = set()
    for (tool, link, type_, pattern), given in sorted(rows.items()):
        given = given[:MOST]
        changed = sum(freeze(new) != freeze(old) for _, new, _, _, old in given if old is not UNKNOWN)
        if len(given) < FEWEST or len({g[3] for g in given}) < 2 or changed < max(3, 0.2 * len(given)):
            continue
        recipe = find(Rows([g[0] for g in given], [g[2] for g in given]), [g[1] for g in given])
        if recipe is not None and recipe.precision >= PRECISION and recipe.support >= FEWEST:
            effects[tool].append(Effect(link, type_, pattern, recipe.expression, recipe.support, recipe.against))
            explained.add((type_, pattern))
    return effects, explained


def learn_walks(conversations: Mapping[str, Sequence[Step]]) -> dict[str, Effect]:
    """By session field: tools that may be steps on a path, since some of their calls lead back by `..`. Whether answers
    hang on where they led is for `instances.hidden_part` to say."""
    said: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for steps in conversations.values():
        for step in steps:
            for name, value in step.arguments.items() if step.outcome == OK else ():
                if isinstance(value, str):
                    said[(step.tool, name)][".." in value.split("/")] += 1
    found: dict[str, Effect] = {}
    for (tool, name), counts in sorted(said.items()):
        if counts[True] >= FEWEST and counts.total() >= 2 * FEWEST:
            field = f"{FOLLOWED}{tool}:{name}"
            before = First((Source(f"rec/{EPISODE}/{field}"), Const(HOME)))
            step_ = Call("entered", (before, Source(f"arg/{name}")))
            found[field] = Effect(EPISODE, EPISODE, field, step_, counts.total(), 0)
    return found


def is_explained(explained: set[tuple[str, str]], type_: str, field: str) -> bool:
    return any(of == type_ and fits(pattern, field) for of, pattern in explained)


def _last_named(
    recorded: Sequence[Recorded], mark: Mark, field: str, after: int, before: int
) -> tuple[Recorded, str, str] | None:
    """The last success between two sightings that named the field, by which link, and how."""
    for one in reversed(recorded[after + 1 : before]):
        if one.acted and mark in one.marks and not any(s[:3] == (*mark, field) for s in one.shown):
            pattern = pattern_of(field, one.step.arguments)
            if pattern is not None:
                return one, one.marks[mark], pattern
    return None
