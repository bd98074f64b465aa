"""What training knows of an environment: a protocol that a learned world and a real system both fulfil.

Everything is asynchronous so that one sampling engine can batch many episodes; an environment that answers at
once simply never awaits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class ToolCall:
    """One call as the agent wrote it; `call_id` is unique in its episode."""

    name: str
    arguments: dict[str, Any]
    call_id: str = ""


@dataclass(frozen=True)
class Observation:
    """What came back. `content` is what the agent reads: minified JSON where it is JSON, else plain text.

    `provenance` is one of real, derived, replayed, generated, abstained (DESIGN.md, The world); `support` in [0, 1]
    says how much production data stands behind the answer. `reason` says why there is none, where it is abstained.
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
    """Where an episode starts: what the agent is given before its first turn."""

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
        """The user's next message after the agent said `text`; None when the user has left."""
        ...


@runtime_checkable
class ScoredEpisode(Episode, Protocol):
    """An episode whose environment can say what really happened."""

    def success(self) -> bool:
        """Whether the task was done, decided by code that looks at the environment's state."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the verdict rests on; `kind` names the sort of task, for slices."""
        ...


class Environment(Protocol):
    """A source of episodes with reproducible starts."""

    def starts(self, n: int, seed: int) -> list[Start]:
        """The first `n` starts of the stream that `seed` names."""
        ...

    def episode(self, start: Start, seed: int) -> Episode:
        """A fresh episode; equal arguments give episodes that behave alike."""
        ...
