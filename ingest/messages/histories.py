"""Histories that grow: every call tells all that was said before it, and of that only what is new is read.

Most instrumentations write the messages of a call as a JSON list, which is, to the letter, the list of the call before
with more behind it. The last list of a conversation is remembered, and of one that goes on from it the rest is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from ingest.messages.shapes import NormalMessage, join_turns, messages_of_item

_MOST, _MAX_CHARACTERS = 512, 32 << 20
Key = tuple[str, str]


@dataclass(slots=True)
class _Told:
    """A list without what closes it, and its messages."""

    text: str
    messages: list[NormalMessage]


class Histories:
    """The last lists of some conversations."""

    def __init__(self) -> None:
        self._last: dict[Key, _Told] = {}
        self._characters = 0

    def read(self, text: str, role: str, key: Key) -> list[NormalMessage] | None:
        """What ``shapes.read_messages`` reads of a JSON list; None for text that is none. ``key`` names the
        conversation and the attribute: lists with one key may go on from each other."""
        if text[:1] != "[" or text[-1:] != "]":
            return None
        known = self._last.get(key)
        end = len(known.text) if known else 0
        goes_on = known is not None and text[end : end + 1] == "," and text.startswith(known.text)
        before, rest = (known.messages, "[" + text[end + 1 :]) if known and goes_on else ([], text)
        try:
            items = orjson.loads(rest)
        except orjson.JSONDecodeError:
            return None
        if goes_on and not items:  # nothing behind a comma
            return None
        messages = join_turns([m for item in items for m in messages_of_item(item, role)], before)
        if items:  # behind nothing no comma may stand
            self._remember(key, _Told(text[:-1].rstrip(), messages))
        return messages

    def _remember(self, key: Key, told: _Told) -> None:
        before = self._last.pop(key, None)
        self._characters += len(told.text) - (len(before.text) if before else 0)
        if len(self._last) >= _MOST or self._characters > _MAX_CHARACTERS:
            self._last.clear()
            self._characters = len(told.text)
        self._last[key] = told
