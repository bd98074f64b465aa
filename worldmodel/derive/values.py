"""JSON values as rules see them: parsing, comparison, flattening, and the shapes of texts."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

TOKEN = re.compile(r"[\w#@.+-]*\w")
ISO_DATE = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d.*)?)?|\d\d:\d\d(:\d\d)?")
LAST_DIGITS, FEWEST_LETTERS = 7, 5
"""How many digits, and letters, two values have in common that say the same."""
SHORTEST_PART = 3
"""Letters of a text that is said to be a part of another."""
NO_NUMBER = "\x00float "
LARGEST_FLOAT = sys.float_info.max
MAP_KEYS = 24
"""An object location with more distinct keys than this, none of them in most objects, is a map."""


_AMOUNT = re.compile(r"-?(?:0|[1-9]\d{0,11}|[1-9]\d{0,2}(?:,\d{3})+)\.\d\d")


class Nothing(Enum):
    """UNKNOWN: nothing says what the value is. ABSENT: the field is known not to be there."""

    UNKNOWN = 0
    ABSENT = 1


UNKNOWN, ABSENT = Nothing.UNKNOWN, Nothing.ABSENT


def parse(content: str) -> Any:
    """The JSON value of an observation, else its text."""
    head = content.lstrip()[:1]
    if head and head in '{["-0123456789tfn':
        try:
            return json.loads(content)
        except ValueError:
            return content
    return content


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def storable(value: Any) -> Any:
    """A JSON value with texts in place of NaN and infinity, which JSON does not have; `restored` reads it. msgspec
    would write null, and the world would answer null.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"{NO_NUMBER}{value}"
    if isinstance(value, dict):
        return {name: storable(inner) for name, inner in value.items()}
    return [storable(inner) for inner in value] if isinstance(value, list | tuple) else value


def restored(value: Any) -> Any:
    """The value that `storable` made storable."""
    if isinstance(value, str) and value.startswith(NO_NUMBER):
        return float(value[len(NO_NUMBER) :])
    if isinstance(value, dict):
        return {name: restored(inner) for name, inner in value.items()}
    return [restored(inner) for inner in value] if isinstance(value, list) else value


def is_finite(value: Any) -> bool:
    """Whether a JSON value holds neither NaN nor infinity."""
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def is_number(value: Any) -> bool:
    """Whether one can calculate with a value: NaN, infinity and integers beyond floats are values like texts."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST_FLOAT <= value <= LARGEST_FLOAT


def is_date(value: Any) -> bool:
    return isinstance(value, str) and 5 <= len(value) <= 40 and ISO_DATE.fullmatch(value) is not None


def day_of(value: Any) -> str | None:
    """The day of a date, or of a date with a time: `2025-03-04`."""
    return value[:10] if is_date(value) and len(value) >= 10 else None


def freeze(value: Any) -> Any:
    """A hashable form: equal JSON values have equal forms, `true` and `1` do not, `1` and `1.0` do."""
    kind = value.__class__
    if kind is str or kind is int or value is None:
        return value
    if isinstance(value, bool):
        return ("b", value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 9) if value == value else ("nan",)
    if isinstance(value, dict):
        return ("d", tuple(sorted((k, freeze(v)) for k, v in value.items())))
    if isinstance(value, list):
        return ("l", tuple(freeze(v) for v in value))
    return value


def likeness(value: Any) -> str | None:
    """What texts that say the same have in common, in any case and with any signs: of telephone numbers, the last
    digits. None for what is too short to find a record by, and for dates."""
    if not isinstance(value, str | int) or isinstance(value, bool) or is_date(value):
        return None
    text = "".join(c for c in str(value).casefold() if c.isalnum() or c in "@.")
    digits = text.replace(".", "")
    if digits.isdigit():
        return digits[-LAST_DIGITS:] if len(digits) >= LAST_DIGITS else None
    return text if len(text) >= FEWEST_LETTERS else None


def is_alike(left: Any, right: Any) -> bool:
    """Whether two values say the same, though one may have other signs, or a country's code before a number."""
    if (common := likeness(left)) is None or common != likeness(right):
        return False
    one, other = ("".join(c for c in str(value) if c.isdigit()).lstrip("0") for value in (left, right))
    return not common.isdigit() or one.endswith(other) or other.endswith(one)


