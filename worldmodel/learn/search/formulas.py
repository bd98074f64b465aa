"""Numbers that follow from other numbers: sums, products, quotients and exact linear formulas."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from worldmodel.derive.expressions import (
    Append,
    Build,
    Call,
    Choice,
    Concat,
    Const,
    Each,
    Expression,
    First,
    Items,
    Linear,
    Product,
    Quotient,
    Remove,
    Select,
    Source,
    evaluate,
)
from worldmodel.derive.functions import FUNCTIONS
from worldmodel.derive.rules import Form, Law
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import AS_AMOUNT, ZERO_WHERE_MISSING, value_of
from worldmodel.derive.values import ABSENT, UNKNOWN, amount_in, freeze, is_number, is_scalar, text_of
from worldmodel.learn.rows import FEWEST, NO_VALUES, PRECISION, Rows, rank
from worldmodel.learn.search.pairs import OFTEN, exact_pair, modes, pairs
from worldmodel.learn.search.shares import PLACES, SHARE, rounded

SUMMANDS = ("arg/", "sum(items(", "sum(law/", "law/", "sum(arg/", "len(arg/", "rec/", "pick/", "sum(rec/", "len(rec/",
            "item/", "now/", "new/")  # fmt: skip
"""What a law adds up, the likely ones first."""
FLAGS = ("arg/", "each(arg/", "rec/", "pick/", "item/", "new/")
MOST_ROWS, MOST_BASES, MOST_FLAGS, MOST_TERMS, MOST_LAWS = 400, 32, 8, 7, 8
MOST_FITTED = 160
"""Rows that a combination is fitted on."""
MOST_MASKS = 6
"""Sets of rows in which some columns are known that a combination is searched on."""
BEAM = 2
"""First columns that a search starts from."""


def formulas(rows: Rows, targets: Sequence[Any], at: Sequence[int], most: int = 36) -> list[Expression]:
    """Sums, differences and products of two sources, and sparse linear combinations, that are exact."""
    at = [i for i in at if is_number(targets[i])][:400]
    if len(at) < 4 or len({targets[i] for i in at}) < (3 if len(at) < 12 else 2):
        return []
    goal = np.array([float(targets[i]) for i in at])
    names, columns = _numeric(rows, at, most)
    found: list[tuple[int, Expression]] = []
    reliable: list[tuple[int, Expression]] = []

    def offer(expression: Expression, exact: np.ndarray, known: np.ndarray) -> None:
        n = int(exact.sum())
        if n >= FEWEST and n >= PRECISION * known.sum():  # known in few rows, and right in these
            reliable.append((n, expression))
        if n >= max(FEWEST, OFTEN * known.sum()) or (
            n >= max(FEWEST, SHARE * len(at)) and len(np.unique(goal[exact])) >= 3
        ):
            found.append((n, expression))

    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for k, name in enumerate(names):
            known = ~np.isnan(columns[k])
            for shift in _modes(goal - columns[k]):
                offer(Linear(((1.0, name),), shift), np.abs(columns[k] + shift - goal) < 5e-3, known)
            for factor in _factors(columns[k], goal):
                offer(Linear(((factor, name),)), _close(columns[k] * factor, goal), known)
            for shift in _modes(goal + columns[k]):
                offer(Linear(((-1.0, name),), shift), np.abs(shift - columns[k] - goal) < 5e-3, known)
        if not any(n >= 0.9 * len(at) for n, _ in found):
            for expression, exact, known in pairs(goal, names, columns, SHARE):
                offer(expression, exact, known)
        if not any(n >= 0.9 * len(at) for n, _ in found):
            for expression, exact in with_product(goal, names, columns):
                offer(expression, exact, np.ones(len(goal), bool))
        if not any(n >= 0.9 * len(at) for n, _ in found):
            for expression, exact, known in rounded(goal, names, columns):
                offer(expression, exact, known)
    if not any(n >= 0.9 * len(at) for n, _ in found):
        combined = exact_pair(goal, names, columns) or combination(goal, *summands([rows.rows[i] for i in at]))
        if combined is not None:
            found.append((len(at), combined))
    found.sort(key=lambda pair: (-pair[0], len(repr(pair[1]))))
    reliable.sort(key=lambda pair: (-pair[0], len(repr(pair[1]))))
    best = list(dict.fromkeys(e for _, e in found[:4] + reliable[:2]))
    if 0 < (places := _places(goal)) <= PLACES:  # each may have been rounded
        best += [Call("round", (e, Const(places))) for e in best if isinstance(e, Linear | Product | Quotient)]
    return best


def with_product(
    goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], most: int = 14
) -> list[tuple[Expression, np.ndarray]]:
    """A column more or less a product of two others: what is left after a quantity at a price."""
    found: list[tuple[Expression, np.ndarray]] = []
    pairs = [(a, b) for a in range(len(names[:most])) for b in range(a + 1, len(names[:most]))]
    products = np.stack([columns[a] * columns[b] for a, b in pairs]) if pairs else np.zeros((0, len(goal)))
    for k, name in enumerate(names[:most]):
        for sign in (-1.0, 1.0):
            exact = np.abs(columns[k] + sign * products - goal) < 6e-3
            hits = exact.sum(axis=1)
            if len(hits) and hits.max() >= max(FEWEST, 0.3 * len(goal)):
                best = int(np.argmax(hits))
                a, b = pairs[best]
                terms = ((1.0, name), (sign, f"times({names[a]}|{names[b]})"))
                found.append((Linear(terms), exact[best]))
    return found


def _close(values: np.ndarray, goal: np.ndarray) -> np.ndarray:  # but for the noise of floats
    return np.asarray(np.abs(values - goal) <= 1e-9 * np.maximum(1.0, np.abs(goal)))


def _factors(column: np.ndarray, goal: np.ndarray) -> list[float]:
    """The factors that give the goal in many rows, each written as short as it can be."""
    ratios = goal / column
    known = np.isfinite(ratios) & (ratios != 0)
    found: list[float] = []
    values, counts = np.unique(np.round(ratios[known], 4), return_counts=True)
    for rough in values[np.argsort(-counts)][:6]:
        at = known & (np.abs(ratios - rough) < 2e-4 * max(1.0, abs(rough)))
        if at.sum() < FEWEST:
            continue
        middle = float(np.median(ratios[at]))
        for digits in range(10):
            factor = round(middle, digits)
            if factor and _close(column[at] * factor, goal[at]).mean() >= 0.8:
                found.append(factor)
                break
        else:
            found.append(round(middle, 4))
    return found


def _numeric(rows: Rows, at: Sequence[int], most: int) -> tuple[list[str], list[np.ndarray]]:
    counts: Counter[str] = Counter()
    for i in at[:60]:
        counts.update(n for n, v in rows.rows[i].items() if is_number(v) and not n.startswith(("since/", *NO_VALUES)))
        counts.update(n + AS_AMOUNT for n, v in rows.rows[i].items() if amount_in(v) is not None)
    fewest = 0.25 * min(60, len(at))
    names = sorted((n for n, c in counts.items() if c >= fewest or n.startswith(ZERO_WHERE_MISSING) and c >= FEWEST),
                   key=lambda n: (rank(n), -counts[n]))  # fmt: skip
    columns: list[np.ndarray] = []
    kept: list[str] = []
    seen: set[bytes] = set()
    for name in names:
        column = np.array([_as_number(value_of(rows.rows[i], name)) for i in at], dtype=float)
        mark = column.tobytes()
        if mark not in seen and len(kept) < most:
            seen.add(mark)
            kept.append(name)
            columns.append(column)
    return kept, columns


def _as_number(value: Any) -> float:
    """A source in a sum: a field that is not there counts as nothing."""
    return float(value) if is_number(value) else 0.0 if value is ABSENT else np.nan


def _modes(values: np.ndarray) -> list[float]:
    """The value that most of these are, if it is one worth a constant."""
    return [float(value) for value in modes(values[None, :]) if np.isfinite(value)]


# ----- laws: sparse combinations of general columns


@np.errstate(over="ignore", invalid="ignore")  # values of 1e200 have no square
def summands(rows: Sequence[Row], without: str = "") -> tuple[list[str], np.ndarray]:
    """What a law may add up, as names and columns (names x rows, NaN where unknown): numbers, lengths and sums of
    lists, whether a source is a text (1 or 0), and products of two of these. The plain ones come first. `without` is
    an argument of which only the length may be used."""
    counts: Counter[str] = Counter()
    for row in rows[:60]:
        counts.update(n for n, v in row.items() if n.startswith(SUMMANDS) and is_number(v) and not _is_of(n, without))
    usual = [n for n, c in counts.items() if c >= 0.4 * min(60, len(rows))]
    names: list[str] = []
    columns: list[np.ndarray] = []
    seen: set[bytes] = set()
    for name in sorted(usual, key=lambda n: (_place(n), n.count(">"), -counts[n], len(n))):
        column = np.array([_as_number(row.get(name)) for row in rows], dtype=float)
        mark = column.tobytes()
        if mark not in seen and len(names) < MOST_BASES and not isinstance(rows[0].get(name[4:-1]), str):
            seen.add(mark)
            names.append(name)
            columns.append(column)
    bases = len(names)
    for source, text in _flags(rows, without):
        values = [row.get(source, UNKNOWN) for row in rows]
        names.append(f"is({source}|{text})")
        none = 0.0 if source.startswith("arg/") else np.nan
        columns.append(np.array([none if v is UNKNOWN else float(_says(v, text)) for v in values]))
    counted = [b for b, n in enumerate(names) if b >= bases or n.startswith(("arg/", "len("))]
    pairs = [(a, b) for b in counted for a in range(bases) if a < b or a not in counted]
    names += [f"times({names[a]}|{names[b]})" for a, b in pairs]
    columns += [columns[a] * columns[b] for a, b in pairs]
    return names, np.stack(columns) if columns else np.zeros((0, len(rows)))


def _place(name: str) -> int:
    return next(k for k, start in enumerate(SUMMANDS) if name.startswith(start))


def _is_of(name: str, argument: str) -> bool:
    """Whether a source says something of an argument, other than how long it is."""
    return bool(argument) and re.search(rf"arg/{re.escape(argument)}(?![\w-])", name) is not None and name[:4] != "len("


def _flags(rows: Sequence[Row], without: str) -> list[tuple[str, str]]:
    """Sources that are one of a few texts or true or false, with each of these."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for name, value in row.items():
            if name.startswith(FLAGS) and isinstance(value, str | bool):
                values[name][text_of(value)] += 1
    found = []
    for name in sorted(values, key=lambda n: (rank(n), n)):
        counts = values[name]
        if 2 <= len(counts) <= 6 and not _is_of(name, without):
            usual = [t for t, n in counts.most_common() if n >= max(3, 0.03 * len(rows)) and not set(t) & set("()|")]
            found += [(name, text) for text in usual]
    return found[:MOST_FLAGS]


