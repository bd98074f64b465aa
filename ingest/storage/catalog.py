"""Which raw parts a lake consists of, and how far its journal was read: one file, replaced atomically.

``raw/catalog.json`` is the only commit of every writer. Parts are written and synced first; then a new catalog that
lists them replaces the old one. A killed writer leaves parts that no catalog lists: readers do not see them, and the
next writer settles them. Rows and the read positions change together. Deleting the file is safe: the parts are found
again, and the journal is read again, which adds nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.errors import UserError
from ingest.journal.segments import sync_path
from ingest.storage import encrypted, kept
from ingest.storage.known import Known, as_array

FILE = "raw/catalog.json"
RAW = ("spans", "log_records")
HOUR_NS = 3_600_000_000_000
# Raw rows are mostly long texts of their own, which dictionaries only make larger; a quicker level than zstd's usual
# one, because compaction writes them again.
COMPRESSION: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
ROW_GROUP = 8192  # rows


@dataclass(frozen=True)
class Part:
    """One Parquet file, plain or encrypted, its path relative to the lake. ``digest`` is the sum of its row hashes
    (two sums of 64 bits, in hex), so that digests of sets of parts compare independently of how rows are divided."""

    path: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Read:
    """How far a segment was read: ``end`` in bytes, ``check`` as the identity of the bytes before it, and
    ``unreadable``, the number of requests that could not be understood."""

    end: int
    check: str
    unreadable: int = 0


@dataclass
class Catalog:
    """The parts of each raw table, the read position of each journal segment by its name without suffix, and
    replaced files that are removed once nobody reads them."""

    parts: dict[str, list[Part]] = field(default_factory=lambda: {name: [] for name in RAW})
    journal: dict[str, Read] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)

    def digest(self) -> dict[str, str]:
        """What the raw tables hold, however it is divided into parts."""
        return {name: digest_sum(p.digest for p in self.parts[name]) for name in RAW}

    def rows(self, name: str) -> int:
        """How many rows a raw table has."""
        return sum(p.rows for p in self.parts[name])


def digest_sum(digests: Iterable[str]) -> str:
    """The digest of several parts together."""
    high = low = 0
    for d in digests:
        high, low = (high + int(d[:16], 16)) % 2**64, (low + int(d[16:], 16)) % 2**64
    return f"{high:016x}{low:016x}"


def digest_of(hashes: np.ndarray) -> str:
    """The digest of rows, from their hashes (``S16``)."""
    high, low = hashes.view(np.uint64).reshape(-1, 2).sum(axis=0, dtype=np.uint64).tolist()
    return f"{high:016x}{low:016x}"


# ---------------------------------------------------------------------------------------- reading it


def read(root: Path) -> Catalog | None:
    """The last committed catalog, or None. Raises ``UserError`` for a broken file."""
    try:
        told = json.loads((root / FILE).read_text())
        return Catalog(
            {name: [Part(**p) for p in told["parts"][name]] for name in RAW},
            {name: Read(**r) for name, r in told["journal"].items()},
            list(told["replaced"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{root / FILE} is damaged; remove it: rehearsal finds the parts again") from None


def parts(root: Path, name: str) -> list[Path]:
    """The files of one raw table, by hour of arrival."""
    known = read(root)
    if known:
        return sorted(root / p.path for p in known.parts[name])
    return sorted(filter(encrypted.is_part, (root / "raw" / name).rglob("*")))


def hashes(root: Path, catalog: Catalog, name: str) -> Known:
    """The hashes of all rows that a raw table ever had, dropped ones included (``ingest.storage.vault``)."""
    files = (encrypted.open_part(root, root / p.path) for p in catalog.parts[name])
    return Known.of([*kept.hashes(root, name), *(file.read(["row_hash"])["row_hash"] for file in files)])


def with_dropped(root: Path, digest: dict[str, str]) -> dict[str, str]:
    """A digest of raw tables combined with that of the rows dropped after tables were built from them."""
    dropped = kept.digest(root)
    return {name: digest_sum([d, dropped.get(name, "0" * 32)]) for name, d in digest.items()}


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """A context in which no part that the catalog lists now is removed."""
    (root / "raw").mkdir(exist_ok=True)
    with (root / "raw" / ".reading").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


# ---------------------------------------------------------------- writing; the caller holds the lake's lock


def load(root: Path, from_ns: int = 0) -> Catalog:
    """Load the catalog and settle what a killed writer left: rows in unlisted parts that the lake lacks are added,
    unless they arrived before ``from_ns``."""
    known = read(root)
    catalog = known or Catalog()
    if leave_dropped(root, catalog):
        save(root, catalog)
    remove_replaced(root, catalog)
    listed = {p.path for name in RAW for p in catalog.parts[name]} | set(catalog.replaced)
    for name in RAW:
        files = (root / "raw" / name).rglob("*")
        loose = [p for p in files if p.is_file() and str(p.relative_to(root)) not in listed]
        if loose:
            _settle(root, catalog, name, loose, from_ns)
    if catalog.replaced or (known is None and any(catalog.parts.values())):
        save(root, catalog)
        remove_replaced(root, catalog)
    return catalog


def leave_dropped(root: Path, catalog: Catalog) -> bool:
    """Remove parts whose rows were dropped from the catalog; return whether there was one."""
    gone = kept.dropped_parts(root)
    found = {name: [p for p in catalog.parts[name] if p.path in gone] for name in RAW}
    for name, old in found.items():
        replace(catalog, name, old, [])
    return any(found.values())


def replace(catalog: Catalog, name: str, old: list[Part], new: list[Part]) -> None:
    """List new parts in place of old ones."""
    catalog.parts[name] = [p for p in catalog.parts[name] if p not in old] + new
    catalog.replaced += [p.path for p in old]


def _settle(root: Path, catalog: Catalog, name: str, loose: list[Path], from_ns: int) -> None:
    known = hashes(root, catalog, name)
    for path in sorted(loose, key=lambda p: (-p.stat().st_size, p.name)):
        if encrypted.is_part(path):
            keys = encrypted.open_part(root, path).read(["row_hash", "arrived_at_ns"])
            found = as_array(keys["row_hash"])
            late = keys["arrived_at_ns"].to_numpy() >= from_ns
            wanted = np.zeros(len(found), bool)
            wanted[np.flatnonzero(late)[known.add(found[late])]] = True
            if wanted.all():
                catalog.parts[name].append(Part(str(path.relative_to(root)), len(found), digest_of(found)))
                continue
            if wanted.any():
                rows = encrypted.open_part(root, path).read().filter(pa.array(wanted))
                catalog.parts[name] += write(root, name, rows, encrypted.is_encrypted(path))
        catalog.replaced.append(str(path.relative_to(root)))


def save(root: Path, catalog: Catalog) -> None:
    """Commit: from here on the lake holds this, also after a power loss."""
    write_json(root / FILE, asdict(catalog))


def remove_replaced(root: Path, catalog: Catalog) -> None:
    """Remove replaced files, unless somebody may be reading them; a later writer removes those."""
    if not catalog.replaced:
        return
    with (root / "raw" / ".reading").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for name in catalog.replaced:
            (root / name).unlink(missing_ok=True)
    catalog.replaced = [name for name in catalog.replaced if (root / name).exists()]


def write(root: Path, name: str, table: pa.Table, encrypt: bool = False) -> list[Part]:
    """Write rows as parts, one per hour of arrival, and sync them; the catalog does not list them yet."""
    if not encrypt:
        drafting = Drafting(root, name)
        drafting.add(table)
        return [publish(root, found) for found in drafting.finish()]
    out = []
    for hour, rows in _by_hour(table):
        path = new_path(root, name, hour)
        path = path.with_name(path.name + encrypted.SUFFIX)
        data = pa.BufferOutputStream()
        pq.write_table(rows, data, ROW_GROUP, **COMPRESSION)
        write_file(path, encrypted.sealed(root, path, data.getvalue().to_pybytes()))
        out.append(Part(str(path.relative_to(root)), rows.num_rows, digest_of(as_array(rows["row_hash"]))))
    return out


@dataclass(frozen=True)
class Draft:
    """A part under a name that nobody reads; a killed writer's drafts are removed. ``bytes`` counts its rows in
    memory."""

    path: Path
    hashes: np.ndarray
    arrived_at_ns: np.ndarray
    bytes: int

    def __len__(self) -> int:
        return len(self.hashes)


class Drafting:
    """Writes rows of a table as drafts, one per hour of arrival, one row group in memory at a time. Needs no lock."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._open: dict[int, _Open] = {}

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        for hour, rows in _by_hour(table):
            if hour not in self._open:
                path = new_path(self._root, self._name, hour).with_suffix(".tmp")
                self._open[hour] = _Open(path, pq.ParquetWriter(path, rows.schema, **COMPRESSION))
            self._open[hour].add(rows)

    def finish(self) -> list[Draft]:
        """The finished drafts, oldest hour first; later rows go into new ones."""
        found, self._open = self._open, {}
        return [found[hour].finish() for hour in sorted(found)]


