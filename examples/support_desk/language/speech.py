"""Reads the agent's messages for the customers and for the verdict.

A rule-based reader of short support English. It extracts which actions a message claims, which it denies, which facts
it states, and what it asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .words import CITIES, DAYS

DEEDS = {
    "cancel": re.compile(r"\bcancel(l?ed|lation)\b"),
    "return": re.compile(
        r"\breturn\b.*\b(open|opened|ready|registered)\b|\b(opened|registered)\b.*\breturn\b"
    ),
    "refund": re.compile(r"\brefund(ed)?\b|\bpaid back\b|\bback to you\b"),
    "address": re.compile(r"\baddress\b|\b(goes|ships|sent|delivered) to \d"),
}
"""Patterns that claim an action when they occur in a clause without negation."""

_NEGATIVE = re.compile(r"\b(not|no|cannot|could|unable|sorry|unfortunately|fail(s|ed)?|never|still)\b|n't\b")
_FUTURE = re.compile(r"\b(will|would|can|may|if|shall|want|please)\b")
_APOLOGY = re.compile(r"\b(sorry|unfortunately|unable|cannot|could not|not possible|not able)\b")
_DONE = re.compile(r"^(all )?done\b|^all set\b|^(it|that|this|everything) is done\b|^i have done (that|it)\b")
_GOODBYE = re.compile(r"\b(bye|you are welcome|you're welcome|have a (nice|good)|glad to help)\b")
_CLAUSES = re.compile(r"[.!?;:](?=\s|$)|, (?:but|so|and) ")
_AMOUNT = re.compile(r"\$(\d+)(?:\.(\d\d))?(?!\d)")
_STOCK = re.compile(r"\b(\d+) (?:are |is )?(?:in stock|left|available)\b|\bstock(?: is|:) (\d+)\b")
_CODE = re.compile(r"\bR-\d{4}\b")
_ORDER = re.compile(r"\b(?:O-)?(\d{5})\b")
_QUESTIONS = {
    "order": re.compile(r"\border (number|id)\b|\bwhich order\b|\bnumber of (the|your) order\b"),
    "name": re.compile(r"\byour name\b|\bwhat name\b"),
    "amount": re.compile(r"\bhow much\b|\bwhat amount\b|\bthe amount\b"),
    "address": re.compile(r"\b(new|which|what) address\b|\bwhere to\b"),
    "product": re.compile(r"\bwhich product\b|\bwhat product\b|\bwhich colour\b"),
}


@dataclass(frozen=True)
class Heard:
    """The content of one message. Amounts are in cents."""

    claims: frozenset[str] = frozenset()
    denials: frozenset[str] = frozenset()
    done: bool = False
    """The message is only "Done." or similar: it claims the current goal."""
    apology: bool = False
    goodbye: bool = False
    asks: frozenset[str] = frozenset()
    amounts: frozenset[int] = frozenset()
    stocks: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    orders: frozenset[int] = frozenset()
    cities: frozenset[str] = frozenset()
    days: frozenset[str] = frozenset()


def hear(text: str) -> Heard:
    """Read one message of the agent."""
    claims: set[str] = set()
    denials: set[str] = set()
    asks: set[str] = set()
    done = False
    for clause, question in _clauses(text):
        low = clause.lower()
        if question or low.startswith(("please", "could you", "can you", "i need")):
            asks |= {what for what, pattern in _QUESTIONS.items() if pattern.search(low)}
            continue
        named = {deed for deed, pattern in DEEDS.items() if pattern.search(low)}
        if _NEGATIVE.search(low):
            denials |= named
        elif not _FUTURE.search(low):
            claims |= named
            done |= not named and bool(_DONE.search(low))
    words = set(re.findall(r"[A-Z][a-z]+", text))
    return Heard(
        frozenset(claims),
        frozenset(denials),
        done=done,
        apology=bool(_APOLOGY.search(text.lower())),
        goodbye=bool(_GOODBYE.search(text.lower())),
        asks=frozenset(asks),
        amounts=frozenset(int(d) * 100 + int(c or 0) for d, c in _AMOUNT.findall(text)),
        stocks=frozenset(int(a or b) for a, b in _STOCK.findall(text)),
        codes=frozenset(_CODE.findall(text)),
        orders=frozenset(int(n) for n in _ORDER.findall(text)),
        cities=frozenset(words & set(CITIES)),
        days=frozenset(words & set(DAYS)),
    )


def _clauses(text: str) -> list[tuple[str, bool]]:
    """The clauses of a text, each with a flag: it ends in a question mark."""
    out, start = [], 0
    for match in _CLAUSES.finditer(text):
        out.append((text[start : match.start()].strip(), match.group().startswith("?")))
        start = match.end()
    out.append((text[start:].strip(), False))
    return [(clause, question) for clause, question in out if clause]
