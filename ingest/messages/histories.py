"""Parse growing histories: each call repeats all earlier messages, and only new ones are parsed.

Most instrumentations write the messages of a call as a JSON list that starts with exactly the text of the previous
call's list. The last list of each conversation is cached; of a list that continues it, only the rest is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from ingest.messages.shapes import NormalMessage, join_turns, messages_of_item

_MOST, _MAX_CHARACTERS = 512, 32 << 20
Key = tuple[str, str]


@dataclass(slots=True)
class _Told:
    """The text of a list without its closing bracket, and its messages."""

    text: str
    messages: list[NormalMessage]


class Histories:
    """A cache of the last lists of some conversations."""

    def __init__(self) -> None:
        self._last: dict[Key, _Told] = {}
        self._characters = 0

    def read(self, text: str, role: str, key: Key) -> list[NormalMessage] | None:
        """Return the messages of a JSON list like ``shapes.read_messages``; None if the text is no list. ``key`` is the
        conversation and the attribute. Lists with the same key may continue each other."""
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
