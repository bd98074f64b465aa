"""Replace personal and secret values in texts and JSON values by surrogates."""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from typing import Any

import orjson

from ingest.messages.parts import parse
from ingest.privacy.detectors import Hit, find
from ingest.privacy.fields import Fields, Known, places
from ingest.privacy.settings import PrivacySettings
from ingest.privacy.surrogates import Surrogates
from ingest.privacy.tokens import find_secrets

_MAX_KEPT = 20_000  # cached texts with their places; system prompts and tools repeat
SHORTEST = 6  # characters of the shortest value that a detector finds: a@b.cc
ALLOWED = ""  # the kind of a place that stays as it is
# Strings of JSON text, and numbers that may be replaced.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\w.\-])\d{3,19}(?![\w.])')

_ESCAPE = re.compile(r"\\[nrtbf\"'/]")


class Scrubber:
    """Replaces values by the settings and the key of one lake, and counts them.

    By kind, ``values`` holds the surrogates in use and ``allowed`` the values on the allow-list.
    """

    def __init__(self, settings: PrivacySettings, key: bytes) -> None:
        self.surrogates = Surrogates(key)
        self.fields = Fields(settings, self.is_allowed)
        self.allowed: dict[str, set[str]] = {}
        self.values: dict[str, set[str]] = {}
        self._wanted = frozenset(settings.detectors)
        self._allow = re.compile("|".join(fnmatch.translate(p.lower()) for p in settings.allow) or r"(?!)")
        self._hits: dict[str, tuple[Hit, ...]] = {}

    def is_allowed(self, value: str) -> bool:
        """Whether a value is on the allow-list."""
        return self._allow.match(value.lower()) is not None

    def text(self, text: str, known: Known, counts: Counter[str]) -> str:
        """Return a text, JSON or not, with surrogates. Add the replacements by kind to ``counts``."""
        if not known and (len(text) < SHORTEST or self._hits.get(text) == ()):
            return text
        value = parse(text)
        if value is not text and isinstance(value, dict | list):
            return self._json_text(text, value, known, counts)
        return self._plain(text, known, counts)

    def value(self, value: Any, known: Known, counts: Counter[str], key: Any = None) -> Any:
        """Return a JSON value with surrogates; the same object if nothing was replaced. ``key`` is its key."""
        if isinstance(value, str):
            if key is not None and known and (made := self._at_field(key, value, known, counts)) is not None:
                return made
            return self.text(value, known, counts)
        if isinstance(value, dict):
            replaced: dict[Any, Any] = {}
            same = True
            for k, v in value.items():
                made_k, made_v = self.value(k, known, counts), self.value(v, known, counts, k)
                replaced[made_k] = made_v
                same = same and made_k is k and made_v is v
            return value if same else replaced
        if isinstance(value, list):
            items = [self.value(v, known, counts, key) for v in value]
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
        if type(value) is int and key is not None and known:
            if (told := self._at_field(key, str(value), known, counts)) is not None and told.isdigit():
                return int(told)
        if isinstance(value, int) and not isinstance(value, bool) and value > 99_999_999:
            told = self._plain(str(value), known, counts)
            return int(told) if told != str(value) and told.isdigit() else value
        return value

    def _at_field(self, key: Any, text: str, known: Known, counts: Counter[str]) -> str | None:
        """Return the surrogate of a common value in its field; None for any other value or field."""
        value = text.strip()
        found = known.get(value.lower())
        if found is None or not found.is_common or not self.fields.holds(key, found.kind):
            return None
        made = self._surrogate(found.kind, value, known)
        self._note(found.kind, made, counts)
        return text.replace(value, made)

    def _surrogate(self, kind: str, text: str, known: Known) -> str:
        """The surrogate of a value; digits where a field of the conversation has it as a number."""
        value = known.get(text)
        if value is not None and value.is_number and value.kind == kind:
            return self.surrogates.digits_of(kind, text)
        return self.surrogates.of(kind, text)

    def _note(self, kind: str, made: str, counts: Counter[str]) -> None:
        counts[kind] += 1
        self.values.setdefault(kind, set()).add(made.lower())

    # ----------------------------------------------------------------------------------- texts

    def _plain(self, text: str, known: Known, counts: Counter[str]) -> str:
        spots: list[tuple[int, int, str]] = [*self._found(text)]
        if not known and not spots:
            return text
        if known:
            low = _without_escapes(text).lower()
            spots += places(text, low if len(low) == len(text) else text, known, self.fields)
        if not any(kind != ALLOWED for _, _, kind in spots):
            return text
        out, at = [], 0
        for start, end, kind in _apart(spots):
            found = text[start:end]
            made = found if kind == ALLOWED else self._surrogate(kind, found, known)
            out += [text[at:start], made]
            at = end
            if made != found:
                self._note(kind, made, counts)
        return "".join([*out, text[at:]])

    def _found(self, text: str) -> tuple[Hit, ...]:
        """Return what the detectors find in a text. Results are cached."""
        if len(text) < SHORTEST:
            return ()
        hits = self._hits.get(text)
        if hits is None:
            if len(self._hits) >= _MAX_KEPT:
                self._hits.clear()
            bare = _without_escapes(text)
            all_hits = find(bare, self._wanted) + (find_secrets(text) if "secret" in self._wanted else [])
            hits = self._hits[text] = tuple(self._permitted(h, text[h.start : h.end]) for h in all_hits)
        return hits

    def _permitted(self, hit: Hit, found: str) -> Hit:
        """Return the hit, marked as ``ALLOWED`` if it must stay. Then nothing within it is replaced either."""
        if hit.kind == "email" and self.surrogates.is_email(found):
            return hit._replace(kind=ALLOWED)
        if self.is_allowed(found):
            self.allowed.setdefault(hit.kind, set()).add(found.lower())
            return hit._replace(kind=ALLOWED)
        return hit

    def _json_text(self, text: str, value: Any, known: Known, counts: Counter[str]) -> str:
        """Return JSON text with surrogates. Only the strings and numbers with a replacement change."""
        if "\\" not in text:  # no string of it is written otherwise than it reads
            seen: Counter[str] = Counter()
            made = self._plain(text, known, seen)
            if made is text or isinstance(parse(made), dict | list):
                counts.update(seen)
                return made
        changed: dict[str, str] = {}
        common: Common = {}
        self._changes(value, known, changed, common, counts)
        if not changed and not common:
            return text
        return _JSON_TOKEN.sub(lambda m: _rewritten(m, changed, common), text)

    def _changes(
        self, value: Any, known: Known, changed: dict[str, str], common: Common,
        counts: Counter[str], key: Any = None,
    ) -> None:  # fmt: skip
        """Add the replacements of strings and numbers of a JSON value: by value, and for common ones by key."""
        if isinstance(value, str):
            if key is not None and known and (made := self._at_field(key, value, known, counts)) is not None:
                common.setdefault(value, {})[str(key)] = made
                return
            made = self.text(value, known, counts)
            if made is not value and made != value:
                changed[value] = made
        elif isinstance(value, dict):
            for name, item in value.items():
                self._changes(name, known, changed, common, counts)
                self._changes(item, known, changed, common, counts, name)
        elif isinstance(value, list):
            for item in value:
                self._changes(item, known, changed, common, counts, key)
        elif isinstance(value, int) and not isinstance(value, bool):
            told = self.value(value, known, counts, key)
            if told != value and key is not None and (found := known.get(str(value))) and found.is_number:
                common.setdefault(f"\0{value}", {})[str(key)] = str(told)
            elif told != value:
                changed[f"\0{value}"] = str(told)


