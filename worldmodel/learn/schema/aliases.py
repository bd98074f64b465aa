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
        if len(count) < 2:
            continue
        agree, total, turned, met = _neighbours(sightings)
        values = {site: {v for _, _, at, v in sightings if at == site} for site in count}
        forms = {site: set(map(_form, own)) for site, own in values.items()}
        keyed = any(keys[site] for site in count)
        first = max(sorted(count), key=lambda site: (site[0] not in writes, count[site]))
        joined, grew = {first}, True
        while grew:
            grew = False
            for site in sorted(set(count) - joined, key=lambda site: (site[0] in writes, site)):
                pairs = [(a, b) for other in joined for a, b in ((site, other), (other, site))]
                tried = [p for p in pairs if total[p] >= FEWEST]
                tried = [p for p in tried if p[0][0] not in writes and p[1][0] not in writes] or tried
                if keyed:
                    sure = len(tried) > 1 and len({(min(p), max(p)) for p in tried}) < len(tried)
                    apart = _written_apart(forms[site], set().union(*(forms[other] for other in joined)))
                    apart = apart or all(turned[p] >= (1 - NEVER_SAME) * total[p] for p in tried)
                    if not values[site] & set[Any]().union(*(values[other] for other in joined)):
                        apart = apart or _translated([m if p[0] == site else m[::-1] for p in tried for m in met[p]])
                    same = not tried or not (sure or apart) or any(agree[p] > NEVER_SAME * total[p] for p in tried)
                else:
                    same = not tried or any(agree[p] >= SAME * total[p] for p in tried)
                if same:
                    joined.add(site)
                    grew = True
        out.update({(site, name): f"{name}@{site[0]}" for site in count if site not in joined})
    return out


def _neighbours(
    sightings: list[tuple[Any, int, _Place, Any]],
) -> tuple[Counter[Any], Counter[Any], Counter[Any], dict[Any, list[tuple[Any, Any]]]]:
    """Of each pair of sites: how often the second said the same of a record as the first, how often it showed one next,
    how often it said the same words otherwise, and what both said."""
    met: dict[tuple[_Place, _Place], list[tuple[Any, Any]]] = defaultdict(list)
    agree: Counter[tuple[_Place, _Place]] = Counter()
    total: Counter[tuple[_Place, _Place]] = Counter()
    turned: Counter[tuple[_Place, _Place]] = Counter()
    ordered = sorted(sightings, key=lambda one: (str(one[0]), one[1]))
    for before, after in zip(ordered, ordered[1:], strict=False):
        if before[0] == after[0] and before[2] != after[2]:
            total[(before[2], after[2])] += 1
            agree[(before[2], after[2])] += before[3] == after[3]
            turned[(before[2], after[2])] += before[3] != after[3] and _words(before[3]) == _words(after[3])
            met[(before[2], after[2])].append((before[3], after[3]))
    return agree, total, turned, met


def _translated(met: Sequence[tuple[Any, Any]]) -> bool:
    """Whether texts that recur stand for each other, one for one."""
    ways = Counter(met)
    left, right = {a for a, _ in ways}, {b for _, b in ways}
    recurs = len(ways) > 1 and sum(ways.values()) >= RECURRING * len(ways)
    return recurs and len(left) == len(right) == len(ways) and all(isinstance(v, str) for v in left | right)


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
