"""Learn personal values from the fields that hold them: a value under "first_name" in one tool result is a name in the
whole conversation.

A common value (short, digits only, or an everyday word) may be equal to something else. It is replaced only in its
field, and after words that say what it is ("my password is 12345")."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

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
# Keys of the settings that may have another spelling in JSON, or that ``_KEY`` does not match.
_IN_NO_KEY = re.compile(r"""["'\\:\x00-\x1f]|\A(?:none|true|false|\d.*|)\Z""")
_MAX_KEPT = 10_000  # cached keys that are not personal
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Value(NamedTuple):
    """A personal value: its kind, its first spelling, and whether the same text may also mean something else.
    ``is_number``: some field holds this secret as a JSON number, so its surrogate has digits only and the same length.
    """

    kind: str
    written: str
    is_common: bool
    is_number: bool = False


Known = dict[str, Value]  # by the value in lower case
# Words of messages about a secret in the place of the secret: {"password": "is required"}.
_OF_MESSAGES = set(
    "required invalid incorrect missing wrong expired short long weak must should cannot is not too be the a an reset "
    "changed updated sent hidden redacted masked null none true false yes no set unset ok failed success string text "
    "unknown empty optional mandatory needed provided enter your valid mismatch rejected accepted match matches".split()
)
# Words before a value in texts, besides the names of its fields.
_SPOKEN = {
    "secret": ("password", "passcode", "passphrase", "passwd", "pwd", "pin", "secret", "access code", "api key",
               "token"),
    "phone": ("phone", "phone number", "mobile", "call me at", "call me on", "tel"),
    "date": ("date of birth", "birth date", "birthday", "dob", "born", "born on", "born in"),
    "name": ("name", "named", "called", "i am", "i'm", "this is", "customer", "user", "passenger", "guest"),
}  # fmt: skip
_SHORTEST_SECRET, _LONGEST_COMMON = 8, 16  # characters
_DIGITS_OF_PHONE = 9
_LEAST_SECRET = 100  # of numbers: the code of a card has three digits
_IDENTIFIERS = ("id", "name", "user", "login", "number", "code", "sku", "handle", "account", "reference", "slug")
_DISTINCT = 6  # characters of a word that is not within others: a new_password and a newPassword are passwords
_NEAR = 48  # characters before a value in which something may say what it is


class Fields:
    """Finds the values of personal fields by the settings."""

    def __init__(self, settings: PrivacySettings, is_allowed: Callable[[str], bool]) -> None:
        self._kinds = {_plain(key): kind for key, kind in settings.fields.items()}
        self._met: dict[str, str | None] = {}  # keys as they are written
        self._persons = {_plain(key) for key in settings.persons}
        self._is_allowed = is_allowed
        self._is_hard_to_see = any(map(_IN_NO_KEY.search, self._kinds))
        self._silent: set[str] = set()  # keys under which nothing is learned

    def says(self, kind: str, low: str, at: int) -> bool:
        """Whether the text before a position names this kind of value, by a field's key or by a word."""
        return self._cues[kind].search(low[max(0, at - _NEAR) : at]) is not None

    @cached_property
    def _cues(self) -> dict[str, re.Pattern[str]]:
        found: dict[str, set[str]] = {kind: set(words) for kind, words in _SPOKEN.items()}
        for key, kind in self._kinds.items():
            found.setdefault(kind, set()).add(key)
        found.setdefault("name", set()).update(self._persons)
        return {kind: _cue(words) for kind, words in found.items()}

    def holds(self, key: Any, kind: str) -> bool:
        """Whether a key is a field of this kind of value."""
        told = _plain(str(key))
        return self._kinds.get(told) == kind or (kind == "name" and (told == "name" or told in self._persons))

    @cached_property
    def _mentions(self) -> re.Pattern[str]:
        """A pattern that matches every text with a personal field."""
        keys = sorted({"name", *self._kinds}, key=len, reverse=True)
        spaced = ("[_ -]?".join(map(re.escape, key)) if len(key) < 40 else re.escape(key) for key in keys)
        return re.compile(rf"""(?i)["'](?:{"|".join(spaced)})\\*["']\s*:""")

    def _kind(self, key: Any) -> str | None:
        if key not in self._met:
            self._met[key] = self._kinds.get(_plain(str(key)))
        return self._met[key]

    def may_learn(self, told: str) -> bool:
        """Whether a text (all texts and JSON of a conversation) may have a value to learn. It is a superset of
        ``_mentions`` and of the keys that ``learn`` knows."""
        if self._is_hard_to_see or "\\u" in told or "\\/" in told:
            return True
        new = _keys(told) - self._silent
        if any(not key.isascii() or _plain(key) in self._kinds or _plain(key) == "name" for key in new):
            return True
        if len(self._silent) < _MAX_KEPT:
            self._silent |= {key for key in new if len(key) < 100}
        return False

    def learn_text(self, text: str, known: Known) -> None:
        """Add the values of the fields of a text, if it is JSON or looks like the repr of a record."""
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
        """Add the values of the fields of a JSON value. ``above`` is its key. A record whose e-mail address is on the
        allow-list is test data: nothing in it is personal."""
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
                elif kind is not None and type(item) is int:
                    self._note_number(kind, item, known)
                elif kind is not None and isinstance(item, list):
                    for one in item:
                        if isinstance(one, str):
                            self._note(kind, one, known)
                        elif type(one) is int:
                            self._note_number(kind, one, known)
                        else:
                            self.learn(one, known, key)
                else:
                    self.learn(item, known, key)

    def _note_number(self, kind: str, value: int, known: Known) -> None:
        """Add a number under a personal field: a phone number, or a secret with enough digits. A short number is a
        count or a flag."""
        told = str(value)
        if kind == "phone":
            self._note(kind, told, known)
        elif kind == "secret" and value >= _LEAST_SECRET:
            self._note(kind, told, known)
            if (found := known.get(told)) is not None and found.kind == kind:
                known[told] = found._replace(is_number=True)

    def weaken(self, value: Any, known: Known) -> None:
        """Mark known secrets that are also values of identifier keys (a user name equal to the password) as common:
        under these keys they are no secrets."""
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = parse(value)
        if isinstance(value, list):
            for item in value:
                self.weaken(item, known)
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, str) and (found := known.get(item.strip().lower())) and found.kind == "secret":
                    if self._kind(key) != "secret" and _plain(str(key)).endswith(_IDENTIFIERS):
                        known[item.strip().lower()] = found._replace(is_common=True)
                else:
                    self.weaken(item, known)

    def _note(self, kind: str | None, value: str, known: Known) -> None:
        value = value.strip()
        if kind is None or not _is_told(kind, value) or self._is_allowed(value):
            return
        known.setdefault(value.lower(), Value(kind, value, _is_common(kind, value.lower())))
        if kind == "name":
            words = [w for w in _WORD.findall(value) if not is_no_name(w)]
            for word in words if len(words) > 1 else ():
                if len(word) > 2 or not word.islower():
                    known.setdefault(word.lower(), Value("name", word, _is_common("name", word.lower())))


