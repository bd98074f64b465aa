"""The lake: a directory with a versioned manifest, the journal, the raw tables and the tables made of them.

lake.json                          manifest
journal/segment-*.rjl              requests that the receiver acknowledged (ingest.journal.segments)
raw/{spans,log_records}/hour=.../  Parquet, nothing dropped, partitioned by the hour of arrival
raw/catalog.json                   valid files, and the read position in the journal (ingest.storage.catalog)
kept/                              rows made of raw rows that were dropped (ingest.storage.kept)
normalised/, tables/               rebuilt from raw; tables are the files in sql/
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ingest.errors import UserError
from ingest.formats import files
from ingest.garbage import not_collected
from ingest.journal import segments as journal
from ingest.messages.normal import MAPPING_VERSION
from ingest.privacy import keys, settings
from ingest.privacy.lakes import fingerprint
from ingest.records import Conversation, Scenario, ToolProfile, Transition
from ingest.storage import arrivals, catalog, compaction, kept, landing, vault
from ingest.storage.catalog import write_json
from ingest.storage.compaction import Compacted
from ingest.storage.reading import read_conversations, read_scenarios, read_tool_profiles, read_transitions
from ingest.tables import build as tables
from ingest.tables import conservation
from ingest.tables.conservation import Balance
from ingest.tables.runners import Runner
from ingest.upkeep import renormalising, retention
from ingest.upkeep.renormalising import Changes
from ingest.upkeep.retention import Retained

FORMAT = "rehearsal-lake"
VERSION = 1
MANIFEST = "lake.json"
RAW = catalog.RAW
_MAY_BE_THERE = {"journal", settings.FILE, keys.FILE}  # before there is a lake
ALWAYS = (0, 2**63 - 1)
Progress = Callable[[Path, int], None]


@dataclass
class IngestSummary:
    """The result of one ingest. ``read_before`` counts journal segments without new data, which were not read.
    ``unread_log_records`` are those of the lake without conversation content, by event name. ``skipped`` are the files
    in directories that were not read, by suffix. ``problems`` are one-line messages about unreadable input."""

    files: int = 0
    rows: int = 0
    new: int = 0
    duplicates: int = 0
    expired: int = 0
    rejected: int = 0
    unreadable: int = 0
    metrics: int = 0
    read_before: int = 0
    spans: int = 0
    log_records: int = 0
    conversations: int = 0
    dialects: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    unread_log_records: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    conservation: dict[str, Any] = field(default_factory=dict)  # of the whole lake (``ingest.tables.conservation``)
    problems: list[str] = field(default_factory=list)


class Lake:
    """One lake. Create it with ``create`` or ``open``. Reading builds the tables if they are out of date."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> Lake:
        """Create a lake, or open an existing one."""
        root = Path(path)
        if (root / MANIFEST).exists():
            return cls.open(root)
        if root.exists() and (not root.is_dir() or {p.name for p in root.iterdir()} - _MAY_BE_THERE):
            raise UserError(f"{root} exists and is no lake; give an empty or a new directory as --lake")
        try:
            root.mkdir(parents=True, exist_ok=True)
            write_json(root / MANIFEST, {"format": FORMAT, "version": VERSION, "id": uuid.uuid4().hex})
        except OSError as error:
            raise UserError(f"cannot make a lake at {root}: {error.strerror}; choose another directory") from None
        return cls(root)

    @classmethod
    def open(cls, path: str | Path) -> Lake:
        """Open an existing lake. Raises ``UserError`` if it is not a lake, or of a newer version."""
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
        """The directory to which the receiver writes."""
        return self.path / "journal"

    def ingest(
        self, paths: Iterable[str | Path] | None = None, progress: Progress | None = None, again: bool = False,
        arrived: tuple[int, int] | None = None,
    ) -> IngestSummary:  # fmt: skip
        """Read files or directories, or the journal if ``paths`` is None or empty, into the raw tables.

        Only the new part of the journal is read, unless ``again``, and, if ``arrived`` is given, only segments with
        data that arrived between these two times (ns). Rows that the lake has are not added. A bad file is reported in
        ``problems`` and does not stop the others. Tables are not rebuilt here, but by reading or ``build_tables``.
        """
        summary = IngestSummary()
        wanted = [files.as_path(p) for p in paths or ()]
        skipped: Counter[str] = Counter()
        found = files.find(wanted, skipped) if wanted else arrivals.segments(self.journal_path, *(arrived or ALWAYS))
        with self._lock(), not_collected():
            writer = landing.RawWriter(self.path, self._catalog(), self.rows_from_ns)
            if not wanted and arrived is None:
                landing.prune(writer.catalog, found)
            known = {} if again or wanted else writer.catalog.journal
            segments = [] if wanted else [(path, known.get(path.stem)) for path in found]
            with landing.reading(self.path, segments) as reader:
                for path in found:
                    try:
                        if wanted:
                            self._ingest_file(path, writer, summary)
                        else:
                            self._ingest_segment(path, writer, summary, known.get(path.stem), reader)
                    except files.BadFile as problem:
                        summary.problems.append(str(problem))
                    if progress:
                        progress(path, summary.rows)
            writer.flush()
            if wanted and summary.metrics and not summary.rows and not summary.problems:
                summary.problems.append(files.only_metrics(wanted, summary.metrics))
            summary.skipped, summary.expired = dict(skipped), writer.expired
            summary.duplicates = summary.rows - summary.new - writer.expired
        return summary

    def _ingest_file(self, path: Path, writer: landing.RawWriter, summary: IngestSummary) -> None:
        summary.files += 1
        for rows in files.read(path, time.time_ns()):
            batch = landing.Batch.of(rows)
            _count(summary, batch, writer.add(batch))
            writer.flush_if_full()

    def _ingest_segment(
        self, path: Path, writer: landing.RawWriter, summary: IngestSummary, known: catalog.Read | None,
        reader: landing.Reader,
    ) -> None:  # fmt: skip
        if landing.is_read(path, known):
            summary.read_before += 1
            return
        summary.files += 1
        for batch, how_far in reader.read(path, known):
            _count(summary, batch, writer.add(batch))
            writer.reached(path.stem, how_far)
            writer.flush_if_full()

    def _catalog(self) -> catalog.Catalog:
        """Return the list of the lake's files, for a writer that holds the lock."""
        return catalog.load(self.path, self.rows_from_ns)

    @property
    def rows_from_ns(self) -> int:
        """Raw rows that arrived before this time have expired (``ingest.upkeep.retention``)."""
        return int(json.loads((self.path / MANIFEST).read_text()).get("rows_from_ns", 0))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def build_tables(self, force: bool = False, runner: Runner | None = None) -> dict[str, int]:
        """Rebuild the normalised rows and every table of ``sql/`` if raw rows or the mapping have changed. Return the
        number of rows of each table. ``runner`` runs the work elsewhere than in processes of this machine."""
        with self._lock():
            return self._build_tables(force, runner)

    def _build_tables(self, force: bool = False, runner: Runner | None = None) -> dict[str, int]:
        path = self.path / "tables" / "state.json"
        if not force and self._is_current():
            self._put_away()
            return dict(json.loads(path.read_text())["rows"])
        state = self._state()
        with not_collected():
            rows = tables.build(self.path, runner=runner)
        write_json(path, {"of": state, "rows": rows})
        self._put_away()
        return rows

    def _is_current(self) -> bool:
        """Whether the tables were built from the lake's current rows."""
        path = self.path / "tables" / "state.json"
        return path.exists() and bool(json.loads(path.read_text())["of"] == self._state())

    def freeze(self, into: Path) -> dict[str, Any]:
        """Link the current tables into a directory (``ingest.frozen`` reads it) and return what they were built from.
        The files are hard links, or copies on another file system; a later build does not change them."""
        with self._lock():
            self._build_tables()
            for folder in ("normalised", "tables"):
                (into / folder).mkdir(parents=True, exist_ok=True)
                for path in (self.path / folder).iterdir():
                    if path.is_file() and not path.name.endswith(".tmp"):
                        _link(path, into / folder / path.name)
            of: dict[str, Any] = json.loads((self.path / "tables" / "state.json").read_text())["of"]
            return of

    def _put_away(self) -> None:
        """Encrypt or drop the originals, if the settings ask for it, after the tables were built from all of them."""
        mode = settings.load(self.path).raw
        if mode != "keep":
            vault.put_away(self.path, self._catalog(), mode)

    def renormalise(self, apply: bool = False) -> Changes:
        """Build tables with the current mapping and compare them with the present ones, which are replaced only with
        ``apply``. Raises ``UserError`` if there are no tables."""
        with self._lock():
            return renormalising.renormalise(self.path, self._state(), apply)

    def compact(self) -> list[Compacted]:
        """Merge small raw files into large, sorted ones, except encrypted ones. Rows and tables do not change."""
        with self._lock():
            return compaction.compact(self.path, self._catalog())

    def retain(self, days: float, dry_run: bool = False, now_ns: int | None = None) -> Retained:
        """Drop raw rows and journal segments that arrived more than ``days`` ago, conversations only as a whole, and
        rebuild the tables. The unread part of the journal is ingested first. With ``dry_run`` nothing is dropped.
        Raises ``UserError`` for a negative time."""
        if days < 0:
            raise UserError(f"--days is {days:g}; give how many days to keep, 0 or more")
        before_ns = (now_ns or time.time_ns()) - int(days * 86_400 * 10**9)
        if not dry_run:
            self.ingest()
        with self._lock():
            self._build_tables()
            done = retention.retain(self.path, self._catalog(), before_ns, dry_run)
            self._build_tables()
            return done

    def privacy_report(self) -> dict[str, Any]:
        """Return the counts of replaced values (docs/privacy.md), without originals."""
        with self._ready():
            report: dict[str, Any] = json.loads((self.path / "tables" / kept.REPORT).read_text())
        return {**report, "raw": settings.load(self.path).raw}

    def describe(self, summary: IngestSummary) -> None:
        """Add the counts of the tables to the summary of an ingest: conversations, spans by dialect, flags."""
        if self.is_empty():
            return
        with self._ready() as db:
            summary.conversations = db.execute("SELECT count(*) FROM conversations").fetchall()[0][0]
            summary.dialects = dict(db.execute("SELECT dialect, spans FROM dialects ORDER BY 1").fetchall())
            unread = "SELECT event_name, records FROM unread_log_records ORDER BY records DESC, event_name"
            summary.unread_log_records = dict(db.execute(unread).fetchall())
            flags = "SELECT f, count(*) FROM (SELECT unnest(flags) f FROM conversations) GROUP BY f ORDER BY f"
            summary.flags = dict(db.execute(flags).fetchall())
            summary.conservation = conservation.summed(db).as_dict()

    def conservation(self, build: bool = True) -> Balance:
        """Check that every model output, tool execution and judgement of the raw rows is in exactly one conversation or
        counted as not read. The raw rows are read again. Without ``build``, tables that are out of date are not
        rebuilt, and only the counts from their build are compared."""
        with self._ready(build=build) as db:
            return conservation.audit(self.path, db) if build or self._is_current() else conservation.summed(db)

    def _state(self) -> dict[str, Any]:
        """What the tables are built from. Compacting, encrypting and dropping raw files does not change it."""
        rows = catalog.with_dropped(self.path, self._catalog().digest())
        how = {"mapping": MAPPING_VERSION, "sql": tables.sql_digest(), "privacy": fingerprint(self.path)}
        return {**how, "rows": rows}

    # ---------------------------------------------------------------------------------------- reading

    def is_empty(self) -> bool:
        """Whether no row was ever ingested."""
        dropped = any(int(d, 16) for d in kept.digest(self.path).values())
        return not dropped and not any(catalog.parts(self.path, name) for name in RAW)

    @contextmanager
    def _ready(self, raw: bool = False, build: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        if self.is_empty():
            waiting = any(journal.segments(self.journal_path))
            what = "" if waiting else " OTLP_FILES"
            how = f"fill it with: rehearsal ingest --lake {self.path}{what}"
            raise UserError(f"the lake {self.path} is empty; {how}")
        if build:
            self.build_tables()
        with catalog.reading(self.path), tables.connect(self.path, raw) as db:
            yield db

    def query(self, sql: str, build: bool = True) -> pa.Table:
        """Return the result of a query over every table of the lake, in DuckDB's SQL. Without ``build``, tables that
        are out of date are not rebuilt."""
        with self._ready(any(name in sql.lower() for name in RAW), build) as db:
            try:
                return db.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise UserError(f"the query failed: {str(error).splitlines()[0]}") from None

    def conversations(self) -> list[Conversation]:
        """Every conversation, oldest first."""
        with self._ready() as db:
            return read_conversations(db)

    def transitions(self) -> list[Transition]:
        """Every answered tool call, by conversation start and call order."""
        with self._ready() as db:
            return read_transitions(db)

    def scenarios(self) -> list[Scenario]:
        """Starting points of episodes, oldest first."""
        with self._ready() as db:
            return read_scenarios(db)

    def tool_profiles(self) -> dict[str, ToolProfile]:
        """The behaviour of each tool in production."""
        with self._ready() as db:
            return read_tool_profiles(db)


def _link(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(path, target)


def _count(summary: IngestSummary, batch: landing.Batch, new: dict[str, int]) -> None:
    summary.rejected += batch.rejected
    summary.unreadable += batch.unreadable
    summary.metrics += batch.metrics
    summary.rows += len(batch)
    summary.new += sum(new.values())
    for name, count in new.items():
        setattr(summary, name, getattr(summary, name) + count)
