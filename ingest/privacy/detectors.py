"""Find personal data by its form: e-mail, phone, card, IBAN, IP address, national identifiers.

A form with a checksum must pass it. Business identifiers must not match: plain digits are a card number only with a
card scheme's prefix, its length and a valid Luhn check, and are never a phone number (which needs separators or a +).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

from stdnum import iban, luhn

from ingest.privacy.forms import is_documentation, is_national_id, phone_parts


class Hit(NamedTuple):
    """A place in a text, its kind and its value."""

    start: int
    end: int
    kind: str


EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?<![\d_-])")
_CARD = r"(?:\d{4}[ -]){3}\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{13,19}"
_PHONE = (
    r"\+\d[\d ().\-/]{5,20}\d"
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}"
    r"|00[1-9]\d{0,2} \d[\d \-/]{5,16}\d"
    r"|0\d(?:[ .]\d\d){4}"
    r"|0\d{2,5}[ /]\d{3,8}(?:[ -]\d{2,5}){0,2}"
)
_NATIONAL = (
    r"\d{3}-\d{2}-\d{4}|\d{3}\.\d{3}\.\d{3}-\d{2}|[2-9]\d{3} \d{4} \d{4}|\d{6}[-+]\d{4}|\d{6}[-+A-F]\d{3}[0-9A-Y]"
    r"|[12] ?\d{2} ?[01]\d ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}|\d{8}-?[A-Z]|[XYZ]-?\d{7}-?[A-Z]"
    r"|[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]"
)
_IBAN = r"[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,4})?"
_END = r"(?![\w@]|[.,-]\d)"
_GROUPS = {"card": _CARD, "national": _NATIONAL, "iban": _IBAN, "phone": _PHONE}
_ALONE = {name: re.compile(f"(?:{form}){_END}") for name, form in _GROUPS.items()}
FORMS = "|".join(f"(?P<{name}>{form})" for name, form in _GROUPS.items())
_FORM = re.compile(f"(?:{FORMS}){_END}")
# Where a form may begin: its first character, which is searched for much faster than what must not be before it, and
# what the next five of any form are.
_START = re.compile(r"[\d(+A-Z](?<![\w+@.,/-].)(?=[\dA-Z ().\-/]{5})")
_IPV4 = re.compile(r"(?<![\w.])(?<!\w/)(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{0,4}(?![\w:])")
# What is in every address of these, and begins with what is rare.
IN_IPV4 = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
IN_IPV6 = re.compile(r":[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}:")


def find(text: str, wanted: frozenset[str]) -> list[Hit]:
    """Return the matches of the wanted kinds in a text, in order. Places of one kind do not overlap."""
    hits: list[Hit] = []
    if "@" in text and "email" in wanted:
        hits += [Hit(*m.span(), "email") for m in EMAIL.finditer(text)]
    hits += [h for h in _forms(text) if h.kind in wanted]
    if "ip" in wanted:
        if IN_IPV4.search(text):
            hits += _addresses(_IPV4, text)
        if IN_IPV6.search(text):
            hits += _addresses(_IPV6, text)
    return sorted(hits)


def _forms(text: str) -> Iterator[Hit]:
    at = 0
    while begun := _START.search(text, at):
        start = at = begun.start()
        found = _FORM.match(text, start)
        if found is None:
            at += 1
            continue
        hit = _judged(text, start, found.end(), str(found.lastgroup)) or _otherwise(text, start)
        if hit is not None:
            yield hit
        at = hit.end if hit else start + 1


def _otherwise(text: str, start: int) -> Hit | None:
    """Return another kind that matches at a place where a form has no valid checksum: digits that are not a card may be
    a phone number."""
    for group, pattern in _ALONE.items():
        found = pattern.match(text, start)
        if found and (hit := _judged(text, start, found.end(), group)):
            return hit
    return None


def _judged(text: str, start: int, end: int, group: str) -> Hit | None:
    value = text[start:end]
    if group == "card":
        return Hit(start, end, "card") if is_card(value) else None
    if group == "national":
        return Hit(start, end, "national_id") if is_national_id(value) else None
    return _iban(text, start, end) if group == "iban" else _phone(text, start, end)


def _phone(text: str, start: int, end: int) -> Hit | None:
    """Return the number without the text behind it that the greedy search included; None if it has too few or too many
    digits."""
    value = text[start:end]
    most = 11 if value.startswith("+1") else 15
    at = [i for i, c in enumerate(value) if c.isdigit()]
    if len(at) > most:
        value = value[: at[most - 1] + 1]
    digits = "".join(c for c in value if c.isdigit())
    fewest = 11 if value.startswith("+1") else 8 if value.startswith("+") else 9
    _, number, head = phone_parts(value, digits)
    if len(digits) < fewest or number.startswith(head):
        return None
    return Hit(start, start + len(value), "phone")


def _iban(text: str, start: int, end: int) -> Hit | None:
    """Return the longest match that passes the check; capitalised words may follow an account number."""
    value = text[start:end]
    ends = [len(value), *(i for i in range(len(value) - 1, 14, -1) if value[i] == " ")]
    found = next((n for n in ends if iban.is_valid(value[:n], check_country=False)), None)
    return Hit(start, start + found, "iban") if found else None


def _addresses(pattern: re.Pattern[str], text: str) -> Iterator[Hit]:
    for m in pattern.finditer(text):
        try:
            address = ipaddress.ip_address(m.group())
        except ValueError:
            continue
        special = address.is_loopback or address.is_unspecified or address.is_multicast or is_documentation(address)
        if not special and int(address) > 0xFFFFFF:
            yield Hit(*m.span(), "ip")


def is_card(text: str) -> bool:
    """Whether digits are a payment card number: prefix and length of a scheme, and the Luhn check."""
    digits = "".join(c for c in text if c.isdigit())
    return _has_scheme(digits) and luhn.is_valid(digits)


def _has_scheme(d: str) -> bool:
    two, four, length = int(d[:2]), int(d[:4]), len(d)
    if d[0] == "4":
        return length in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720 or 3528 <= four <= 3589:
        return length == 16
    if two in (34, 37):
        return length == 15
    if two in (36, 38, 39) or 3000 <= four <= 3059:
        return length == 14
    return length in range(16, 20) and (two in (62, 64, 65, 50, 56, 57, 58, 67) or four == 6011)
