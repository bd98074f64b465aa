"""The chat format of any tokenizer with a chat template.

Text is rendered by the tokenizer's template and split into three kinds: text of the template (control tokens are
encoded as such), text of users and tools (control tokens in it stay text), and the assistant's text. A row is encoded
in the pieces in which it is produced: prompt, turn, text after the turn, next turn. So the ids of a recorded
conversation equal those of the same conversation when it is sampled.

Some templates render earlier turns differently once a conversation continues (Qwen3 drops the reasoning of earlier
turns). There the row ends, and a new one begins with the template's new text, so every sampled token has the context
under which the served model would sample it. `ChatSettings.history` = "kept" appends instead, for deployments that do
so too.

`training.models.template_checks` checks at load whether all of this holds for a template.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from training.environment import ToolCall
from training.models.call_syntax import SYNTAXES, CallSyntax, MalformedCall
from training.models.chat import AssistantTurn, Message

Tools = Sequence[Mapping[str, Any]]
REASONING = (("<think>", "</think>"), ("<|channel>thought", "<channel|>"), ("[THINK]", "[/THINK]"))
"""Markers that open and close a model's reasoning."""
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # Unicode noncharacters, which do not occur in exchanged text
_STANDS_FOR = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_MARK = "\u2402"


class ChatSettings(BaseModel):
    """Options of a chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    thinking: Literal["off", "on"] = Field("off", description="Whether the model reasons before it answers.")
    history: Literal["template", "kept"] = Field(
        "template", description="Earlier turns as the template rewrites them (new rows), or kept as they were sampled."
    )


class RefusedConversation(UserError):
    """The template refuses a conversation; the message has its reason."""


@dataclass
class TemplateFormat:
    """Conversations as `tokenizer`'s chat template renders them. `syntax` is its syntax for calls."""

    tokenizer: Any
    settings: ChatSettings = field(default_factory=ChatSettings)
    show_tools: bool = True
    extra_stop_ids: tuple[int, ...] = ()
    compact: bool = False
    syntax: CallSyntax | None = None
    parallel_calls: bool = True
    fold_system: bool = False
    stop_ids: tuple[int, ...] = field(init=False)
    pad_id: int = field(init=False)

    def __post_init__(self) -> None:
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            raise UserError("its tokenizer is not a fast one (tokenizer.json), which chat formats need")
        self._backend = self.tokenizer.backend_tokenizer
        self._plain = _without_added_tokens(self.tokenizer)
        self._controls = _control_tokens(self.tokenizer)
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._number = {text: k for k, text in enumerate(self._controls)}
        added = self.tokenizer.added_tokens_decoder.items()
        self._control_ids = {i: t.content for i, t in added if t.content in self._number}
        eos = self.tokenizer.eos_token_id
        known = dict.fromkeys([*self.extra_stop_ids, *([] if eos is None else [eos])])
        self.stop_ids = tuple(known)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else self.stop_ids[0] if self.stop_ids else 0

    # ----- text and ids

    def encode(self, text: str) -> list[int]:
        return self._encode(self._neutral(text))

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        """Ids of rendered text, in which sentinels replace control tokens of users and tools."""
        ids: list[int] = []
        for k, piece in enumerate(_STANDS_FOR.split(text)):
            if k % 2:
                ids += self._plain.encode(self._controls[int(piece)], add_special_tokens=False).ids
            elif piece:
                ids += self._backend.encode(piece, add_special_tokens=False).ids
        return ids

    def _neutral(self, value: Any) -> Any:
        """A value with control tokens in its texts replaced by sentinels."""
        if isinstance(value, str):
            clean = value.replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")
            return self._control.sub(lambda m: f"{_OPEN}{self._number[m[0]]}{_CLOSE}", clean)
        if isinstance(value, Mapping):
            return {self._neutral(k): self._neutral(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._neutral(v) for v in value]
        return value

    # ----- conversations

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        return self._encode(self.text(messages, tools, header=True))

    def text(self, messages: Sequence[Message], tools: Tools, header: bool) -> str:
        """The rendered text, with sentinels. Raises UserError if the template refuses the conversation."""
        messages = _system_folded(messages) if self.fold_system else messages
        wire = [self._neutral(m) for m in wire_messages(messages, self.parallel_calls)]
        listed = [self._neutral(wire_tool(t)) for t in tools] if self.show_tools else []
        try:
            return self.tokenizer.apply_chat_template(
                wire, tools=listed or None, add_generation_prompt=header, tokenize=False,
                enable_thinking=self.settings.thinking == "on",
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise RefusedConversation(f"the chat template refuses this conversation: {error}") from error

    def extend(
        self,
        new_messages: Sequence[Message],
        *,
        after: Sequence[Message] = (),
        tools: Tools = (),
        stopped: bool = True,
    ) -> list[int] | None:
        before = after or _before(new_messages)
        whole = self.text([*before, *new_messages], tools, header=True)
        turn = self.until_stop(self.text(before, tools, header=False))
        if whole.startswith(turn):
            rest = whole[len(turn) :]
        elif self.settings.history == "kept":
            rest = self._after_last_turn(before, new_messages, tools)
        else:
            return None
        closed = [] if stopped else [self._stop_of(turn)]
        return [*closed, *self._encode(rest)]

    def _after_last_turn(self, before: Sequence[Message], new: Sequence[Message], tools: Tools) -> str:
        """The text after the last turn of `before`, in a rendering that rewrites that turn."""
        marked = {**before[-1], "content": _MARK}
        marked.pop("reasoning_content", None)
        _, _, rest = self.text([*before[:-1], marked, *new], tools, header=True).partition(_MARK)
        return rest[len(self.until_stop(rest, last=False)) :]

    def until_stop(self, text: str, last: bool = True) -> str:
        """`text` up to and including its last (or first) stop token; the whole text if it has none."""
        ends = [m.end() for m in self._stops().finditer(text)]
        return text[: ends[-1 if last else 0]] if ends else text

    def _stops(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(self._token(i)) for i in self.stop_ids))

    def _stop_of(self, turn: str) -> int:
        """The stop token that ends a turn's text; the first of `stop_ids` if it has none."""
        return next((i for i in self.stop_ids if turn.endswith(self._token(i))), self.stop_ids[0])

    def _token(self, token_id: int) -> str:
        return self._backend.id_to_token(token_id) or "\ufdd2"

    def example(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[list[int], list[bool]]:
        rows = self.examples(messages, tools)
        if len(rows) != 1:
            raise ValueError(f"this conversation takes {len(rows)} rows, since the template rewrites earlier turns")
        return rows[0]

    def examples(self, messages: Sequence[Message], tools: Tools = ()) -> list[tuple[list[int], list[bool]]]:
        messages = separated(messages) if not self.parallel_calls else messages
        rows: list[tuple[list[int], list[bool]]] = []
        text = ""
        for k, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            header = self.text(messages[:k], tools, header=True)
            whole = self.until_stop(self.text(messages[: k + 1], tools, header=False))
            if not whole.startswith(header):
                raise RefusedConversation(
                    "the chat template starts this turn with other text than its generation prompt"
                )
            if rows and not header.startswith(text) and self.settings.history == "kept":
                added = self._after_last_turn(*_last_turn(messages[:k]), tools)
            elif rows and header.startswith(text):
                added = header[len(text) :]
            else:
                rows.append(([], []))
                added = header
            ids, trained = rows[-1]
            for piece, learned in ((added, False), (whole[len(header) :], True)):
                new = self._encode(piece)
                ids += new
                trained += [learned] * len(new)
            text = whole
        return rows

    # ----- parsing a sampled turn

    def parse(self, ids: Sequence[int], tools: Tools = ()) -> AssistantTurn:
        ids = list(ids)
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        reasoning, said = self._reasoning(self._decoded(ids))
        reasoning = self._typed(reasoning)
        if self.syntax is None:
            return AssistantTurn(self._typed(said.strip()) or None, reasoning=reasoning)
        try:
            text, calls = self.syntax.read(said, tools)
        except MalformedCall as error:
            return AssistantTurn(self._typed(said), (), self._typed(str(error)), reasoning)
        return AssistantTurn(self._typed(text) or None, tuple(map(self._typed_call, calls)), reasoning=reasoning)

    def _decoded(self, ids: Sequence[int]) -> str:
        """Text of ids. A plain id sequence that spells a control token is replaced by a sentinel."""
        pieces: list[str] = []
        plain: list[int] = []
        for token in [*ids, -1]:
            control = self._control_ids.get(token)
            if control is None and token >= 0:
                plain.append(token)
                continue
            pieces += [self._neutral(self._backend.decode(plain, skip_special_tokens=False)), control or ""]
            plain = []
        return "".join(pieces)

    def _typed(self, value: Any) -> Any:
        """A value with its sentinels replaced by the original text."""
        if isinstance(value, str):
            return _STANDS_FOR.sub(lambda m: self._controls[int(m[1])], value)
        if isinstance(value, Mapping):
            return {self._typed(k): self._typed(v) for k, v in value.items()}
        return [self._typed(v) for v in value] if isinstance(value, list) else value

    def _typed_call(self, call: ToolCall) -> ToolCall:
        return ToolCall(self._typed(call.name), self._typed(call.arguments), call.call_id)

    def _reasoning(self, written: str) -> tuple[str | None, str]:
        """(the model's reasoning or None, the rest). The prompt may have opened the reasoning."""
        for opened, closed in REASONING:
            inside, found, rest = written.partition(closed)
            if found:
                return inside.strip().removeprefix(opened).strip() or None, rest
            if written.lstrip().startswith(opened):
                return written.strip().removeprefix(opened).strip() or None, ""
        return None, written


# ----- messages in the form that templates expect


def wire_messages(messages: Sequence[Message], parallel_calls: bool = True) -> list[dict[str, Any]]:
    """Chat-completions messages: calls nested under `function`, arguments as objects, ids of nine letters and digits
    (Mistral's templates refuse others). A tool result without a call becomes a user message, because templates refuse
    or drop it as a tool message."""
    out: list[dict[str, Any]] = []
    called = False
    for message in messages if parallel_calls else separated(messages):
        wire = _wire_message(message)
        if wire["role"] == "tool" and not called:
            wire = {"role": "user", "content": wire["content"]}
        elif wire["role"] != "tool":
            called = bool(wire.get("tool_calls"))
        out.append(wire)
    return out


def _wire_message(message: Message) -> dict[str, Any]:
    kept = ("role", "content", "name", "reasoning_content")
    out = {k: v for k, v in message.items() if k in kept and (v is not None or k == "content")}
    if out.get("content") is None:
        out["content"] = ""
    if message.get("tool_call_id") is not None:
        out["tool_call_id"] = wire_id(message["tool_call_id"])
    calls = message.get("tool_calls")
    if calls:
        out["tool_calls"] = [_wire_call(c) for c in calls]
    return out


def _wire_call(call: Mapping[str, Any]) -> dict[str, Any]:
    inner = call["function"] if isinstance(call.get("function"), Mapping) else call
    arguments = inner["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            pass  # kept as text; templates that need an object refuse it
    function = {"name": inner["name"], "arguments": arguments}
    return {"id": wire_id(call.get("id") or ""), "type": "function", "function": function}


def wire_id(call_id: str) -> str:
    """A call id of nine letters and digits; an id that has this form is unchanged."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=8).hexdigest()[:9]


def wire_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool definition as {"type": "function", "function": {name, description, parameters}}."""
    inner = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
    assert isinstance(inner, Mapping)
    parameters = inner.get("parameters")
    if isinstance(parameters, str):
        parameters = json.loads(parameters)
    parameters = {"type": "object", "properties": {}, **(parameters or {})}
    described = {"name": inner["name"], "description": inner.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": described}


def separated(messages: Sequence[Message]) -> list[Message]:
    """Turns with several calls as several turns with one call, each followed by its result, for templates that render
    one call per turn."""
    out: list[Message] = []
    pending: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls") or ()
        if pending and message["role"] == "tool":
            at = next((k for k in reversed(range(len(out))) if _answers(message, out[k])), len(out) - 1)
            out.insert(at + 1, message)
            continue
        pending = []
        if len(calls) > 1:
            pending = [{**message, "content": message.get("content") if k == 0 else None, "tool_calls": [call]}
                       for k, call in enumerate(calls)]  # fmt: skip
            out += pending
        else:
            out.append(message)
    return out


def _system_folded(messages: Sequence[Message]) -> Sequence[Message]:
    """Move the system message to the head of the first user message, for templates without a system role."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system = messages[0].get("content") or ""
    if len(messages) < 2 or messages[1]["role"] != "user":
        return [{"role": "user", "content": system}, *messages[1:]]
    return [{**messages[1], "content": f"{system}\n\n{messages[1].get('content') or ''}"}, *messages[2:]]


def _answers(result: Message, turn: Message) -> bool:
    calls = turn.get("tool_calls") or ()
    ids = [call.get("id") for call in calls]
    return len(ids) == 1 and ids[0] is not None and ids[0] == result.get("tool_call_id")


def _before(new_messages: Sequence[Message]) -> Sequence[Message]:
    """An example of a turn that can precede these messages."""
    results = [m for m in new_messages if m["role"] == "tool"]
    calls: list[dict[str, Any]] = [
        {"id": m.get("tool_call_id"), "name": m.get("name") or "x", "arguments": {}} for m in results
    ]
    turn = {"role": "assistant", "content": _MARK, **({"tool_calls": calls} if calls else {})}
    return [{"role": "user", "content": "x"}, turn]


def _last_turn(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """Messages up to the last assistant turn, and the messages after it."""
    at = max(k for k, m in enumerate(messages) if m["role"] == "assistant")
    return messages[: at + 1], messages[at + 1 :]


# ----- the tokenizer


_PLAIN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The result of `_without_added_tokens` by tokenizer. Making one takes seconds for a large vocabulary."""


def _without_added_tokens(tokenizer: Any) -> Any:
    """The same tokenizer without added tokens: `<|im_end|>` is encoded as ten characters."""
    if tokenizer not in _PLAIN:
        backend = tokenizer.backend_tokenizer
        described = json.loads(backend.to_str())
        described["added_tokens"] = []
        described["post_processor"] = None
        _PLAIN[tokenizer] = type(backend).from_str(json.dumps(described))
    return _PLAIN[tokenizer]


def _control_tokens(tokenizer: Any) -> list[str]:
    """Control tokens: special tokens, and added tokens that the chat template or a syntax uses."""
    template = tokenizer.chat_template
    source = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    known = {m for syntax in SYNTAXES for m in syntax.markers} | {m for pair in REASONING for m in pair}
    found = []
    for token in tokenizer.added_tokens_decoder.values():
        text = token.content
        if text.strip() and (token.special or text in source or text in known):
            found.append(text)
    return list(dict.fromkeys(found))
