"""Answers that a world has settled, by question: in memory, or in an SQLite file that outlives the process.

Whoever asks first settles a question. With a file, the first writer of any process does, so that the members of a
group, a restarted run, and champion and candidate meet the same answers.
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
    """An SQLite file of settled answers: (world, question) to JSON. Safe to share among processes and threads."""

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
        """The settled answer; None where there is none."""
        row = (
            self._connection()
            .execute("SELECT answer FROM pins WHERE world = ? AND question = ?", (world, question))
            .fetchone()
        )
        return None if row is None else json.loads(row[0])

    def settle(self, world: str, question: str, answer: Any) -> Any:
        """Settle a question, unless somebody was faster; returns what is settled now."""
        with self._connection() as connection:
            text = json.dumps(answer, ensure_ascii=False)
            connection.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (world, question, text))
        return self.get(world, question)

    def close(self) -> None:
        self._connection().close()
        self._local = threading.local()


class Pins:
    """The settled answers of one world. An answer is a JSON value."""

    def __init__(self, world: str = "", file: PinFile | None = None, known: dict[str, Any] | None = None) -> None:
        self.world, self.file = world, file
        self.known: dict[str, Any] = dict(known or {})
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def fork(self) -> Pins:
        """A copy that shares what is settled; what is settled from here on is not shared."""
        return Pins(self.world, None, self.known)

    async def settle(self, question: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a question; `make` is awaited once, however many ask at the same time."""
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
