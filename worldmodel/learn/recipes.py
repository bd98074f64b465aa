"""Expressions for one field, searched over what a situation offers and counted on all its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from worldmodel.derive.expressions import (
    Absent,
    Append,
    Build,
    Call,
    Choice,
    Concat,
    Const,
    Each,
    Expression,
    First,
    FirstItem,
    Items,
    Linear,
    Product,
    Remove,
    Source,
    evaluate,
    item_row,
    looked,
)
from worldmodel.derive.rules import Slot
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import contains
from worldmodel.derive.values import ABSENT, UNKNOWN, amount_in, freeze, is_number, is_scalar, shown
from worldmodel.learn.columns import Table
from worldmodel.learn.guards import grow, settled
from worldmodel.learn.rows import FEWEST, GOOD, PRECISION, Found, Rows, rank
from worldmodel.learn.search.formulas import formulas
from worldmodel.learn.search.functions import functions, masks, texts
from worldmodel.learn.search.lookups import lookups
from worldmodel.learn.search.selections import selections, sizes

KEPT = 0.7
"""How often the last value that a record was shown with must be right to be used."""
SELECTED = 0.5
"""How often the choice of the records in a list must be right to be used: a model can hardly do better."""
LISTED = tuple(f"{of}{kind}/" for kind in ("view", "among") for of in ("", "len(", "matches("))
"""How the names of sources start that hold the records of a list, or their number."""
MOST_ITEMS = 4
NAMES_NOBODY = 4
"""Shorter texts say nothing of a person (as `generate.shapes.LONG_ENOUGH`)."""
FEWEST_FOLLOWED = 8
"""So many calls must know something of a record for what is open to be searched in these alone."""
FEW_VALUES = 8
"""A field with at most so many values may be a table of constants, however well a formula does."""
MOST_CASES = 6
"""Different formulas among which a tree may choose."""


def find(rows: Rows, targets: Sequence[Any], deep: bool = True) -> Found | None:
    """The best expression for `targets`; None where none is right often enough. Where all of them are amounts in texts
    ("14.35"), also one for the numbers."""
    found = _find(rows, targets, deep)
    if not deep or found is not None and found.support == len(targets):
        return found
    amounts = [amount for target in targets if (amount := amount_in(target)) is not None]
    other = _find(rows, amounts, deep) if targets and len(amounts) == len(targets) else None
    if other is None or found is not None and worth(found) >= worth(other):
        return found
    grouped = any("," in target for target in targets)
    written = Call("grouped_fixed", (other.expression,)) if grouped else Call("fixed", (other.expression, Const(2)))
    return rows.judge(written, targets, range(len(targets)))


def _find(rows: Rows, targets: Sequence[Any], deep: bool) -> Found | None:
    at = range(len(targets))
    best = _best(rows, targets, at, deep)
    if best is not None and best.precision >= GOOD:
        return _with_rest(rows, targets, best, deep)
    if deep:
        chosen = _choice(rows, targets, best)
        if best is not None and len({freeze(t) for t in targets}) <= FEW_VALUES:
            plain = _choice(rows, targets, None, constants=True)
            if plain is not None and (chosen is None or worth(plain) > worth(chosen)):
                chosen = plain
        kept = best is not None and least(best.expression) < PRECISION and best.precision >= least(best.expression)
        if chosen is not None and (best is None or worth(chosen) > worth(best)):
            if not (kept and best is not None and best.support > 1.1 * chosen.support):
                return _or_last_shown(rows, targets, chosen, best) if kept and best is not None else chosen
    return best if best is not None and best.precision >= least(best.expression) else None


def least(expression: Expression) -> float:
    """How often an expression must be right. What a record showed last is used also where others change it now and
    then: nothing else is known of the field, and a world sticks to what it said."""
    if _is_listed(expression):
        return SELECTED
    return KEPT if isinstance(expression, Source) and expression.name.startswith("rec/") else PRECISION


def _is_listed(expression: Expression | None) -> bool:
    """Whether an expression, or the first of its options, gives the records of a list or their number."""
    if isinstance(expression, First):
        return _is_listed(expression.options[0])
    return isinstance(expression, Source) and expression.name.startswith(LISTED)


def _or_last_shown(rows: Rows, targets: Sequence[Any], chosen: Found, best: Found) -> Found:
    """A choice, and where it says nothing what was shown last: a world that was asked before answers again."""
    both = rows.judge(First((chosen.expression, best.expression)), targets, range(len(targets)))
    return both if both.precision >= PRECISION else chosen


def worth(found: Found | Slot) -> float:
    """Of two expressions, the one with more right rows is taken, but a wrong row weighs as much as eight right ones.
    For the records of a list it weighs as much as one: no other source knows them better."""
    return found.support - (1 if _is_listed(found.expression) else 8) * found.against


def _with_rest(rows: Rows, targets: Sequence[Any], best: Found, deep: bool) -> Found:
    """Another expression for the rows of which the best one knows nothing."""
    open_ = [i for i in range(len(targets)) if evaluate(best.expression, rows.rows[i]) is UNKNOWN]
    if len(open_) < max(5, 0.03 * len(targets)) or len(open_) == len(targets):
        return best
    followed = [i for i in open_ if any(n.startswith("rec/") for n in rows.rows[i])]
    parts = [open_]
    if FEWEST_FOLLOWED <= len(followed) < 0.7 * len(open_):  # a first read shows what nothing before it says
        parts.append(followed)
    options = [best]
    for part in parts:
        other = find(rows.part(part), [targets[i] for i in part], deep)
        if other is not None and other.precision >= PRECISION and other.support >= FEWEST:
            rest = other.expression.options if isinstance(other.expression, First) else (other.expression,)
            options.append(rows.judge(First((best.expression, *rest)), targets, range(len(targets))))
    return max(options, key=worth)


def _best(rows: Rows, targets: Sequence[Any], at: Sequence[int], deep: bool) -> Found | None:
    """The best of what is found in some rows. One list or object is met in many searches, and its fields in each."""

    def search() -> Found | None:
        options = [o for o in _options(rows, targets, at, deep) if o.support >= FEWEST]
        return max(options, key=lambda o: (worth(o), -_size(o.expression)), default=None)

    chosen = [rows.rows[i] for i in at]
    return rows.known.searched(chosen, [targets[i] for i in at], (deep, bool(rows.passed)), search)


def _size(expression: Expression) -> int:
    """How much an expression says: of two that are right alike, the plainer one is taken."""
    if isinstance(expression, Const | Absent):
        return 0
    if isinstance(expression, Source):
        kind, steps, length = rank(expression.name)
        return 10 + 200 * kind + 100 * steps + length
    return 4000 + len(repr(expression))


def _options(rows: Rows, targets: Sequence[Any], at: Sequence[int], deep: bool) -> list[Found]:
    counts = Counter(freeze(targets[i]) for i in at)
    if not counts:
        return []
    value, n = counts.most_common(1)[0]
    example = next(targets[i] for i in at if freeze(targets[i]) == value)
    constant = Absent() if example is ABSENT else Const(example)
    found = [Found(constant, n, len(at) - n)]
    if found[0].precision == 1.0:
        return found
    found += direct(rows, targets, at)[:3]
    if any(o.precision >= GOOD and o.support >= FEWEST for o in found) or not deep:
        return found
    present = [i for i in at if targets[i] is not ABSENT]
    kinds = Counter(type(targets[i]) for i in present)
    search: dict[type, Callable[..., Iterable[Expression]]] = {
        int: formulas, float: formulas, str: texts, list: lists, dict: builds,
    }  # fmt: skip
    kind = max(kinds, key=lambda k: kinds[k], default=None)
    searches = [search[kind]] if kind in search else []
    more = {str: [masks, named_items], list: [selections], int: [sizes]}
    searches += more.get(kind, []) if kind is not None else []
    for way in [*searches, functions, lookups]:
        found += [rows.judge(e, targets, at) for e in way(rows, targets, present)]
        if any(o.precision >= GOOD and o.support >= max(FEWEST, 0.9 * len(at)) for o in found):
            break
    return found


def direct(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Found]:
    """Sources that are the target itself, the best first."""
    hits: Counter[str] = Counter()
    for i in at:
        hits.update(rows.sources(i, freeze(targets[i])))
    top = sorted(hits, key=lambda name: (-hits[name], rank(name)))[:12]
    found = [rows.judge(Source(name), targets, at) for name in top]
    order = {name: rank(name) for name in top}
    return sorted(found, key=lambda o: (-worth(o), order[o.expression.name]))  # type: ignore[union-attr]


def seldom(rows: Rows, targets: Sequence[Any]) -> Found | None:
    """What a gap of a text says that was hardly ever seen: what the call says, or else always the same, if it is too
    short to name anybody. A longer text, which one or two conversations have, may be private and is not kept."""
    said = [found for found in direct(rows, targets, range(len(targets))) if not found.against]
    same = len({freeze(t) for t in targets}) == 1 and len(shown(targets[0])) < NAMES_NOBODY
    return said[0] if said else Found(Const(targets[0]), len(targets), 0) if same else None


# ----- lists and objects


def lists(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Lists that are another one with an item more or less, or that have one item for each of another."""
    at = [i for i in at if isinstance(targets[i], list)][:400]
    sources = Counter(n for i in at[:200] for n, v in rows.rows[i].items() if isinstance(v, list))
    out: list[Expression] = _items(rows, targets, at)
    known: dict[tuple[bool, tuple[int, ...]], Found | None] = {}
    if out and rows.judge(out[0], targets, at).support >= GOOD * len(at):
        return out
    for name in sorted(sources, key=lambda n: (n.startswith("all/"), -sources[n], rank(n)))[:8]:
        if f"items({name})" in sources:  # the same list with more in its items
            continue
        found = list(_edits(rows, targets, at, name, known))
        each = _each(rows, targets, at, name)
        found += [] if each is None else [each]
        out += found
        if any(rows.judge(e, targets, at).support >= GOOD * len(at) for e in found):
            break
    return out


