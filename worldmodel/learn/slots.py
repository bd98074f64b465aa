"""The recipe of one slot of an answer, and what follows from the other slots of the same answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from worldmodel.derive.expressions import Call, Choice, Const, Expression, First, evaluate
from worldmodel.derive.rules import OWN, Slot
from worldmodel.derive.situation import Row
from worldmodel.derive.values import ABSENT, freeze, is_number, is_scalar, shown
from worldmodel.learn.recipes import find, least, seldom, worth
from worldmodel.learn.rows import Found, Rows

ACCEPTED = 0.8
"""The least share of held-out transitions that a recipe must be right on, where it says something."""
FEWEST_ROWS = 3
SURE = 0.97
"""How many of the answers the recipe of a slot must give for others to follow from it."""
FEW_VALUES = 12
"""A field with at most so many different values is one of kinds (`open`, `paid`)."""
FEWEST_MORE = 3
"""How many more answers what follows from other slots must give."""


class Parts(NamedTuple):
    """The rows of a form: all of them, those that recipes are searched on, and those that they are judged by."""

    whole: Rows
    train: Rows
    test: Rows
    train_at: Sequence[int]
    test_at: Sequence[int]


def learn_slot(path: str, targets: Sequence[Any], parts: Parts, in_text: bool) -> Slot:
    """The recipe of one slot, searched on three quarters of the conversations and judged by the others. A recipe that
    fails there is not used: the slot stays open. A tree or a table that passes is made again of all rows."""
    learned = [targets[k] for k in parts.train_at]
    found, deep = find(parts.train, learned), True
    places = 0
    if in_text and (found is None or found.support < len(learned)):
        places = _places(learned)
        numbers = [number_in(t, places) for t in learned]
        if any(n is not t for n, t in zip(numbers, learned, strict=True)):
            other = find(parts.train, numbers)
            if other is not None and (found is None or other.support > found.support):
                found, learned, targets = other, numbers, [number_in(t, places) for t in targets]
            else:
                places = 0
    if found is None and in_text and len(targets) < FEWEST_ROWS:
        found = seldom(parts.whole, targets)
    if found is None:
        return Slot(path, None)
    score = None
    if parts.test_at:
        judged = _judged(parts, found.expression, targets)
        score = judged.precision if judged.support + judged.against else None
        if score is not None and _fails(score, found.expression):
            for plainer in _plainer(parts, learned, found):
                found, judged, deep = plainer, _judged(parts, plainer.expression, targets), False
                if judged.support and not _fails(judged.precision, found.expression):
                    break
            else:
                return Slot(path, None, held_out=score)
            score = judged.precision
        if deep and (isinstance(found.expression, Choice | First) or "Lookup(" in repr(found.expression)):
            found = find(parts.whole, targets) or found
        else:
            found = parts.whole.judge(found.expression, targets, range(len(targets)))
    written = Call("fixed", (found.expression, Const(places))) if places else found.expression
    if not places and _gives_fractions(written, targets, parts.whole.rows):
        written = Call("whole" if all(type(t) is int for t in targets) else "plain", (written,))
    return Slot(path, written, found.support, found.against, score)


def _fails(score: float, expression: Expression) -> bool:
    """Whether a recipe that is right so often on conversations kept back is no good."""
    return score < min(ACCEPTED, least(expression) - 0.1)


def _plainer(parts: Parts, learned: Sequence[Any], failed: Found) -> Iterator[Found]:
    """What a recipe that failed may hide: it without what it says where its first part is silent, and, of a tree that
    fitted too much, a plain source."""
    expression, at = failed.expression, range(len(learned))
    if isinstance(expression, First):
        for n in range(len(expression.options) - 1, 0, -1):
            kept = First(expression.options[:n]) if n > 1 else expression.options[0]
            yield parts.train.judge(kept, learned, at)
    plain = find(parts.train, learned, deep=False)
    if plain is not None and plain.expression != expression:
        yield plain


def _gives_fractions(expression: Expression, targets: Sequence[Any], rows: Sequence[Row]) -> bool:
    """Whether an expression gives 2.0 where the targets write whole numbers as 2, as JavaScript does."""
    if not all(map(is_number, targets)) or any(isinstance(t, float) and t.is_integer() for t in targets):
        return False
    if not any(type(t) is int for t in targets):
        return False
    given = (evaluate(expression, row) for row in rows[:200])
    return any(isinstance(value, float) and value.is_integer() for value in given)


def _judged(parts: Parts, expression: Expression, targets: Sequence[Any]) -> Found:
    return parts.test.judge(expression, [targets[k] for k in parts.test_at], range(len(parts.test_at)))


def _places(texts: Sequence[Any]) -> int:
    """How many places all numbers have after their point, if some end in a zero: `2.50`. Else 0."""
    found = {len(str(t).rpartition(".")[2]) if re.fullmatch(r"-?\d+\.\d+", str(t)) else 0 for t in texts}
    return found.pop() if len(found) == 1 and any(str(t).endswith("0") for t in texts) else 0


def number_in(text: Any, places: int = 0) -> Any:
    """A gap's text as the number that reads the same, or that has so many `places` there."""
    if not isinstance(text, str):
        return text
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if places or shown(value) == text else text
    return text


def with_siblings(
    slots: Sequence[Slot], targets: Mapping[str, Sequence[Any]], parts: Parts, in_text: bool
) -> list[Slot]:
    """The slots, of which those that their recipes do not give everywhere follow from the others where that gives more:
    what remains from what was spent, a warning from a share."""
    size = len(parts.whole.rows)
    sure = {s.path for s in slots if s.expression is not None and worth(s) >= SURE * size}
    sure = {path for path in sure if any(is_scalar(v) and v is not ABSENT for v in targets[path])}
    if len(sure) < 2 or len(sure) == len(slots):
        return list(slots)
    whole = [_own(row, {path: targets[path][i] for path in sure}) for i, row in enumerate(parts.whole.rows)]
    rows = Rows(whole, parts.whole.conversations)
    own = Parts(rows, rows.part(parts.train_at), rows.part(parts.test_at), parts.train_at, parts.test_at)
    found = []
    for slot in slots:
        if slot.path not in sure and _may_follow(targets[slot.path]):
            other = learn_slot(slot.path, targets[slot.path], own, in_text)
            if OWN in repr(other.expression) and worth(other) >= max(worth(slot), 0) + max(FEWEST_MORE, 0.02 * size):
                slot = msgspec.structs.replace(other, own=True)
        found.append(slot)
    return found


def _may_follow(targets: Sequence[Any]) -> bool:
    """Whether a field is one that others give: a number, or one of a few values; not a name or a text."""
    return len({freeze(t) for t in targets}) <= FEW_VALUES or all(is_number(t) or t is ABSENT for t in targets)


def _own(row: Row, values: Mapping[str, Any]) -> Row:
    said = {name: value for name, value in row.items() if name.startswith("arg/")}
    return {**said, **{OWN + path: value for path, value in values.items() if is_scalar(value) or value is ABSENT}}
