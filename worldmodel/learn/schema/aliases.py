"""Fields that two tools give one name and that are not the same."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

from worldmodel.derive.values import is_number
from worldmodel.learn.schema.instances import Instance, value_at

FEWEST = 3
SAME, NEVER_SAME = 0.6, 0.1
"""A field of the session is the same from so many agreeing pairs on; one of a record is another up to so many."""
RECURRING = 3
"""How often pairs of values that stand for each other are met in the mean; a name that was changed is met less."""
_Place = tuple[str, str]


def aliases(
    keys: Mapping[_Place, Sequence[str]], found: Mapping[_Place, Sequence[Instance]], writes: Set[str] = frozenset()
) -> dict[tuple[_Place, str], str]:
    """By (site, field): another name for a field that the other sites of its type show otherwise. `keys` has the sites
    of one record type. What tools that are among `writes` show has often just changed: where others can be compared,
    only they are.

    Two sites show one field where the second repeats what the first said, unless it writes. Of records with a key, an
    order is also given by the form of the values (one date as 2025-03-14 and as 14.03.2025), and by values that stand
    for each other (one department as FIN and as Finance).
    """
    seen: dict[str, list[tuple[Any, int, _Place, Any]]] = defaultdict(list)
    for site, key in keys.items():
        for instance in found[site]:
            record = (instance.conversation, *(value_at(instance, source) for source in key))
            for name, value in instance.frozen.items():
                if name and f"field/{name}" not in key and value is not None:
                    seen[name].append((record, instance.at, site, value))
    out: dict[tuple[_Place, str], str] = {}
    for name, sightings in seen.items():
        count = Counter(site for _, _, site, _ in sightings)
        order = sorted(count, key=lambda site: (site[0] in writes, -count[site], site))
        groups = _group(order, _Compared(sightings, any(keys[site] for site in count), writes))
        for group in groups[1:]:
            out.update({(site, name): f"{name}@{group[0][0]}" for site in group})
    return out


def _group(order: Sequence[_Place], compared: _Compared) -> list[list[_Place]]:
    """Sites that show one field, together. A site that cannot be compared is of the first group. One that agrees with
    several joins them, unless it writes: then it is of the first of them."""
    groups: list[list[_Place]] = []
    for site in order:
        agreeing = [group for group in groups if compared.agree(site, group)]
        unlike = [group for group in groups if group not in agreeing and compared.differ(site, group)]
        others = [group for group in groups if group not in agreeing and group not in unlike]
        if not agreeing and not others:
            groups.append([site])
            continue
        into = (agreeing or others)[0]
        into.append(site)
        for group in agreeing[1:] if site[0] not in compared.writes else ():
            into.extend(group)
            groups.remove(group)
    return groups


class _Compared:
    """What sites say of one record next to each other, under one name of a field."""

    def __init__(self, sightings: list[tuple[Any, int, _Place, Any]], keyed: bool, writes: Set[str]) -> None:
        self.writes = writes
        self._keyed = keyed
        self._met = _neighbours(sightings)
        self._values: dict[_Place, set[Any]] = defaultdict(set)
        for _, _, site, value in sightings:
            self._values[site].add(value)

    def agree(self, site: _Place, group: Sequence[_Place]) -> bool:
        """Whether the second often repeats what the first said."""
        share = [sum(a == b for a, b in self._met[pair]) / len(self._met[pair]) for pair in self._pairs(site, group)]
        return any(s > NEVER_SAME if self._keyed else s >= SAME for s in share)

    def differ(self, site: _Place, group: Sequence[_Place]) -> bool:
        """Whether it is known, of those that do not agree, that they show two fields."""
        if _counted(self._values[site], set[Any]().union(*(self._values[other] for other in group))):
            return True
        pairs = self._pairs(site, group)
        if not self._keyed or not pairs:
            return bool(pairs)
        both_ways = len(pairs) > 1 and len({(min(p), max(p)) for p in pairs}) < len(pairs)
        left, right = self._values[site], set[Any]().union(*(self._values[other] for other in group))
        met = [m if p[0] == site else m[::-1] for p in pairs for m in self._met[p]]
        return (
            both_ways
            or _written_apart(set(map(_form, left)), set(map(_form, right)))
            or all(_turned(self._met[p]) >= (1 - NEVER_SAME) * len(self._met[p]) for p in pairs)
            or not left & right and _translated(met)
        )

    def _pairs(self, site: _Place, group: Sequence[_Place]) -> list[tuple[_Place, _Place]]:
        """The ordered pairs that are met often enough; of two reads if there are any."""
        pairs = [p for other in group for p in ((site, other), (other, site)) if len(self._met[p]) >= FEWEST]
        return [p for p in pairs if p[0][0] not in self.writes and p[1][0] not in self.writes] or pairs


def _neighbours(sightings: list[tuple[Any, int, _Place, Any]]) -> dict[tuple[_Place, _Place], list[tuple[Any, Any]]]:
    """By pair of sites, what both said where the second showed a record next after the first."""
    met: dict[tuple[_Place, _Place], list[tuple[Any, Any]]] = defaultdict(list)
    ordered = sorted(sightings, key=lambda one: (str(one[0]), one[1]))
    for before, after in zip(ordered, ordered[1:], strict=False):
        if before[0] == after[0] and before[2] != after[2]:
            met[(before[2], after[2])].append((before[3], after[3]))
    return met


def _turned(met: Sequence[tuple[Any, Any]]) -> int:
    """How often the second said the same words otherwise."""
    return sum(a != b and _words(a) == _words(b) for a, b in met)


def _translated(met: Sequence[tuple[Any, Any]]) -> bool:
    """Whether texts that recur stand for each other, one for one."""
    ways = Counter(met)
    left, right = {a for a, _ in ways}, {b for _, b in ways}
    recurs = len(ways) > 1 and sum(ways.values()) >= RECURRING * len(ways)
    return recurs and len(left) == len(right) == len(ways) and all(isinstance(v, str) for v in left | right)


def _counted(left: set[Any], right: set[Any]) -> bool:
    """Whether one is lists and the other their lengths, or any numbers: `comments` in a ticket and in an overview."""
    return any(
        all(map(is_number, numbers)) and all(isinstance(v, tuple) and v[:1] == ("l",) for v in lists)
        for numbers, lists in ((left, right), (right, left))
    )


def _words(value: Any) -> list[str] | None:
    """The words of a text, whatever their order: `Kern, Ada` and `Ada Kern` are one name."""
    return sorted(re.findall(r"\w+", value.casefold())) if isinstance(value, str) else None


def _form(value: Any) -> str:
    """How a value is written: a letter for runs of letters, a digit for runs of digits, and what stands between."""
    if isinstance(value, str):
        return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", value[:64]))
    return "9n" if is_number(value) else type(value).__name__


def _written_apart(left: set[str], right: set[str], most: int = 4) -> bool:
    """Whether two sets of forms are two ways to write numbers, dates or codes; words alone say nothing."""
    return not left & right and max(len(left), len(right)) <= most and all("9" in form for form in left | right)
