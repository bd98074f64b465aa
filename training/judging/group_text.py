"""What RULER's judge reads of a group. What the trajectories share is written once.

A prompt has up to four parts: `<available_tools>`; `<context>`, the system and user messages with which every
trajectory begins; `<results>`, the tool results that occur more than once in the group, each under a name; and one
`<trajectory>` a member, under its label.

Each line of a part is one message as JSON: `{"user": text}`, `{"agent": text, "calls": [{"name", "arguments"}]}`,
`{"result": ...}`, `{"error": ...}`. A result that is JSON itself is written as JSON and not as a string of JSON, which
would escape each quote. `{"see": "r1"}` stands for the line `r1` of `<results>`.

`benchmarks/ruler_tokens.py` compares the length with that of OpenPipe ART's prompt.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.models.edits import dumps, minify

Message = Mapping[str, Any]

MIN_SHARED = 60
"""Characters. A shorter result is written where it occurs, since a reference would not be much shorter."""

_TAG = re.compile(r"<(\s*/?\s*)(trajectory|context|results|available_tools)", re.IGNORECASE)
_TRAJECTORY = re.compile(r'<trajectory id="([^"]+)">\n(.*?)</trajectory>', re.DOTALL)
_CONTEXT = re.compile(r"<context>\n(.*?)</context>", re.DOTALL)
_RESULTS = re.compile(r"<results>\n(.*?)</results>", re.DOTALL)


@dataclass(frozen=True)
class GroupText:
    """A group's trajectories as lines: those that all begin with, those that several hold, and each member's own."""

    context: tuple[str, ...]
    results: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, group: Sequence[Sequence[Message]]) -> GroupText:
        """From the messages of each member."""
        shared = _shared_opening(group)
        own = [[_line(m) for m in messages[shared:]] for messages in group]
        context = tuple(_line(m) for m in group[0][:shared]) if group else ()
        counts = Counter(line for lines in own for line in lines if _is_result(line) and len(line) >= MIN_SHARED)
        results = tuple(line for line, count in counts.items() if count > 1)
        names = {line: dumps({"see": f"r{k}"}) for k, line in enumerate(results)}
        return cls(context, results, tuple(tuple(names.get(line, line) for line in lines) for lines in own))

    def prompt(self, labels: Sequence[str], order: Sequence[int], tools: Sequence[Message] = ()) -> str:
        """The judge's user message: the members in this order, each under its label (`labels` go by member)."""
        parts = [f"<available_tools>{escape(dumps(list(tools)))}</available_tools>"]
        if self.context:
            parts.append(f"<context>\n{_lines(self.context)}</context>")
        if self.results:
            named = [f"r{k} {line}" for k, line in enumerate(self.results)]
            parts.append(f"<results>\n{_lines(named)}</results>")
        parts += [f'<trajectory id="{labels[k]}">\n{_lines(self.members[k])}</trajectory>' for k in order]
        return "\n".join(parts)


def read_prompt(prompt: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The labels of a prompt's trajectories and the messages of each, as the judge was shown them.

    Raises ValueError, LookupError or TypeError for a prompt that `GroupText.prompt` did not write.
    """
    context, results = _CONTEXT.search(prompt), _RESULTS.search(prompt)
    opening = _messages(context[1], {}) if context else []
    named = dict(line.split(" ", 1) for line in _split(results[1])) if results else {}
    return [(label, [*opening, *_messages(text, named)]) for label, text in _TRAJECTORY.findall(prompt)]


def escape(text: str) -> str:
    """Text that cannot open or close one of the prompt's tags."""
    return _TAG.sub(lambda m: f"&lt;{m[1]}{m[2]}", text)


def unescape(text: str) -> str:
    return text.replace("&lt;", "<")


def _shared_opening(group: Sequence[Sequence[Message]]) -> int:
    """How many system and user messages all members begin with. Each member keeps at least one message of its own."""
    count = 0
    for same in zip(*group, strict=False):
        if same[0]["role"] not in ("system", "user") or any(m != same[0] for m in same):
            break
        count += 1
    return min([count, *(len(messages) - 1 for messages in group)])


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{escape(line)}\n" for line in lines)


def _line(message: Message) -> str:
    role, content = message["role"], message.get("content")
    if role == "tool":
        entry = {"error" if message.get("is_error") else "result": _value(content)}
        return dumps({**entry, "simulated": True} if message.get("simulated") else entry)
    if role != "assistant":
        return dumps({role: content})
    calls = [{"name": c["name"], "arguments": c["arguments"]} for c in message.get("tool_calls") or ()]
    thought = {"reasoning": message["reasoning_content"]} if message.get("reasoning_content") else {}
    said = {"agent": content} if content is not None or not calls else {}
    return dumps({**thought, **said, **({"calls": calls} if calls else {})})


def _value(content: str | None) -> Any:
    """JSON text as the value that it says, where that loses nothing but white space."""
    try:
        value = json.loads(content or "")
    except ValueError:
        return content
    return value if isinstance(value, dict | list) and dumps(value) == minify(content or "") else content


def _is_result(line: str) -> bool:
    return line.startswith(('{"result":', '{"error":'))


def _split(text: str) -> list[str]:
    return [line for line in unescape(text).split("\n") if line]  # not splitlines: JSON may hold U+2028 as it is


def _messages(text: str, named: Mapping[str, str]) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in _split(text)]
    return [_message(json.loads(named[e["see"]]) if "see" in e else e) for e in entries]


def _message(entry: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("result", "error"):
        if key in entry:
            value = entry[key]
            content = value if value is None or isinstance(value, str) else dumps(value)
            marked = {"simulated": True} if entry.get("simulated") else {}
            return {"role": "tool", "content": content, "is_error": key == "error", **marked}
    for role in ("system", "user"):
        if role in entry:
            return {"role": role, "content": entry[role]}
    calls = {"tool_calls": entry["calls"]} if "calls" in entry else {}
    return {"role": "assistant", "content": entry.get("agent"), **calls}