def _says(value: Any, text: str) -> bool:
    return is_scalar(value) and text_of(value) == text


def combination(goal: np.ndarray, names: Sequence[str], matrix: np.ndarray) -> Linear | None:
    """A sum of a few columns that is the goal nearly everywhere it is known: by orthogonal least squares, which adds
    the column that leaves the least open. Columns that are known in the same rows are tried together."""
    known = ~np.isnan(matrix)
    tried: set[bytes] = set()
    for k in np.argsort(-known.sum(axis=1), kind="stable"):
        rows = known[k]
        mark = rows.tobytes()
        if mark in tried or rows.sum() < max(12, 0.3 * len(goal)):
            continue
        if len(tried) == MOST_MASKS:
            break
        tried.add(mark)
        usable = np.flatnonzero(known[:, rows].all(axis=1))
        if not len(usable) or np.ptp(goal[rows]) == 0:
            continue
        some = np.flatnonzero(rows)[:: int(rows.sum()) // MOST_FITTED + 1]
        found = _exact(goal[some], matrix[usable][:, some])
        if found is not None:
            terms, constant = found
            return Linear(tuple((factor, names[usable[at]]) for at, factor in terms), constant)
    return None


Terms = tuple[list[tuple[int, float]], float]
"""(column, factor) of each term, and a constant."""


@np.errstate(over="ignore", invalid="ignore")
def _exact(goal: np.ndarray, matrix: np.ndarray) -> Terms | None:
    """The terms that are exact in most rows; None if no few columns are in 19 of 20."""
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    sizes = (centred**2).sum(axis=1)
    fits = np.where(sizes > 1e-9, (centred @ (goal - goal.mean())) ** 2 / np.maximum(sizes, 1e-9), -1.0)
    for start in np.argsort(-fits, kind="stable")[:BEAM].tolist():
        if not fits[start] > 0:
            break
        left, work, chosen = goal - goal.mean(), centred, [start]
        best: tuple[float, Terms] | None = None
        while len(goal) >= 4 * (len(chosen) + 1):
            found = _fitted(goal, matrix, chosen)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
            direction = work[chosen[-1]] / np.linalg.norm(work[chosen[-1]])
            left = left - (direction @ left) * direction
            work = work - np.outer(work @ direction, direction)
            norms = (work**2).sum(axis=1)
            score = np.where(norms > 1e-8 * sizes + 1e-12, (work @ left) ** 2 / np.maximum(norms, 1e-12), -1.0)
            place = int(np.argmax(score >= score.max() * (1 - 1e-9)))  # the plainest of those that leave as little open
            if score[place] <= 0 or len(chosen) == MOST_TERMS or best is not None and best[0] == 1.0:
                break
            chosen.append(place)
        if best is not None:
            return best[1]
    return None


def _fitted(goal: np.ndarray, matrix: np.ndarray, chosen: Sequence[int]) -> tuple[float, Terms] | None:
    """Short factors for the chosen columns that are exact but in a few rows, which do not count in the fit; before them
    the share of rows in which they are."""
    wide = np.vstack([matrix[chosen], np.ones(len(goal))]).T
    weights = np.ones((len(goal), 1))
    for _ in range(4):
        factors, *_ = np.linalg.lstsq(wide * weights, goal * weights[:, 0], rcond=None)
        wrong = np.abs(wide @ factors - goal)
        if wrong.max() < 1e-6:
            break
        weights = 1 / np.sqrt(np.maximum(wrong, 1e-4))[:, None]
    places = _places(goal)
    tidy = np.round(factors, max(3, places))  # a longer factor would only come near to what is rounded
    terms = [(k, float(f)) for k, f in zip(chosen, tidy[:-1], strict=True) if f]
    share = float((np.abs(wide @ tidy - goal) < 2 * 10.0 ** -max(2, places)).mean())
    return (share, (terms, float(tidy[-1]))) if terms and share >= 0.95 else None


def _places(goal: np.ndarray, most: int = 6) -> int:
    """The decimal places that the numbers are written with."""
    with np.errstate(over="ignore", invalid="ignore"):  # 1e308 cannot be rounded
        return next((d for d in range(most) if np.allclose(np.round(goal, d), goal, rtol=0, atol=1e-9)), most)


def argument_laws(
    rows: Sequence[Row], well: Sequence[int], refused: Sequence[int], told: Sequence[Mapping[int, Any]]
) -> list[Law]:
    """What the numbers in arguments must be: combinations that successes keep to and refusals break. `told` are the
    numbers that refusals name, by row: one of them may say what an argument should have been."""
    laws = []
    counts = Counter(n for i in well for n, v in rows[i].items() if n.startswith(("arg/", "sum(arg/")) and is_number(v))
    for name, n in sorted(counts.items()):
        given = {i: rows[i][name] for i in well if is_number(rows[i].get(name))}
        if n < 12 or len(set(given.values())) < 4 or not any(is_number(rows[i].get(name)) for i in refused):
            continue
        argument = name[name.index("arg/") + 4 :].split(".")[0].rstrip(")")
        for more in (*told, {}):
            targets = {**given, **more}
            at = list(targets)[:: len(targets) // MOST_ROWS + 1]
            found = combination(np.array([float(targets[i]) for i in at]), *summands([rows[i] for i in at], argument))
            if found is None:
                continue
            kept, broken = ([_keeps(found, rows[i], name) for i in places] for places in (well, refused))
            right, wrong = kept.count(True), kept.count(False)
            if broken.count(False) >= FEWEST and right >= 0.9 * (right + wrong):
                laws.append(Law(f"law/{name}", found, name, right, wrong))
                break
    return laws


def _keeps(law: Expression, row: Row, name: str) -> bool | None:
    value = evaluate(law, row)
    return None if value is UNKNOWN or not is_number(row.get(name)) else abs(value - row[name]) < 5e-3


def laws_in(label: str, form: Form) -> list[Law]:
    """The numbers and lists that the slots of a form follow from, as sources for what else the tool says."""
    found: list[Law] = []
    for slot in form.slots:
        if slot.expression is not None and slot.support >= PRECISION * (slot.support + slot.against):
            parts = list(_parts(slot.expression))
            if slot.expression not in parts and (_is_computed(slot.expression) or _is_list(slot.expression)):
                parts.append(slot.expression)
            for number, expression in enumerate(parts):
                name = f"law/{label}/{slot.path}" + (f"~{number}" if number else "")
                found.append(Law(name, expression, slot.path, slot.support, slot.against))
    return found


def novel(laws: Sequence[Law], rows: Sequence[Row], known: Sequence[Law]) -> list[Law]:
    """The laws that say something of some rows that no law before them says. Each has a name of its own: a slot that is
    learned again may follow from its own first law."""
    kept: list[Law] = []
    seen: set[Any] = set()
    names = {law.name for law in known}
    for law in [*known, *laws]:
        mark = tuple(freeze(evaluate(law.expression, row)) for row in rows)
        if isinstance(law.expression, Call) and _is_copy(law.expression, mark, rows):
            continue
        if mark not in seen and len(set(mark) - {UNKNOWN}) >= 2:
            seen.add(mark)
            if law not in known:
                name = law.name
                while name in names:
                    name += "+"
                names.add(name)
                kept.append(msgspec.structs.replace(law, name=name))
    return kept[:MOST_LAWS]


def _is_copy(call: Call, values: Sequence[Any], rows: Sequence[Row]) -> bool:
    """Whether a function gives what it is called with: 3 without its sign is 3."""
    for of in call.of:
        if isinstance(of, Source):
            given = (freeze(value_of(row, of.name)) for row in rows)
            if all(value in (UNKNOWN, before) for value, before in zip(values, given, strict=True)):
                return True
    return False


def _parts(expression: Expression) -> Iterator[Expression]:
    """The sums of several sources that an expression consists of; all of it where it is a list made item by item."""
    if any(isinstance(inner, Each | Items) for inner in _inside(expression)):
        yield expression
    for inner in _inside(expression):
        if isinstance(inner, Linear):
            names = [name for _, name in inner.terms]
            if (len(names) > 1 or "(" in names[0]) and not any("item/" in name for name in names):
                yield inner
        elif isinstance(inner, Call) and inner is not expression and FUNCTIONS[inner.function].gives == "n":
            yield inner


def _is_computed(expression: Expression) -> bool:
    """Whether a number is calculated, in one way or another: what is calculated from it in turn is a second line."""
    match expression:
        case Product() | Quotient():
            return True
        case Linear(terms, constant):
            return len(terms) > 1 or terms[0][0] != 1 or bool(constant)
        case Call(function, _):
            return FUNCTIONS[function].gives == "n"
        case Choice(_, options):
            constants = [o for o in options if isinstance(o, Const) and is_number(o.value)]
            return any(map(_is_computed, options)) or len(constants) == len(options) > 1
        case First(options):
            return _is_computed(options[0])
    return False


def _is_list(expression: Expression) -> bool:
    """Whether a list is chosen or made: what is counted or added up in the same answer follows from it."""
    match expression:
        case Choice(_, options) | First(options):
            return any(isinstance(o, Append | Remove | Concat | Select) or _is_all(o) for o in options)
    return isinstance(expression, Append | Remove | Concat | Select) or _is_all(expression)


def _is_all(expression: Expression) -> bool:
    return isinstance(expression, Source) and expression.name.startswith("all/")


def _inside(expression: Expression) -> Iterator[Expression]:
    """An expression and those that it chooses among or adds to a list."""
    yield expression
    match expression:
        case Append(_, item, _) | Call("whole", (item,)):
            yield from _inside(item)
        case Build(fields):
            for inner in fields.values():
                yield from _inside(inner)
        case First(options):
            yield from _inside(options[0])
        case Choice(_, options):
            for inner in options:
                yield from _inside(inner)
