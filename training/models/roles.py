"""The prompts of the world, user and judge adapters, as chats.

The policy's chat is the conversation itself. A small base gets a compact form (one word as the system prompt, since its
adapter knows the task); a real base gets the same content below instructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.models.edits import dumps, minify

LEAVES = "[leaves]"
"""The user adapter's output when the user leaves."""

VERDICTS = ("0", "1")
"""The judge's answers to one transcript: failure, success."""

SIDES = ("A", "B")
"""The judge's answers to a pair of transcripts: the better one."""

_INSTRUCTIONS = {
    "world": (
        "You are the tools of a production system. Given earlier observations (numbered), recent calls and a new "
        "call, answer as production would: first one digit, the outcome class; then either '=' and the whole "
        "body, or '@k' and an RFC 7396 merge patch that turns observation k into the answer."
    ),
    "user": (
        "You are a customer talking to a support agent. What you want and know is listed below. Write your next "
        f"message, or {LEAVES} if you have nothing more to say."
    ),
    "judge": "Read the transcript of an agent. Answer 1 if the customer's goal was really reached, else 0.",
    "judge pair": "Two agents had the same task. Answer A or B: whose transcript reached the goal better?",
}


def system_text(role: str, compact: bool) -> str:
    return role if compact else _INSTRUCTIONS[role]


# ----- world


@dataclass(frozen=True)
class Seen:
    """One observation that the world can refer to. `retrieved`: it comes from another conversation."""

    tool: str
    arguments: Mapping[str, Any]
    content: str
    retrieved: bool = False


@dataclass(frozen=True)
class WorldPrompt:
    """The content of the world's prompt for one call.

    `seen` is numbered from 1. `trail` is the recent calls as (tool, outcome class), oldest first. `outcomes` are the
    tool's outcome classes, numbered from 0 in the prompt, `ok` first. `user` is what the user wants, and `definition`
    the tool in words (`described`); the compact form has neither.
    """

    seen: tuple[Seen, ...]
    trail: tuple[tuple[str, str], ...]
    tool: str
    arguments: Mapping[str, Any]
    outcomes: tuple[str, ...]
    user: str = ""
    definition: str = ""

    def text(self) -> str:
        lines = [
            f"{'~' if s.retrieved else ''}[{k}] {s.tool} {dumps(dict(s.arguments))}\n{minify(s.content)}"
            for k, s in enumerate(self.seen, start=1)
        ]
        lines.append("< " + ", ".join(f"{tool} {outcome}" for tool, outcome in self.trail))
        lines.append(f"> {self.tool} {dumps(dict(self.arguments))}")
        lines.append(" ".join(f"{k} {name}" for k, name in enumerate(self.outcomes[:10])))
        return "\n".join(lines)

    def messages(self, compact: bool = True) -> list[dict[str, Any]]:
        system, content = system_text("world", compact), self.text()
        if self.definition and not compact:
            system = f"{system}\nThe tool that is called:\n{self.definition}"
        if self.user and not compact:
            content = f"The user said: {self.user}\n{content}"
        return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def world_answer(outcome: int, edit: str) -> str:
    """The world adapter's output: the outcome's digit, then the edit (training/models/edits.py)."""
    if not 0 <= outcome <= 9:
        raise ValueError(f"an outcome class is one digit, got {outcome}")
    return f"{outcome}{edit}"


# ----- user


def user_messages(
    goal: Sequence[str], said: Sequence[tuple[str, str]], compact: bool = True, notes: str = ""
) -> list[dict[str, Any]]:
    """The conversation for the user adapter: the user's messages have role assistant, the agent's role user.

    `said` is (speaker, text) in order, with speakers "user" and "agent"; tool calls are not visible to users. `notes`
    say how the user writes and what they know; the compact form leaves them out.
    """
    wishes = "\n".join(goal if compact or not notes else (*goal, notes))
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"{system_text('user', compact)}\n{wishes}"}]
    for speaker, text in said:
        messages.append({"role": "assistant" if speaker == "user" else "user", "content": text})
    return messages


# ----- judge


def transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation for the judge: one line per message, call or observation; no system prompt.

    Line breaks inside a message become spaces, so that an agent's text "\\ntool: ..." does not look like a tool call.
    """
    lines = []
    for message in messages:
        content = message.get("content")
        if message["role"] == "user":
            lines.append(f"user: {content}")
        elif message["role"] == "tool":
            lines.append(f"tool: {minify(content or '')}")
        elif message["role"] == "assistant":
            if content:
                lines.append(f"agent: {content}")
            for call in message.get("tool_calls") or ():
                arguments = call["arguments"]
                shown = arguments if isinstance(arguments, str) else dumps(arguments)
                lines.append(f"call: {call['name']} {shown}")
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def verdict_messages(text: str, compact: bool = True) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": system_text("judge", compact)},
        {"role": "user", "content": text},
    ]


def pair_messages(first: str, second: str, compact: bool = True) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": system_text("judge pair", compact)},
        {"role": "user", "content": f"A\n{first}\nB\n{second}"},
    ]


def described(tool: Mapping[str, Any]) -> str:
    """What a tool definition says of the tool and of its parameters, a line each; empty if it says nothing."""
    inner, parameters = _definition(tool)
    said = {inner["name"]: inner.get("description")}
    for name, schema in (parameters.get("properties") or {}).items():
        said[f"- {name}"] = schema.get("description") if isinstance(schema, Mapping) else None
    return "\n".join(f"{name}: {' '.join(text.split())}" for name, text in said.items() if isinstance(text, str))


def _definition(tool: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    inner = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
    assert isinstance(inner, Mapping)
    parameters = inner.get("parameters") or {}
    return inner, json.loads(parameters) if isinstance(parameters, str) else parameters


def signature(tool: Mapping[str, Any]) -> str:
    """A tool definition in one short line: `get_item(item_id, page?)`."""
    inner, parameters = _definition(tool)
    required = set(parameters.get("required") or ())
    names = (f"{k}" if k in required else f"{k}?" for k in (parameters.get("properties") or {}))
    return f"{inner['name']}({', '.join(names)})"
