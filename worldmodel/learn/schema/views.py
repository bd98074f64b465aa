"""Lists that show all records which their call asks for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.layout import Layout, field_name
from worldmodel.derive.schema import LAST_WORD, RECORD, Filter, Schema, Site, View, order_of
from worldmodel.derive.store import Key, Store
from worldmodel.derive.values import flatten, freeze, is_date, is_number, is_scalar
from worldmodel.learn.rows import Recorded
from worldmodel.learn.schema.facts import Shared
from worldmodel.steps import OK, Step

FEWEST = 3
NEARLY = 0.95
"""The share of the lists whose items all have the value of an argument, and of items that have a field, at least."""
SORTED = 0.99
"""The share of neighbours that are in order, at least."""
MOSTLY = 0.7
"""The same, where the argument and the field have one name."""
FEWEST_CLOSED, CLOSED = 8, 0.5
"""How many lists must have been selected from the records that other conversations showed, and which share rightly."""
SURELY_HIDDEN, MOST_KINDS = 30, 20
"""How many items lists must have shown without an argument, and how many values a field of kinds has at most."""
MOST_TRIED = 200
MOST_FIELDS = 3
TELLING = 0.9
"""A test that more of the other items pass tells nothing."""
Asked = list[tuple[Mapping[str, Any], list[Any]]]


def learn_views(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> dict[str, tuple[View, ...]]:
    """By tool: its lists of records that have ids of their own."""
    layout = Layout(schema)
    lists: dict[tuple[str, str], Asked] = defaultdict(list)
    sites = {(s.tool, s.path[:-2]): s for s in schema.sites if s.path.endswith("[]") and s.path.count("[]") == 1
             and "{}" not in s.path and s.keys and all(k.source.startswith("field/") for k in s.keys)}  # fmt: skip
    for steps in conversations.values():
        for step in steps:
            body = layout.read(step.tool, step.content) if step.outcome == OK else None
            for (tool, path), site in sites.items() if body is not None else ():
                items = View(path, site, {}, ()).items(body) if tool == step.tool else None
                if items is not None and all(isinstance(item, dict) for item in items):
                    lists[(tool, path)].append((step.arguments, [dict(flatten(item)) for item in items]))
    found: dict[str, list[View]] = defaultdict(list)
    for (tool, path), shown in sorted(lists.items()):
        site = sites[(tool, path)]
        more: dict[str, str] = {}
        for other in (one for one in schema.sites if one.type == site.type):
            more.update((n, field_name(other, n)) for n in other.fields if field_name(other, n) != field_name(site, n)
                        or n not in site.fields)  # fmt: skip
        view = _view(path, site, shown, (*schema.implied.get(tool, ()), *site.scoped), more)
        if view is not None:
            narrows = _narrows(tool, view, conversations, layout)
            found[tool].append(msgspec.structs.replace(view, narrows=narrows))
    return {tool: tuple(views) for tool, views in found.items()}


def _view(path: str, site: Site, shown: Asked, implied: Sequence[str], more: Mapping[str, str]) -> View | None:
    """`more`: what other answers show of its records, and the list does not, or not so: by name, the record's field."""
    sizes = Counter(len(items) for _, items in shown if items)
    total = sum(n * size for size, n in sizes.items())
    if not total or len(shown) < FEWEST:
        return None
    longest = max(sizes)
    cut = sizes[longest] >= FEWEST and sizes[longest] > sizes[longest - 1] and longest > 1
    fields = Counter(name for _, items in shown for item in items for name in item)
    usual = tuple(name for name in site.fields if fields[name] >= NEARLY * total)
    names = sorted({name for arguments, _ in shown for name in arguments})
    filters, loose, tests = {name: name for name in implied if name in site.fields}, [], {}
    for name in [name for name in names if name not in filters]:
        field, always = _filter(name, shown)
        test = None if field is not None and always else _test(name, shown, usual, field)
        test = _meanings(name, shown, usual) if field is None and test is None else test
        if test is not None:
            tests[name] = test
        elif field is not None:
            filters[name] = field
            loose += [] if always else [field]
        elif name in more:
            tests[name] = Filter((RECORD + more[name],), "same")
    hidden = {name: test for name, field in filters.items()
              if name not in implied and (test := _hidden(name, field, shown)) is not None}  # fmt: skip
    limit = next((n for n in names if n not in filters and n not in tests and _limits(n, shown)), "")
    order = tuple(_order([items for _, items in shown if len(items) > 1], usual))
    return View(path, site, filters, usual, longest if cut else 0, loose=tuple(loose), order=order, tests=tests,
                hidden=hidden, limit=limit)  # fmt: skip


