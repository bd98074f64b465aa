"""Files of telemetry, maybe compressed: OTLP JSON lines or single objects, OTLP protobuf (``ingest.formats.framed``),
journal segments, message lists and trajectories (``ingest.formats.trajectories``). What is bad is told; what is good
beside it is kept, also behind it.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import zstandard

from ingest.errors import UserError
from ingest.formats import framed, otlp, trajectories
from ingest.journal import segments as journal

PROTOBUF = (".pb", ".binpb", ".proto", ".bin")
SUFFIXES = (".jsonl", ".json", ".ndjson", *PROTOBUF, ".rjl", ".open")
# A file that starts with so many bad lines and not a good one is something else.
HOPELESS = 100
_COMPRESSED = (".gz", ".zst")
_CUT = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile)


class BadFile(UserError):
    """A file that could not be read to its end; what was read before is kept."""


def as_path(path: str | Path) -> Path:
    """A path, also from a URI that fsspec knows (s3://, gs://, abfs://, memory://; each needs its package)."""
    if isinstance(path, Path) or "://" not in str(path):
        return Path(path)
    from upath import UPath

    try:
        return cast(Path, UPath(path))  # the same methods, another class
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be opened: {error}") from None


def find(paths: list[Path]) -> list[Path]:
    """The files under these paths, directories searched for known suffixes, in name order."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            out += sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) in SUFFIXES)
        elif path.exists():
            out.append(path)
        else:
            raise UserError(f"{path} does not exist; give OTLP files or directories of them")
    return out


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
    with _open(path) as file:
        try:
            head = file.peek(12)[:12]  # type: ignore[attr-defined]
            if framed.is_framed(head):
                yield from _frames(file, path, rows, arrived_at_ns)
            elif kind in PROTOBUF and head.lstrip()[:1] != b"{":
                _message(file.read(), path, rows, arrived_at_ns)
                yield
            else:
                yield from _lines(file, path, rows, arrived_at_ns)
        except _CUT:
            raise BadFile(f"{path} is truncated: its compression ends early; fetch the file again") from None


def _open(path: Path) -> BinaryIO:
    """The file, decompressed if it is compressed as a whole; can be peeked into."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from None
    if not hasattr(file, "peek"):  # an object store's
        file = io.BufferedReader(file)  # type: ignore[type-var]
    magic = file.peek(4)[:4]
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.GzipFile(fileobj=file))  # type: ignore[type-var,return-value]
    if magic == framed.ZSTD:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(stream)  # type: ignore[type-var,return-value]
    return file


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


def _message(payload: bytes, path: Path, rows: otlp.Rows, arrived_at_ns: int) -> None:
    try:
        framed.read_message(payload, rows, arrived_at_ns, str(path.absolute()))
    except otlp.NotOtlp as error:
        raise BadFile(
            f"{path} is no OTLP protobuf request ({error}); expected one Export*ServiceRequest, or messages "
            "behind their lengths, as the Collector's file exporter writes"
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


def _lines(file: BinaryIO, path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    """One request or record a line; a file whose first line is no whole value may be one over many lines. A
    last line without its end is held back: it is still being written, or the rest of it is lost."""
    bad = Bad(path, "line")
    lines = _whole_lines(file, path, bad)
    for line in lines:
        bad.number += 1
        if not line.strip():
            continue
        try:
            if bad.number == 1 and line.rstrip()[-1:] in (b"{", b"[", b",", b":"):
                line = b"".join([line, *lines])
            _add_value(_parsed(line), rows, arrived_at_ns, str(path.absolute()))
            bad.good += 1
            yield
        except otlp.NotOtlp as error:
            if not line.endswith(b"\n"):
                raise BadFile(_truncated(path, f"{bad.good} whole lines")) from None
            bad.note(error)
    bad.tell()


def _whole_lines(file: BinaryIO, path: Path, bad: Bad) -> Iterator[bytes]:
    try:
        yield from file
    except _CUT:
        raise BadFile(_truncated(path, f"{bad.good} whole lines")) from None


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise otlp.NotOtlp(f"no JSON: {error}") from None


def _add_value(value: Any, rows: otlp.Rows, arrived_at_ns: int, source: str) -> None:
    """Adds a request, a message list, a trajectory, or a list of these; all of it or, with ``NotOtlp``, none."""
    try:
        request = trajectories.as_request(value)
    except otlp.BAD_VALUE as error:
        raise otlp.NotOtlp(f"a malformed conversation: {type(error).__name__}: {error}") from None
    if request is not None:
        otlp.add_json_request(request, rows, arrived_at_ns, source)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        found = otlp.Rows()
        for item in value:
            _add_value(item, found, arrived_at_ns, source)
        rows.extend(found)
    else:
        otlp.check_json_request(value)
        otlp.add_json_request(value, rows, arrived_at_ns, source)


class Bad:
    """Counts the good and the bad of one file, and tells the bad at its end."""

    def __init__(self, path: Path, unit: str) -> None:
        self.path, self.unit = path, unit
        self.number = self.good = self.bad = 0
        self.first = ""

    def note(self, error: object) -> None:
        """One is bad; raises ``BadFile`` if everything is."""
        number = self.number or self.good + self.bad + 1
        self.first = self.first or f"{self.unit} {number} is no OTLP/JSON request ({error})"
        self.bad += 1
        if not self.good and self.bad >= HOPELESS:
            self.tell()

    def tell(self) -> None:
        """Raises ``BadFile`` if anything was bad."""
        if self.bad:
            more = f", nor are {self.bad - 1} more" if self.bad > 1 else ""
            kept = f"; the {self.good} good ones were ingested" if self.good else ""
            raise BadFile(
                f"{self.path}, {self.first}{more}{kept}; expected one Export*ServiceRequest, message list or "
                f"trajectory a {self.unit}"
            )


def _truncated(path: Path, whole: str) -> str:
    return (
        f"{path} is truncated after {whole}, which were ingested; if it is still being written "
        "run this again later, else fetch the file again"
    )
