"""The training corpus as memory, on disk: the nearest past transition, and answers that production always gave.

Similarity is the summed inverse document frequency, within the tool, of the features that two calls share
(`worldmodel.generate.retrieval.features_of`). One SQLite file holds the transitions and, per feature, the latest rows
that have it. A feature that more rows have says little: it brings no candidates of its own, but it counts for those
that rarer features bring. So the cost of a look-up does not grow with the corpus, and neither does memory, except for
eight bytes a transition (which of its tool's frequent features it has). Up to `ROWS_OF_FEATURE` transitions of a tool,
nothing is left out.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ingest.atomic import replacing
from training.models.edits import canonical, dumps
from worldmodel.generate.retrieval import Entry
from worldmodel.split import SHARED_BY_TOO_MANY
from worldmodel.steps import Step

MOST_VARIABLES = 10_000
"""Values in one statement. SQLite's own limit is 32,766 (3.32 and later)."""
ROWS_OF_FEATURE = 2048
"""So many rows are kept of a feature, the latest."""
CANDIDATES = 2048
"""About so many rows are compared, those of the rarest features. Frequent ones bring some only where there are few."""
FEW = 256
FREQUENT = 63
"""Features of a tool that are kept as bits, the most frequent of those that more rows have."""
AT_ONCE = 50_000
BATCH = 8
TABLES = """
CREATE TABLE entry (id INTEGER PRIMARY KEY, conversation TEXT, grp INTEGER, tool TEXT, arguments TEXT, content TEXT,
                    outcome TEXT, latency REAL, pristine INTEGER);
CREATE TABLE posting (mark INTEGER PRIMARY KEY, n INTEGER, rows BLOB);
CREATE TABLE frequent (mark INTEGER PRIMARY KEY, bit INTEGER);
CREATE TABLE bits (part INTEGER PRIMARY KEY, masks BLOB);
CREATE TABLE always (mark INTEGER PRIMARY KEY, entry INTEGER);
"""


@dataclass(frozen=True)
class Apart:
    """The conversations that are not retrieved from: a call's own, and those that name a common entity."""

    conversations: frozenset[str] = frozenset()
    groups: frozenset[int] = frozenset()

    def has(self, conversation: str, group: int | None) -> bool:
        return conversation in self.conversations or group in self.groups


NOBODY = Apart()


