"""JSON with halves of surrogate pairs: ``"\\ud83d"`` alone is no character, and strict parsers refuse all around it.

JavaScript writes them where a text was cut within a character. Each becomes U+FFFD, the rest is read as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_BYTES = re.compile(rb"\\u[dD][89a-fA-F]")


def may_have(text: str | bytes | bytearray) -> bool:
    """Whether a text has an escape that may be half a pair."""
    return (_ESCAPE.search(text) if isinstance(text, str) else _BYTES.search(text)) is not None


def loads(text: str | bytes | bytearray) -> Any:
    """The value of JSON; raises ``orjson.JSONDecodeError`` if it is none, half characters apart."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if not may_have(text):
            raise
        try:
            return encodable(json.loads(text))
        except (ValueError, RecursionError):
            pass
        raise


def loads_or(text: str) -> Any:
    """The value of JSON with half characters, or the text if it is no JSON."""
    if not may_have(text):
        return text
    try:
        return loads(text)
    except orjson.JSONDecodeError:
        return text


def encodable(value: Any) -> Any:
    """A value whose texts can be written in UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {encodable(k): encodable(v) for k, v in value.items()}
    return [encodable(v) for v in value] if isinstance(value, list) else value
