"""Kinds of tools that are functions of their arguments. Each function is one kind."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]


def numbers(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Pure functions of numbers."""
    a, b, many, digits, out = (names.word() for _ in range(5))
    binary: dict[str, Callable[[Any, Any], Any]] = {
        "add": lambda x, y: x + y, "subtract": lambda x, y: x - y, "multiply": lambda x, y: x * y,
        "power": lambda x, y: x**y, "share": lambda x, y: x / y * 100, "remainder": lambda x, y: x % y,
    }  # fmt: skip
    whole: dict[str, Callable[[list[Any]], Any]] = {
        "mean": statistics.fmean, "min": min, "max": max, "sum": sum, "deviation": statistics.pstdev,
        "median": statistics.median, "sorted": sorted, "count": len,
    }  # fmt: skip
    one: dict[str, Callable[[float], Any]] = {"root": math.sqrt, "absolute": abs, "square": lambda x: x * x}

    def pair(function: Callable[[Any, Any], Any]) -> Tool:
        return Tool(names.tool(), lambda run, args: {out: function(args[a], args[b])},
                    lambda run, r: {a: r.randrange(1, 60), b: r.randrange(1, 9)})  # fmt: skip

    def listed(function: Callable[[list[Any]], Any]) -> Tool:
        def run_(run: Run, args: Args) -> Any:
            if not args[many]:
                raise Refused("the list is empty")
            return {out: function(args[many])}

        return Tool(names.tool(), run_, lambda run, r: {many: [r.randrange(-9, 90) for _ in range(r.randrange(0, 6))]})

    def rounded(function: Callable[[float], Any]) -> Tool:
        return Tool(names.tool(), lambda run, args: {out: round(function(args[a]), args[digits])},
                    lambda run, r: {a: r.randrange(1, 9000) / 10, digits: r.randrange(1, 5)})  # fmt: skip

    factors = {("km", "mi"): 0.621371, ("mi", "km"): 1.60934, ("kg", "lb"): 2.20462, ("lb", "kg"): 0.453592}

    def convert(run: Run, args: Args) -> Any:
        factor = factors.get((args["from"], args["to"]))
        if factor is None:
            raise Refused(f"cannot convert {args['from']} to {args['to']}")
        return {out: args[a] * factor}

    def units(run: Run, r: random.Random) -> Args:
        start, end = r.choice(list(factors)) if r.random() < 0.85 else ("km", "lb")
        return {a: r.randrange(1, 500), "from": start, "to": end}

    tools = [pair(f) for f in rng.sample(list(binary.values()), 3)]
    tools += [listed(f) for f in rng.sample(list(whole.values()), 3)]
    tools += [rounded(f) for f in rng.sample(list(one.values()), 2)]
    return Part("numbers", [*tools, Tool(names.tool(), convert, units)])


def texts(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Pure functions of texts, and answers in sentences."""
    a, b, out = names.word(), names.word(), names.word()
    functions: list[Callable[[str, str], Any]] = [
        lambda x, y: x.upper(), lambda x, y: f"{x}-{y}", lambda x, y: len(x), lambda x, y: x.title(),
        lambda x, y: x.replace(" ", "_"), lambda x, y: len(x.split()), lambda x, y: x.split(), lambda x, y: y in x,
        lambda x, y: x[::-1], lambda x, y: x.split()[0], lambda x, y: " ".join(sorted(x.split())),
    ]  # fmt: skip

    def draw(run: Run, r: random.Random) -> Args:
        return {a: " ".join(r.choices(WORDS, k=r.randrange(1, 4))), b: r.choice(WORDS)}

    def tool(function: Callable[[str, str], Any], plain: bool) -> Tool:
        def run_(run: Run, args: Args) -> Any:
            value = function(args[a], args[b])
            return f"The answer to {args[a]} is {value}." if plain and isinstance(value, str) else {out: value}

        return Tool(names.tool(), run_, draw)

    return Part("texts", [tool(f, rng.random() < 0.4) for f in rng.sample(functions, 4)])
