"""The field that says which record an answer shows, where its values have the form of identifiers.

Other keys are found by what they explain (`records`). That fails for records that writes change all the time, and for
answers of writes, which are never given again; there the form of the values and the names of arguments say more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence, Set
from typing import Any

from worldmodel.derive.values import key_of
from worldmodel.learn.schema.instances import Instance, difference

FEWEST_VALUES = 3
NEARLY_ALL = 0.95
MOST_OTHERS = 0.1
"""The share of values that may have another form: random letters and digits may be letters alone."""
OFTEN = 0.5
"""Answers in which the field must be, at least: an object without it is no record."""
FEWEST_PAIRS = 3
STAYS = 0.1
"""The share of fields that may differ between two answers about one record with no write between them."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_NUMBERED = frozenset("id uid uuid number no nr num code ref reference key sku".split())
"""Last words of names whose values are identifiers even where they are plain numbers."""
_ID = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9#][\w#/:-]{1,62}\w")
_NO_ID = re.compile(r"\d{4}-\d\d.*|\d+([.,]\d+)?[A-Za-z]{1,4}|.*[a-z]\d{1,2}:\d\d|\d{1,2}:\d\d.*")
"""Dates and times, and numbers with a unit."""


def looks_like_id(name: str, value: Any) -> bool:
    """Whether a value has the form of an identifier: letters and digits without a space; or digits under such a name
    as `order_no`."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    text = str(value)
    if text.isdigit():
        words = _WORDS.findall(name)
        return len(text) >= 3 and bool(words) and words[-1].lower() in _NUMBERED
    return _ID.fullmatch(text) is not None and _NO_ID.fullmatch(text) is None


def identifying(instances: Sequence[Instance], names: Set[str], writes: bool) -> str | None:
    """The field whose value identifies each object of a site. None if there is none, or if two answers about one object
    differ although nothing was written between them.

    The id of a whole answer is one that the call named or created; that of an item in an answer may be any. `names` are
    the names of all arguments of all tools, and `writes` says whether the tool may write.
    """
    nested = any(mark in instances[0].placed.path for mark in ("[]", "{}"))
    order = dict.fromkeys(n for i in instances[:100] for n in i.placed.fields)
    fields = [name for name in order if _identifies(name, instances)]
    told = {n for n in fields if _share_echoed(n, instances) >= NEARLY_ALL}
    new = {n for n in fields if writes and _is_fresh(n, instances)}
    fresh = {n for n in new if _is_asked(n, instances, names)}
    fields = [n for n in fields if n not in new - fresh and (nested or n in told or n in fresh)]
    if not fields:
        return None
    held = {n: sum(i.frozen.get(n) is not None for i in instances) for n in fields}

    def mark(name: str) -> tuple[bool, bool, int, bool, int]:
        within, anywhere = (sum(_violations(name, other, instances, conversation) for other in fields if other != name)
                            for conversation in (True, False))  # fmt: skip
        return name not in fresh, held[name] < NEARLY_ALL * len(instances), within, name not in told, anywhere

    best = min(fields, key=mark)
    return best if _stays(best, instances) else None


def _identifies(name: str, instances: Sequence[Instance]) -> bool:
    """Whether a field's values look like ids nearly always, and the field is there often."""
    values = [(i.conversation, value) for i in instances if (value := i.placed.fields.get(name)) is not None]
    good = {(cid, str(value)) for cid, value in values if looks_like_id(name, value)}
    bad = sum(not looks_like_id(name, value) for _, value in values)
    return bad <= MOST_OTHERS * len(values) and len(values) >= OFTEN * len(instances) and len(good) >= FEWEST_VALUES


def _is_fresh(name: str, instances: Sequence[Instance]) -> bool:
    """Whether nobody had said the value before the answer did, nearly always."""
    new = [text in i.new for i in instances if (text := key_of(i.placed.fields.get(name))) is not None]
    return sum(new) >= NEARLY_ALL * len(new)


def _is_asked(name: str, instances: Sequence[Instance], names: Set[str]) -> bool:
    """Whether calls name such a value: an argument has the field's name, or later calls have its values."""
    return name in names or sum(key_of(i.placed.fields.get(name)) in i.minted for i in instances) >= FEWEST_VALUES


def _share_echoed(name: str, instances: Sequence[Instance]) -> float:
    held = [i for i in instances if name in i.frozen]
    return sum(key_of(i.placed.fields.get(name)) in i.echoed for i in held) / len(held)


def _violations(one: str, other: str, instances: Sequence[Instance], within: bool) -> int:
    """How many values of one field stand beside several values of another, in one conversation or in all."""
    beside: dict[Any, set[Any]] = defaultdict(set)
    for i in instances:
        beside[(i.conversation if within else "", i.frozen.get(one))].add(i.frozen.get(other))
    return sum(len(values) > 1 for values in beside.values())


def _stays(name: str, instances: Sequence[Instance]) -> bool:
    """Whether two answers about one record are mostly the same where nothing was written between them."""
    last: dict[Any, Instance] = {}
    shares: list[float] = []
    for i in instances:
        mark = (i.conversation, i.frozen.get(name))
        before = last.get(mark)
        if before is not None and before.written == i.written:
            share = difference(before.frozen, i.frozen, {name})
            if before.at == i.at and share > 0:
                return False
            shares.append(share)
        last[mark] = i
    return len(shares) < FEWEST_PAIRS or sum(shares) <= STAYS * len(shares)
