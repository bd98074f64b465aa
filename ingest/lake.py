"""The lake: a directory with a versioned manifest, the journal, the raw tables and the tables made of them.

lake.json                          manifest
journal/segment-*.rjl              what the receiver said yes to (ingest.journal)
raw/{spans,log_records}/hour=.../  Parquet, nothing dropped, partitioned by the hour of arrival
normalised/, tables/               rebuilt from raw; tables are the files in sql/
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ingest import files, journal, kept, otlp, privacy, tables, vault
from ingest.errors import UserError
from ingest.normal import MAPPING_VERSION
from ingest.reading import read_conversations, read_scenarios, read_tool_profiles, read_transitions
from ingest.records import Conversation, Scenario, ToolProfile, Transition

FORMAT = "rehearsal-lake"
VERSION = 1
MANIFEST = "lake.json"
RAW = ("spans", "log_records")
_MAY_BE_THERE = {"journal", privacy.SETTINGS_FILE, privacy.KEY_FILE}  # before there is a lake
Progress = Callable[[Path, int], None]


@dataclass
class IngestSummary:
    """What one ingest did. ``problems`` are one-line messages about input that could not be read."""

    files: int = 0
    rows: int = 0
    new: int = 0
    duplicates: int = 0
    rejected: int = 0
    unreadable: int = 0
    metrics: int = 0
    spans: int = 0
    log_records: int = 0
    conversations: int = 0
    dialects: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Lake:
    """One lake. Make it with ``create`` or ``open``; reading builds the tables when they are out of date."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> Lake:
        """A new lake, or the one that is there already."""
        root = Path(path)
        if (root / MANIFEST).exists():
            return cls.open(root)
        if root.exists() and (not root.is_dir() or {p.name for p in root.iterdir()} - _MAY_BE_THERE):
            raise UserError(f"{root} exists and is no lake; give an empty or a new directory as --lake")
        try:
            root.mkdir(parents=True, exist_ok=True)
            _write_json(root / MANIFEST, {"format": FORMAT, "version": VERSION, "id": uuid.uuid4().hex})
        except OSError as error:
            raise UserError(
                f"cannot make a lake at {root}: {error.strerror}; choose another directory"
            ) from None
        return cls(root)

    @classmethod
    def open(cls, path: str | Path) -> Lake:
        """An existing lake; a ``UserError`` says what to do when it is none or comes from a newer version."""
        root = Path(path)
        try:
            manifest = json.loads((root / MANIFEST).read_text())
            kind, version = manifest["format"], int(manifest["version"])
        except FileNotFoundError:
            how = f"make one with: rehearsal ingest --lake {root} FILES"
            raise UserError(f"no lake at {root}; {how}") from None
        except (ValueError, KeyError, TypeError, OSError):
            raise UserError(f"{root / MANIFEST} is no manifest of a lake; restore it from a backup") from None
        if kind != FORMAT:
            raise UserError(f"{root} holds {kind!r}, expected {FORMAT!r}; give another directory as --lake")
        if version > VERSION:
            raise UserError(
                f"the lake {root} has version {version}, this rehearsal reads up to {VERSION}; "
                "upgrade with: pip install --upgrade rehearsal"
            )
        return cls(root)

    # ---------------------------------------------------------------------------------------- writing

    @property
    def journal_path(self) -> Path:
        """Where the receiver writes."""
        return self.path / "journal"

    def ingest(
        self, paths: Iterable[str | Path] | None = None, progress: Progress | None = None
    ) -> IngestSummary:
        """Reads files or directories, or the journal when ``paths`` is None or empty, into the raw tables.

        What was read before adds nothing. A bad file is told in ``problems`` and costs no good one. Tables
        are not rebuilt here; reading does that, or ``build_tables``.
        """
        summary = IngestSummary()
        wanted = [files.as_path(p) for p in paths or ()]
        found = files.find(wanted) if wanted else journal.segments(self.journal_path)
        with self._lock():
            writer = _RawWriter(self, summary)
            whole = []
            for path in found:
                before = len(summary.problems), summary.unreadable
                self._ingest_file(path, writer, summary)
                if (len(summary.problems), summary.unreadable) == before:
                    whole.append(path)
                if progress:
                    progress(path, summary.rows)
            writer.flush()
            if not wanted:
                vault.note_segments(self.path, whole)
        return summary

    def _ingest_file(self, path: Path, writer: _RawWriter, summary: IngestSummary) -> None:
        summary.files += 1
        try:
            for rows in files.read(path, time.time_ns()):
                writer.add(rows)
        except files.BadFile as problem:
            summary.problems.append(str(problem))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def build_tables(self, force: bool = False) -> dict[str, int]:
        """Rebuilds the normalised rows and every table of ``sql/`` if raw rows or the mapping have changed;
        returns the number of rows of each table."""
        with self._lock():
            state = self._state()
            path = self.path / "tables" / "state.json"
            if not force and path.exists():
                old = json.loads(path.read_text())
                if old["of"] == state:
                    self._put_away(path, old["rows"])
                    return dict(old["rows"])
            rows = tables.build(self.path)
            _write_json(path, {"of": state, "rows": rows})
            self._put_away(path, rows)
            return rows

    def _put_away(self, path: Path, rows: dict[str, int]) -> None:
        """Encrypts or drops the originals, if the lake's settings say so; the tables are up to date after it."""
        before = self._state()
        vault.put_away(self.path, privacy.load(self.path).raw)
        if (after := self._state()) != before:
            _write_json(path, {"of": after, "rows": rows})

    def privacy_report(self) -> dict[str, Any]:
        """What was replaced by surrogates when the tables were made (docs/privacy.md): counts, no originals."""
        self._ready().close()
        report: dict[str, Any] = json.loads((self.path / "tables" / kept.REPORT).read_text())
        return {**report, "raw": privacy.load(self.path).raw}

    def describe(self, summary: IngestSummary) -> None:
        """Adds what the tables say after an ingest: conversations, spans by dialect, flags."""
        if self.is_empty():
            return
        with self._ready() as db:
            summary.conversations = db.execute("SELECT count(*) FROM conversations").fetchall()[0][0]
            summary.dialects = dict(db.execute("SELECT dialect, spans FROM dialects ORDER BY 1").fetchall())
            flags = (
                "SELECT f, count(*) FROM (SELECT unnest(flags) f FROM conversations) GROUP BY f ORDER BY f"
            )
            summary.flags = dict(db.execute(flags).fetchall())

    def _state(self) -> dict[str, Any]:
        how = {"mapping": MAPPING_VERSION, "sql": tables.sql_digest(), "privacy": privacy.fingerprint(self.path)}
        return {**how, "parts": vault.part_names(self.path)}

    # ---------------------------------------------------------------------------------------- reading

    def is_empty(self) -> bool:
        """Whether no row was ever ingested."""
        return not vault.part_names(self.path)

    def _ready(self, raw: bool = False) -> duckdb.DuckDBPyConnection:
        if self.is_empty():
            waiting = any(journal.segments(self.journal_path))
            what = "" if waiting else " OTLP_FILES"
            how = f"fill it with: rehearsal ingest --lake {self.path}{what}"
            raise UserError(f"the lake {self.path} is empty; {how}")
        self.build_tables()
        return tables.connect(self.path, raw)

    def query(self, sql: str) -> pa.Table:
        """The answer to a query over every table of the lake, in DuckDB's SQL."""
        with self._ready(raw=any(name in sql.lower() for name in RAW)) as db:
            try:
                return db.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise UserError(f"the query failed: {str(error).splitlines()[0]}") from None

    def row_hashes(self, name: str) -> set[bytes]:
        """The hashes of all rows of a raw table that ever came, dropped ones among them."""
        return vault.read_hashes(self.path, name)

    def conversations(self) -> list[Conversation]:
        """Every conversation, oldest first."""
        with self._ready() as db:
            return read_conversations(db)

    def transitions(self) -> list[Transition]:
        """Every answered tool call, by conversation start and call order."""
        with self._ready() as db:
            return read_transitions(db)

    def scenarios(self) -> list[Scenario]:
        """Where episodes may start, oldest first."""
        with self._ready() as db:
            return read_scenarios(db)

    def tool_profiles(self) -> dict[str, ToolProfile]:
        """How each tool behaved in production."""
        with self._ready() as db:
            return read_tool_profiles(db)


