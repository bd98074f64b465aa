"""Which fields of answers say what day it is: what was decided, paid or booked in a conversation was so on one day."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set

from worldmodel.derive.layout import plain_fields
from worldmodel.derive.situation import flat_arguments
from worldmodel.derive.values import day_of, is_scalar, parse
from worldmodel.learn.schema.identifiers import looks_like_id
from worldmodel.steps import OK, Step

FEWEST = 5
"""Conversations in which a field must have said the day, beside another one."""
NEARLY_ALL = 0.95
FEWEST_DAYS = 3
"""With fewer days, the day is a constant."""
_Place = tuple[str, str]
_Days = dict[_Place, list[tuple[frozenset[str], str]]]


def learn_clock(conversations: Mapping[str, Sequence[Step]], writes: Set[str]) -> dict[str, tuple[str, ...]]:
    """By tool, the fields that say the day. `writes` are the tools that may write: what their answers say of different
    things, or under different names, is one day in a conversation, and another one in other conversations. Fields of
    other answers that nearly always agree with these say the day as well; a customer's birthday does not."""
    said = [_days(steps) for steps in conversations.values()]
    days: dict[_Place, set[str]] = defaultdict(set)
    for of in said:
        for place, told in of.items():
            days[place].update(day for _, day in told)
    places = sorted(place for place, found in days.items() if len(found) >= FEWEST_DAYS)
    written = [place for place in places if place[0] in writes]
    sure = {place for place in written if _is_one_day(place, said)}
    for one in written:
        apart = [other for other in written if other[0] != one[0] and other[1] != one[1]]
        sure |= {one for other in apart if _agree(one, [other], said)}
    sure |= {place for place in places if sure and _agree(place, sorted(sure - {place}), said)}
    found: dict[str, list[str]] = defaultdict(list)
    for tool, name in sorted(sure):
        found[tool].append(name)
    return {tool: tuple(names) for tool, names in found.items()}


def _days(steps: Sequence[Step]) -> _Days:
    """By tool and field, the days that a conversation's answers said, but for those that their calls say, each with
    what the call was about."""
    found: _Days = defaultdict(list)
    for step in steps:
        told = {day_of(v) for _, v in flat_arguments(step.arguments)}
        for name, value in plain_fields(parse(step.content)) if step.outcome == OK else ():
            day = day_of(value)
            if day is not None and day not in told:
                ids = {str(v) for n, v in step.arguments.items() if is_scalar(v) and looks_like_id(n, v)}
                found[(step.tool, name)].append((frozenset(ids or {step.key}), day))
    return dict(found)


def _is_one_day(place: _Place, said: Sequence[_Days]) -> bool:
    """Whether a field says one day of all things in a conversation."""
    several = [of[place] for of in said if any(a.isdisjoint(b) for a, _ in of.get(place, ()) for b, _ in of[place])]
    same = sum(len({day for _, day in found}) == 1 for found in several)
    return len(several) >= FEWEST and same >= NEARLY_ALL * len(several)


def _agree(place: _Place, others: Sequence[_Place], said: Sequence[_Days]) -> bool:
    """Whether a field says what others say, wherever both say something."""
    met = same = 0
    for of in said:
        usual = Counter(day for other in others for _, day in of.get(other, ())).most_common(1)
        if usual and place in of:
            met += 1
            same += {day for _, day in of[place]} == {usual[0][0]}
    return met >= FEWEST and same >= NEARLY_ALL * met
