"""Words and numbers of a text, comparable between what tools, users and agents write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SHIFTS = (-3, -2, 0, 2, 3)
"""Powers of ten between two writings of one quantity: cents and whole units, per cent and shares, milli and kilo."""
_WORD = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?")


def words(text: str) -> set[str]:
    """Lower-case words of two letters or more, and numbers without zeros at the front and after the point."""
    found = set()
    for match in _WORD.finditer(text):
        word = match[0]
        if word[0].isdigit():
            found.add(plain(word))
        elif len(word) > 1:
            found.add(word.lower())
    return found


def plain(number: str) -> str:
    """A number without zeros at the front and after the point."""
    whole, _, part = number.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def writings(found: Iterable[str]) -> set[str]:
    """The words, and every number in its other units (SHIFTS): $70.50 is 7050 cents."""
    return {other for word in found for other in (_shifted(word) if is_number(word) else (word,))}


def _shifted(number: str) -> Iterator[str]:
    whole, _, part = number.partition(".")
    for shift in SHIFTS:
        digits, point = whole + part, len(whole) + shift
        digits = "0" * max(0, 1 - point) + digits + "0" * max(0, point - len(digits))
        point = max(point, 1)
        yield plain(f"{digits[:point]}.{digits[point:]}")


def is_number(word: str) -> bool:
    """Whether a word of `words` is a number."""
    return word[0].isdigit()
