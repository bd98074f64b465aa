"""Reads an agent's message: its questions, claims, refusals, and the facts in it. Independent of the exact wording.

Facts are (type, value) with the types date, eur, kwh, ct, days (numbers) and tariff (a name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .words import TARIFF_NAMES

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = "|".join(f"{m[:3]}(?:{m[3:]})?" for m in MONTHS) + "|sept"
_DATES = (
    re.compile(r"\b(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})\b"),
    re.compile(r"\b(?P<day>\d{1,2})[./](?P<month>\d{1,2})[./](?P<year>\d{4})\b"),
    re.compile(rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})\.?(?:,? (?P<year>\d{{4}}))?\b"),
    re.compile(rf"\b(?P<month>{_MONTH})\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (?P<year>\d{{4}}))?"),
)
"""The forms of a date. A date that one form has found is removed before the next form is tried."""

_PERIOD = re.compile(rf"\b(?:{_MONTH}) \d{{4}}\b")
_ID = re.compile(r"\b[crtz]-\d+\b|\b\d[a-z]{2} ?\d{3} ?\d{3}\b|\b[pg][a-z]\d\d\b")
_NUMBER = r"(?<![\w.,])\d{1,3}(?:[ ,]\d{3})+(?!\d)(?:\.\d+)?|(?<![\w.,])\d+(?:[.,]\d+)?"
_NUMBERS = re.compile(_NUMBER)
_UNITS = {
    kind: re.compile(rf"({_NUMBER}) ?(?:{unit})")
    for kind, unit in {
        "eur": r"€|eur\b|euros?\b",
        "kwh": r"kwh\b|kilowatt",
        "ct": r"ct\b|cents?\b",
        "days": r"(?:\w+ )?days?\b",
    }.items()
}
"""A number before its unit, by type of fact."""

_EUR_FIRST = re.compile(rf"(?:€|\beur) ?({_NUMBER})")
_QUESTION = re.compile(r"\b(please|tell me|give me|need)\b")
_REQUEST = re.compile(r"\b(please|could you|can you|may i|i need|tell me|give me|what is|which|would you)\b")
_REFUSAL = re.compile(
    r"\b(cannot|can't|could not|couldn't|unable|not possible|impossible|not allowed|sorry|unfortunately|failed|"
    r"refused|blocked|rejected|no change|not changed)\b"
)
_VERBS = (
    "changed|set|adjusted|switched|moved|recorded|entered|saved|stored|noted|extended|deferred|put back|done|queued|"
    "submitted|updated|accepted|postponed|arranged|registered|lowered|raised|increased|reduced"
)
_CLAIM = re.compile(
    r"(?:\b(?:have|has|is|are|was|been|now|i|we|i've|gets?)\s+"
    r"(?:(?:now|been|just|already|successfully|also|it)\s+)*"
    rf"|^)(?:{_VERBS})\b"
)
_TOPICS = {
    "contract": r"contract number|contract no|number of your contract",
    "name": r"\bnames?\b|\baddress\b",
    "iban": r"\biban\b|four digits|last 4|last four",
    "postcode": r"\bpost ?code|\bzip\b",
    "place": r"which meter",
    "month": r"which (invoice|month|bill)",
    "check": r"\b(check|verify|confirm|correct|right|look)\b",
}

Date = tuple[int, int, int]
"""Year (0 if not said), month, day."""


@dataclass(frozen=True)
class Heard:
    """What a message says."""

    asks: frozenset[str]
    question: bool
    claim: bool
    refusal: bool
    dates: frozenset[Date]
    numbers: frozenset[float]
    """All numbers outside ids and dates."""
    units: dict[str, frozenset[float]]
    """The numbers with a unit, by type of fact."""
    tariffs: frozenset[str]

    def has(self, kind: str, known: frozenset[float] = frozenset()) -> bool:
        """Whether the message contains any fact of this type, besides the numbers in `known`."""
        if kind == "date":
            return bool(self.dates)
        if kind == "tariff":
            return bool(self.tariffs)
        return bool(self.units[kind] - known)

    def states(self, kind: str, value: Any, known: frozenset[float]) -> bool:
        """Whether the message states this fact, with at most one other value of its type that is not in `known`."""
        if kind == "date":
            year, month, day = (int(x) for x in value.split("-"))
            same = {d for d in self.dates if d[1:] == (month, day) and d[0] in (0, year)}
            return bool(same) and len(self.dates - same) <= 1
        if kind == "tariff":
            return value in self.tariffs and len(self.tariffs) <= 2
        others = {x for x in self.units[kind] if abs(x - value) > 0.004 and x not in known}
        return any(abs(x - value) < 0.005 for x in self.numbers) and len(others) <= 1


def hear(text: str) -> Heard:
    """Read a message."""
    low = " ".join(text.lower().replace("’", "'").split())
    sentences = re.split(r"(?<=[.!?]) ", low)
    dates, rest = _dates(low)
    rest = _PERIOD.sub(" ", _ID.sub(" ", rest))
    units = {kind: {_value(m[1]) for m in pattern.finditer(rest)} for kind, pattern in _UNITS.items()}
    units["eur"] |= {_value(m[1]) for m in _EUR_FIRST.finditer(rest)}
    requests = " ".join(s for s in sentences if "?" in s or _REQUEST.search(s))
    return Heard(
        asks=frozenset(topic for topic, pattern in _TOPICS.items() if re.search(pattern, requests)),
        question="?" in low or bool(_QUESTION.search(low)),
        claim=any(_CLAIM.search(s) for s in sentences if not s.endswith("?")),
        refusal=bool(_REFUSAL.search(low)),
        dates=dates,
        numbers=frozenset(_value(m[0]) for m in _NUMBERS.finditer(rest)),
        units={kind: frozenset(values) for kind, values in units.items()},
        tariffs=frozenset(t for t in TARIFF_NAMES if t.lower() in low),
    )


def _dates(text: str) -> tuple[frozenset[Date], str]:
    """The dates of a text, and the text without them."""
    found: set[Date] = set()
    for pattern in _DATES:
        found |= {(int(m["year"] or 0), _month(m["month"]), int(m["day"])) for m in pattern.finditer(text)}
        text = pattern.sub(" ", text)
    return frozenset(found), text


def _month(text: str) -> int:
    """The number of a month that is written as a number or a name."""
    if text.isdigit():
        return int(text)
    return next(k for k, name in enumerate(MONTHS, start=1) if name.startswith(text[:3]))


def _value(text: str) -> float:
    """A number with a decimal point or comma, and thousands separators."""
    if re.fullmatch(r"\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?", text):
        return float(re.sub(r"[ ,]", "", text))
    return float(text.replace(",", "."))
