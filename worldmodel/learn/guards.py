"""Decision trees over general tests of a situation. Every split must pay for its own description (MDL)."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from worldmodel.derive.rules import ToolRules
from worldmodel.derive.schema import EPISODE, Schema
from worldmodel.derive.situation import FACT, Row
from worldmodel.derive.trees import Leaf, Split, Test, Tree, leaf_of, value_of
from worldmodel.derive.values import ABSENT, UNKNOWN, is_date, is_number
from worldmodel.learn.columns import EPISODE_WIDE, Table, cost
from worldmodel.learn.rows import Recorded
from worldmodel.steps import OK

DEEPEST = 9
MOST_CHECKS = 16
"""How many checks may follow each other."""
PURE = 0.95
"""The share of one label on the side of a split that sets it apart."""
KNOWN_PRICE = 3.0
"""Bits for asking whether a source is known that a test above has used."""
LEAK = 0.2
"""A guard rests on what all conversations share if it is wrong on so many more of its calls without."""
AS_GOOD = 0.02
"""A tree without such sources is taken if it leaves at most this share more of the labels' bits open."""
MORE_SPLITS = 3
"""So many splits more it may have."""
PLAIN = ("arg/", "odd/", "known/", "missing/", "rec/", "pick/", "prev/same")
_WORD = re.compile(r"[^\W_\d]{2,}")
FEWEST_KNOWN, MOST_KNOWN = 20, 0.95
"""Rows, and the most of all, that must know a record for a tree of their own."""
FEW_VALUES = 12
"""A field with more values names or counts something; it is no state."""
FEWEST_CHANGES = 3
"""The conversations in which a state changes, at least: a field that never does says what a thing is."""
FIRM, FEWEST_REFUSED = 0.8, 3
"""The share of a refusal in a leaf, and how often it was seen there, at least, if other tools are to learn from it."""
BY_CHANCE = 1e-4
"""A value that is missing among successes with at least this probability may be missing by chance."""


def is_plain(test: Test) -> bool:
    """Whether a test asks what most rules are about: the call's own arguments and the records that they name, and of
    two sources only those that have a word in common. There are few such tests, so choosing one takes fewer bits."""
    if not test.left.startswith(PLAIN) or ">" in test.left:
        return False
    if not test.against_source:
        return True
    right = str(test.right)
    return right.startswith(PLAIN) and ">" not in right and bool(_words(test.left) & _words(right))


@lru_cache(maxsize=10_000)
def _words(name: str) -> frozenset[str]:
    """The words of a source's field."""
    return frozenset(_WORD.findall(name.rpartition("/")[2].lower()))


