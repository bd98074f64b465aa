"""Pins: the answers that a world has given, by question, in memory or in an SQLite file.

The first answer to a question is kept. With a file, this holds across processes, so the members of a group, a restarted
run, and champion and candidate get the same answers.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


class PinFile:
    """An SQLite file of answers: (world, question) to JSON. Processes and threads can share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS pins (world TEXT, question TEXT, answer TEXT NOT NULL,"
                " PRIMARY KEY (world, question)) WITHOUT ROWID"
            )

    def _connection(self) -> sqlite3.Connection:
        found = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = sqlite3.connect(self.path, timeout=60)
        return found

    def get(self, world: str, question: str) -> Any:
        """Return the kept answer, or None."""
        row = (
            self._connection()
            .execute("SELECT answer FROM pins WHERE world = ? AND question = ?", (world, question))
            .fetchone()
        )
        return None if row is None else json.loads(row[0])

    def settle(self, world: str, question: str, answer: Any) -> Any:
        """Keep an answer unless the question already has one. Returns the kept answer."""
        with self._connection() as connection:
            text = json.dumps(answer, ensure_ascii=False)
            connection.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (world, question, text))
        return self.get(world, question)

    def close(self) -> None:
        self._connection().close()
        self._local = threading.local()


class Pins:
    """The kept answers of one world. An answer is a JSON value."""

    def __init__(self, world: str = "", file: PinFile | None = None, known: dict[str, Any] | None = None) -> None:
        self.world, self.file = world, file
        self.known: dict[str, Any] = dict(known or {})
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def fork(self) -> Pins:
        """Return a copy with the same answers. Later answers are not shared."""
        return Pins(self.world, None, self.known)

    async def settle(self, question: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a question. `make` is awaited once, also for concurrent callers."""
        if question in self.known:
            return self.known[question]
        if question in self._waiting:
            return await asyncio.shield(self._waiting[question])
        waiting = self._waiting[question] = asyncio.get_running_loop().create_future()
        try:
            answer = self.file.get(self.world, question) if self.file else None
            if answer is None:
                answer = await make()
                if self.file is not None:
                    answer = self.file.settle(self.world, question, answer)
            self.known[question] = answer
            waiting.set_result(answer)
            return answer
        except BaseException as error:
            waiting.set_exception(error)
            waiting.exception()  # whoever waited is told; nobody else needs to be
            raise
        finally:
            self._waiting.pop(question, None)
