"""How the agent reads a customer's message: intents and slots, by regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .words import COLOURS, MATERIALS, NOUNS

_INTENTS = {
    "cancel": re.compile(r"\bcancel\b"),
    "return": re.compile(r"\bsend\b.*\bback\b|\breturn\b"),
    "refund": re.compile(r"\brefund(ed)?\b|\bcharged\b"),
    "address": re.compile(r"\baddress\b"),
    "track": re.compile(r"\bwhere\b|\barrive\b|\btrack\b"),
    "product": re.compile(r"\bprice\b|\bstock\b|\bhow much is the\b"),
}
_ORDER = re.compile(r"\b(?:O-)?(\d{5})\b", re.ASCII)
_AMOUNT = re.compile(r"\$(\d+)(?:\.(\d\d))?", re.ASCII)
_ADDRESS = re.compile(r"\b\d{1,3} [A-Z]\w+ Street\b")
_NAME = re.compile(r"\b(?:i am|my name is) (?!looking)([a-z]+ [a-z]+)", re.IGNORECASE)
_LINE = re.compile(rf"\b((?:{'|'.join(MATERIALS)}) (?:{'|'.join(NOUNS)}))\b", re.IGNORECASE)
_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_COMPLAINT = re.compile(r"\bagain\b|\bstill\b")
_GOODBYE = re.compile(r"\b(bye|thanks|thank you|thx|ok)\b|\bno help\b|^[.!]*$")


@dataclass
class Slots:
    """The values given so far. `item` is the product line of the ordered item, lower case."""

    order: int | None = None
    name: str | None = None
    item: str | None = None
    cents: int | None = None
    address: str | None = None
    line: str | None = None
    colour: str | None = None


def intents(text: str) -> list[str]:
    """The goals that a message names, in order of first mention."""
    low = text.lower()
    found = {goal: match.start() for goal, p in _INTENTS.items() if (match := p.search(low))}
    if "return" in found and "cancel" not in found:
        found.pop("refund", None)
    if not found and _LINE.search(text) and _COLOUR.search(low):
        return ["product"]
    return sorted(found, key=found.__getitem__)


def read_slots(text: str, slots: Slots) -> None:
    """Set the slots that this message gives; the others keep their values."""
    if order := _ORDER.search(text):
        slots.order = int(order[1])
    if amount := _AMOUNT.search(text):
        slots.cents = int(amount[1]) * 100 + int(amount[2] or 0)
    if address := _ADDRESS.search(text):
        slots.address = address[0]
    if name := _NAME.search(text):
        slots.name = name[1]
    _read_lines(text, slots)


def _read_lines(text: str, slots: Slots) -> None:
    """A product line with a colour is the product of a question; without a colour it is the ordered item."""
    low = text.lower()
    for match in _LINE.finditer(text):
        before, after = low[: match.start()].split(), low[match.end() :].split()
        if before and before[-1] in COLOURS:
            slots.line, slots.colour = match[1], before[-1]
        elif len(after) > 1 and after[0] == "in" and (colour := _COLOUR.match(after[1])):
            slots.line, slots.colour = match[1], colour[1]
        else:
            slots.item = match[1].lower()


def is_complaint(text: str) -> bool:
    """Whether a message asks to try again without naming a goal."""
    return bool(_COMPLAINT.search(text.lower()))


def is_goodbye(text: str) -> bool:
    """Whether a message is a goodbye or thanks."""
    return bool(_GOODBYE.search(text.lower()))