def _items(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Objects of which there are always as many: lines of a bill, each with a recipe of its own."""
    sizes = {len(targets[i]) for i in at}
    size = sizes.pop() if len(sizes) == 1 else 0
    if not 0 < size <= MOST_ITEMS or len(at) < FEWEST or not all(isinstance(v, dict) for i in at for v in targets[i]):
        return []
    part = rows.part(at)
    items = [_build(part, [targets[i][k] for i in at]) for k in range(size)]
    return [Items(tuple(item for item in items if item is not None))] if None not in items else []


def _edits(
    rows: Rows, targets: Sequence[Any], at: Sequence[int], name: str,
    known: dict[tuple[bool, tuple[int, ...]], Found | None],
) -> Iterable[Expression]:  # fmt: skip
    """The list `name` with an item more or less. `known` has the items that were found for other lists, by whether they
    come first, and the rows: several sources may hold one list."""
    grown: dict[bool, list[int]] = {True: [], False: []}
    shrunk: list[tuple[int, Any]] = []
    more: list[int] = []
    swapped: list[tuple[int, Any]] = []
    for i in at:
        old, new = rows.rows[i].get(name), targets[i]
        if not isinstance(old, list):
            continue
        if len(new) == len(old) + 1:
            for first in (False, True):
                if freeze(new[1:] if first else new[:-1]) == freeze(old):
                    grown[first].append(i)
        elif len(new) > len(old) and old and freeze(new[: len(old)]) == freeze(old):
            more.append(i)
        elif len(new) == len(old) and new and freeze(new) != freeze(old):
            gone = [v for v in old if freeze(v) not in {freeze(w) for w in new}]
            if len(gone) == 1 and freeze([v for v in old if v != gone[0]]) == freeze(new[:-1]):
                swapped.append((i, gone[0]))
        elif len(new) == len(old) - 1:
            gone = [v for v in old if freeze(v) not in {freeze(w) for w in new}]
            if len(gone) == 1:
                shrunk.append((i, gone[0]))
    for first, chosen in grown.items():
        if len(chosen) >= FEWEST:
            place = (first, tuple(chosen))
            if place not in known:
                items = [targets[i][0 if first else -1] for i in chosen]
                deep = any(isinstance(v, dict | int | float) for v in items)
                known[place] = find(rows.part(chosen), items, deep)
            item = known[place]
            if item is not None:
                yield Append(name, item.expression, first)
    if len(more) >= FEWEST:
        both = more + grown[False]
        part = rows.part(both)
        tail = [targets[i][len(rows.rows[i][name]) :] for i in both]
        lengths = Counter(n for i in both for n, v in rows.rows[i].items() if isinstance(v, list))
        for source in sorted(lengths, key=lambda n: (n != name, -lengths[n], rank(n)))[:4]:
            each = _each(part, tail, range(len(both)), source)
            if each is not None:
                yield Concat(name, each)
    for source in _naming(rows, shrunk):
        yield Remove(name, source)
    yield from _additions(rows, targets, at, name, _naming(rows, [*shrunk, *swapped], fewest=2)[:1])


def _additions(
    rows: Rows, targets: Sequence[Any], at: Sequence[int], name: str, gone: Sequence[str]
) -> Iterable[Expression]:
    """Lists that have what an argument says, added where they had it not, also without what another says. What they
    were before is known of a few rows only; what they have afterwards says more."""
    held = Counter(n for i in at for n, v in rows.rows[i].items() if n.startswith("arg/") and is_scalar(v)
                   and contains(targets[i], v))  # fmt: skip
    for item in sorted(held, key=lambda n: (-held[n], rank(n)))[:2]:
        for base in (name, *(f"without({name}|{source})" for source in gone if source != item)):
            option = Append(base, Source(item), once=True)
            exact = sum(freeze(evaluate(option, rows.rows[i])) == freeze(targets[i]) for i in at)
            if exact >= (2 if base != name else 1) and held[item] >= max(FEWEST, 0.8 * len(at)):
                yield option


def _naming(rows: Rows, gone: Sequence[tuple[int, Any]], fewest: int = FEWEST) -> list[str]:
    """The arguments that name the items that are gone from a list."""
    held: Counter[str] = Counter()
    for i, item in gone:
        inside = {freeze(item)} | ({freeze(v) for v in item.values()} if isinstance(item, dict) else set())
        held.update(n for n, v in rows.rows[i].items()
                    if is_scalar(v) and freeze(v) in inside and n[:4] in ("arg/", "ans/"))  # fmt: skip
    return sorted(held, key=lambda n: (-held[n], rank(n)))[:2] if len(gone) >= fewest else []


def _each(rows: Rows, targets: Sequence[Any], at: Sequence[int], name: str) -> Expression | None:
    part: list[Row] = []
    items: list[Any] = []
    held = [(source, targets[i]) for i in at if isinstance(source := rows.rows[i].get(name), list)]
    if 2 * sum(len(source) == len(target) for source, target in held) < len(held):
        return None
    for i in at:
        source = rows.rows[i].get(name)
        if isinstance(source, list) and source and len(source) == len(targets[i]) and len(part) < 300:
            part += [{**rows.rows[i], **item_row(one)} for one in source]
            items += targets[i]
    if len(items) < FEWEST or not all(isinstance(v, dict) for v in items):
        return None
    item = _build(Rows(part, known=rows.known), items)
    return None if item is None or "item/" not in repr(item) else Each(name, item)  # else it says the same of all


def named_items(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """A field of that item of a list which a tree picks: the one that an error is about.

    Items before the named one passed, and so did all items of the rows in `rows.passed` (calls that went well).
    """
    at = at[:400]
    hits: Counter[tuple[str, str]] = Counter()
    for i in at:
        for name, value in rows.rows[i].items():
            if isinstance(value, list) and value and all(isinstance(v, dict) for v in value[:50]):
                hits.update((name, f) for f in {f for v in value[:50] for f, x in v.items() if x == targets[i]})
    out: list[Expression] = []
    for (name, field), n in sorted(hits.items(), key=lambda p: (-p[1], rank(p[0][0])))[:2]:
        if n < max(FEWEST, 0.8 * len(at)):
            continue
        part: list[Row] = []
        labels: list[str] = []
        for i in at:
            for item in rows.rows[i].get(name) or ():
                named = item.get(field) == targets[i]
                part.append({**rows.rows[i], **item_row(item)})
                labels.append("1" if named else "0")
                if named:
                    break
        for row in rows.passed[:150]:
            items = row.get(name)
            for item in items if isinstance(items, list) else ():
                part.append({**row, **item_row(item)})
                labels.append("0")
        if len(part) > 1500:
            part, labels = part[:: len(part) // 1500 + 1], labels[:: len(labels) // 1500 + 1]
        out.append(FirstItem(name, grow(Table(part), labels), field))
    return out


def builds(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    at = [i for i in at if isinstance(targets[i], dict)][:400]
    if len(at) < FEWEST:
        return []
    built = _build(rows.part(at), [targets[i] for i in at])
    return [] if built is None else [built]


def _build(rows: Rows, items: Sequence[Any]) -> Build | None:
    """An object whose every field has an expression."""
    names = list(dict.fromkeys(n for item in items if isinstance(item, dict) for n in item))
    if not names or len(names) > 40 or not all(isinstance(item, dict) for item in items):
        return None
    columns = {name: [item.get(name, ABSENT) for item in items] for name in names}
    at = range(len(items))
    plain = {name: _best(rows, columns[name], at, deep=False) for name in names}
    fields: dict[str, Expression] = {}
    for name in sorted(names, key=lambda n: (f := plain[n]) is not None and f.precision >= GOOD):  # the hard ones first
        held = plain[name]
        if (held is None or held.precision < GOOD) and all(isinstance(v, dict) for v in columns[name]):
            inner = _build(rows, columns[name])
            if inner is not None and (held is None or worth(rows.judge(inner, columns[name], at)) > worth(held)):
                fields[name] = inner
                continue
        deep = all(is_scalar(v) or v is ABSENT for v in columns[name])
        found = _best(rows, columns[name], at, deep=True) if deep else plain[name]
        if found is None or found.precision < least(found.expression):
            return None
        fields[name] = found.expression
    return Build({name: fields[name] for name in names})


# ----- choices


def _choice(
    rows: Rows, targets: Sequence[Any], best: Found | None, sure: float = PRECISION, constants: bool = False
) -> Found | None:
    """A tree over constants, sources and formulas: which of them holds where. `constants`: over these alone."""
    size = len(targets)
    if size < 8:
        return None
    options: list[Expression] = []
    counts = Counter(freeze(t) for t in targets)
    for value, n in counts.most_common(12):
        if n >= max(3, 0.03 * size):  # a value that is rarer is somebody's own, not a constant
            example = next(t for t in targets if freeze(t) == value)
            options.append(Absent() if example is ABSENT else Const(example))
    some: Sequence[int] = range(size)
    found = [] if constants else [o for o in direct(rows, targets, some) if o.support >= FEWEST][:5]
    if best is not None and best.support >= FEWEST and not isinstance(best.expression, Const | Absent):
        found = [best, *found]
    left = [
        i
        for i in some
        if not constants
        and not any(freeze(evaluate(o.expression, rows.rows[i])) == freeze(targets[i]) for o in found[:1])
    ]
    left = [i for i in left if targets[i] is not ABSENT]  # that is an option already
    distinct = 2
    for _ in range(MOST_CASES):
        if len(left) < max(FEWEST, 0.03 * size):
            break
        again = _best(rows, targets, left, deep=True)
        if again is not None and isinstance(again.expression, Const) and is_number(again.expression.value):
            left = [i for i in left if freeze(targets[i]) != freeze(again.expression.value)]  # it is an option already
            distinct = 3  # the two last of many numbers fit a formula by chance
            continue
        if again is None or isinstance(again.expression, Const | Absent):
            break
        reached = {freeze(targets[i]) for i in left
                   if freeze(evaluate(again.expression, rows.rows[i])) == freeze(targets[i])}  # fmt: skip
        if again.support < max(FEWEST, 0.1 * (again.support + again.against)) or len(reached) < distinct:
            break
        found.append(rows.judge(again.expression, targets, some))
        left = [i for i in left if freeze(evaluate(again.expression, rows.rows[i])) != freeze(targets[i])]
    options = sorted([o.expression for o in found] + options, key=_size)  # the plainer of two that are equal
    if not options:
        return None
    labels = []
    values = [[freeze(evaluate(o, rows.rows[i])) for i in some] for o in options]
    ranks = {k: sum(values[k][i] == freeze(targets[i]) for i in some) for k in range(len(options))}
    order = sorted(ranks, key=lambda k: -ranks[k])
    for i in some:
        goal = freeze(targets[i])
        labels.append(next((str(k) for k in order if values[k][i] == goal), "?"))
    sources = [k for k, o in enumerate(options) if not isinstance(o, Const | Absent)]
    sources = [] if any(isinstance(o, Absent) for o in options) else sources  # whether there is a value is known
    some = [i for i in some if labels[i] != "?" or not sources or any(values[k][i] is not UNKNOWN for k in sources)]
    if len(some) < 8:  # where nothing is known of what the value follows from, nothing is learned of it
        return None
    looks = any(isinstance(o, Append) and isinstance(o.item, Build) and _sums(o.item) for o in options)
    seen = Rows([looked(options, row) for row in rows.rows]) if looks else rows
    tree = grow(seen.table, labels, some, conversations=rows.conversations)
    right = {str(k): [value == freeze(targets[i]) for i, value in enumerate(values[k])] for k in range(len(options))}
    fields = {str(k): o.name for k, o in enumerate(options) if isinstance(o, Source) and o.name.startswith("rec/")}
    tree = settled(tree, list(some), seen.rows, right, fields)
    choice: Expression = Choice(tree, tuple(options), sure, looks)
    spare = [k for k in sources if ranks[k] >= max(FEWEST_FOLLOWED, 0.5 * size)
             and ranks[k] == sum(value is not UNKNOWN for value in values[k])]  # fmt: skip
    if spare:  # what was never wrong is also right where the tree asks for what is not known
        choice = First((choice, *(options[k] for k in sorted(spare, key=lambda k: -ranks[k]))))
    return rows.judge(choice, targets, range(size))


def _sums(item: Build) -> bool:
    return any(isinstance(inner, Linear | Product) for inner in item.fields.values())