def grow(
    table: Table, labels: Sequence[str], at: Sequence[int] | None = None, conversations: Sequence[str] = (),
    checks: bool = False,
) -> Tree:  # fmt: skip
    """A tree for `labels` of the rows `at` (all of them by default).

    With `checks`, a tree that sets one label apart after another (as a system checks one condition after another) is
    grown too, and the one with the shorter description is taken: a split that separates the labels best can spread the
    rows of one check over many branches.
    """
    index = np.arange(len(table.rows)) if at is None else np.asarray(at, dtype=int)
    names = sorted({labels[i] for i in index})
    numbers = {name: k for k, name in enumerate(names)}
    onehot = np.zeros((len(labels), len(names)), dtype=np.float32)
    for i in index:
        onehot[i, numbers[labels[i]]] = 1.0
    tests, matrix = table.tests() if len(names) > 1 else ([], np.zeros((len(labels), 0), dtype=bool))
    costs = np.array([cost(t) for t in tests], dtype=np.float32)
    wide = np.array([t.left.startswith(EPISODE_WIDE) for t in tests], dtype=bool)
    plain = np.array([is_plain(t) and not table.is_somebodys(t) for t in tests], dtype=bool)
    favoured = np.array([table.favoured is not None and table.favoured(t) for t in tests], dtype=bool)

    def leaf(rows: np.ndarray) -> Leaf:
        counts = onehot[rows].sum(axis=0)
        seen = tuple(dict.fromkeys(conversations[i] for i in rows[:50]))[:3] if conversations else ()
        return Leaf({names[k]: int(n) for k, n in enumerate(counts) if n}, seen)

    def known_above(rows: np.ndarray, used: frozenset[str]) -> tuple[Test, np.ndarray] | None:
        """Whether a source is known at all that was asked for above is no new idea: it costs little to ask."""
        counts = onehot[rows].sum(axis=0)[:, None]
        options = []
        for name in sorted(used & table.columns.keys()):
            holds = np.array([table.columns[name][i] is not UNKNOWN for i in rows])
            if holds.any() and not holds.all():
                yes = onehot[rows[holds]].sum(axis=0)[:, None]
                gain = float((_bits(counts) - _bits(yes) - _bits(counts - yes))[0])
                options.append((gain, name, holds))
        best = max(options, key=lambda option: option[:2], default=None)
        return None if best is None or best[0] <= KNOWN_PRICE else (Test(best[1], "known"), best[2])

    def build(
        rows: np.ndarray, depth: int, used: frozenset[str] = frozenset(), narrow: bool = False, apart: bool = False
    ) -> Tree:
        """`narrow`: without tests of what is EPISODE_WIDE. `apart`: tests that set one label apart come first."""
        counts = onehot[rows].sum(axis=0)
        if depth == (MOST_CHECKS if apart else DEEPEST) or (counts > 0).sum() < 2 or not len(tests):
            return leaf(rows)
        inside = matrix[rows].astype(np.float32)
        yes = onehot[rows].T @ inside
        sizes = inside.sum(axis=0)
        total = len(rows)
        useful = (sizes > 0) & (sizes < total)
        if narrow:
            useful &= ~wide
        if not useful.any():
            return leaf(rows)
        bits = _bits(counts[:, None])[0] - _bits(yes) - _bits(counts[:, None] - yes)
        among = np.where(plain, int((useful & plain).sum()), int(useful.sum()))
        among = np.where(favoured, int((useful & favoured).sum()), among)
        gain = np.where(useful, bits - costs - np.log2(among + 1) - 1.0, -1.0)
        if apart:
            pure = np.maximum(yes.max(axis=0) / np.maximum(sizes, 1), (counts[:, None] - yes).max(axis=0)
                              / np.maximum(total - sizes, 1)) >= PURE  # fmt: skip
            gain = np.where(pure, gain, -1.0) if (gain[pure] > 0).any() else gain
        best = int(np.argmax(gain))
        chosen, holds = tests[best], matrix[rows, best]
        if gain[best] <= 0:
            known = known_above(rows, used)
            if known is None:
                return leaf(rows)
            chosen, holds = known
        if chosen.op in ("<=", ">") and not chosen.against_source:
            chosen, holds = _sharpened(chosen, table, onehot, rows)
        below = used | ({chosen.left, str(chosen.right)} if chosen.against_source else {chosen.left})
        whole = Split(chosen, *(build(part, depth + 1, below, narrow, apart) for part in (rows[holds], rows[~holds])))
        if not narrow and chosen.left.startswith(EPISODE_WIDE):
            other = build(rows, depth, used, True, apart)
            left, splits = _left_open(other), _splits(other) - _splits(whole)
            if left <= _left_open(whole) + AS_GOOD * float(_bits(counts[:, None])[0]) and splits <= MORE_SPLITS:
                return other
        return whole

    tree = build(index, 0)
    if checks and len(names) > 2 and isinstance(tree, Split):
        in_order = build(index, 0, apart=True)
        sizes = int(plain.sum()), len(tests)
        tree = min(tree, in_order, key=lambda t: _left_open(t) + _described(t, *sizes))
    return tree


def _described(tree: Tree, plain: int, tests: int) -> float:
    """The bits that the tests of a tree take."""
    if not isinstance(tree, Split):
        return 0.0
    own = cost(tree.test) + float(np.log2((plain if is_plain(tree.test) else tests) + 1)) + 1.0
    return own + _described(tree.yes, plain, tests) + _described(tree.no, plain, tests)


