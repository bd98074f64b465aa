"""A fast test whether texts may hold anything that a detector finds, applied to many texts at once.

The texts and JSON of a conversation are joined, one per line. A test that is true for a part is true for the whole, and
JSON escapes are the only difference between a text and its JSON form. The test can give false positives, but no false
negatives.
"""

from __future__ import annotations

import re
from itertools import chain

from ingest.privacy.detectors import FORMS, IN_IPV4, IN_IPV6
from ingest.privacy.tokens import LONG_FROM, SAYS

# As in ``detectors``; but numbers may have others beside them, in a list.
_START, _FORM = r"[\d(+A-Z](?<![\w+@./-].)(?=[\dA-Z ().\-/]{5})", rf"(?:{FORMS})(?![\w@]|[.-]\d)"
_STARTS, _STARTS_OF_ASCII = re.compile(_START), re.compile(_START, re.ASCII)
_IS_FORM = re.compile(_FORM)
# Escapes of JSON, in JSON in JSON too: at least as many spaces as those that take their place for the detectors.
_ESCAPES = re.compile(r"""\\+[nrtbf"']?""")
_LINK = re.compile(r"://[^\s/@:]+:")
_LONG_RUN = re.compile(rf"[\w\-+/=.:]{{{LONG_FROM},}}")
# What stands after a word for a secret. Between, it may be written with escapes.
_SAID = re.compile(
    r"""(?:passw(?:or)?d|passcode|pwd|passphrase|key|secret|token)[\\"'nrtbf\s]*(?:is|was|=|:)"""
    r"""|(?:bearer|basic) +[\w\-.~+/]{20}"""
)
_SAID_IN_ANY_CASE = re.compile(_SAID.pattern, re.IGNORECASE)


class Told:
    """The content of a conversation: the texts of each turn, and its tools as JSON. Of a call, the texts hold its
    arguments as JSON, its id and its name, because values are learned by keys."""

    def __init__(self, turns: list[list[str]], tools: str) -> None:
        self.turns, self.tools = turns, tools
        self.whole = "\n".join(chain.from_iterable(turns))

    def plain_turns(self) -> list[bool]:
        """For each turn, whether it has nothing to replace."""
        return [not may_hold("\n".join(texts)) for texts in self.turns]


def may_hold(told: str) -> bool:
    """Whether anything of ``told`` may be personal or secret by its form."""
    if "@" in told or _is_hard_to_read(told) or _may_hold_secret(told) or _says_secret(told):
        return True
    return _has_form(_ESCAPES.sub("  ", told) if "\\" in told else told)


def _has_form(bare: str) -> bool:
    starts = _STARTS_OF_ASCII if bare.isascii() else _STARTS  # the former is faster
    if any(_IS_FORM.match(bare, start.start()) for start in starts.finditer(bare)):
        return True
    return IN_IPV4.search(bare) is not None or IN_IPV6.search(bare) is not None


def _is_hard_to_read(told: str) -> bool:
    """Whether letters, digits or a slash may be written as escapes."""
    return "\\" in told and ("\\u" in told or "\\/" in told)


def _may_hold_secret(told: str) -> bool:
    """Whether the text has what ``tokens`` searches for: a long word with a digit, a password in an address, a prefix,
    a key block."""
    if "xox" in told or "PRIVATE KEY" in told or ("://" in told and _LINK.search(told)):
        return True
    words = told.replace('"', " ").split()
    if max(map(len, words), default=0) < LONG_FROM:
        return False
    return any(":" in run or "x" in run or any(map(str.isdigit, run)) for run in _LONG_RUN.findall(told))


def _says_secret(told: str) -> bool:
    low = told.lower()
    found = [word for word in SAYS if word in low]
    if found and not told.isascii():  # where other letters can stand for those of the words
        return _SAID_IN_ANY_CASE.search(told) is not None
    return any(_is_said(word, low) for word in found)


def _is_said(word: str, low: str) -> bool:
    at = low.find(word)
    while at >= 0:
        if _SAID.match(low, at):
            return True
        at = low.find(word, at + 1)
    return False
