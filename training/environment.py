"""The environment protocol. A learned world and a real system both implement it.

Methods are asynchronous so that one sampling engine can batch many episodes. An environment that answers immediately
does not need to await anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class ToolCall:
    """One call, as the agent wrote it. `call_id` is unique in its episode."""

    name: str
    arguments: dict[str, Any]
    call_id: str = ""


@dataclass(frozen=True)
class Observation:
    """The result of a call. `content` is the text that the agent reads: minified JSON, or plain text.

    `provenance` is one of real, derived, replayed, generated, abstained (docs/world.md). `support` in [0, 1] is
    the degree to which production data supports the answer. `reason` of an abstained answer says what is missing.
    """

    content: str
    is_error: bool = False
    error_class: str = ""
    latency_ms: float = 0.0
    provenance: str = "real"
    support: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Start:
    """The start of an episode: what the agent is given before its first turn."""

    episode_id: str
    system: str
    tools: tuple[dict[str, Any], ...]
    first_user_message: str
    tags: dict[str, str] = field(default_factory=dict)


class Episode(Protocol):
    """One agent's run in one environment."""

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call."""
        ...

    async def respond(self, text: str) -> str | None:
        """The user's next message after the agent's `text`; None if the user has left."""
        ...


@runtime_checkable
class ComparedEpisode(Episode, Protocol):
    """An episode of a recorded conversation, which knows what that one changed."""

    def as_recorded(self) -> float | None:
        """How far the agent's changes are those of the recorded success, from 0 to 1; None without one."""
        ...


@runtime_checkable
class ScoredEpisode(Episode, Protocol):
    """An episode whose environment can decide whether it succeeded."""

    def success(self) -> bool:
        """Whether the task was done, decided by code that inspects the environment's state."""
        ...

    def facts(self) -> dict[str, Any]:
        """The facts that `success` is based on; `kind` is the kind of task, used for slices."""
        ...


class Environment(Protocol):
    """A source of episodes with reproducible starts."""

    def starts(self, n: int, seed: int) -> list[Start]:
        """The first `n` starts of the stream with this seed."""
        ...

    def episode(self, start: Start, seed: int) -> Episode:
        """A new episode; equal arguments give episodes that behave alike."""
        ...