def _hidden(name: str, field: str, shown: Asked) -> Filter | None:
    """The values of a field that lists have only where an argument asks for them."""
    usual = Counter(freeze(item.get(field)) for arguments, items in shown if arguments.get(name) is None
                    for item in items)  # fmt: skip
    asked = [item.get(field) for arguments, items in shown if arguments.get(name) is not None for item in items]
    counts = Counter(map(freeze, asked))
    values = {freeze(v): v for v in asked if freeze(v) not in usual and counts[freeze(v)] >= FEWEST and is_scalar(v)}
    sure = sum(usual.values()) >= SURELY_HIDDEN and len(usual) <= MOST_KINDS
    return Filter((field,), "not", tuple(values.values())) if values and sure else None


def _meanings(name: str, shown: Asked, fields: Sequence[str]) -> Filter | None:
    """The field of which every value that an argument has means one: FIN and Finance."""
    given = [(freeze(value), items) for arguments, items in shown
             if isinstance(value := arguments.get(name), str) and items]  # fmt: skip
    for field in fields:
        found: dict[Any, set[Any]] = defaultdict(set)
        for value, items in given:
            found[value].update(freeze(item.get(field)) for item in items)
        pairs = {value: next(iter(some)) for value, some in found.items() if len(some) == 1}
        several = 1 < len(set(pairs.values())) <= MOST_KINDS and len(given) >= 2 * len(pairs)
        if several and len(pairs) == len(found) and all(isinstance(one, str) for one in pairs.values()):
            return Filter((field,), "means", meanings=tuple(sorted(pairs.items())))
    return None


def _test(name: str, shown: Asked, fields: Sequence[str], field: str | None) -> Filter | None:
    """What an argument asks of the items that does not equal a field: the test that all items pass where it was given,
    and the fewest do elsewhere."""
    said = [(arguments.get(name), items) for arguments, items in shown]
    given = [(value, items) for value, items in said if value is not None and value is not False and items]
    values = [value for value, _ in given]
    others = [item for value, items in said if value is None or value is False for item in items]
    if len(given) < FEWEST:
        return None
    dates = all(map(is_date, values))
    if not dates and all(isinstance(value, str) for value in values) and len({freeze(value) for value in values}) > 1:
        if field is not None and _share(same := Filter((field,), "same"), given) >= NEARLY:
            return same
        return _part(given, fields) if field is None else None
    options: list[Filter] = []
    for one in fields:
        held = [item.get(one) for _, items in given for item in items]
        if all(value is True for value in values):
            if len({freeze(v) for v in held}) == 1 and is_scalar(held[0]):
                options.append(Filter((one,), "is", (held[0],)))
            options.append(Filter((one,), "above"))
        elif (dates or all(map(is_number, values))) and len(set(values)) > 1:
            options += [Filter((one,), "<="), Filter((one,), ">=")]
    kept = [(_passing(option, others, values), option) for option in options if _share(option, given) == 1]
    least, best = min(kept, key=lambda one: one[0], default=(1.0, None))
    return best if least < TELLING else None


def _share(test: Filter, given: Sequence[tuple[Any, list[Any]]]) -> float:
    """Of the lists that an argument was given for, how many have only items that pass a test."""
    return sum(all(test.passes(item, freeze(v)) for item in items) for v, items in given) / len(given)


