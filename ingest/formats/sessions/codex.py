"""Codex CLI: ``~/.codex/sessions/*/rollout-*.jsonl``. Lines are ``{"timestamp", "type", "payload"}``; ``response_item``
holds an item of the Responses API. Before that form the items stood by themselves, behind a line with the session's id.

User messages that the program itself wrote (instructions, the environment) are told apart by the events
``user_message``, which repeat what was typed: they are read as instructions. The end of a command says whether it
failed. A compaction starts a new history; what came before is a conversation of its own.
"""

from __future__ import annotations

from typing import Any

from ingest.formats.records.message_lists import from_text
from ingest.formats.records.trajectory import Trajectory

_KINDS = {"session_meta", "response_item", "event_msg", "turn_context", "compacted"}
_ITEMS = {"message", "reasoning", "function_call", "function_call_output", "custom_tool_call",
          "custom_tool_call_output", "local_shell_call", "web_search_call", "mcp_call", "tool_search_call",
          "tool_search_output", "image_generation_call"}  # fmt: skip
_META = {"id", "timestamp", "instructions", "git", "cwd", "originator", "cli_version"}


class Session:
    """Reads the lines of one session."""

    name = "Codex CLI"

    def __init__(self) -> None:
        self._form = ""  # "payload", or "bare" for the older one
        self._meta: dict[str, Any] = {}
        self._model: str | None = None
        self._items: list[dict[str, Any]] = []
        self._before: list[list[dict[str, Any]]] = []  # histories that were left: by a compaction or a rollback
        self._typed: set[str] = set()
        self._failed: set[str] = set()

    def take(self, line: dict[str, Any]) -> bool:
        """Add a line. Return whether it belongs to this agent."""
        payload = line.get("payload")
        if isinstance(payload, dict) and (line.get("type") in _KINDS or self._form == "payload"):
            self._form = "payload"
            self._read(str(line.get("type")), payload, line.get("timestamp"))
            return True
        if self._form == "bare":
            return self._take_bare(line)
        if not self._form and {"id", "timestamp", "instructions"} <= line.keys() and line.keys() <= _META:
            self._form, self._meta = "bare", line
            return True
        return False

    def _take_bare(self, line: dict[str, Any]) -> bool:
        if line.get("type") not in _ITEMS:
            return "record_type" in line
        self._add(line, line.get("timestamp"))
        return True

    def _read(self, kind: str, payload: dict[str, Any], timestamp: Any) -> None:
        if kind == "session_meta":
            self._meta = self._meta or payload
        elif kind == "turn_context":
            self._model = payload.get("model") if isinstance(payload.get("model"), str) else self._model
        elif kind == "response_item":
            self._add(payload, timestamp)
        elif kind == "compacted":
            self._compact(payload)
        elif kind == "event_msg":
            self._note(payload)

    def _add(self, item: dict[str, Any], timestamp: Any) -> None:
        if item.get("type") not in _ITEMS:
            return
        if item["type"] == "reasoning" and not (item.get("summary") or item.get("content")):
            return
        item = {k: v for k, v in item.items() if v is not None}
        output = item.get("output")
        output = from_text(output) if isinstance(output, str) else output
        if isinstance(output, dict) and isinstance(output.get("content"), str) and "success" in output:
            item["output"], failed = output["content"], output["success"] is False
        else:
            facts = output.get("metadata") if isinstance(output, dict) else None
            failed = isinstance(facts, dict) and facts.get("exit_code") not in (0, None)
        if failed:
            item["is_error"] = True
        self._items.append({**item, "timestamp": timestamp})

    def _compact(self, payload: dict[str, Any]) -> None:
        told = payload.get("replacement_history")
        self._before.append(self._items)
        self._items = []
        if isinstance(told, list):
            for item in told:
                if isinstance(item, dict):
                    self._add(item, None)
        elif isinstance(payload.get("message"), str) and payload["message"]:
            self._typed.add(payload["message"])
            self._items.append({"type": "message", "role": "user", "content": payload["message"]})

    def _note(self, event: dict[str, Any]) -> None:
        kind, call_id = event.get("type"), event.get("call_id")
        if kind == "user_message" and isinstance(event.get("message"), str):
            self._typed.add(event["message"].strip())
        elif kind == "thread_rolled_back" and isinstance(event.get("num_turns"), int):
            self._roll_back(event["num_turns"])
        elif isinstance(call_id, str) and (event.get("success") is False or event.get("exit_code") not in (0, None)):
            self._failed.add(call_id)

    def _roll_back(self, turns: int) -> None:
        prompts = [n for n, item in enumerate(self._items) if _role(item) == "user" and self._is_typed(item)]
        if 0 < turns <= len(prompts):
            self._before.append(self._items)
            self._items = self._items[: prompts[-turns]]

    def _is_typed(self, item: dict[str, Any]) -> bool:
        return not self._typed or _text(item).strip() in self._typed

    def trajectories(self) -> list[Trajectory]:
        """Return the conversations. Those before a compaction and those of withdrawn turns come first."""
        return [t for items in (*self._before, self._items) if (t := self._trajectory(items))]

    def _trajectory(self, items: list[dict[str, Any]]) -> Trajectory | None:
        told = [i for i in items if _role(i) not in ("system", "developer")]
        written = [i for i in told if _role(i) == "user" and not self._is_typed(i)]
        context = [i for i in items if _role(i) in ("system", "developer") or any(i is w for w in written)]
        messages = [self._with_error(i) for i in told if not any(i is w for w in written)]
        if not messages:
            return None
        base = self._meta.get("base_instructions") or self._meta.get("instructions")
        base = base.get("text") if isinstance(base, dict) else base
        system = "\n\n".join(t for t in (base, *map(_text, context)) if isinstance(t, str) and t)
        answered = _role(messages[-1]) == "assistant"
        session = self._meta.get("id")
        return Trajectory(
            messages[:-1] if answered else messages, messages[-1:] if answered else [], system=system or None,
            agent="codex", model=self._model, conversation_id=session if isinstance(session, str) else None,
        )  # fmt: skip

    def _with_error(self, item: dict[str, Any]) -> dict[str, Any]:
        is_output = str(item.get("type")).endswith("_output")
        return {**item, "is_error": True} if is_output and item.get("call_id") in self._failed else item


def _role(item: dict[str, Any]) -> Any:
    return item.get("role") if item.get("type", "message") == "message" else None


def _text(item: dict[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(b["text"] for b in blocks if isinstance(b, dict) and isinstance(b.get("text"), str))