@dataclass
class _Open:
    """A part being written, and its rows that wait for a full row group."""

    path: Path
    writer: pq.ParquetWriter
    waiting: list[pa.Table] = field(default_factory=list)
    rows: int = 0  # that wait
    bytes: int = 0
    hashes: list[np.ndarray] = field(default_factory=list)
    arrived_at_ns: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        self.hashes.append(as_array(rows["row_hash"]))
        self.arrived_at_ns.append(rows["arrived_at_ns"].to_numpy())
        self.bytes += rows.nbytes
        self.waiting.append(rows)
        self.rows += rows.num_rows
        while self.rows >= ROW_GROUP:
            self._write(ROW_GROUP)

    def _write(self, count: int) -> None:
        table = pa.concat_tables(self.waiting)
        self.writer.write_table(table.slice(0, count), ROW_GROUP)
        self.waiting = [table.slice(count)]
        self.rows -= count

    def finish(self) -> Draft:
        if self.rows:
            self._write(self.rows)
        self.writer.close()
        return Draft(self.path, np.concatenate(self.hashes), np.concatenate(self.arrived_at_ns), self.bytes)


def publish(root: Path, draft: Draft) -> Part:
    """Make a draft a part on disk, named after the parts published before."""
    sync_path(draft.path)
    path = part_path(draft.path.parent)
    os.replace(draft.path, path)
    sync_path(path.parent)
    return Part(str(path.relative_to(root)), len(draft), digest_of(draft.hashes))


