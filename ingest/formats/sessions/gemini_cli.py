"""Gemini CLI: ``~/.gemini/tmp/*/chats/session-*.json``, one object with all messages, and its successor in JSON lines:
a first line without messages, then a message a line. There a message that comes again replaces the earlier one,
``$set`` changes the session's fields, and ``$rewindTo`` takes back a message and all after it.
"""

from __future__ import annotations

from typing import Any

from ingest.formats.records.trajectory import Trajectory


class Session:
    """Reads one session."""

    name = "Gemini CLI"

    def __init__(self) -> None:
        self._session: dict[str, Any] = {}
        self._messages: dict[str, dict[str, Any]] = {}
        self._left: list[list[dict[str, Any]]] = []  # what was taken back

    def take(self, line: dict[str, Any]) -> bool:
        """Add a session or one line of it. Return whether it belongs to this agent."""
        if "sessionId" in line and "projectHash" in line:
            self._session = {**self._session, **{k: v for k, v in line.items() if k != "messages"}}
            self._add(line.get("messages"))
            return True
        if not self._session:
            return False
        if isinstance(line.get("$set"), dict):
            self._add(line["$set"].get("messages"))
            return True
        if "$rewindTo" in line:
            self._rewind(str(line["$rewindTo"]))
            return True
        if "id" in line and "type" in line:
            self._add([line])
            return True
        return False

    def _add(self, messages: Any) -> None:
        for m in messages if isinstance(messages, list) else ():
            if isinstance(m, dict):
                self._messages[str(m.get("id", len(self._messages)))] = m

    def _rewind(self, message_id: str) -> None:
        if message_id in self._messages:
            ids = list(self._messages)
            self._left.append(list(self._messages.values()))
            self._messages = {i: self._messages[i] for i in ids[: ids.index(message_id)]}

    def trajectories(self) -> list[Trajectory]:
        """Return the withdrawn branches, then the conversation."""
        return [t for told in (*self._left, list(self._messages.values())) if (t := self._trajectory(told))]

    def _trajectory(self, told: list[dict[str, Any]]) -> Trajectory | None:
        messages = [m for line in told for m in _messages(line)]
        if not messages:
            return None
        answered = messages[-1]["role"] == "assistant"
        model = next((m["model"] for m in reversed(told) if isinstance(m.get("model"), str)), None)
        return Trajectory(
            messages[:-1] if answered else messages, messages[-1:] if answered else [], agent="gemini-cli",
            model=model, conversation_id=str(self._session["sessionId"]),
        )  # fmt: skip


def _messages(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of one line: a prompt, or an answer with its results. Program output is skipped."""
    if line.get("type") == "user":
        return [{"role": "user", "content": line.get("content"), "timestamp": line.get("timestamp")}]
    if line.get("type") != "gemini":
        return []
    calls = [c for c in line.get("toolCalls") or () if isinstance(c, dict) and c.get("name")]
    thoughts = [t for t in line.get("thoughts") or () if isinstance(t, dict)]
    parts: list[dict[str, Any]] = [{"type": "reasoning", "content": _thought(t)} for t in thoughts]
    content = line.get("content")
    blocks = content if isinstance(content, list) else [{"text": content}] if isinstance(content, str) else []
    parts += [b for b in blocks if isinstance(b, dict) and b.get("text")]
    parts += [{"type": "tool_call", "id": c.get("id"), "name": c["name"], "arguments": c.get("args")} for c in calls]
    said = {"role": "assistant", "parts": parts, "timestamp": line.get("timestamp")}
    results = [_result(c) for c in calls if c.get("result") or c.get("status") in _ENDED]
    return [said, *({"role": "tool", "parts": [r], "timestamp": line.get("timestamp")} for r in results)]


_ENDED = ("success", "error", "cancelled")


def _thought(thought: dict[str, Any]) -> str:
    return ": ".join(str(thought[k]) for k in ("subject", "description") if thought.get(k))


def _result(call: dict[str, Any]) -> dict[str, Any]:
    """Return the tool result in Gemini's ``functionResponse``."""
    told: Any = call.get("result")
    items = told if isinstance(told, list) else [told]
    answer = next((i["functionResponse"] for i in items if isinstance(i, dict) and "functionResponse" in i), None)
    response = answer.get("response") if isinstance(answer, dict) else told
    if isinstance(response, dict) and len(response) == 1:
        response = next((response[k] for k in ("output", "error") if k in response), response)
    if response is None:
        response = call.get("resultDisplay")
    part = {"type": "tool_call_response", "id": call.get("id"), "name": call["name"], "response": response}
    return {**part, "is_error": True} if call.get("status") in ("error", "cancelled") else part
