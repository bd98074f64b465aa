"""Fields that a call names: a pattern such as `settings.{group}.{name}` stands for the field that the arguments say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from worldmodel.derive.values import is_scalar, key_of

MOST_FIELDS = 100
_GAP = re.compile(r"\{([^{}]*)\}")


def pattern_of(field: str, arguments: Mapping[str, Any]) -> str | None:
    """The field with the parts that arguments say (or that a list argument holds) as gaps; None where there is none."""
    parts = field.split(".")
    out = []
    for part in parts:
        names = [n for n, v in sorted(arguments.items()) if _says(v, part)]
        out.append(f"{{{names[0]}}}" if names else part)
    return None if out == parts else ".".join(out)


def _says(value: Any, part: str) -> bool:
    if isinstance(value, list):
        return any(is_scalar(v) and key_of(v) == part for v in value)
    return is_scalar(value) and key_of(value) == part


def fields_of(pattern: str, arguments: Mapping[str, Any]) -> list[str]:
    """The fields that a pattern stands for in a call; the pattern itself where it has no gap."""
    names = list(dict.fromkeys(_GAP.findall(pattern)))
    if not names:
        return [pattern]
    options = []
    for name in names:
        value = arguments.get(name)
        found = [key_of(v) for v in (value if isinstance(value, list) else [value]) if is_scalar(v)]
        options.append([text for text in found if text])
    out = []
    for values in product(*options):
        said = dict(zip(names, values, strict=True))
        out.append(_GAP.sub(lambda gap, said=said: said[gap[1]], pattern))  # type: ignore[misc]
        if len(out) >= MOST_FIELDS:
            break
    return out


def fits(pattern: str, field: str) -> bool:
    """Whether a pattern may stand for a field."""
    one, other = pattern.split("."), field.split(".")
    return len(one) == len(other) and all(a == b or a.startswith("{") for a, b in zip(one, other, strict=True))
