"""Converts conversations to token ids and back. Sampled ids are never tokenised again.

`CompactFormat` is the format of a tokenizer that declares it (rehearsal-tiny's does): every message is
`<|role|>text<|end|>` and a call is `<|call|>name {json}`, so a longer conversation always extends a shorter one, token
for token. `training.models.template` has the format of any tokenizer with a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from transformers import PreTrainedTokenizerFast

from training.environment import ToolCall
from training.models.edits import dumps, minify
from training.models.roles import signature
from training.tiny.focus import named

Message = Mapping[str, Any]
FORMAT, COMPACT = "rehearsal_format", "compact"
"""A tokenizer whose configuration has this key and value is written and read by `CompactFormat`."""
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>", "<|pad|>")


@dataclass(frozen=True)
class AssistantTurn:
    """A parsed assistant turn. `malformed` is the reason why a call cannot be parsed; such a turn has no calls."""

    text: str | None
    calls: tuple[ToolCall, ...] = ()
    malformed: str | None = None
    reasoning: str | None = None

    def message(self) -> dict[str, Any]:
        calls = [{"id": c.call_id, "name": c.name, "arguments": c.arguments} for c in self.calls]
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.text, **thought, **({"tool_calls": calls} if calls else {})}


class ChatFormat(Protocol):
    """The chat format of one base model."""

    tokenizer: Any
    stop_ids: tuple[int, ...]
    pad_id: int
    compact: bool

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of the conversation, ending with the header of the assistant's next turn."""
        ...

    def extend(
        self,
        new_messages: Sequence[Message],
        *,
        after: Sequence[Message] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        stopped: bool = True,
    ) -> list[int] | None:
        """Ids to append after a sampled turn: observations or the user's message, then the next header.

        `after` are the messages so far; the last is the sampled turn. A turn that was cut off (not `stopped`) is closed
        first. None: the template rewrites earlier turns, so a new row must begin with `prompt`.
        """
        ...

    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> AssistantTurn:
        """A sampled turn (with or without its stop id) as text and calls. Call ids are those that the model wrote."""
        ...

    def example(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        """A whole conversation as ids, with a mask of the assistant's ids (stop ids included).

        Raises ValueError if the conversation needs several rows (`examples`).
        """
        ...

    def examples(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[list[int], list[bool]]]:
        """`example` in as many rows as the template needs: a new row begins where it rewrites earlier turns."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special tokens in it are encoded as text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        ...


@dataclass
class CompactFormat:
    """The format that a tokenizer declares (`FORMAT`). With `show_tools`, tool signatures follow the system prompt.

    After a list that a tool answers with stands, once more, the record in it that the user named
    (`training.tiny.focus`).
    """

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
        self._backend.encode_special_tokens = True  # a user's "<|end|>" is encoded as seven characters

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        shown = self._focused((), self._with_tools(messages, tools))
        return [*(i for m in shown for i in self._message(m)), self._header["assistant"]]

    def extend(
        self,
        new_messages: Sequence[Message],
        *,
        after: Sequence[Message] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        stopped: bool = True,
    ) -> list[int]:
        closed = [] if stopped else [self._end]
        shown = self._focused(after, new_messages)
        return [*closed, *(i for m in shown for i in self._message(m)), self._header["assistant"]]

    def examples(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[list[int], list[bool]]]:
        return [self.example(messages, tools)]

    def example(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        trained: list[bool] = []
        for message in self._focused((), self._with_tools(messages, tools)):
            new = self._message(message)
            ids += new
            trained += [False] + [message["role"] == "assistant"] * (len(new) - 1)
        return ids, trained

    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> AssistantTurn:
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

    def _focused(self, before: Sequence[Message], messages: Sequence[Message]) -> Iterator[Message]:
        """The messages, lists with the record that the user named. `before` are the messages before them."""
        said = [str(m.get("content") or "") for m in before if m["role"] == "user"]
        for message in messages:
            content = str(message.get("content") or "")
            if message["role"] == "user":
                said.append(content)
            record = named(content, said) if message["role"] == "tool" else ""
            yield {**message, "content": f"{minify(content)}\n{record}"} if record else message

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


def _read_call(name: str, arguments: str) -> ToolCall | None:
    try:
        value = json.loads(arguments)
    except ValueError:
        return None
    return ToolCall(name, value) if name and isinstance(value, dict) else None
