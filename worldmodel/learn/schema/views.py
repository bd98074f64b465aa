"""Lists that show all records which their call asks for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.schema import Schema, Site, View
from worldmodel.derive.store import Key, Layout, Store
from worldmodel.derive.values import flatten, freeze, is_number, is_scalar
from worldmodel.steps import OK, Step

FEWEST = 3
NEARLY = 0.95
"""The share of the lists whose items all have the value of an argument, and of items that have a field, at least."""
SORTED = 0.99
"""The share of neighbours that are in order, at least."""
MOSTLY = 0.7
"""The same, where the argument and the field have one name."""
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
        view = _view(path, sites[(tool, path)], shown, schema.implied.get(tool, ()))
        if view is not None:
            narrows = _narrows(tool, view, conversations, layout)
            found[tool].append(msgspec.structs.replace(view, narrows=narrows))
    return {tool: tuple(views) for tool, views in found.items()}


def _view(path: str, site: Site, shown: Asked, implied: Sequence[str]) -> View | None:
    sizes = Counter(len(items) for _, items in shown if items)
    total = sum(n * size for size, n in sizes.items())
    if not total or len(shown) < FEWEST:
        return None
    longest = max(sizes)
    cut = sizes[longest] >= FEWEST and sizes[longest] > sizes[longest - 1] and longest > 1
    fields = Counter(name for _, items in shown for item in items for name in item)
    usual = tuple(name for name in site.fields if fields[name] >= NEARLY * total)
    names = sorted({name for arguments, _ in shown for name in arguments})
    filters, loose = {name: name for name in implied if name in site.fields}, []
    for name in [name for name in names if name not in filters]:
        field, always = _filter(name, shown)
        if field is not None:
            filters[name] = field
            loose += [] if always else [field]
    order = tuple(_order([items for _, items in shown if len(items) > 1], usual))
    return View(path, site, filters, usual, longest if cut else 0, loose=tuple(loose), order=order)


def _order(lists: Sequence[list[Any]], fields: Sequence[str], most: int = 2) -> Iterable[str]:
    """The fields by which the items of all lists are sorted: the one that rises most often, and one among its ties."""
    pairs = [pair for items in lists for pair in zip(items, items[1:], strict=False)]
    for _ in range(most):
        best: tuple[int, str] | None = None
        for field in fields if len(pairs) >= FEWEST else ():
            values = [(one.get(field), other.get(field)) for one, other in pairs]
            flat = [value for pair in values for value in pair]
            if not (all(map(is_number, flat)) or all(isinstance(value, str) for value in flat)):
                continue
            up, down = sum(a < b for a, b in values), sum(a > b for a, b in values)
            if min(up, down) <= (1 - SORTED) * len(pairs) and max(up, down) >= max(FEWEST, 0.3 * len(pairs)):
                found = max(up, down), field if up > down else f"-{field}"
                best = found if best is None or found[0] > best[0] else best
        if best is None:
            return
        yield best[1]
        name = best[1].removeprefix("-")
        pairs = [(one, other) for one, other in pairs if one[name] == other[name]]


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