def _without_escapes(text: str) -> str:
    """Return text of the same length with spaces in place of escapes, so that they do not count as letters."""
    return _ESCAPE.sub("  ", text) if "\\" in text else text


Common = dict[str, dict[str, str]]  # replacements by value and key
_LONGEST_KEY = 256
# The key before a place in JSON text, with the list in which the value is the first.
_KEY_BEFORE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[?\s*\Z')


def _rewritten(token: re.Match[str], changed: dict[str, str], common: Common) -> str:
    told = token[0]
    is_number = told[0] != '"'
    try:
        value = f"\0{told}" if is_number else orjson.loads(told) if "\\" in told else told[1:-1]
    except orjson.JSONDecodeError:
        return told
    made = changed.get(value)
    if made is None and value in common:
        key = _KEY_BEFORE.search(token.string, max(0, token.start() - _LONGEST_KEY), token.start())
        made = common[value].get(key[1]) if key else None
    if made is None:
        return told
    return made if is_number else json.dumps(made, ensure_ascii=told.isascii())


def _apart(spots: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return the spots in order, with overlapping ones merged. A merged spot has the kind of the longer one; of equal
    lengths, of the first."""
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spots, key=lambda s: (s[0], -s[1])):
        if kept and start < kept[-1][1]:
            before = kept[-1]
            longer = kind if end - start > before[1] - before[0] else before[2]
            kept[-1] = (before[0], max(end, before[1]), longer)
        else:
            kept.append((start, end, kind))
    return kept
