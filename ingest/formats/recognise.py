"""Guesses what an unreadable input is and what to do with it. Used only for error messages.

A guess names the kind of input and one step that makes a readable file of it. ``READABLE`` shows a readable line.
``exports`` recognises JSON of other systems.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ingest.formats import exports
from ingest.formats.exports import Guess
from ingest.formats.otlp import NotOtlp
from ingest.formats.records import message_lists

READABLE = (
    'a readable line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}],'
    ' "reward": 1.0} or OTLP/JSON, {"resourceSpans": [...]} or {"resourceLogs": [...]}; docs/files.md shows every form'
)
HEAD = 4096  # bytes of a file that ``of_bytes`` looks at


class NotReadable(NotOtlp):
    """A JSON value that is neither telemetry nor a conversation."""

    def __init__(self, guess: Guess) -> None:
        super().__init__(f"it seems to be {guess.what}")
        self.guess = guess


def _to_lines(reader: str) -> str:
    """The command that converts a table to JSON lines with DuckDB, which is installed with this project."""
    sql = f"COPY (FROM {reader}('FILE')) TO 'FILE.jsonl' (FORMAT json)"
    command = f'python -c "import duckdb; duckdb.sql({QUOTES}{sql}{QUOTES})"'
    return f"make JSON lines of it and give FILE.jsonl: {command}"


QUOTES = "'''"
_UNPACK = "unpack it and give the files in it"
TEXT = "give the traces or conversations as JSON, one a line"
_BYTES: tuple[tuple[bytes, Guess], ...] = (
    (b"PAR1", Guess("a Parquet file", _to_lines("read_parquet"))),
    (b"ARROW1", Guess("an Arrow file", "write it as JSON lines")),
    (b"Obj\x01", Guess("an Avro file", "write it as JSON lines")),
    (b"ORC", Guess("an ORC file", "write it as JSON lines")),
    (b"SQLite format 3\0", Guess("an SQLite database", "export its table of messages as JSON lines")),
    (b"%PDF", Guess("a PDF", TEXT)),
    (b"PK\x03\x04", Guess("a ZIP archive (or an Office document, which is one)", _UNPACK)),
    (b"BZh", Guess("a file compressed with bzip2", "decompress it: bunzip2 FILE")),
    (b"\xfd7zXZ\0", Guess("a file compressed with xz", "decompress it: unxz FILE")),
    (b"\x04\x22\x4d\x18", Guess("a file compressed with lz4", "decompress it: lz4 -d FILE")),
    (b"7z\xbc\xaf", Guess("a 7z archive", _UNPACK)),
    (b"\x89PNG", Guess("a picture", TEXT)),
    (b"\xff\xd8\xff", Guess("a picture", TEXT)),
    (b"GIF8", Guess("a picture", TEXT)),
    (b"\x7fELF", Guess("a program", TEXT)),
    (b"\x80\x04\x95", Guess("a Python pickle", "write it as JSON lines")),
    (b"\x93NUMPY", Guess("a NumPy array", TEXT)),
)
_HTML = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_TIMED = re.compile(rb"\s*\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\s*\[?(?:TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL)\b")
_METRIC = re.compile(rb"# (?:HELP|TYPE) ")


def of_bytes(head: bytes) -> Guess | None:
    """The guess for a file that begins with these bytes; None for JSON and for unknown beginnings."""
    for magic, guess in _BYTES:
        if head.startswith(magic):
            return guess
    if head[257:262] == b"ustar":
        return Guess("a tar archive", _UNPACK)
    if b"\0" in head[:1024]:
        return Guess("a binary file of another kind", "give OTLP protobuf as *.pb or *.binpb, or JSON lines")
    if _HTML.match(head):
        return Guess("an HTML page", "fetch the data itself: such a page is often a login or an error page")
    start = head.lstrip()
    if start[:1] in (b"{", b"["):
        return None
    if start.startswith(b"<"):
        return Guess("XML", TEXT)
    if _METRIC.match(head):
        return Guess("metrics in Prometheus' text format", f"metrics hold no conversation: {TEXT}")
    if _TIMED.match(head):
        return Guess("an application's log in plain text", exports.SEND_OTLP)
    return Guess(f"{table} (a table as text)", _to_lines("read_csv")) if (table := _table(head)) else None


def _table(head: bytes) -> str:
    """CSV or TSV: lines that all have the separators of the first."""
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    for name, separator in (("TSV", b"\t"), ("CSV", b","), ("CSV", b";")):
        columns = lines[0].count(separator) if lines else 0
        if columns and len(lines) > 1 and any(line.count(separator) >= columns for line in lines[1:]):
            return name
    return ""


# ------------------------------------------------------------------------------------------- JSON values


def foreign(value: Any) -> Guess | None:
    """The guess for traces in another system's own JSON. They are refused even if they hold messages, because only a
    part of them could be read."""
    inner = value[0] if isinstance(value, list) and value else value
    if not isinstance(inner, dict) or "messages" in inner:
        return None
    return exports.guess(inner, exports.TRACES)


def empty_session(agent: str) -> Guess:
    """The guess for a session file without messages."""
    return Guess(f"a session of {agent} without messages", "leave it out")


def of_value(value: Any) -> Guess:
    """The guess for a JSON value that is neither telemetry nor a conversation."""
    if isinstance(value, list):
        inner = next((item for item in value if isinstance(item, dict)), None)
        if inner is None:
            return Guess("a list without objects" if value else "an empty list", exports.AS_MESSAGES)
        return _of_messages(value) or of_value(inner)
    if not isinstance(value, dict):
        return Guess(f"a JSON value by itself ({json.dumps(value)[:40]})", exports.AS_MESSAGES)
    for key in (k for k in ("messages", "conversations", "conversation") if k in value):
        if (found := _of_messages(value[key], key)) is not None:
            return found
    if (known := exports.guess(value, exports.TRACES + exports.OTHERS)) is not None:
        return known
    keys = ", ".join(list(map(str, value))[:6])
    return Guess(f"a JSON object with other keys ({keys})" if keys else "an empty object", exports.AS_MESSAGES)


def _of_messages(told: Any, key: str = "") -> Guess | None:
    """What is wrong with a list of messages; None if nothing indicates that the value should be one."""
    shown = message_lists.from_text(told) if isinstance(told, str) else told
    where = f'"{key}"' if key else "the list"
    if not isinstance(shown, list):
        return Guess(f"a conversation whose {where} is no list", exports.AS_MESSAGES) if key else None
    if not shown:
        return Guess(f"a conversation without messages ({where} is empty)", "leave it out") if key else None
    good = [message_lists.is_message(item) for item in shown]
    if all(good) or not (key or any(good)):
        return None
    at = good.index(False)
    return Guess(
        f"a conversation whose message {at + 1} has no role",
        'every message needs a role and a content: {"role": "user", "content": "..."}',
    )
