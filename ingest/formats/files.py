"""Reads files, compressed or not: OTLP JSON, OTLP protobuf (``ingest.formats.framed``), journal segments,
conversations (``ingest.formats.trajectories``) and session files of agents (``ingest.formats.sessions``).

A bad line or message is reported with what it seems to be (``ingest.formats.recognise``). The good ones before and
after it are kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from ingest import half_characters
from ingest.errors import UserError
from ingest.formats import framed, otlp, recognise, trajectories
from ingest.formats.opening import CUT, DAMAGED, open_plain
from ingest.formats.records import message_lists
from ingest.formats.records.batches import BatchRequests
from ingest.formats.sessions.session_file import SessionFile
from ingest.journal import segments as journal

PROTOBUF = (".pb", ".binpb", ".proto", ".bin")
SUFFIXES = (".jsonl", ".json", ".ndjson", *PROTOBUF, ".rjl", ".open")
# A file that starts with so many bad lines and not a good one is something else.
HOPELESS = 100
_COMPRESSED = (".gz", ".zst")
_DEEPEST = 3  # objects around a list of conversations


class BadFile(UserError):
    """A file that could not be read completely. The rows before the problem are kept."""


def as_path(path: str | Path) -> Path:
    """A path, also from a URI that fsspec knows (s3://, gs://, abfs://, memory://; each needs its package)."""
    if isinstance(path, Path) or "://" not in str(path):
        return Path(path)
    from upath import UPath

    try:
        return cast(Path, UPath(path))  # the same methods, another class
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be opened: {error}") from None


def find(paths: list[Path], skipped: Counter[str] | None = None) -> list[Path]:
    """The files under these paths, directories searched for known suffixes, in name order. Adds to ``skipped``, by
    their suffixes, the others that are there."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            out += _within(path, Counter() if skipped is None else skipped)
        elif path.exists():
            out.append(path)
        else:
            raise UserError(f"{path} does not exist; give OTLP files or directories of them")
    return out


def _within(directory: Path, skipped: Counter[str]) -> list[Path]:
    """The files of known suffixes in a directory. Raises UserError where there are only others."""
    files = [p for p in directory.rglob("*") if p.is_file() and not p.name.startswith(".")]
    found = sorted(p for p in files if _kind(p) in SUFFIXES)
    skipped.update(p.suffix or "without a suffix" for p in files if _kind(p) not in SUFFIXES)
    if files and not found:
        told = ", ".join(f"{n} {kind}" for kind, n in skipped.most_common(5))
        raise UserError(
            f"{directory} has no file to read: it holds {told}; in a directory files named "
            f"{', '.join('*' + s for s in SUFFIXES[:5])} are read (also with .gz or .zst), others only when they are "
            f"given by name; {recognise.READABLE}"
        )
    return found


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix


def read(path: Path, arrived_at_ns: int, batch: int = 20_000) -> Iterator[otlp.Rows]:
    """The rows of one file, in batches. Raises ``BadFile`` at the first thing that cannot be read, after
    having yielded all before it."""
    rows = otlp.Rows()
    try:
        for _ in _requests(path, rows, arrived_at_ns):
            if len(rows) >= batch:
                yield rows.take()
    except BadFile:
        yield rows
        raise
    yield rows


def _requests(path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    kind = _kind(path)
    if kind in (".rjl", ".open"):
        yield from _journal(path, rows)
        return
    try:
        with open_plain(path) as file:
            head = file.peek(recognise.HEAD)[: recognise.HEAD]
            if framed.is_framed(head[:12]):
                yield from _frames(file, path, rows, arrived_at_ns)
            elif kind in PROTOBUF and head.lstrip()[:1] not in (b"{", b"["):
                _message(file.read(), path, rows, arrived_at_ns, head)
                yield
            else:
                yield from _lines(file, path, rows, arrived_at_ns, head)
    except CUT:
        raise BadFile(f"{path} is truncated: its compression ends early; fetch the file again") from None
    except DAMAGED as error:
        raise BadFile(f"{path} is damaged: {_one_line(error)}; fetch the file again") from None
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from None


def _journal(path: Path, rows: otlp.Rows) -> Iterator[None]:
    try:
        for entry in journal.read_entries(path):
            add_entry(entry, rows, path.stem)
            yield
    except (OSError, journal.NoSegment) as error:
        raise BadFile(f"{path} cannot be read: {error}") from None


def add_entry(entry: journal.Entry, rows: otlp.Rows, source: str) -> None:
    """Adds the rows of one acknowledged request."""
    signal, encoding = entry.kind.split("_")
    try:
        if encoding == "json":
            otlp.read_json(entry.payload, rows, entry.arrived_at_ns, source)
        else:
            otlp.read_protobuf(signal, entry.payload, rows, entry.arrived_at_ns, source)
    except otlp.NotOtlp:  # the receiver had checked it: written by another version
        rows.unreadable += 1


def _message(payload: bytes, path: Path, rows: otlp.Rows, arrived_at_ns: int, head: bytes) -> None:
    try:
        framed.read_message(payload, rows, arrived_at_ns, str(path.absolute()))
    except otlp.NotOtlp as error:
        guess = recognise.of_bytes(head)
        seems = f"; it seems to be {guess.what}: {_step(guess, path)}" if guess else ""
        raise BadFile(
            f"{path} is no OTLP protobuf request ({error}){seems}; expected one Export*ServiceRequest, or messages "
            f"behind their lengths, as the Collector's file exporter writes; as JSON, {recognise.READABLE}"
        ) from None


def _frames(file: BinaryIO, path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    """Length-prefixed messages. One that cannot be decoded costs only itself."""
    bad = Bad(path, "message")
    messages = framed.frames(file)
    while True:
        try:
            if (payload := next(messages, None)) is None:
                break
            framed.read_message(payload, rows, arrived_at_ns, str(path.absolute()))
            bad.good += 1
            yield
        except framed.Torn:
            raise BadFile(_truncated(path, f"{bad.good} whole messages")) from None
        except otlp.NotOtlp as error:
            bad.note(error)
    bad.tell()


def _lines(file: BinaryIO, path: Path, rows: otlp.Rows, arrived_at_ns: int, head: bytes) -> Iterator[None]:
    """One request or record a line; a file whose first line is no whole value may be one over many lines, or several
    such values. A last line without its end is held back: it is still being written, or the rest of it is lost."""
    bad = Bad(path, "line", head)
    add = Adder(rows, arrived_at_ns, path)
    try:
        yield from _each_line(file, path, add, bad)
    finally:
        unread = add.finish()
    if unread:
        bad.note(recognise.NotReadable(unread))
    bad.tell()


def _each_line(file: BinaryIO, path: Path, add: Adder, bad: Bad) -> Iterator[None]:
    lines = _whole_lines(file, path, bad)
    while line := next(lines, b""):
        bad.number += 1
        if not line.strip():
            continue
        if not bad.good and not bad.bad and line.endswith(b"\n") and _is_begun(line):
            text = b"".join([line, *lines])
            if (values := _several(text)) is not None:
                yield from _added(values, add, bad)
                break
            lines = iter(text.splitlines(keepends=True)[1:])  # JSON lines, of which the first was cut
        try:
            add(_parsed(line))
            bad.good += 1
            yield
        except otlp.NotOtlp as error:
            if not line.endswith(b"\n") and _is_begun(line):
                raise BadFile(_truncated(path, f"{bad.good} whole lines")) from None
            bad.note(error)


def _is_begun(text: bytes) -> bool:
    """Whether a text is the beginning of JSON and not all of it."""
    if text.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.msg.startswith("unexpected end of data")
    return False


def _several(text: bytes) -> list[Any] | None:
    """The values of a text, each over many lines; the last is ``...`` if the text ends within one. None if the text is
    something else."""
    try:
        return [half_characters.loads(text)]
    except orjson.JSONDecodeError:
        pass
    shown, decoder, at = text.decode("utf-8", "replace"), json.JSONDecoder(), 0
    values: list[Any] = []
    while (at := _next(shown, at)) < len(shown):
        try:
            value, at = decoder.raw_decode(shown, at)
        except (json.JSONDecodeError, RecursionError):
            return [*values, ...] if _is_begun(shown[at:].encode()) else None
        values.append(value)
    return values


def _next(text: str, at: int) -> int:
    """Where the next value of several begins."""
    while at < len(text) and (text[at].isspace() or text[at] in ",\x1e"):
        at += 1
    return at


def _added(values: list[Any], add: Adder, bad: Bad) -> Iterator[None]:
    bad.unit, bad.number = "value", 0
    for value in values:
        bad.number += 1
        if value is ...:
            raise BadFile(_truncated(bad.path, f"{bad.good} whole values"))
        try:
            add(value)
            bad.good += 1
            yield
        except otlp.NotOtlp as error:
            bad.note(error)


def _whole_lines(file: BinaryIO, path: Path, bad: Bad) -> Iterator[bytes]:
    try:
        yield from file
    except CUT:
        raise BadFile(_truncated(path, f"{bad.good} whole lines")) from None
    except DAMAGED as error:
        raise BadFile(
            f"{path} is damaged ({_one_line(error)}) after {bad.good} good lines; fetch the file again"
        ) from None


def _parsed(line: bytes) -> Any:
    try:
        return half_characters.loads(line)
    except orjson.JSONDecodeError as error:
        problem = error
    told = line.strip().removesuffix(b",")  # a list without its brackets
    try:
        return half_characters.loads(told)
    except orjson.JSONDecodeError:
        shown = message_lists.from_text(told.decode("utf-8", "replace"))  # Python's repr
    if isinstance(shown, str):
        raise otlp.NotOtlp(f"no JSON: {problem}")
    return shown


class Adder:
    """Adds JSON values to rows: requests, conversations, lists of these, and objects that hold such lists. All of a
    value is added or, with ``NotOtlp``, none."""

    def __init__(self, rows: otlp.Rows, arrived_at_ns: int, path: Path) -> None:
        self._rows, self._arrived_at_ns, self._source = rows, arrived_at_ns, str(path.absolute())
        self._batch_requests = BatchRequests(path)
        self._session = SessionFile()

    def finish(self) -> recognise.Guess | None:
        """Adds the session that the values were lines of, once there are no more; says if it holds no conversation."""
        if self._session.name is None:
            return None
        told = self._session.trajectories()
        if not told:
            return recognise.empty_session(self._session.name)
        request = trajectories.request_of(told, self._session.name.lower().replace(" ", "-"))
        otlp.add_json_request(request, self._rows, self._arrived_at_ns, self._source)
        return None

    def __call__(self, value: Any) -> None:
        is_request = isinstance(value, dict) and not otlp.SIGNALS.isdisjoint(value)
        if not is_request and self._session.take(value):
            return
        found = otlp.Rows()
        self._add(value, found, _DEEPEST)
        self._rows.extend(found)

    def _add(self, value: Any, found: otlp.Rows, depth: int) -> None:
        if isinstance(value, str):
            value = message_lists.from_text(value)
        if isinstance(value, dict) and (not value or otlp.SIGNALS & value.keys()):
            otlp.add_json_request(value, found, self._arrived_at_ns, self._source)
            return
        if (foreign := recognise.foreign(value)) is not None:
            raise recognise.NotReadable(foreign)
        try:
            request = trajectories.as_request(value, self._batch_requests)
        except otlp.BAD_VALUE as error:
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise otlp.NotOtlp(f"a malformed conversation: {kind}{error}") from None
        if request is not None:
            otlp.add_json_request(request, found, self._arrived_at_ns, self._source)
        elif isinstance(value, list) and value and all(isinstance(item, dict | list) for item in value):
            for item in value:
                self._add(item, found, depth)
        elif not (isinstance(value, dict) and depth and self._add_held(value, found, depth - 1)):
            raise recognise.NotReadable(recognise.of_value(value))

    def _add_held(self, value: dict[str, Any], found: otlp.Rows, depth: int) -> bool:
        """Adds what an object holds: ``{"rows": [{"row": {"messages": ...}}]}``, a trace in an answer of Tempo."""
        if isinstance(value.get("batches"), list):
            value = {"batches": {"resourceSpans": value["batches"]}}
        is_any = False
        for inner in value.values():
            if isinstance(inner, dict | list) and inner:
                held = otlp.Rows()
                try:
                    self._add(inner, held, depth)
                except otlp.NotOtlp:
                    continue
                found.extend(held)
                is_any = is_any or bool(len(held) or held.metrics)
        return is_any


class Bad:
    """Counts the good and the bad of one file, and tells the bad at its end. ``head`` is how the file begins."""

    def __init__(self, path: Path, unit: str, head: bytes = b"") -> None:
        self.path, self.unit, self.head = path, unit, head
        self.number = self.good = self.bad = 0
        self.first = ""
        self.guess: recognise.Guess | None = None

    def note(self, error: otlp.NotOtlp) -> None:
        """One is bad; raises ``BadFile`` if everything is."""
        number = self.number or self.good + self.bad + 1
        if not self.bad:
            self.first = f"{self.unit} {number} is no OTLP/JSON request and no conversation ({error})"
            self.guess = error.guess if isinstance(error, recognise.NotReadable) else None
        self.bad += 1
        if not self.good and self.bad >= HOPELESS:
            self.tell()

    def tell(self) -> None:
        """Raises ``BadFile`` if anything was bad."""
        if not self.bad:
            return
        file = recognise.of_bytes(self.head) if self.head and not self.good else None
        if file is not None:
            seems = f"{self.path} cannot be read: it seems to be {file.what}"
            raise BadFile(f"{seems}; {_step(file, self.path)}; {recognise.READABLE}")
        more = f", nor are {self.bad - 1} more" if self.bad > 1 else ""
        kept = f"; the {self.good} good ones were ingested" if self.good else ""
        then = f"; {_step(self.guess, self.path)}" if self.guess else ""
        raise BadFile(f"{self.path}, {self.first}{more}{kept}{then}; {recognise.READABLE}")


def _step(guess: recognise.Guess, path: Path) -> str:
    return guess.then.replace("FILE", str(path))


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def only_metrics(paths: list[Path], count: int) -> str:
    """What to say of files that hold metrics and nothing else."""
    told = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
    return (
        f"{told} cannot be used: it seems to hold OTLP metrics only ({count}), which hold no conversation; export "
        f"traces (and logs) as well; {recognise.READABLE}"
    )


def _truncated(path: Path, whole: str) -> str:
    kept = "; nothing of it was ingested" if whole.startswith("0 ") else ", which were ingested"
    return (
        f"{path} is truncated after {whole}{kept}; if it is still being written "
        "run this again later, else fetch the file again"
    )
