"""What is odd about the arguments of a call: one that is expected is missing, or of another kind, or another text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
NUMBERS = ("integer", "number")


class Expected(msgspec.Struct, frozen=True):
    """One argument of a tool: whether calls need it, the JSON type of its values ("": several), and its options."""

    name: str
    needed: bool
    kind: str
    options: tuple[str, ...] = ()


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    return KINDS.get(type(value), "null")


def oddities(arguments: Mapping[str, Any], expected: Sequence[Expected]) -> dict[str, Any]:
    """The first argument of each sort, as sources: `odd/missing`, `odd/type` (with `odd/wanted`, the type expected) and
    `odd/option`."""
    found: dict[str, Any] = {}
    for one in expected:
        value = arguments.get(one.name)
        if value is None:
            if one.needed:
                found.setdefault("odd/missing", one.name)
            continue
        kind = kind_of(value)
        if one.kind and kind != one.kind and not (kind in NUMBERS and one.kind in NUMBERS):
            if "odd/type" not in found:
                found["odd/type"], found["odd/wanted"] = one.name, one.kind
        elif one.options and isinstance(value, str) and value not in one.options:
            found.setdefault("odd/option", one.name)
    return found