class _RawWriter:
    """Collects rows, drops those that the lake has, writes Parquet parts by hour of arrival."""

    FLUSH = 100_000

    def __init__(self, lake: Lake, summary: IngestSummary) -> None:
        self.lake, self.summary = lake, summary
        self.pending = otlp.Rows()
        self.seen = {name: vault.read_hashes(lake.path, name) for name in RAW}

    def add(self, rows: otlp.Rows) -> None:
        self.summary.rejected += rows.rejected
        self.summary.unreadable += rows.unreadable
        self.summary.metrics += rows.metrics
        for name in RAW:
            self._take(name, getattr(rows, name))
        if len(self.pending) >= self.FLUSH:
            self.flush()

    def _take(self, name: str, rows: list[tuple[Any, ...]]) -> None:
        at = otlp.SCHEMAS[name].get_field_index("row_hash")
        seen, kept = self.seen[name], getattr(self.pending, name)
        before = len(kept)
        for row in rows:
            if row[at] not in seen:
                seen.add(row[at])
                kept.append(row)
        new = len(kept) - before
        self.summary.rows += len(rows)
        self.summary.new += new
        self.summary.duplicates += len(rows) - new
        setattr(self.summary, name, getattr(self.summary, name) + new)

    def flush(self) -> None:
        for name in RAW:
            rows = getattr(self.pending, name)
            if rows:
                _write_parts(self.lake.path / "raw" / name, otlp.to_table(rows, otlp.SCHEMAS[name]))
        self.pending = otlp.Rows()


def _write_parts(directory: Path, table: pa.Table) -> None:
    """One part for each hour of arrival, written aside and renamed: a killed ingest leaves no half part."""
    hour_ns = 3_600_000_000_000
    hours = [v // hour_ns for v in table["arrived_at_ns"].to_pylist()]
    for hour in sorted(set(hours)):
        part = table.filter(pa.array([h == hour for h in hours])) if len(set(hours)) > 1 else table
        name = datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H")
        folder = directory / f"hour={name}"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"part-{time.time_ns()}-{uuid.uuid4().hex[:8]}.parquet"
        aside = target.with_suffix(".tmp")
        pq.write_table(part, aside, compression="zstd", compression_level=3)
        os.replace(aside, target)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    with aside.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