def is_near(left: str, right: str) -> bool:
    """Whether two different texts are equal but for case and signs, or an edit apart."""
    if left == right or abs(len(left) - len(right)) > 2:
        return False
    bare = [("".join(c for c in text if c.isalnum())).lower() for text in (left, right)]
    if bare[0] == bare[1]:
        return True
    if abs(len(left) - len(right)) > 1:
        return False
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    a, b = left[start:], right[start:]
    if a[1:] == b[1:] or a[1:] == b or a == b[1:]:
        return True
    return len(a) >= 2 and len(b) >= 2 and a[0] == b[1] and a[1] == b[0] and a[2:] == b[2:]


def is_part(left: Any, right: Any) -> bool:
    """Whether a text of some length stands in another one, in any case: the last digits of a number, a surname."""
    if not (isinstance(left, str) and isinstance(right, str)) or len(left.strip()) < SHORTEST_PART:
        return False
    return left.casefold() in right.casefold()


def amount_in(value: Any) -> float | None:
    """The number that a text with two decimal places is, as APIs write sums of money: "14.35" or "1,014.35"."""
    if value.__class__ is str and value[-3:-2] == "." and _AMOUNT.fullmatch(value):
        return float(value.replace(",", ""))
    return None


def same(left: Any, right: Any) -> bool:
    return freeze(left) == freeze(right)


def text_of(value: Any) -> str:
    """A scalar as it stands inside a text."""
    if isinstance(value, str):
        return value
    if value.__class__ is int or isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def shown(value: Any) -> str:
    """A scalar as a text of production shows it: a float keeps its point, and not the noise of a sum."""
    if isinstance(value, float) and abs(value) < 1e6:
        value = round(value, 9)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def key_of(value: Any) -> str | None:
    """A scalar as part of a record's key; None where it cannot be one."""
    if isinstance(value, bool) or value is None or not is_scalar(value):
        return None
    text = text_of(value)
    return text if 0 < len(text) <= 128 else None


def shape(value: Any) -> str:
    """The form of a scalar: letters as `a` or `A`, digits as `9`, runs with their lengths up to 12."""
    text = text_of(value)[:64]
    out = []
    for run in re.finditer(r"\d+|[a-z]+|[A-Z]+|[^\da-zA-Z]", text):
        part = run[0]
        mark = "9" if part[0].isdigit() else "a" if part[0].islower() else "A" if part[0].isupper() else part
        out.append(mark if mark == part[0] and not part[0].isalnum() else f"{mark}{min(len(part), 12)}")
    return "".join(out)


def loose_shape(value: Any) -> str:
    """`shape` without the lengths of runs of letters."""
    return re.sub(r"([aA])\d+", r"\1", shape(value))


def prefix(value: Any) -> str:
    """The letters and signs before the first digit."""
    match = re.match(r"[^\d]{1,24}", text_of(value))
    return match[0] if match else ""


def tokens(text: str) -> Iterator[str]:
    for match in TOKEN.finditer(text):
        yield match[0]
        bare = match[0].strip("#@.+-")
        if bare != match[0]:
            yield bare


def flatten(value: Mapping[str, Any], is_map: Any = None, at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted field, value) of an object: nested objects are opened, lists and maps are whole values."""
    for name, inner in value.items():
        path = f"{at}.{name}" if at else name
        if isinstance(inner, dict) and inner and not (is_map and is_map(path)):
            yield from flatten(inner, is_map, path)
        else:
            yield path, inner


def unflatten(fields: Mapping[str, Any]) -> Any:
    """The object with these dotted fields; fields that are absent are left out. `""` stands for the whole. An object
    that is the value of a field, and gets others, is copied."""
    if "" in fields:
        return fields[""]
    out: dict[str, Any] = {}
    for path, value in fields.items():
        if value is ABSENT:
            continue
        parts = path.split(".")
        inner = out
        for part in parts[:-1]:
            found = inner.get(part)
            inner[part] = dict(found) if isinstance(found, dict) else {}
            inner = inner[part]
        inner[parts[-1]] = value
    return out
