"""The requests of a batch API. The file of results names them only by ``custom_id``.

Both files usually are in one directory. A request that occurs twice with different bodies is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

_MARK = b'"custom_id"'
_BODIES = ("body", "params")
_MOST_BYTES = 512 << 20  # of one file; the largest that an API takes is 200 MB


class BatchRequests:
    """The requests in the files beside a file of results. Read when the first one is needed."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._found: dict[str, dict[str, Any] | None] | None = None

    def __call__(self, custom_id: str) -> dict[str, Any] | None:
        """The body of a request; None if no file has it, or if several files have different ones."""
        if self._found is None:
            self._found = {}
            for path in self._beside():
                for key, body in _requests(path):
                    known = self._found.get(key, body)
                    self._found[key] = body if known == body else None
        return self._found.get(custom_id)

    def _beside(self) -> list[Path]:
        try:
            found = sorted(self._results.parent.iterdir())
            return [p for p in found if p.suffix in (".jsonl", ".json", ".ndjson") and p.name != self._results.name]
        except OSError:
            return []


def _requests(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The requests of a file, if all of its lines are requests of a batch."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        with path.open("rb") as file:
            for line in file:
                found = _request(line)
                if found is None:
                    return
                yield found
    except OSError:
        return


def _request(line: bytes) -> tuple[str, dict[str, Any]] | None:
    if _MARK not in line:
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    body = next((value[k] for k in _BODIES if isinstance(value.get(k), dict)), None)
    return (str(value["custom_id"]), body) if body is not None and "custom_id" in value else None
