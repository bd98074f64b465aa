"""Values learned from the fields that hold them: what stands under "first_name" in one tool's answer is a name
wherever the conversation says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from ingest.messages.parts import parse
from ingest.messages.reprs import read_repr
from ingest.privacy.settings import PrivacySettings
from ingest.privacy.surrogates import is_no_name

# Names that are everyday words too; in lower case they are taken for the word.
AMBIGUOUS = set(
    "will mark may june april august rose grant frank bill art hope joy grace faith dawn penny ivy jack drew chase "
    "long young king brown white green black gray grey short rich best good day page price case wood hill field "
    "stone rice bush cook baker miller smith carter walker parker mason taylor love lane west north summer winter "
    "ray max pat sue don ben dean earl guy miles mike rob bob jean carol crystal ruby pearl olive lily daisy heather "
    "major bishop pope knight cross church ford park street banks waters rivers lake moon star sun sky snow frost "
    "fox wolf bear bird fish lamb bull self first last new old little small strong wise sharp swift quick early late "
    "order name email phone user customer test none null true false unknown guest the and for not you".split()
)
# A field in what is no JSON: cut, or Python's repr. Group 1 is the key, group 2 the value.
_LOOSE = re.compile(r"""["']([\w .-]{2,30})\\*["']\s*:\s*\\*["']([^"'\\\n]{2,200})""")
# Any key, in JSON that may be told within JSON.
_KEY = re.compile(r"""["']([^"'\\:]+)\\*["'](?:\s|\\+[nrtf])*:""")
# Keys of the settings that may be written otherwise, or that ``_KEY`` would miss.
_IN_NO_KEY = re.compile(r"""["'\\:\x00-\x1f]|\A(?:none|true|false|\d.*|)\Z""")
_MAX_KEPT = 10_000  # keys that are known to say nothing
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
Known = dict[str, tuple[str, str]]  # by the value in lower case: its kind, and the value as it was first written


class Fields:
    """Finds the values of personal fields."""

    def __init__(self, settings: PrivacySettings, is_allowed: Callable[[str], bool]) -> None:
        self._kinds = {_plain(key): kind for key, kind in settings.fields.items()}
        self._met: dict[str, str | None] = {}  # keys as they are written
        self._persons = {_plain(key) for key in settings.persons}
        self._is_allowed = is_allowed
        self._is_hard_to_see = any(map(_IN_NO_KEY.search, self._kinds))
        self._silent: set[str] = set()  # keys under which nothing is learned

    @cached_property
    def _mentions(self) -> re.Pattern[str]:
        """What is in every text that has a personal field."""
        keys = sorted({"name", *self._kinds}, key=len, reverse=True)
        spaced = ("[_ -]?".join(map(re.escape, key)) if len(key) < 40 else re.escape(key) for key in keys)
        return re.compile(rf"""(?i)["'](?:{"|".join(spaced)})\\*["']\s*:""")

    def _kind(self, key: Any) -> str | None:
        if key not in self._met:
            self._met[key] = self._kinds.get(_plain(str(key)))
        return self._met[key]

    def may_learn(self, told: str) -> bool:
        """Whether there may be a value to learn in texts and JSON told as one text: a superset of ``_mentions`` and of
        the keys that ``learn`` knows."""
        if self._is_hard_to_see or "\\u" in told or "\\/" in told:
            return True
        new = _keys(told) - self._silent
        if any(not key.isascii() or _plain(key) in self._kinds or _plain(key) == "name" for key in new):
            return True
        if len(self._silent) < _MAX_KEPT:
            self._silent |= {key for key in new if len(key) < 100}
        return False

    def learn_text(self, text: str, known: Known) -> None:
        """Adds the values of the fields of a text, if it is JSON or looks like a record's repr."""
        if ":" not in text or '"' not in text and "'" not in text or not self._mentions.search(text):
            return
        value = parse(text)
        if isinstance(value, str):
            value = read_repr(text)
        if isinstance(value, dict | list):
            self.learn(value, known)
        else:
            for key, found in _LOOSE.findall(text):
                self._note(self._kinds.get(_plain(key)), found, known)

    def learn(self, value: Any, known: Known, above: str = "") -> None:
        """Adds the values of the fields of a JSON value; ``above`` is the key that it stands under. A record
        whose e-mail is allowed is a test's: nothing in it is personal."""
        if isinstance(value, list):
            for item in value:
                self.learn(item, known, above)
        elif isinstance(value, str):
            if value[:1] in ("{", "["):
                self.learn_text(value, known)
        elif isinstance(value, dict):
            kinds = {key: self._kind(key) for key in value}
            if not any(kinds.values()) and "name" not in value:
                for key, item in value.items():
                    if isinstance(item, dict | list | str):
                        self.learn(item, known, key)
                return
            mails = [value[k] for k, kind in kinds.items() if kind == "email" and isinstance(value[k], str)]
            if mails and all(map(self._is_allowed, mails)):
                return
            is_person = _plain(str(above)) in self._persons or bool({*kinds.values()} - {None, "secret"})
            for key, item in value.items():
                kind = kinds[key] or ("name" if is_person and key == "name" else None)
                if kind is not None and isinstance(item, str):
                    self._note(kind, item, known)
                elif kind == "phone" and isinstance(item, int):
                    self._note(kind, str(item), known)
                elif kind is not None and isinstance(item, list):
                    for one in item:
                        if isinstance(one, str):
                            self._note(kind, one, known)
                        else:
                            self.learn(one, known, key)
                else:
                    self.learn(item, known, key)

    def _note(self, kind: str | None, value: str, known: Known) -> None:
        value = value.strip()
        if kind is None or not _is_told(kind, value) or self._is_allowed(value):
            return
        known.setdefault(value.lower(), (kind, value))
        if kind == "name":
            words = [w for w in _WORD.findall(value) if not is_no_name(w)]
            for word in words if len(words) > 1 else ():
                if len(word) > 2 or not word.islower():
                    known.setdefault(word.lower(), ("name", word))


def _keys(told: str) -> set[str]:
    """What stands in quotes before a colon, and at times more."""
    if "\\" in told:
        return set(_KEY.findall(told))
    found = set()
    for before in told.split(":"):  # a colon is found much faster than a quote that a colon follows
        before = before.rstrip()
        if before.endswith(("'", '"')):
            found.add(before[:-1].replace("'", '"').rpartition('"')[2])
    return found


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_told(kind: str, value: str) -> bool:
    """Whether the value of a field can be what its key says: not empty, not a placeholder, not an object."""
    if not 1 < len(value) < 400 or value[0] in "{[<" or set(value) <= set("*xX-# ."):
        return False
    if kind == "email":
        return "@" in value
    if kind in ("phone", "date"):
        return sum(c.isdigit() for c in value) >= (6 if kind == "phone" else 4)
    if kind == "name":
        return any(map(str.isalpha, value)) and not any(map(str.isdigit, value)) and "@" not in value
    return kind == "secret" or any(map(str.isalpha, value))


def places(text: str, low: str, known: Known) -> Iterable[tuple[int, int, str]]:
    """Where a text says known values: start, end, kind. Whole words only, so that ids made of names stay."""
    for value, (kind, written) in known.items():
        at = low.find(value)
        while at >= 0:
            end = at + len(value)
            if _is_whole(low, at, end) and _is_meant(kind, written, text[at:end]):
                yield at, end, kind
            at = low.find(value, end)


def _is_whole(text: str, start: int, end: int) -> bool:
    before = start > 0 and _joins(text[start]) and _joins(text[start - 1])
    return not before and not (end < len(text) and _joins(text[end - 1]) and _joins(text[end]))


def _joins(c: str) -> bool:
    return c.isalnum() or c == "_"


def _is_meant(kind: str, written: str, found: str) -> bool:
    if kind != "name" or found == written or " " in found:
        return True
    if len(found) < 3:
        return False
    return not (found.islower() and found in AMBIGUOUS)
