"""Claude Code: ``~/.claude/projects/*/*.jsonl``, and what ``claude -p --output-format stream-json`` prints.

One line is one content block or one result: lines of one ``message.id`` are one answer. ``parentUuid`` says what a line
follows; a prompt that follows an earlier line was typed after a rewind and begins a branch. Sub-agents are lines with
``isSidechain``, or files of their own with the session's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingest.formats.records.trajectory import Trajectory

_SPOKEN = ("user", "assistant")
_OPENERS = {"summary": "leafUuid", "file-history-snapshot": "snapshot", "queue-operation": "sessionId",
            "permission-mode": "sessionId", "system": "session_id"}  # fmt: skip


@dataclass(slots=True)
class _Thread:
    """The messages of one agent, on the latest branch. ``places`` maps line ids to message positions."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    prompts: list[int] = field(default_factory=list)
    model: str | None = None


class Session:
    """Reads the lines of one session."""

    name = "Claude Code"

    def __init__(self) -> None:
        self._is_known = False
        self._session: str | None = None
        self._tools: list[dict[str, Any]] | None = None
        self._parents: dict[str, str | None] = {}
        self._sidechain: dict[str, str] = {}  # the agent of each line of a sub-agent
        self._threads: dict[str, _Thread] = {}
        self._left: list[tuple[str, _Thread]] = []  # branches that were left

    def take(self, line: dict[str, Any]) -> bool:
        """Add a line. Return whether it belongs to this agent."""
        kind = line.get("type")
        if not isinstance(kind, str) or "messages" in line or "payload" in line:
            return False
        is_spoken = kind in _SPOKEN and isinstance(line.get("message"), dict) and _session_of(line) is not None
        if not is_spoken and not (self._is_known or _OPENERS.get(kind, "\0") in line):
            return False
        self._is_known = True
        uuid = line.get("uuid")
        if isinstance(uuid, str):
            if uuid in self._parents:  # told before
                return True
            self._parents[uuid] = line.get("parentUuid")
        if kind == "system" and isinstance(line.get("tools"), list):
            self._tools = [{"name": str(t)} for t in line["tools"]]
        if is_spoken and not line.get("isMeta") and not line.get("isApiErrorMessage"):
            self._session = self._session or _session_of(line)
            self._add(line, uuid if isinstance(uuid, str) else "")
        return True

    def _add(self, line: dict[str, Any], uuid: str) -> None:
        agent = self._agent_of(line, uuid)
        thread = self._threads.setdefault(agent, _Thread())
        message = line["message"]
        content = message.get("content")
        told = {"role": line["type"], "content": content, "timestamp": line.get("timestamp")}
        if line["type"] == "assistant":
            if isinstance(message.get("model"), str) and not message["model"].startswith("<"):
                thread.model = message["model"]
            if self._goes_on(thread, message.get("id"), content):
                thread.places[uuid] = len(thread.messages) - 1
                return
            told["id"] = message.get("id")
        elif not _is_result(content):
            self._rewind(agent, thread, line.get("parentUuid"))
            thread = self._threads[agent]
            thread.prompts.append(len(thread.messages))
        thread.messages.append(told)
        thread.places[uuid] = len(thread.messages) - 1

    @staticmethod
    def _goes_on(thread: _Thread, message_id: Any, content: Any) -> bool:
        """Append content blocks to the answer with their id. Results can be between them."""
        for told in reversed(thread.messages):
            if told["role"] == "assistant":
                if message_id is None or told.get("id") != message_id:
                    return False
                known = _blocks(told["content"])
                told["content"] = [*known, *(b for b in _blocks(content) if b not in known)]
                return True
            if not _is_result(told["content"]):
                return False
        return False

    def _rewind(self, agent: str, thread: _Thread, parent: Any) -> None:
        """Handle a prompt after a rewind: the messages after its parent line become an abandoned branch."""
        at = self._place(thread, parent)
        if at is None or not any(p > at for p in thread.prompts):
            return
        self._left.append((agent, thread))
        end = at + 1
        while end < len(thread.messages) and _is_result(thread.messages[end]["content"]):
            end += 1
        kept = [{**m} for m in thread.messages[:end]]
        places = {u: p for u, p in thread.places.items() if p < end}
        self._threads[agent] = _Thread(kept, places, [p for p in thread.prompts if p < end], thread.model)

    def _place(self, thread: _Thread, uuid: Any) -> int | None:
        """Return the position of the message that a line follows. Lines without a message are skipped."""
        for _ in range(len(self._parents) + 1):
            if not isinstance(uuid, str):
                return -1 if uuid is None and thread.messages and thread.prompts else None
            if uuid in thread.places:
                return thread.places[uuid]
            uuid = self._parents.get(uuid, ...)
        return None

    def _agent_of(self, line: dict[str, Any], uuid: str) -> str:
        """Return the sub-agent of a line: by its id, else by the call that started it, else by its first line."""
        if line.get("parent_tool_use_id"):
            return str(line["parent_tool_use_id"])
        if not line.get("isSidechain"):
            return ""
        parent = line.get("parentUuid")
        found = line.get("agentId") or self._sidechain.get(parent or "") or uuid
        self._sidechain[uuid] = str(found)
        return str(found)

    def trajectories(self) -> list[Trajectory]:
        """Return one conversation for each agent and each branch. Sub-agents come last."""
        told = [*self._left, *self._threads.items()]
        told.sort(key=lambda found: found[0] != "")
        is_own = bool(told) and told[0][0] == ""
        return [
            _trajectory(thread, f"{self._session}/{agent}" if agent else self._session,
                        None if agent else self._tools, 0 if agent and is_own else None)
            for agent, thread in told if thread.messages
        ]  # fmt: skip


def _trajectory(thread: _Thread, conversation_id: str | None, tools: Any, parent: int | None) -> Trajectory:
    messages = [{k: v for k, v in m.items() if k != "id"} for m in thread.messages]
    answered = messages[-1]["role"] == "assistant"
    return Trajectory(
        messages[:-1] if answered else messages, messages[-1:] if answered else [], tools=tools, agent="claude-code",
        model=thread.model, conversation_id=conversation_id, parent=parent,
    )  # fmt: skip


def _session_of(line: dict[str, Any]) -> str | None:
    found = line.get("sessionId", line.get("session_id"))
    return found if isinstance(found, str) else None


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def _is_result(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(b, dict) and b.get("type") == "tool_result" for b in content)
