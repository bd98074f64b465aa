"""Files of telemetry: OTLP JSON lines or single objects, protobuf, journal segments, all of them maybe
compressed. What is bad is told; what is good beside it is kept.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from ingest import journal, otlp
from ingest.errors import UserError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".pb", ".binpb", ".rjl", ".open")
_COMPRESSED = (".gz", ".zst")
_CUT = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile)


class BadFile(UserError):
    """A file that could not be read to its end; what was read before is kept."""


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
                yield rows
                rows = otlp.Rows()
    except BadFile:
        yield rows
        raise
    yield rows


def _requests(path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    kind = _kind(path)
    if kind in (".rjl", ".open"):
        yield from _journal(path, rows)
    elif kind in (".pb", ".binpb"):
        yield from _protobuf(path, rows, arrived_at_ns)
    else:
        yield from _lines(path, rows, arrived_at_ns)


def _open(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic == b"\x28\xb5\x2f\xfd":
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(stream)  # type: ignore[type-var,return-value]
    return file


def _journal(path: Path, rows: otlp.Rows) -> Iterator[None]:
    try:
        for entry in journal.read_entries(path):
            signal, encoding = entry.kind.split("_")
            try:
                if encoding == "json":
                    otlp.read_json(entry.payload, rows, entry.arrived_at_ns, path.stem)
                else:
                    otlp.read_protobuf(signal, entry.payload, rows, entry.arrived_at_ns, path.stem)
            except otlp.NotOtlp:  # the receiver had checked it: written by another version
                rows.unreadable += 1
            yield
    except (OSError, journal.NoSegment) as error:
        raise BadFile(f"{path} cannot be read: {error}") from None


def _protobuf(path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    with _open(path) as file:
        try:
            payload = file.read()
        except _CUT:
            raise BadFile(f"{path} is truncated: its compression ends early; fetch the file again") from None
    for signal in ("traces", "logs"):
        found = otlp.Rows()
        try:
            otlp.read_protobuf(signal, payload, found, arrived_at_ns, path.name)
        except otlp.NotOtlp:
            continue
        if len(found) or not payload:
            rows.spans += found.spans
            rows.log_records += found.log_records
            rows.rejected += found.rejected
            yield
            return
    raise BadFile(f"{path} is no OTLP protobuf request; expected one Export*ServiceRequest")


def _lines(path: Path, rows: otlp.Rows, arrived_at_ns: int) -> Iterator[None]:
    """One request a line; a file whose first line is no whole value may be one object over many lines."""
    good = 0
    with _open(path) as file:
        for number, line in enumerate(_whole_lines(file, path), 1):
            if not line.strip():
                continue
            try:
                otlp.read_json(line, rows, arrived_at_ns, path.name)
            except otlp.NotOtlp as error:
                if good == 0 and line.strip() in (b"{", b"["):
                    line = b"".join([line, *_whole_lines(file, path)])
                    _one_object(path, line, rows, arrived_at_ns)
                elif not line.endswith(b"\n"):
                    raise BadFile(_truncated(path, good)) from None
                else:
                    raise BadFile(_not_otlp(path, number, good, error)) from None
            good += 1
            yield


def _one_object(path: Path, data: bytes, rows: otlp.Rows, arrived_at_ns: int) -> None:
    try:
        otlp.read_json(data, rows, arrived_at_ns, path.name)
    except otlp.NotOtlp as error:
        raise BadFile(_not_otlp(path, 1, 0, error)) from None


def _whole_lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    good = 0
    try:
        for line in file:
            yield line
            good += 1
    except _CUT:
        raise BadFile(_truncated(path, good)) from None


def _truncated(path: Path, good: int) -> str:
    return (
        f"{path} is truncated after {good} whole lines, which were ingested; if it is still being written "
        "run this again later, else fetch the file again"
    )


def _not_otlp(path: Path, number: int, good: int, error: object) -> str:
    kept = f"; the {good} requests before it were ingested" if good else ""
    return (
        f"{path}, line {number} is no OTLP/JSON request ({error}){kept}; expected one "
        "Export*ServiceRequest a line, as the Collector's file exporter writes"
    )