class TransitionIndex:
    """Past transitions, searchable. Build with `of`, keep with `save`, open with `load`. Threads can share it."""

    def __init__(self, path: Path, folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.path, self._folder = path, folder
        self._local = threading.local()
        parts = self._rows("SELECT masks FROM bits ORDER BY part")
        self._bits = np.frombuffer(b"".join(part for (part,) in parts), dtype=np.uint64)

    @classmethod
    def of(cls, entries: Iterable[Entry], groups: Mapping[str, int] | None = None) -> TransitionIndex:
        """An index of its own, in a temporary folder that goes with it. `groups` says which conversations name a common
        entity: none of them is retrieved for another."""
        folder = tempfile.TemporaryDirectory(prefix="rehearsal-index-")
        path = Path(folder.name) / "index.sqlite"
        _build(path, Path(folder.name), entries, groups or {})
        return cls(path, folder)

    @classmethod
    def load(cls, path: Path) -> TransitionIndex:
        return cls(path)

    def save(self, path: Path) -> None:
        """Copy the index to `path`."""
        if path.exists() and path.samefile(self.path):
            return
        with replacing(path) as beside:
            shutil.copyfile(self.path, beside)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(f"file:{self.path}?mode=ro&immutable=1", uri=True)
        return list(connection.execute(sql, values))

    # ----- looking up

    @property
    def entries(self) -> Iterator[Entry]:
        """All transitions in the order in which they were given, without their features."""
        sql = "SELECT conversation, tool, arguments, content, outcome, latency, pristine FROM entry WHERE id >= ?"
        first = 0
        while rows := self._rows(f"{sql} ORDER BY id LIMIT 1000", (first,)):
            for conversation, *step, pristine in rows:
                yield Entry(conversation, _step(*step), (), bool(pristine))
            first += len(rows)

    def calls(self, tool: str) -> int:
        """How many transitions of a tool there are."""
        found = self._rows("SELECT n FROM posting WHERE mark = ?", (_mark(tool),))
        return found[0][0] if found else 0

    def nearest(
        self, tool: str, features: Sequence[str], apart: Apart = NOBODY, among: str | None = None
    ) -> Step | None:
        """The most similar past transition of a tool (the latest of equals), optionally of one outcome
        class.
        """
        return next(iter(self.nearest_of(tool, features, 1, apart, among)), None)

    def nearest_of(
        self, tool: str, features: Sequence[str], most: int, apart: Apart = NOBODY, among: str | None = None
    ) -> list[Step]:
        """The `most` most similar past transitions of a tool, from conversations that are not in `apart`, and no two of
        them of one call."""
        total = self.calls(tool)
        found: dict[str, Step] = {}
        for rows in _batches(self._ranked(tool, features, total)) if total else ():
            for conversation, group, outcome, *step in self._entries(rows):
                if not apart.has(conversation, group) and among in (None, outcome):
                    one = _step(*step)
                    found.setdefault(one.key, one)
                    if len(found) == most:
                        return list(found.values())
        return list(found.values())

    def always(self, key: str) -> Step | None:
        """The answer that production gave to a call every time, where there was only one such answer."""
        sql = "SELECT tool, arguments, content, outcome, latency FROM always JOIN entry ON id = entry WHERE mark = ?"
        found = self._rows(sql, (_mark(key),))
        return _step(*found[0]) if found else None

    def apart(self, conversation: str, named: Iterable[tuple[str, str]] = ()) -> Apart:
        """Return a conversation and those that share an entity with it. Where the index does not have it, its entities
        are `named`: pairs of a tool and a feature. What too many conversations have names no entity."""
        sql = "SELECT grp FROM entry WHERE conversation = ? AND grp IS NOT NULL LIMIT 1"
        if own := self._rows(sql, (conversation,)):
            return Apart(frozenset({conversation}), frozenset({own[0][0]}))
        conversations, groups = {conversation}, set()
        marks = {_mark(tool, feature): tool for tool, feature in named}
        for mark, blob in self._postings(list(marks)):
            rows = np.frombuffer(blob, dtype=np.uint32).tolist()
            found = self._rows(f"SELECT DISTINCT conversation, grp FROM entry WHERE id IN ({_listed(rows)})", rows)
            if len(found) <= max(8, SHARED_BY_TOO_MANY * self.calls(marks[mark])):
                conversations |= {one for one, _ in found}
                groups |= {group for _, group in found if group is not None}
        return Apart(frozenset(conversations - {""}), frozenset(groups))

    def _postings(self, marks: Sequence[int]) -> Iterator[Any]:
        for at in range(0, len(marks), MOST_VARIABLES):
            some = marks[at : at + MOST_VARIABLES]
            yield from self._rows(f"SELECT mark, rows FROM posting WHERE mark IN ({_listed(some)})", some)

    def _ranked(self, tool: str, features: Sequence[str], total: int) -> np.ndarray:
        """Rows by falling score, the latest of equals first; then the tool's latest rows."""
        marks = [_mark(tool, feature) for feature in dict.fromkeys(features)]
        listed = _listed(marks)
        bits = dict(self._rows(f"SELECT mark, bit FROM frequent WHERE mark IN ({listed})", marks))
        postings = sorted(self._rows(f"SELECT n, mark, rows FROM posting WHERE mark IN ({listed})", marks))
        rows_of = {mark: np.frombuffer(blob, dtype=np.uint32) for _, mark, blob in postings}
        candidates = np.zeros(0, dtype=np.uint32)
        for _, mark, _ in postings:
            if len(candidates) < (FEW if mark in bits else CANDIDATES):
                candidates = np.union1d(candidates, rows_of[mark])
        scores = np.zeros(len(candidates))
        for n, mark, _ in postings:
            weight = math.log((total + 1) / n)
            if mark in bits:
                scores += weight * ((self._bits[candidates] >> np.uint64(bits[mark])) & np.uint64(1))
            else:
                shared = candidates[np.minimum(np.searchsorted(candidates, rows_of[mark]), len(candidates) - 1)]
                scores[np.searchsorted(candidates, shared[shared == rows_of[mark]])] += weight
        best = candidates[np.lexsort((-candidates.astype(np.int64), -scores))]
        latest = self._rows("SELECT rows FROM posting WHERE mark = ?", (_mark(tool),))[0][0]
        rest = np.frombuffer(latest, dtype=np.uint32)[::-1]
        return np.concatenate([best, rest[~np.isin(rest, best)]])

    def _entries(self, rows: np.ndarray) -> list[Any]:
        listed = _listed(rows)
        columns = "id, conversation, grp, outcome, tool, arguments, content, outcome, latency"
        asked = [int(row) for row in rows]
        found = {row[0]: row[1:] for row in self._rows(f"SELECT {columns} FROM entry WHERE id IN ({listed})", asked)}
        return [found[int(row)] for row in rows]


def _listed(values: Sized) -> str:
    return ",".join("?" * len(values))


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


def _step(tool: str, arguments: str, content: str, outcome: str, latency: float | None) -> Step:
    return Step(tool, json.loads(arguments), content, outcome, latency)


def _mark(*texts: str) -> int:
    return xxhash.xxh3_64_intdigest("\x1f".join(texts).encode()) >> 1  # SQLite's integers are signed


# ----- building


def _build(path: Path, folder: Path, entries: Iterable[Entry], groups: Mapping[str, int]) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + TABLES)
    total = _write_entries(connection, folder, entries, groups)
    with duckdb.connect(config={"memory_limit": "400MB", "temp_directory": str(folder), "threads": 1}) as sorter:
        sorter.execute("SET enable_progress_bar = false")
        _write_postings(connection, sorter, folder, total)
        _write_always(connection, sorter, folder)
    connection.execute("CREATE INDEX grouped ON entry (conversation) WHERE grp IS NOT NULL")
    connection.commit()
    connection.close()
    for file in folder.glob("*.parquet"):
        file.unlink()


