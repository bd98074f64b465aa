"""Conversations to token ids and back, so that what was sampled is never tokenised again.

`CompactFormat` is rehearsal-tiny's: every message is `<|role|>text<|end|>`, calls are `<|call|>name {json}`, so a
longer conversation always extends a shorter one, token for token. `TemplateFormat` takes any tokenizer with a
chat template and Hermes-style tool calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from transformers import PreTrainedTokenizerFast

from training.environment import ToolCall
from training.models.edits import dumps, minify
from training.models.roles import signature

Message = Mapping[str, Any]
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>", "<|pad|>")


@dataclass(frozen=True)
class AssistantTurn:
    """What an agent's sampled turn says. `malformed` explains a call that cannot be read; such a turn has none."""

    text: str | None
    calls: tuple[ToolCall, ...] = ()
    malformed: str | None = None

    def message(self) -> dict[str, Any]:
        calls = [{"id": c.call_id, "name": c.name, "arguments": c.arguments} for c in self.calls]
        return {"role": "assistant", "content": self.text, **({"tool_calls": calls} if calls else {})}


class ChatFormat(Protocol):
    """How one base model writes conversations."""

    stop_ids: tuple[int, ...]
    pad_id: int
    compact: bool

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of the conversation so far, ending with the header of the assistant's next turn."""
        ...

    def extend(self, new_messages: Sequence[Message]) -> list[int]:
        """Ids to append after a sampled turn: observations or the user's words, then the next header."""
        ...

    def parse(self, ids: Sequence[int]) -> AssistantTurn:
        """A sampled turn (with or without its stop id) as text and calls. Call ids are left empty."""
        ...

    def example(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        """A whole conversation and which of its ids the assistant wrote (stop ids included)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Plain text to ids; special tokens in it stay text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, special tokens left out."""
        ...


@dataclass
class CompactFormat:
    """rehearsal-tiny's own format. With `show_tools`, tool signatures follow the system prompt."""

    tokenizer: PreTrainedTokenizerFast
    show_tools: bool = True
    compact: bool = True
    stop_ids: tuple[int, ...] = field(init=False)
    pad_id: int = field(init=False)

    def __post_init__(self) -> None:
        ids = {name: cast(int, self.tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL_TOKENS}
        self._header = {r: ids[f"<|{r}|>"] for r in ("system", "user", "assistant", "tool")}
        self._call, self._end, self.pad_id = ids["<|call|>"], ids["<|end|>"], ids["<|pad|>"]
        self.stop_ids = (self._end,)
        self._backend = type(self.tokenizer.backend_tokenizer).from_str(self.tokenizer.backend_tokenizer.to_str())
        self._backend.encode_special_tokens = True  # a customer who types "<|end|>" has typed seven characters

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        ids = [i for m in self._with_tools(messages, tools) for i in self._message(m)]
        return [*ids, self._header["assistant"]]

    def extend(self, new_messages: Sequence[Message]) -> list[int]:
        return [*(i for m in new_messages for i in self._message(m)), self._header["assistant"]]

    def example(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        trained: list[bool] = []
        for message in self._with_tools(messages, tools):
            new = self._message(message)
            ids += new
            trained += [False] + [message["role"] == "assistant"] * (len(new) - 1)
        return ids, trained

    def parse(self, ids: Sequence[int]) -> AssistantTurn:
        ids = list(ids)
        if ids and ids[-1] == self._end:
            ids = ids[:-1]
        pieces: list[list[int]] = [[]]
        for i in ids:
            pieces.append([]) if i == self._call else pieces[-1].append(i)
        text = self.decode(pieces[0]) or None
        calls = []
        for piece in pieces[1:]:
            written = self.decode(piece)
            name, _, arguments = written.partition(" ")
            call = _read_call(name, arguments)
            if call is None:
                problem = f"tool call is not `name {{json object}}`: {written[:120]!r}"
                return AssistantTurn(self._backend.decode(ids, skip_special_tokens=False), (), problem)
            calls.append(call)
        return AssistantTurn(text, tuple(calls))

    def _with_tools(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Sequence[Message]:
        if not (tools and self.show_tools):
            return messages
        listing = "\n".join(signature(t) for t in tools)
        if messages and messages[0]["role"] == "system":
            first = {**messages[0], "content": f"{messages[0].get('content') or ''}\n{listing}"}
            return [first, *messages[1:]]
        return [{"role": "system", "content": listing}, *messages]

    def _message(self, message: Message) -> list[int]:
        role, content = message["role"], message.get("content")
        ids = [self._header[role]]
        if content:
            ids += self.encode(minify(content) if role == "tool" else content)
        for call in message.get("tool_calls") or ():
            arguments = call["arguments"]
            shown = arguments if isinstance(arguments, str) else dumps(arguments)
            ids += [self._call, *self.encode(f"{call['name']} {shown}")]
        return [*ids, self._end]


_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_MARK = "\u2402"


@dataclass
class TemplateFormat:
    """Any tokenizer with a chat template; tool calls are read in Hermes' form (Qwen, Hermes and many others)."""

    tokenizer: Any
    compact: bool = False
    stop_ids: tuple[int, ...] = field(init=False)
    pad_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.stop_ids = (self.tokenizer.eos_token_id,)
        pad = self.tokenizer.pad_token_id
        self.pad_id = self.tokenizer.eos_token_id if pad is None else pad

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        return self._render(messages, tools, header=True)

    def extend(self, new_messages: Sequence[Message]) -> list[int]:
        opening: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        return self._after_stop(self._render([*opening, *new_messages], (), header=True), stops=1)

    def parse(self, ids: Sequence[int]) -> AssistantTurn:
        written = self.decode(ids)
        calls = []
        for body in _HERMES.findall(written):
            try:
                value = json.loads(body)
                call = _read_call(value["name"], dumps(value["arguments"]))
            except (ValueError, KeyError, TypeError):
                call = None
            if call is None:
                return AssistantTurn(written, (), f"tool call is not a JSON object: {body[:120]!r}")
            calls.append(call)
        return AssistantTurn(_HERMES.sub("", written).strip() or None, tuple(calls))

    def example(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        trained: list[bool] = []
        for k, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            header = self._render(messages[:k], tools, header=True)
            whole = self._render(messages[: k + 1], tools, header=False)
            if whole[: len(header)] != header or header[: len(ids)] != ids:
                raise ValueError(
                    "this chat template rewrites earlier turns, so a conversation is no prefix of a longer one; "
                    "use a prefix-preserving template"
                )
            trained += [False] * (len(header) - len(ids)) + [True] * (len(whole) - len(header))
            ids = whole
        return ids, trained

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], header: bool) -> list[int]:
        wire = [_wire_message(m) for m in messages]
        text = self.tokenizer.apply_chat_template(
            wire, tools=list(tools) or None, add_generation_prompt=header, tokenize=False
        )
        return self.encode(text)

    def _after_stop(self, ids: list[int], stops: int) -> list[int]:
        marked = self.encode(_MARK)
        at = next(i for i in range(len(ids)) if ids[i : i + len(marked)] == marked)
        while ids[at] not in self.stop_ids:
            at += 1
        return ids[at + stops :]


def _wire_message(message: Message) -> dict[str, Any]:
    """Our message as chat templates expect it: calls nested under `function`."""
    out = {k: v for k, v in message.items() if k in ("role", "content", "name", "tool_call_id")}
    if out.get("content") is None:
        out["content"] = ""
    calls = message.get("tool_calls")
    if calls:
        out["tool_calls"] = [
            {"id": c.get("id"), "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in calls
        ]
    return out


def _read_call(name: str, arguments: str) -> ToolCall | None:
    try:
        value = json.loads(arguments)
    except ValueError:
        return None
    return ToolCall(name, value) if name and isinstance(value, dict) else None
