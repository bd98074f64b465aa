"""Statistics of the values of one field, and new values of the same kind.

A value that several conversations have (a status, a city) is common and may be repeated. Other values are private: only
their form is stored (lengths of runs of letters and digits, and common words), and new values are made in that form.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

import msgspec

from worldmodel.derive.values import ABSENT, is_number

COMMON = 3
"""A value or a word is common if at least this many conversations have it."""
MOST_VALUES = 60
MOST_FORMS = 24
DEEPEST = 4
LETTER_SHARE = 0.2
"""A single letter is part of the form if at least this share of the texts has it (a prefix of ids)."""
_PIECES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+|\s+|[^A-Za-z\d\s]")
_KINDS = {
    NoneType: "null", bool: "bool", int: "int", float: "float", str: "text", list: "list", dict: "object",
}  # fmt: skip
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiou"

Sighting = tuple[str, Any]
"""A conversation, and the value of a field in it."""


class Values(msgspec.Struct):
    """The values of one field. `kinds` counts JSON types, including `absent`."""

    kinds: dict[str, int] = {}
    common: list[tuple[Any, int]] = []
    rest: int = 0
    """The number of sightings with a value that is not common."""
    forms: list[tuple[list[str], int]] = []
    """Of texts that are not common: their pieces, where `\\x00a5` stands for five lower-case letters."""
    longest: int = 0
    low: float = 0.0
    high: float = 0.0
    decimals: int = 0
    numbers: list[float] = []
    sizes: list[int] = []
    items: Values | None = None
    fields: dict[str, Values] = {}


def learn_values(seen: Sequence[Sighting], deepest: int = DEEPEST) -> Values:
    """Return the statistics of (conversation, value) pairs; `ABSENT` marks a field that was left out."""
    out = Values(dict(Counter(kind_of(v) for _, v in seen)))
    spread: dict[Any, set[str]] = defaultdict(set)
    times: Counter[Any] = Counter()
    scalars = [(c, math.nan if v != v else v) for c, v in seen if v is None or isinstance(v, str | int | float)]
    for conversation, value in scalars:
        mark = (kind_of(value), value)
        spread[mark].add(conversation)
        times[mark] += 1
    often = [mark for mark, _ in times.most_common() if len(spread[mark]) >= COMMON or mark[0] in ("null", "bool")]
    out.common = [(mark[1], times[mark]) for mark in often[:MOST_VALUES]]
    kept = set(often[:MOST_VALUES])
    rare = [(c, v) for c, v in scalars if (kind_of(v), v) not in kept]
    out.rest = len(rare)
    texts = [(c, v) for c, v in rare if isinstance(v, str)]
    out.longest = max((len(v) for _, v in scalars if isinstance(v, str)), default=0)
    out.forms = _forms(texts)
    told = [v for _, v in scalars if isinstance(v, int | float) and is_number(v)]
    numbers = sorted(float(v) for v in told)
    if numbers:
        out.low, out.high = numbers[0], numbers[-1]
        out.numbers = [numbers[round(q / 20 * (len(numbers) - 1))] for q in range(21)]
        out.decimals = max(map(_decimals, told))
    lists = [(c, v) for c, v in seen if isinstance(v, list)]
    if lists:
        out.sizes = sorted(min(len(v), 12) for _, v in lists)
        inner = [(c, item) for c, v in lists for item in v[:12]]
        out.items = learn_values(inner[:800], deepest - 1) if inner and deepest else None
    objects = [(c, v) for c, v in seen if isinstance(v, dict)]
    if objects and deepest:
        names = dict.fromkeys(name for _, v in objects for name in v)
        usual = [n for n in names if sum(n in v for _, v in objects) >= max(2, 0.05 * len(objects))][:60]
        out.fields = {n: learn_values([(c, v.get(n, ABSENT)) for c, v in objects], deepest - 1) for n in usual}
    return out


def kind_of(value: Any) -> str:
    """Return the JSON type of a value: absent, null, bool, int, float, text, list or object."""
    if value is ABSENT:
        return "absent"
    return _KINDS.get(type(value)) or next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "absent")


def _decimals(value: float) -> int:
    return 0 if isinstance(value, int) else min(6, len(f"{value:.6f}".rstrip("0").partition(".")[2]))


# ----- forms of texts


def _forms(texts: Sequence[tuple[str, str]]) -> list[tuple[list[str], int]]:
    """Return the forms of texts. Words that are not common, and all digits, are stored as lengths."""
    spread: dict[str, set[str]] = defaultdict(set)
    for conversation, text in texts:
        for piece in _PIECES.findall(text[:400]):
            spread[piece].add(conversation)
    conversations = {conversation for conversation, _ in texts}
    counts: Counter[tuple[str, ...]] = Counter()
    for _, text in texts[:2000]:
        pieces = [_masked(piece, len(spread[piece]), len(conversations)) for piece in _PIECES.findall(text[:400])]
        counts[tuple(pieces)] += 1
    return [(list(pieces), n) for pieces, n in counts.most_common(MOST_FORMS)]


def _masked(piece: str, seen_in: int, of: int) -> str:
    if piece.isdigit():
        return f"\x009{len(piece)}"
    common = seen_in >= (COMMON if len(piece) > 1 else max(COMMON, LETTER_SHARE * of))
    if common or not (piece.isascii() and piece.isalpha()):
        return piece
    return f"\x00{'A' if piece.isupper() else 'a' if piece.islower() else 'w'}{len(piece)}"


def make_text(values: Values, rng: random.Random) -> str:
    """Make a new text. Pieces are drawn position by position from the forms of one length, so no text is repeated
    completely."""
    if not values.forms:
        return ""
    chosen = rng.choices([f for f, _ in values.forms], [n for _, n in values.forms])[0]
    alike = [f for f, _ in values.forms if [_is_word(p) for p in f] == [_is_word(p) for p in chosen]]
    out = []
    for at, piece in enumerate(chosen):
        if _is_word(piece):
            piece = rng.choice(alike)[at]
        out.append(_unmasked(piece, rng))
    return "".join(out)


def _is_word(piece: str) -> bool:
    return piece[:2] in ("\x00a", "\x00w") or (piece.isalpha() and len(piece) > 1)


def _unmasked(piece: str, rng: random.Random) -> str:
    if not piece.startswith("\x00"):
        return piece
    kind, size = piece[1], int(piece[2:])
    if kind == "9":
        return "".join(rng.choice("123456789" if k == 0 else "0123456789") for k in range(size))
    if kind == "A":
        return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(size))
    text = "".join(rng.choice(_VOWELS if k % 2 else _CONSONANTS) for k in range(size))
    return text.capitalize() if kind == "w" else text


# ----- drawing


def draw(values: Values, rng: random.Random, kind: str = "") -> Any:
    """Draw a value of this kind, or of one JSON type of it. `ABSENT` is drawn at the rate at which the field is left
    out."""
    kinds = {k: n for k, n in values.kinds.items() if n}
    if not kinds:
        return None
    kind = kind or rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "absent":
        return ABSENT
    if kind == "list":
        size = rng.choice(values.sizes or [0])
        return [v for _ in range(size) if (v := draw(values.items, rng)) is not ABSENT] if values.items else []
    if kind == "object":
        drawn = {name: draw(inner, rng) for name, inner in values.fields.items()}
        return {name: v for name, v in drawn.items() if v is not ABSENT}
    same = [(v, n) for v, n in values.common if kind_of(v) == kind]
    usual = sum(n for _, n in same)
    if same and rng.random() * max(1, values.kinds.get(kind, 0)) < usual:
        return rng.choices([v for v, _ in same], [n for _, n in same])[0]
    if kind == "text":
        return make_text(values, rng)
    return _number(values, kind, rng)


def _number(values: Values, kind: str, rng: random.Random) -> Any:
    if not values.numbers:
        return None
    at = rng.random() * (len(values.numbers) - 1)
    low = min(int(at), len(values.numbers) - 2) if len(values.numbers) > 1 else 0
    high = min(low + 1, len(values.numbers) - 1)
    value = values.numbers[low] + (at - low) * (values.numbers[high] - values.numbers[low])
    return round(value) if kind == "int" else round(value, values.decimals)


# ----- as a JSON schema


def json_schema(values: Values) -> dict[str, Any]:
    """Return a schema that allows values of this kind, in the subset that grammar libraries support."""
    options = []
    for kind in sorted(k for k, n in values.kinds.items() if n and k != "absent"):
        options.append(_schema_of(kind, values))
    options = options or [{"type": "null"}]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _schema_of(kind: str, values: Values) -> dict[str, Any]:
    if kind == "null":
        return {"type": "null"}
    if kind == "bool":
        return {"type": "boolean"}
    same = [v for v, _ in values.common if kind_of(v) == kind]
    if kind == "text":
        if same and values.rest <= 0.02 * sum(n for _, n in values.common):
            return {"enum": same}
        return _text_schema(values)
    if kind == "int":
        return {"type": "integer", "minimum": int(values.low), "maximum": int(values.high)}
    if kind == "float":
        return {"type": "number", "minimum": values.low, "maximum": values.high}
    if kind == "list":
        inner = json_schema(values.items) if values.items else {"type": "null"}
        most = max(values.sizes, default=0) if values.items else 0
        return {"type": "array", "items": inner, "maxItems": most}
    return object_schema(values.fields)


def object_schema(fields: dict[str, Values], known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an object's schema. Values in `known` are constants, and fields known to be absent are left out."""
    known = known or {}
    properties: dict[str, Any] = {}
    required = []
    for name, values in fields.items():
        if known.get(name) is ABSENT:
            continue
        properties[name] = {"const": known[name]} if name in known else json_schema(values)
        if name in known or not values.kinds.get("absent"):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _text_schema(values: Values) -> dict[str, Any]:
    short = [f for f, _ in values.forms if not any(_is_word(p) or p.isspace() for p in f)]
    if short and len(short) == len(values.forms) <= 12 and not values.common:
        return {"type": "string", "pattern": f"^({'|'.join(sorted({_pattern(f) for f in short}))})$"}
    return {"type": "string", "maxLength": max(1, min(400, values.longest))}


def _pattern(form: Iterable[str]) -> str:
    classes = {"9": "[0-9]", "A": "[A-Z]", "a": "[a-z]", "w": "[A-Za-z]"}
    return "".join(
        f"{classes[p[1]]}{{{p[2:]}}}" if p.startswith("\x00") else re.escape(p).replace("\\-", "-") for p in form
    )


def fits(values: Values, text: str) -> bool:
    """Whether a text is a common value of a field, or has the form of one that is not common."""
    return any(value == text for value, _ in values.common) or any(
        re.fullmatch(_pattern(form), text) for form, _ in values.forms
    )


def typed(values: Values, value: Any) -> bool:
    """Whether a value has JSON types that production showed here, at every level."""
    kind = kind_of(value)
    known = values.kinds
    if kind == "int" and known.get("float") or kind == "float" and known.get("int") and float(value).is_integer():
        kind = "float" if known.get("float") else "int"
    if not known.get(kind):
        return False
    if kind == "list" and values.items is not None:
        return all(typed(values.items, item) for item in value)
    if kind == "object":
        return all(name in values.fields and typed(values.fields[name], v) for name, v in value.items())
    return True