def grow_guard(table: Table, labels: Sequence[str], at: Sequence[int], conversations: Sequence[str]) -> Tree:
    """A tree for `labels`, which may first ask whether the record that a call names is known.

    Where a record was never read, its part in the outcome does not show, and such rows hide a rule that holds in the
    others. If a tree of the rows that know the record is right more often on held-out ones of these, it answers them.
    Rows that do not know it are answered by a tree of all rows.
    """
    plain = grow(table, labels, at, conversations, checks=True)
    apart = held_out(conversations) if len(conversations) else np.zeros(len(labels), dtype=bool)
    places = np.asarray(at, dtype=int)
    train = places[~apart[places]]
    best: tuple[int, str, np.ndarray] | None = None
    shared = None
    for name, column in table.columns.items():
        if not name.startswith("known/"):
            continue
        knows = np.array([value is True for value in column], dtype=bool)
        known, judged = train[knows[train]], places[apart[places] & knows[places]]
        if len(known) < FEWEST_KNOWN or len(judged) < 5 or len(known) > MOST_KNOWN * len(train):
            continue
        if len({labels[i] for i in known}) < 2:
            continue
        shared = shared or grow(table, labels, train, checks=True)
        own = grow(table, labels, known, checks=True)
        better = sum(
            (leaf_of(own, table.rows[i])[0].best()[0] == labels[i])
            - (leaf_of(shared, table.rows[i])[0].best()[0] == labels[i])
            for i in judged
        )
        if better > 0 and (best is None or better > best[0]):
            best = better, name, knows
    if best is None:
        return plain
    own = grow(table, labels, places[best[2][places]], conversations, checks=True)
    return Split(Test(best[1], "is"), own, plain)


def grow_for_new(
    table: Table, labels: Sequence[str], at: Sequence[int], conversations: Sequence[str],
    facts: Sequence[frozenset[str]],
) -> Tree:  # fmt: skip
    """A guard that does not take a record which is new for one that cannot be.

    Where all conversations share the records of a catalogue, a success shows its record, so that in the recording all
    calls of records that are no facts are refusals. That says nothing of a record that was added since, or held out. If
    a guard rests on this, it answers the calls of facts, and others are answered by one that sees no facts. `facts`
    has, by row, the links whose records are facts.
    """
    plain = grow_guard(table, labels, at, conversations)
    places = np.asarray(at, dtype=int)
    best: tuple[float, str, list[Row]] | None = None
    for link in sorted({link for i in at for link in facts[i]}):
        known = [i for i in at if link in facts[i]]
        if len(known) < FEWEST_KNOWN or len(known) == len(at):
            continue
        hidden = [_without(row, link) if link in facts[i] else row for i, row in enumerate(table.rows)]
        right = [
            sum(leaf_of(plain, rows[i])[0].best()[0] == labels[i] for i in known) / len(known)
            for rows in (table.rows, hidden)
        ]
        if right[0] - right[1] > LEAK and (best is None or right[0] - right[1] > best[0]):
            best = right[0] - right[1], link, hidden
    if best is None:
        return plain
    _, link, hidden = best
    own = grow(table, labels, [i for i in places if link in facts[i]], conversations, checks=True)
    return Split(Test(FACT + link, "is"), own, grow_guard(Table(hidden, table.favoured), labels, at, conversations))


