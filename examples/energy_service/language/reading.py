"""How the agent reads the customer: the kind of wish, and the values in a message."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .words import PERIODS, PLACES, TARIFF_NAMES

_IBAN = re.compile(r"IBAN ends (?:in|with) (\d{4})|(?:four are|ends in) (\d{4})|(?:^|\. |\d )(\d{4})\.?$")
_PERSON = re.compile(r"(?:My name is )?([A-Z]\w+ [A-Z]\w+), (.*?), postcode (\d{5})")
_SHORT_PERSON = re.compile(r"([A-Z]\w+ [A-Z]\w+), (\d{5}), the contract for (.*?)\.")
_POSTCODE = re.compile(r"(?:live in|postcode is) (\d{5})")
_CONTRACT = re.compile(r"C-\d{5}|(?:[Cc]ontract(?: is| number| number is)? |^It is |^)(\d{5})\b")
_KWH = re.compile(r"(\d{3,6})(?: kwh|\. please| for the)")
_EUR = re.compile(r"(\d+) euros")
_DAYS = re.compile(r"(\d+) (?:more|extra|days)")


@dataclass
class Slots:
    """What the agent knows from the conversation; None or empty if it was not said."""

    kind: str
    """The kind of wish, as in tasks.CASES."""
    contract: str | None = None
    name: str | None = None
    street: str = ""
    postcode: str | None = None
    iban: str | None = None
    place: str = ""
    period: str = ""
    tariff: str = ""
    wish: str = "cheapest"
    fuel: str = "power"
    kwh: int | None = None
    eur: int | None = None
    days: int | None = None


def read_slots(text: str, slots: Slots) -> None:
    """Take what a message says about the contract and the person."""
    if m := _IBAN.search(text):
        slots.iban = m[1] or m[2] or m[3]
    if m := _PERSON.search(text):
        slots.name, slots.street, slots.postcode = m[1].removeprefix("is "), m[2], m[3]
    elif m := _SHORT_PERSON.search(text):
        slots.name, slots.postcode, slots.street = m[1], m[2], m[3]
    elif m := _POSTCODE.search(text):
        slots.postcode = m[1]
    elif m := _CONTRACT.search(text):
        number = m[1] or m[0]
        if slots.kind == "advice":
            slots.postcode = number
        else:
            slots.contract = number


def read_first(text: str) -> Slots:
    """Read the first message, which also says what the customer wishes."""
    low, slots = text.lower(), Slots(kind_of(text))
    read_slots(text, slots)
    slots.place = next((p for p in PLACES if p in low), "")
    slots.period = next((p for p in PERIODS if p.split()[0].lower() in low), "")
    slots.tariff = next((t for t in TARIFF_NAMES if t.lower() in low), "")
    if "green" in low:
        slots.wish = "green"
    elif slots.tariff:
        slots.wish = "named"
    if " gas " in low:
        slots.fuel = "gas"
    slots.kwh, slots.eur, slots.days = _number(_KWH, low), _number(_EUR, low), _number(_DAYS, low)
    return slots


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def kind_of(text: str) -> str:
    """The kind of wish in a first message."""
    low = text.lower()
    if re.search(r"instalment|monthly|a month", low):
        return "instalment"
    if re.search(r"switch|move my contract|change my contract|change over", low):
        return "switch"
    if re.search(r"invoice|bill|charge", low):
        return "defer" if re.search(r"\d+ (more|extra|days)", low) else "invoice"
    if "meter" in low:
        return "usage" if re.search(r"last reading you|stored|last read\b|last reading and", low) else "reading"
    return "advice"