def _by_hour(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    hours = pc.divide(table["arrived_at_ns"], pa.scalar(HOUR_NS, pa.int64()))
    found = sorted(hours.unique().to_pylist())
    for hour in found:
        yield hour, table if len(found) == 1 else table.filter(pc.equal(hours, hour))


def write_file(path: Path, data: Any) -> None:
    """Write a file atomically and durably."""
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(data)
        sync(file)
    os.replace(aside, path)
    sync_path(path.parent)


def new_path(root: Path, name: str, hour: int) -> Path:
    """A name for a new part in the folder of its hour (since 1970); the folder is created."""
    folder = root / "raw" / name / time.strftime("hour=%Y-%m-%dT%H", time.gmtime(hour * 3600))
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for holder in (folder.parent, folder.parent.parent, root):
            sync_path(holder)
    return part_path(folder)


def part_path(folder: Path) -> Path:
    """A name that no other part has."""
    return folder / f"part-{time.time_ns()}-{uuid.uuid4().hex[:8]}.parquet"


def sync(file: Any) -> None:
    """Sync a file's bytes to disk."""
    file.flush()
    os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a JSON value, atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    with aside.open("w") as file:
        json.dump(value, file, indent=1)
        sync(file)
    os.replace(aside, path)
    sync_path(path.parent)