class Refusals:
    """What the refusals of each outcome class hang on in the tools that were seen to refuse often enough. Another tool
    that says the same seldom hangs on the same: an id that is no booking, nobody who is logged in."""

    def __init__(self, tools: Mapping[str, ToolRules], schema: Schema) -> None:
        self._types = {(tool, link.name): link.type for tool, links in schema.links.items() for link in links}
        self._reasons: dict[str, set[Any]] = defaultdict(set)
        for rules in tools.values():
            for leaf, path in _leaves(rules.guard):
                label, share = leaf.best()
                outcome = rules.forms[label].outcome
                if outcome != OK and share >= FIRM and leaf.n >= FEWEST_REFUSED:
                    self._reasons[outcome].update(self._reason(rules.tool, test) for test in path)

    def favoured(self, rules: ToolRules) -> Callable[[Test], bool] | None:
        """The tests that what a tool seldom says may hang on; None where its guard leaves no such thing open."""
        open_ = {rules.forms[label].outcome for leaf, _ in _leaves(rules.guard) for label in leaf.counts
                 if leaf.best()[0] != label} - {OK}  # fmt: skip
        reasons = set().union(*(self._reasons.get(outcome, ()) for outcome in open_))
        return (lambda test: self._reason(rules.tool, test) in reasons) if reasons else None

    def _reason(self, tool: str, test: Test) -> tuple[Any, ...]:
        """A test, in words that mean the same for other tools."""
        kind, _, rest = test.left.partition("/")
        link, _, field = rest.rpartition("/") if kind == "rec" else (rest, "", "")
        type_ = self._types.get((tool, link)) if kind in ("rec", "known") else None
        if type_ and (kind == "known" or test.op == "known"):
            return "known", type_
        if type_:
            return type_, field, test.op, repr(test.right)
        return test.left, test.op, repr(test.right)


def _leaves(tree: Tree, above: tuple[Test, ...] = ()) -> Iterator[tuple[Leaf, tuple[Test, ...]]]:
    """The leaves of a tree, each with the tests on the way to it."""
    if isinstance(tree, Split):
        yield from _leaves(tree.yes, (*above, tree.test))
        yield from _leaves(tree.no, (*above, tree.test))
    elif tree.counts:
        yield tree, above


def learn_untried(
    conversations: Mapping[str, Sequence[Recorded]], schema: Schema, writes: Collection[str]
) -> dict[str, dict[str, tuple[Any, ...]]]:
    """For each tool that writes, by the source of a record's field: common values with which it never succeeded.

    Production's agent may know better than to try (to return what was not shipped), so the system's refusals are not in
    the traces, and a guard says that it succeeds. Considered are states: fields with few values, which change. Of their
    values, it is those so common among the records that chance would hardly leave them out of the conversations with a
    success (`BY_CHANCE`).
    """
    common: dict[tuple[str, str], Counter[Any]] = defaultdict(Counter)
    changed: Counter[tuple[str, str]] = Counter()
    done: dict[tuple[str, str], Counter[Any]] = defaultdict(Counter)
    for recorded in conversations.values():
        met: dict[tuple[str, Any, str], Any] = {}
        moved, tried = set[tuple[str, str]](), set[tuple[str, str, Any]]()
        for one in recorded:
            for type_, key, name, value in one.shown:
                if type_ != EPISODE and isinstance(value, str | bool):
                    moved |= {(type_, name)} if met.setdefault((type_, key, name), value) != value else set()
            if one.step.tool in writes and one.acted:
                for source, value in one.row.items():
                    if source.startswith("rec/") and ">" not in source and isinstance(value, str | bool):
                        tried.add((one.step.tool, source, value))
        for (type_, _, name), value in met.items():
            common[(type_, name)][value] += 1
        changed.update(moved)
        for tool, source, value in tried:
            done[(tool, source)][value] += 1
    few = {place: counts for place, counts in common.items()
           if 1 < len(counts) <= FEW_VALUES and changed[place] >= FEWEST_CHANGES}  # fmt: skip
    types = {(tool, link.name): link.type for tool, links in schema.links.items() for link in links if not link.over}
    found: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for (tool, source), seen in sorted(done.items(), key=lambda item: item[0]):
        link, _, field = source.removeprefix("rec/").rpartition("/")
        counts = few.get((types.get((tool, link), ""), field), Counter())
        missed = [v for v, n in counts.items() if v not in seen
                  and (1 - n / counts.total()) ** seen.total() < BY_CHANCE]  # fmt: skip
        if missed:
            found[tool][source] = tuple(sorted(missed, key=str))
    return dict(found)


def _without(row: Row, link: str) -> Row:
    """A situation in which nobody knows the record of a link."""
    gone = (f"rec/{link}/", f"rec/{link}>", f"pick/{link}/", f"known/{link}>", "law/")
    left = {name: v for name, v in row.items() if not any(part in name for part in gone)}
    return {**left, f"known/{link}": False}