def _passing(test: Filter, others: Sequence[Any], values: Sequence[Any]) -> float:
    """How many of the items pass that were shown without the argument, for its usual value."""
    goal = sorted(values)[len(values) // 2]
    return sum(test.passes(item, freeze(goal)) for item in others) / max(1, len(others)) if others else 1.0


def _part(given: Sequence[tuple[Any, list[Any]]], fields: Sequence[str]) -> Filter | None:
    """The fields, at most three, of which one has in it what a text argument says."""
    for op in ("holds", "words"):
        chosen: tuple[str, ...] = ()
        best = 0.0
        for _ in range(MOST_FIELDS):
            tried = {field: _held(Filter((*chosen, field), op), given) for field in fields if field not in chosen}
            field = max(tried, key=lambda one: tried[one], default="")
            if not field or tried[field] <= best:
                break
            chosen, best = (*chosen, field), tried[field]
        if chosen and _share(test := Filter(chosen, op), given) >= NEARLY:
            return test
    return None


def _held(test: Filter, given: Sequence[tuple[Any, list[Any]]]) -> float:
    return sum(test.passes(item, freeze(value)) for value, items in given for item in items)


def _limits(name: str, shown: Asked) -> bool:
    """Whether an argument says how many items a list has at most: none has more, and several have as many."""
    given = [(value, len(items)) for arguments, items in shown if type(value := arguments.get(name)) is int]
    full = sum(value == size for value, size in given)
    return full >= FEWEST and len({value for value, _ in given}) > 1 and all(size <= value for value, size in given)


def closed_views(
    conversations: Mapping[str, Sequence[Recorded]], schema: Schema, shared: Shared, writes: set[str]
) -> Schema:
    """The schema with those lists marked that show records which all conversations share: what others have shown of
    these gives the lists that a conversation is shown before it has written."""
    views = {
        tool: tuple(
            msgspec.structs.replace(view, closed=_is_closed(tool, view, conversations, schema, shared, writes))
            for view in some
        )
        for tool, some in schema.views.items()
    }
    return msgspec.structs.replace(schema, views=views)


def _is_closed(
    tool: str, view: View, conversations: Mapping[str, Sequence[Recorded]], schema: Schema, shared: Shared,
    writes: set[str],
) -> bool:  # fmt: skip
    if not set(view.fields) & set(schema.shared.get(view.site.type, ())):
        return False
    layout, tried, right = Layout(schema), 0, 0
    for cid, recorded in conversations.items():
        store = None
        for one in recorded:
            if one.acted and one.step.tool in writes or tried >= MOST_TRIED:
                break
            if one.step.tool != tool or one.step.outcome != OK:
                continue
            store = Store(layout, shared.but_of(cid)) if store is None else store
            found = store.selected(tool, view, one.step.arguments)
            if found is not None:
                tried += 1
                right += freeze(found[0]) == freeze(view.items(layout.read(tool, one.step.content)))
    return tried >= FEWEST_CLOSED and right >= CLOSED * tried


def _order(lists: Sequence[list[Any]], fields: Sequence[str], most: int = 3) -> Iterable[str]:
    """The fields by which the items of all lists are sorted: the one that rises most often, and two among its ties."""
    pairs = [pair for items in lists for pair in zip(items, items[1:], strict=False)]
    for _ in range(most):
        best: tuple[int, str] | None = None
        for name in (*fields, *(LAST_WORD + field for field in fields)) if len(pairs) >= FEWEST else ():
            field, _, compared = order_of(name)
            flat = [value for pair in pairs for value in (pair[0].get(field), pair[1].get(field))]
            texts = all(isinstance(value, str) for value in flat)
            if not texts and (name != field or not all(map(is_number, flat))):
                continue
            values = [(compared(one[field]), compared(other[field])) for one, other in pairs]
            up, down = sum(a < b for a, b in values), sum(a > b for a, b in values)
            if min(up, down) <= (1 - SORTED) * len(pairs) and max(up, down) >= max(FEWEST, 0.3 * len(pairs)):
                found = max(up, down), name if up > down else f"-{name}"
                best = found if best is None or found[0] > best[0] else best
        if best is None:
            return
        yield best[1]
        field, _, _ = order_of(best[1])
        pairs = [(one, other) for one, other in pairs if one[field] == other[field]]


def _filter(name: str, shown: Asked) -> tuple[str | None, bool]:
    """The field of the items that an argument chooses by, and whether its values are always written alike."""
    given = [(arguments.get(name), items) for arguments, items in shown if items]
    asked = [(freeze(value), items) for value, items in given if value is not None and is_scalar(value)]
    hits: Counter[str] = Counter()
    for value, items in asked:
        hits.update(n for n in items[0] if all(n in item and freeze(item[n]) == value for item in items))
    best = max(hits, key=lambda field: (hits[field], field.rpartition(".")[2] == name, field), default=None)
    if best is None:
        return None, True
    named, always = best.rpartition(".")[2] == name, hits[best] >= NEARLY * len(asked)
    sure = len(asked) >= FEWEST and len({value for value, _ in asked}) > 1
    return (best if always and sure or named and hits[best] >= MOSTLY * len(asked) else None), always


def _narrows(tool: str, view: View, conversations: Mapping[str, Sequence[Step]], layout: Layout) -> bool:
    """Whether a call with more filters shows nothing old that an earlier call with fewer did not."""
    tried = failed = 0
    for steps in conversations.values():
        store, earlier = Store(layout), list[tuple[frozenset[Any], set[Key], set[Key]]]()
        for step in steps:
            if step.outcome != OK:
                continue
            body, known = layout.read(step.tool, step.content), set(store.keys.get(view.site.type, ()))
            items = view.items(body) if step.tool == tool else None
            if items is not None:
                asked, keys = view.asked(step.arguments), set(_keys(store, view, items))
                for before, listed, then in earlier:
                    if before < asked:
                        tried, failed = tried + 1, failed + bool(keys - listed - (known - then))
                if not view.is_cut(items, step.arguments):
                    earlier.append((asked, keys, known | keys))
            store.absorb(step.tool, step.arguments, body, "seen")
    return failed <= (1 - NEARLY) * tried


def _keys(store: Store, view: View, items: Sequence[Any]) -> Iterable[Key]:
    return (key for item in items if (key := store.item_key(view.site, item)) is not None)
