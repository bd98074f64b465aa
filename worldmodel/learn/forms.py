"""The ways a tool answers: outcomes, templates and sets of fields, and what is left to find for each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worldmodel.derive.situation import Row
from worldmodel.derive.templates import mask
from worldmodel.derive.values import ABSENT, dumps, flatten, is_scalar, parse, text_of
from worldmodel.steps import OK, Step

MOST_FORMS = 12


@dataclass
class Draft:
    """A form before its slots are learned: the rows it has, and the target of each slot in each of them."""

    label: str
    outcome: str
    template: Any = None
    text: bool = False
    at: list[int] = field(default_factory=list)
    slots: dict[str, list[Any]] = field(default_factory=dict)
    open: bool = False


def draft_forms(steps: Sequence[Step], rows: Sequence[Row], maps: frozenset[str]) -> tuple[list[Draft], list[str]]:
    """The forms of one tool's answers, and the label of each answer."""
    labels = [""] * len(steps)
    by_outcome: dict[str, list[int]] = defaultdict(list)
    for at, step in enumerate(steps):
        by_outcome[step.outcome].append(at)
    drafts: list[Draft] = []
    for outcome, places in sorted(by_outcome.items()):
        bodies = [parse(steps[i].content) for i in places]
        if outcome == OK and sum(not isinstance(b, str) for b in bodies) >= 0.5 * len(bodies):
            made = _bodies(outcome, places, bodies, maps)
        else:
            made = _texts(outcome, places, bodies, rows)
        for number, draft in enumerate(made):
            draft.label = outcome if number == 0 else f"{outcome}~{number}"
            for i in draft.at:
                labels[i] = draft.label
        drafts += made
    return drafts, labels


def _bodies(outcome: str, places: Sequence[int], bodies: Sequence[Any], maps: frozenset[str]) -> list[Draft]:
    """JSON successes: objects with mostly the same fields are one form; everything else is one slot."""
    flat = [dict(flatten(b, lambda p: p in maps)) if isinstance(b, dict) and b else {"": b} for b in bodies]
    groups: list[tuple[set[str], list[int]]] = []
    sets = Counter(frozenset(f) for f in flat)
    where: dict[frozenset[str], int] = {}
    for names, _ in sets.most_common():
        for number, (union, _) in enumerate(groups):
            if len(names & union) >= 0.5 * len(names | union):
                union |= names
                where[names] = number
                break
        else:
            groups.append((set(names), []))
            where[names] = len(groups) - 1
    for k, fields in enumerate(flat):
        groups[where[frozenset(fields)]][1].append(k)
    drafts = []
    for union, members in sorted(groups, key=lambda g: -len(g[1])):
        draft = Draft("", outcome, at=[places[k] for k in members])
        order = dict.fromkeys(n for k in members for n in flat[k])
        draft.slots = {name: [flat[k].get(name, ABSENT) for k in members] for name in order if name in union}
        drafts.append(draft)
    return drafts


def _texts(outcome: str, places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row]) -> list[Draft]:
    """Texts and error bodies: those that differ only in their gaps are one form."""
    best: list[Draft] = []
    for starts in (("arg/",), ("arg/", "rec/", "told/")):
        drafts = _by_template(outcome, places, bodies, rows, starts)
        covered = sum(len(d.at) for d in drafts if len(d.at) >= 3) / len(places)
        if not best or covered > 0.1 + sum(len(d.at) for d in best if len(d.at) >= 3) / len(places):
            best = drafts
        if covered >= 0.9:
            break
    kept = [d for d in best if len(d.at) >= 2 or len(best) <= 3][:MOST_FORMS]
    rest = [d for d in best if d not in kept]
    if rest:
        other = Draft("", outcome, at=[i for d in rest for i in d.at], open=True)
        kept.append(other)
    return kept


def _by_template(
    outcome: str, places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row], starts: tuple[str, ...]
) -> list[Draft]:
    found: dict[str, Draft] = {}
    for i, body in zip(places, bodies, strict=True):
        known = [text_of(v) for n, v in rows[i].items() if n.startswith(starts) and is_scalar(v) and v is not None]
        template, gaps = mask(body, [t for t in known if len(t) <= 120])
        draft = found.setdefault(dumps(template), Draft("", outcome, template, isinstance(body, str)))
        draft.at.append(i)
        for number, gap in enumerate(gaps):
            draft.slots.setdefault(str(number), []).append(gap)
    return sorted(found.values(), key=lambda d: -len(d.at))
