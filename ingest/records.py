"""The rows that the rest of the project reads: conversations, transitions, scenarios, tool profiles.

They are values (frozen), made by ``ingest.lake.Lake`` from the tables in ``sql/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class MessageToolCall(TypedDict):
    """One call that an assistant message makes. ``arguments`` is a dict unless it was not valid JSON."""

    id: str
    name: str
    arguments: dict[str, Any] | str


class Message(TypedDict, total=False):
    """A chat-completions message. Every key but ``role`` is optional.

    ``is_error``, ``error_class`` and ``latency_ms`` are set on tool messages only; ``error_class`` is ""
    for an answer that is no error.
    """

    role: Required[Role]
    content: str | None
    tool_calls: list[MessageToolCall]
    tool_call_id: str
    name: str
    is_error: bool
    error_class: str
    latency_ms: float


class Outcome(TypedDict):
    """One evaluation of a conversation; ``score`` or ``label`` may be missing, as the standard allows."""

    name: str
    score: float | None
    label: str | None
    explanation: str | None


@dataclass(frozen=True)
class Conversation:
    """One conversation as production had it. ``tools`` are definitions, or ``{"name": ...}`` alone where
    only names are known; ``flags`` say what is missing (truncated, orphan_result, ...)."""

    conversation_id: str
    agent: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    outcomes: list[Outcome] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    started_at_ns: int = 0


@dataclass(frozen=True)
class Transition:
    """One tool call and what it answered. ``index`` is the call's ordinal in its conversation, ``content``
    the observation's raw text, ``error_class`` "" when the call went well."""

    conversation_id: str
    index: int
    tool: str
    arguments: dict[str, Any]
    content: str
    is_error: bool
    error_class: str
    latency_ms: float | None
    started_at_ns: int


@dataclass(frozen=True)
class Scenario:
    """Where an episode starts, mined from one production conversation.

    ``goal`` holds every message that the recorded user wrote, in order; ``facts`` the transitions that
    production showed; ``outcome`` the mean score of the conversation's evaluations, if there were any;
    ``succeeded`` whether that counts as a success, once somebody has decided it.
    """

    scenario_id: str
    conversation_id: str
    system: str
    tools: list[dict[str, Any]]
    first_user_message: str
    goal: tuple[str, ...]
    facts: tuple[Transition, ...]
    outcome: float | None
    started_at_ns: int
    succeeded: bool | None = None


@dataclass(frozen=True)
class ToolProfile:
    """How one tool behaved in production. ``latency_ms_quantiles`` has p50, p90 and p99 (empty if no span
    told a duration); ``argument_keys`` counts the calls that passed each key."""

    tool: str
    calls: int
    errors: int
    error_classes: dict[str, int]
    latency_ms_quantiles: dict[str, float]
    argument_keys: dict[str, int]