def _write_entries(
    connection: sqlite3.Connection, partial: Path, entries: Iterable[Entry], groups: Mapping[str, int]
) -> int:
    """Write the transitions. Features by mark and answers by call, to be sorted, go to files in `partial`."""
    rows: list[Any] = []
    marks: list[tuple[int, int, int]] = []
    answers: list[tuple[int, int, int]] = []
    total = parts = 0

    def flush() -> None:
        nonlocal parts
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        for name, found in (("marks", marks), ("answers", answers)):
            columns = [pa.array([one[k] for one in found], pa.int64()) for k in range(3)]
            pq.write_table(pa.table(columns, names=["mark", "row", "of"]), partial / f"{name}-{parts}.parquet")
        parts += 1
        for found in (rows, marks, answers):
            found.clear()

    for number, entry in enumerate(entries):
        step = entry.step
        whose = entry.conversation_id, groups.get(entry.conversation_id)
        told = dumps(dict(step.arguments)), step.content, step.outcome, step.latency_ms
        rows.append((number, *whose, step.tool, *told, entry.pristine))
        tool = _mark(step.tool)
        marks.append((tool, number, 0))
        marks += [(_mark(step.tool, feature), number, tool) for feature in entry.features]
        if entry.pristine:
            answers.append((_mark(step.key), number, _mark(canonical(step.content))))
        total = number + 1
        if len(rows) == AT_ONCE:
            flush()
    flush()
    return total


def _write_postings(connection: sqlite3.Connection, sorter: Any, folder: Path, total: int) -> None:
    """Per feature, how many rows have it and the latest of them; the frequent ones as bits."""
    files = str(folder / "marks-*.parquet")
    frequent = sorter.execute(
        f"SELECT mark, of, count(*) AS n FROM read_parquet('{files}') WHERE of <> 0 GROUP BY mark, of"
        f" HAVING n > {ROWS_OF_FEATURE} QUALIFY row_number() OVER (PARTITION BY of ORDER BY n DESC, mark) <= {FREQUENT}"
    ).fetchall()
    bit_of: dict[int, int] = {}
    used: dict[int, int] = defaultdict(int)
    for mark, tool, _ in sorted(frequent):
        bit_of[mark] = used[tool]
        used[tool] += 1
    connection.executemany("INSERT INTO frequent VALUES (?, ?)", bit_of.items())
    masks = np.zeros(total, dtype=np.uint64)
    pairs = sorter.sql(f"SELECT mark, row FROM read_parquet('{files}') ORDER BY mark, row")
    for mark, rows in _runs(pairs.to_arrow_reader(AT_ONCE)):
        if mark in bit_of:
            masks[rows] |= np.uint64(1) << np.uint64(bit_of[mark])
        latest = rows[-ROWS_OF_FEATURE:].astype(np.uint32).tobytes()
        connection.execute("INSERT INTO posting VALUES (?, ?, ?)", (mark, len(rows), latest))
    for part in range(0, total, 40 * AT_ONCE):
        block = masks[part : part + 40 * AT_ONCE].tobytes()
        connection.execute("INSERT INTO bits VALUES (?, ?)", (part, block))


def _runs(reader: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(mark, rows) of a sorted table of pairs."""
    last: int | None = None
    held: list[np.ndarray] = []
    for batch in reader:
        marks, rows = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        starts: list[int] = np.flatnonzero(np.diff(marks, prepend=marks[0] - 1)).tolist() if len(marks) else []
        for start, end in zip(starts, [*starts[1:], len(marks)], strict=True):
            mark = int(marks[start])
            if last is not None and mark != last:
                yield last, np.concatenate(held)
                held = []
            last = mark
            held.append(rows[start:end])
    if last is not None:
        yield last, np.concatenate(held)


def _write_always(connection: sqlite3.Connection, sorter: Any, folder: Path) -> None:
    """The latest transition of every call that was told the same each time, before anything was written to."""
    reader = sorter.sql(
        f"SELECT mark, max(row) FROM read_parquet('{folder / 'answers-*.parquet'}') GROUP BY mark"
        " HAVING count(DISTINCT of) = 1 ORDER BY mark"
    ).to_arrow_reader(AT_ONCE)
    for batch in reader:
        pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
        connection.executemany("INSERT INTO always VALUES (?, ?)", pairs)
