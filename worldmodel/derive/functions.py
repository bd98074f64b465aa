"""Functions of values that recipes may use: of a text, of a number, of two values, of a list.

A function answers UNKNOWN where its arguments are not of its kind. Each has a sentence for `rehearsal world rules`.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import statistics
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from worldmodel.derive.values import UNKNOWN, freeze, is_number, shown

LARGEST = 1e15
MOST_DIGITS = 12
LONGEST_FORMULA = 200
LONGEST_SPAN = 4000
FORMULA = re.compile(r"[\d\sa-fA-FxXoO_.()+\-*/%^]+", re.ASCII)
"""What a formula is written with: digits of any base, brackets and operators."""


class Function(NamedTuple):
    """`kinds` are the kinds of its arguments: `t` text, `n` number, `l` list, `N` list of numbers, `*` any scalar; and
    `gives` the kind of its result, with `b` for true or false and `*` for anything."""

    kinds: str
    gives: str
    run: Callable[..., Any]
    said: str


def _power(x: Any, y: Any) -> Any:
    return x**y if abs(y) <= 64 and abs(x) <= 1e6 else UNKNOWN


def _rounded(x: Any, digits: Any) -> Any:
    return round(x, int(digits)) if float(digits).is_integer() and 0 <= digits <= MOST_DIGITS else UNKNOWN


def _entered(path: str, step: str) -> str:
    """Where a step leads from a path: `..` leads back, a step that starts with `/` leads from the root."""
    parts = [] if step.startswith("/") else [p for p in path.split("/") if p]
    for part in step.split("/"):
        if part == ".." and parts and parts[-1] not in (".", ".."):
            parts.pop()
        elif part == ".." and parts:
            parts = [*parts[:-1], ".."] if parts[-1] == "." else [*parts, ".."]
        elif part not in ("", ".", ".."):
            parts.append(part)
    return ("/" if step.startswith("/") or path.startswith("/") else "") + "/".join(parts)


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def _calculated(text: str) -> Any:
    """The value of an arithmetic formula: numbers, the four operations, remainders, powers and brackets."""
    text = text.strip()
    if len(text) > LONGEST_FORMULA or not FORMULA.fullmatch(text):  # the parser would print warnings of other texts
        return UNKNOWN
    try:
        return _value(ast.parse(text.replace("^", "**"), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        return UNKNOWN


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and is_number(node.value):
        return node.value
    if isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in OPERATORS:
        of = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
        values = [_value(part) for part in of]
        return UNKNOWN if UNKNOWN in values else OPERATORS[type(node.op)](*values)
    return UNKNOWN


def _day(text: str) -> date:
    """The day of an ISO date or time."""
    return date.fromisoformat(text[:10])


def _days_later(text: str, days: Any) -> Any:
    later = str(_day(text) + timedelta(days=int(days))) + text[10:]
    return later if float(days).is_integer() else UNKNOWN


def _weekdays(first: str, last: str) -> Any:
    """How many days from one to another, both counted, are no Saturday or Sunday."""
    start, days = _day(first), (_day(last) - _day(first)).days + 1
    return sum((start + timedelta(days=k)).weekday() < 5 for k in range(days)) if days <= LONGEST_SPAN else UNKNOWN


def _written(form: str) -> Callable[[str], str]:
    """A function that writes the day of an ISO date or time in a form of strftime; `%-d` has no zero before it."""

    def write(text: str) -> str:
        day = _day(text)
        if len(text) > 10 and text[10] not in "T ":
            raise ValueError(text)
        return day.strftime(form.replace("%-d", str(day.day)))

    return write


def _iso(form: str, text: str) -> str:
    """A day that is written in a form of strftime, as an ISO date."""
    return str(datetime.strptime(text, form).date())


def _fixed(x: Any, digits: Any) -> Any:
    return f"{x:.{int(digits)}f}" if 0 <= digits <= MOST_DIGITS else UNKNOWN


def _following(text: str) -> Any:
    """A text with its last number one higher, as wide as before: `A-009` is followed by `A-010`."""
    before, number, after = re.fullmatch(r"(.*?)(\d*)(\D*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{before}{int(number) + 1:0{len(number)}}{after}" if number else UNKNOWN


def _last_digits(text: str, most: int) -> Any:
    """The number that the last digits of a text are: of its last whole number, at most so many."""
    found = re.search(r"(?<![\d.])(\d{1,15})\D*$", text)
    return int(found[1][-most:]) if found else UNKNOWN


def _first_words(text: str, count: Any) -> Any:
    return " ".join(text.split()[: int(count)])


_MASK = re.compile(r"(\d*)([*\u2022#xX -]+)(\d*|@)")
"""How a text is shown in part: how many of its first letters, the signs that hide the rest, and how many of its last
letters (or `@`: all from there on). A single sign stands for each hidden letter."""


def _masked(text: str, how: str) -> str:
    found = _MASK.fullmatch(how)
    if found is None:
        raise ValueError(f"no way to hide a text: {how}")
    first, last = int(found[1] or 0), text.find("@") if found[3] == "@" else len(text) - int(found[3] or 0)
    if not first < last:
        raise ValueError("nothing is left to hide")
    return text[:first] + found[2] * (last - first if len(found[2]) == 1 else 1) + text[last:]


FUNCTIONS: dict[str, Function] = {
    # of a text
    "upper": Function("t", "t", str.upper, "{0} in upper case"),
    "lower": Function("t", "t", str.lower, "{0} in lower case"),
    "title": Function("t", "t", str.title, "{0} with capital words"),
    "capitalize": Function("t", "t", str.capitalize, "{0} with a capital letter"),
    "strip": Function("t", "t", str.strip, "{0} without spaces around it"),
    "reverse": Function("t", "t", lambda x: x[::-1], "{0} backwards"),
    "length": Function("t", "n", len, "the length of {0}"),
    "words": Function("t", "l", str.split, "the words of {0}"),
    "word_count": Function("t", "n", lambda x: len(x.split()), "the number of words of {0}"),
    "lines": Function("t", "l", str.splitlines, "the lines of {0}"),
    "line_count": Function("t", "n", lambda x: len(x.splitlines()), "the number of lines of {0}"),
    "line_breaks": Function("t", "n", lambda x: x.count("\n") + 1, "the number of line breaks of {0} and one"),
    "first_word": Function("t", "t", lambda x: (x.split() or [UNKNOWN])[0], "the first word of {0}"),
    "last_word": Function("t", "t", lambda x: (x.split() or [UNKNOWN])[-1], "the last word of {0}"),
    "last_line": Function("t", "t", lambda x: (x.splitlines() or [UNKNOWN])[-1], "the last line of {0}"),
    "sorted_words": Function("t", "t", lambda x: " ".join(sorted(x.split())), "the words of {0} in order"),
    "sorted_lines": Function("t", "t", lambda x: "\n".join(sorted(x.splitlines())), "the lines of {0} in order"),
    "underscored": Function("t", "t", lambda x: x.replace(" ", "_"), "{0} with underscores"),
    "hyphenated": Function("t", "t", lambda x: x.lower().replace(" ", "-"), "{0} in lower case with hyphens"),
    "last_number": Function("t", "n", lambda x: _last_digits(x, 15), "the last number in {0}"),
    "last_two_digits": Function("t", "n", lambda x: _last_digits(x, 2), "the last two digits of {0}, as a number"),
    "number": Function("t", "n", lambda x: float(x) if "." in x else int(x), "{0} as a number"),
    "calculated": Function("t", "n", _calculated, "the value of the formula {0}"),
    "calculated_fraction": Function("t", "n", lambda x: float(_calculated(x)), "the formula {0} as a fraction"),
    "following": Function("t", "t", _following, "the number after {0}"),
    "last_part": Function("t", "t", lambda x: x.rpartition("/")[2], "the last part of {0}"),
    "parent_part": Function("t", "t", lambda x: x.rpartition("/")[0], "{0} without its last part"),
    **{
        f"day {form}": Function("t", "t", _written(form), f"the day {{0}} written as {_written(form)('2025-03-04')}")
        for form in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%-d %b", "%d %b", "%-d %b %Y", "%d %b %Y", "%b %-d, %Y",
                     "%B %-d, %Y", "%-d %B %Y", "%A", "%a", "%Y-%m")
    },
    **{
        f"iso {form}": Function("t", "t", partial(_iso, form), f"the day {{0}} as in 2025-03-04, read as {example}")
        for form, example in (("%d.%m.%Y", "04.03.2025"), ("%d/%m/%Y", "04/03/2025"), ("%m/%d/%Y", "03/04/2025"))
    },
    "entered": Function("tt", "t", _entered, "where {1} leads from {0}"),
    # of a number
    "absolute": Function("n", "n", abs, "{0} without its sign"),
    "negative": Function("n", "n", lambda x: -x, "minus {0}"),
    "root": Function("n", "n", math.sqrt, "the square root of {0}"),
    "square": Function("n", "n", lambda x: x * x, "the square of {0}"),
    "floor": Function("n", "n", math.floor, "{0} rounded down"),
    "ceiling": Function("n", "n", math.ceil, "{0} rounded up"),
    "whole": Function("n", "n", round, "{0} rounded"),
    "half_up": Function("n", "n", lambda x: math.floor(x + 0.5), "{0} rounded, halves up"),
    "ln": Function("n", "n", math.log, "the natural logarithm of {0}"),
    "log10": Function("n", "n", math.log10, "the logarithm of {0} to base 10"),
    "factorial": Function("n", "n", lambda x: math.factorial(x) if x <= 20 else UNKNOWN, "the factorial of {0}"),
    "float": Function("n", "n", float, "{0} as a fraction"),
    "plain": Function("n", "n", lambda x: int(x) if float(x).is_integer() else x, "{0}, without a fraction of 0"),
    "hundredths": Function("n", "t", lambda x: f"{x / 100:.2f}", "{0} hundredths, written with two places"),
    "grouped": Function("n", "t", lambda x: f"{x:,}", "{0} with commas between thousands"),
    "grouped_fixed": Function("n", "t", lambda x: f"{x:,.2f}", "{0} with two places and commas between thousands"),
    # of two numbers
    "add": Function("nn", "n", lambda x, y: x + y, "{0} plus {1}"),
    "subtract": Function("nn", "n", lambda x, y: x - y, "{0} minus {1}"),
    "multiply": Function("nn", "n", lambda x, y: x * y, "{0} times {1}"),
    "divide": Function("nn", "n", lambda x, y: x / y, "{0} divided by {1}"),
    "whole_divide": Function("nn", "n", lambda x, y: x // y, "{0} divided by {1}, rounded down"),
    "remainder": Function("nn", "n", lambda x, y: x % y, "the remainder of {0} by {1}"),
    "power": Function("nn", "n", _power, "{0} to the power {1}"),
    "percent": Function("nn", "n", lambda x, y: x / y * 100, "{0} in percent of {1}"),
    "percent_of": Function("nn", "n", lambda x, y: x * y / 100, "{1} percent of {0}"),
    "logarithm": Function("nn", "n", math.log, "the logarithm of {0} to base {1}"),
    "larger": Function("nn", "n", max, "the larger of {0} and {1}"),
    "smaller": Function("nn", "n", min, "the smaller of {0} and {1}"),
    "round": Function("nn", "n", _rounded, "{0} rounded to {1} places"),
    "fixed": Function("nn", "t", _fixed, "{0} written with {1} places"),
    # of dates
    "days_between": Function("tt", "n", lambda x, y: (_day(x) - _day(y)).days, "the days from {1} to {0}"),
    "weekdays": Function("tt", "n", _weekdays, "the days from {0} to {1} without weekends"),
    "days_later": Function("tn", "t", _days_later, "the day {1} days after {0}"),
    # of two values
    "contains": Function("tt", "b", lambda x, y: y in x, "whether {0} contains {1}"),
    "starts": Function("tt", "b", lambda x, y: x.startswith(y), "whether {0} starts with {1}"),
    "ends": Function("tt", "b", lambda x, y: x.endswith(y), "whether {0} ends with {1}"),
    "occurrences": Function("tt", "n", lambda x, y: x.count(y), "how often {1} occurs in {0}"),
    "split": Function("tt", "l", lambda x, y: x.split(y), "{0} split at {1}"),
    "matching_lines": Function("tt", "l", lambda x, y: [line for line in x.splitlines() if y in line],
                               "the lines of {0} that contain {1}"),
    "first_words": Function("tn", "t", _first_words, "the first {1} words of {0}"),
    "first_letters": Function("tn", "t", lambda x, y: x[: int(y)], "the first {1} letters of {0}"),
    "masked": Function("tt", "t", _masked, "{0}, shown in part as {1}"),
    "first_lines": Function("tn", "t", lambda x, y: "\n".join(x.splitlines()[: int(y)]), "the first {1} lines of {0}"),
    "last_lines": Function("tn", "t", lambda x, y: "\n".join(x.splitlines()[-int(y) :]), "the last {1} lines of {0}"),
    "repeated": Function("tn", "t", lambda x, y: x * int(y) if len(x) * y <= 10_000 else UNKNOWN, "{0}, {1} times"),
    "among": Function("*l", "b", lambda x, y: freeze(x) in [freeze(v) for v in y], "whether {0} is in {1}"),
    "equal": Function("**", "b", lambda x, y: freeze(x) == freeze(y), "whether {0} and {1} are equal"),
    "at_least": Function("nn", "b", lambda x, y: x >= y, "whether {0} is at least {1}"),
    "more": Function("nn", "b", lambda x, y: x > y, "whether {0} is more than {1}"),
    # of a list
    "count": Function("l", "n", len, "the number of items of {0}"),
    "empty": Function("l", "b", lambda x: not x, "whether {0} is empty"),
    "some": Function("l", "b", lambda x: bool(x), "whether {0} has items"),
    "first": Function("l", "*", lambda x: x[0], "the first item of {0}"),
    "last": Function("l", "*", lambda x: x[-1], "the last item of {0}"),
    "rest": Function("l", "l", lambda x: x[1:], "{0} without its first item"),
    "backwards": Function("l", "l", lambda x: x[::-1], "{0} backwards"),
    "sorted": Function("l", "l", sorted, "{0} in order"),
    "sorted_down": Function("l", "l", lambda x: sorted(x, reverse=True), "{0} in falling order"),
    "distinct": Function("l", "l", lambda x: list(dict.fromkeys(x)), "{0}, each once"),
    "joined": Function("l", "t", lambda x: ", ".join(map(shown, x)), "the items of {0} with commas"),
    "spaced": Function("l", "t", lambda x: " ".join(x), "the items of {0} with spaces"),
    "sum": Function("N", "n", sum, "the sum of {0}"),
    "mean": Function("N", "n", lambda x: sum(x) / len(x), "the mean of {0}"),
    "fmean": Function("N", "n", statistics.fmean, "the mean of {0} as a fraction"),
    "median": Function("N", "n", statistics.median, "the median of {0}"),
    "least": Function("N", "n", min, "the least of {0}"),
    "most": Function("N", "n", max, "the most of {0}"),
    "deviation": Function("N", "n", statistics.pstdev, "the standard deviation of {0}"),
    "root_variance": Function("N", "n", lambda x: math.sqrt(sum((v - sum(x) / len(x)) ** 2 for v in x) / len(x)),
                              "the root of the variance of {0}"),
    "sample_deviation": Function("N", "n", statistics.stdev, "the sample's standard deviation of {0}"),
    "variance": Function("N", "n", statistics.pvariance, "the variance of {0}"),
    "product": Function("N", "n", math.prod, "the product of {0}"),
    "range": Function("N", "n", lambda x: max(x) - min(x), "the range of {0}"),
    "first_items": Function("ln", "l", lambda x, y: x[: int(y)], "the first {1} items of {0}"),
    "last_items": Function("ln", "l", lambda x, y: x[-int(y) :], "the last {1} items of {0}"),
    "item": Function("ln", "*", lambda x, y: x[int(y)], "item {1} of {0}"),
    "position": Function("l*", "n", lambda x, y: x.index(y), "the place of {1} in {0}"),
    "times": Function("l*", "n", lambda x, y: x.count(y), "how often {1} is in {0}"),
}  # fmt: skip


def is_of(kind: str, value: Any) -> bool:
    """Whether a value is of a kind that a function takes."""
    if kind == "t":
        return isinstance(value, str)
    if kind == "n":
        return is_number(value)
    if kind == "*":
        return isinstance(value, str | int | float)
    return isinstance(value, list) and (kind == "l" or all(map(is_number, value)))


def apply(name: str, values: Sequence[Any]) -> Any:
    """The value of a function; UNKNOWN where it has none."""
    function = FUNCTIONS[name]
    return run(function, values) if all(map(is_of, function.kinds, values)) else UNKNOWN


def run(function: Function, values: Sequence[Any]) -> Any:
    """The same for values that are known to be of the kinds that the function takes."""
    try:
        found = function.run(*values)
    except (ArithmeticError, ValueError, TypeError, IndexError, statistics.StatisticsError):
        return UNKNOWN
    if isinstance(found, complex) or isinstance(found, int | float) and not abs(found) < LARGEST:
        return UNKNOWN
    return found