def _left_open(tree: Tree) -> float:
    """The bits that the labels take in the leaves."""
    if isinstance(tree, Split):
        return _left_open(tree.yes) + _left_open(tree.no)
    return float(_bits(np.array([[n] for n in tree.counts.values()], dtype=float))[0]) if tree.counts else 0.0


def _splits(tree: Tree) -> int:
    return 1 + _splits(tree.yes) + _splits(tree.no) if isinstance(tree, Split) else 0


def _sharpened(test: Test, table: Table, onehot: np.ndarray, rows: np.ndarray) -> tuple[Test, np.ndarray]:
    """A threshold moved to where it separates the labels of these rows best."""
    fits = is_date if is_date(test.right) else is_number
    found = [v if fits(v := value_of(table.rows[i], test.left)) else None for i in rows]
    scale = sorted({v for v in found if v is not None})
    place = {value: at for at, value in enumerate(scale)}
    above = test.op == ">"
    unknown = -1 if above else len(scale)
    values = np.array([unknown if v is None else place[v] for v in found], dtype=int)
    order = np.argsort(values, kind="stable")
    counts = onehot[rows][order].cumsum(axis=0)
    ends = np.flatnonzero(np.diff(values[order]))
    if not len(ends):
        low_side = values < bisect_right(scale, test.right)
        return test, ~low_side if above else low_side
    low = counts[ends].T
    cost_ = _bits(low) + _bits(counts[-1][:, None] - low)
    last = int(values[order[ends[int(np.argmin(cost_))]]])
    if last < 0:  # known at all, rather than more than some number
        return test, values >= bisect_right(scale, test.right)
    cut = scale[last]
    tidy = int(cut) if isinstance(cut, float) and cut.is_integer() else cut
    return msgspec.structs.replace(test, right=tidy), values > last if above else values <= last


def _bits(counts: np.ndarray) -> np.ndarray:
    """The bits that labels with these counts (classes x sets) take: n times their entropy."""
    total = counts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(counts > 0, counts * np.log2(np.maximum(counts, 1e-9)), 0.0).sum(axis=0)
        whole = np.where(total > 0, total * np.log2(np.maximum(total, 1e-9)), 0.0)
    return whole - part


def held_out(conversations: Sequence[str]) -> np.ndarray:
    """Which rows are kept back to score a tree: those of every fourth conversation, by its name."""
    marks: dict[str, bool] = defaultdict(bool)
    for cid in set(conversations):
        marks[cid] = hashlib.blake2b(cid.encode(), digest_size=2).digest()[0] % 4 == 0
    return np.array([marks[cid] for cid in conversations], dtype=bool)

def settled(
    tree: Tree, at: list[int], rows: Sequence[Row], right: dict[str, list[bool]], fields: dict[str, str]
) -> Tree:
    """The tree with each leaf saying for which option most of its rows speak: several may give the same value.

    Where most rows show something new, and a field of a record was right whenever it was shown before (`fields`: the
    options that are one), the field is what a later call shows: a code that is issued once stays.
    """
    if isinstance(tree, Split):
        yes = [i for i in at if tree.test.holds(rows[i])]
        no = [i for i in at if not tree.test.holds(rows[i])]
        parts = [settled(part, of, rows, right, fields) for part, of in ((tree.yes, yes), (tree.no, no))]
        return Split(tree.test, *parts)
    counts = {label: sum(holds[i] for i in at) for label, holds in right.items()}
    best = max(counts, key=lambda label: (counts[label], -int(label)))
    left = len(at) - counts[best]
    if left > counts[best]:
        for label, name in fields.items():
            before = [i for i in at if rows[i].get(name, UNKNOWN) not in (UNKNOWN, ABSENT)]
            if before and all(right[label][i] for i in before):
                absent = sum(rows[i].get(name, UNKNOWN) is ABSENT for i in at)
                stays = Leaf({label: len(before)}, tree.seen_in)
                return Split(Test(name, "absent"), Leaf({"?": absent}, tree.seen_in), stays) if absent else stays
    return Leaf({**({best: counts[best]} if counts[best] else {}), **({"?": left} if left else {})}, tree.seen_in)