def _keys(told: str) -> set[str]:
    """Return all quoted texts before a colon: every key, and sometimes other texts."""
    if "\\" in told:
        return set(_KEY.findall(told))
    found = set()
    for before in told.split(":"):  # a colon is found much faster than a quote that a colon follows
        before = before.rstrip()
        if before.endswith(("'", '"')):
            found.add(before[:-1].replace("'", '"').rpartition('"')[2])
    return found


def _cue(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for one of some words or keys, with any separators, and for the characters between it and a
    value."""
    ordered = sorted(words, key=len, reverse=True)
    # A key of several words is known without what divides them: it may have a mark between any two characters.
    told = "|".join(
        (r"\w*" if len(word) >= _DISTINCT else r"\b(?:\w*_)?") + "[ _-]?".join(map(re.escape, word.replace(" ", "")))
        for word in ordered
    )
    return re.compile(rf"(?:{told})[\"'\\]*\s*(?:is|was|to|=>|->|=|:)?\s*[\"'\\`(\[]*\Z")


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_told(kind: str, value: str) -> bool:
    """Whether a value can be of the kind of its field: not empty, not a placeholder, not an object."""
    if not 1 < len(value) < 400 or value[0] in "{[<" or set(value) <= set("*xX-# ."):
        return False
    if kind == "email":
        return "@" in value
    if kind in ("phone", "date"):
        return sum(c.isdigit() for c in value) >= (6 if kind == "phone" else 4)
    if kind == "name":
        return any(map(str.isalpha, value)) and not any(map(str.isdigit, value)) and "@" not in value
    if kind == "secret":
        words = value.lower().replace(".", " ").replace("!", " ").split()
        of_messages = len(_OF_MESSAGES.intersection(words))
        return not (of_messages > 1 or (of_messages and all(map(str.isalpha, words))))
    return any(map(str.isalpha, value))


def places(text: str, low: str, known: Known, fields: Fields) -> Iterable[tuple[int, int, str]]:
    """Yield the places of known values in a text: start, end, kind. Only whole words, so ids made of names stay."""
    for value, (kind, written, needs_more, _) in known.items():
        at = low.find(value)
        while at >= 0:
            end = at + len(value)
            if _is_whole(low, at, end) and _is_meant(kind, written, text[at:end]):
                if not needs_more or fields.says(kind, low, at) or (kind == "name" and _is_addressed(text, at, end)):
                    yield at, end, kind
            at = low.find(value, end)


def _is_common(kind: str, value: str) -> bool:
    """Whether a value (in lower case) may be equal to other things than its field's value."""
    if kind == "secret":
        if len(value) >= _LONGEST_COMMON:
            return value.isdigit()
        classes = any(map(str.isalpha, value)) + any(map(str.isdigit, value)) + any(not c.isalnum() for c in value)
        return len(value) < _SHORTEST_SECRET or classes < 2
    if kind == "phone":
        return value.isdigit() and len(value) < _DIGITS_OF_PHONE
    return value.isdigit() or value in AMBIGUOUS


def _is_addressed(text: str, start: int, end: int) -> bool:
    """Whether a name that is also a common word is used as a name: with a capital within a sentence, or before a comma
    or "'s"."""
    if not text[start].isupper():
        return False
    before, after = text[:start].rstrip(" "), text[end : end + 2]
    if after[:1] == "," or after == "'s":
        return True
    return bool(before) and before[-1] not in ".!?:;\n\"'([{>|" and (before[-1].isalnum() or before[-1] == ",")


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
