"""The lines of one file, collected until its end, where they are the session of a command-line agent.

A line of such a file is one message or one event; only the whole file is a conversation. Read are the session files of
Claude Code, Codex CLI and Gemini CLI. A reader knows its first line by its keys. After that it takes every line that
looks like one of its own and ignores those that tell nothing of the conversation.
"""

from __future__ import annotations

from typing import Any, Protocol

from ingest.formats.records.trajectory import Trajectory
from ingest.formats.sessions import claude_code, codex, gemini_cli


class Session(Protocol):
    """A reader of one agent's session files."""

    name: str

    def take(self, line: dict[str, Any]) -> bool:
        """Add a line. Return whether it belongs to this agent."""
        ...

    def trajectories(self) -> list[Trajectory]:
        """Return the conversations of the lines so far. A ``parent`` is an index into this list."""
        ...


class SessionFile:
    """Collects the session lines of a file."""

    def __init__(self) -> None:
        self._readers: tuple[Session, ...] = (claude_code.Session(), codex.Session(), gemini_cli.Session())
        self._found: Session | None = None

    def take(self, value: Any) -> bool:
        """Add a JSON value or a list of lines. Return whether it belongs to a session."""
        if isinstance(value, list):
            return self._take_lines(value)
        return isinstance(value, dict) and self._take(value)

    def _take_lines(self, lines: list[Any]) -> bool:
        """Add all of the lines, or none."""
        if not lines or not all(isinstance(line, dict) for line in lines):
            return False
        tried = SessionFile()
        if not all(map(tried._take, lines)):
            return False
        return all([self._take(line) for line in lines])

    def _take(self, line: dict[str, Any]) -> bool:
        if self._found is not None:
            return self._found.take(line)
        self._found = next((reader for reader in self._readers if reader.take(line)), None)
        return self._found is not None

    @property
    def name(self) -> str | None:
        """The name of the agent; None without session lines."""
        return self._found.name if self._found else None

    def trajectories(self) -> list[Trajectory]:
        """The conversations of the file."""
        return self._found.trajectories() if self._found else []
