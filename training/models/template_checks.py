"""Checks at load whether a chat template can be used for training and sampling, by rendering small conversations.

A template that fails is refused with the reason, because these failures would be silent later: a template that drops
tools trains an agent that never calls one, a turn without a stop token never ends, and a call that is not parsed looks
like text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig

from ingest.errors import UserError
from training.environment import ToolCall
from training.models.call_syntax import SYNTAXES, CallSyntax, MalformedCall, Tools
from training.models.chat import Message
from training.models.template import ChatSettings, RefusedConversation, TemplateFormat

ARGUMENTS = {"city": 'Zürich "7"\n{x}', "days": 3, "metric": True, "tags": ["a", "b, c"], "near": {"km": 1.5}}
NAME = "probe_tool"
TOOL = {
    "name": NAME,
    "description": "A probe for the chat template.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "integer", "description": "how many"},
            "metric": {"type": "boolean", "description": "units"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "labels"},
            "near": {"type": "object", "properties": {"km": {"type": "number"}}, "description": "around"},
        },
        "required": ["city"],
    },
}
SYSTEM, USER, RESULT, SAID = "probe-system", "probe-user", "probe-result", "probe-said"


@dataclass(frozen=True)
class ResponseTemplate:
    """The tokenizer's own `response_template`, with transformers' parser."""

    tokenizer: Any
    prefix: str
    name: str = "the tokenizer's response template"
    markers: tuple[str, ...] = ()

    def read(self, text: str, tools: Tools = ()) -> tuple[str, list[ToolCall]]:
        try:
            found = self.tokenizer.parse_response(text, prefix=self.prefix, tools=list(tools) or None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedCall(f"a turn is not in the form of {self.name}: {error}") from error
        calls = []
        for call in found.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), dict):
                raise MalformedCall(f"a call has no name or no arguments: {str(call)[:120]}")
            calls.append(ToolCall(str(function.get("name")), function["arguments"]))
        return (found.get("content") or "").strip(), calls


def checked_format(
    tokenizer: Any,
    generation: GenerationConfig | None = None,
    settings: ChatSettings | None = None,
    show_tools: bool = True,
) -> TemplateFormat:
    """The chat format of a tokenizer. Raises UserError with the reason if it cannot be used.

    With `show_tools` false, calls are not checked (for the roles that make no calls).
    """
    eos = getattr(generation, "eos_token_id", None)
    ids = tuple(eos) if isinstance(eos, Sequence) else () if eos is None else (eos,)
    chat = TemplateFormat(tokenizer, settings or ChatSettings(), show_tools, ids)
    chat.stop_ids = _stop_ids(chat)
    if not _shows_system(chat):
        chat = replace(chat, fold_system=True, extra_stop_ids=chat.stop_ids)
    _check_turns(chat)
    if show_tools:
        chat = _with_calls(chat)
    _check_typed_controls(chat)
    return chat


def _user(text: str = USER) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _calling(count: int = 1, text: str | None = None) -> list[Message]:
    """A conversation with one turn of `count` tool calls, and their results."""
    calls = [{"id": f"call{k:05}", "name": NAME, "arguments": ARGUMENTS} for k in range(count)]
    results = [
        {"role": "tool", "content": f"{RESULT}-{k}", "tool_call_id": f"call{k:05}", "name": NAME} for k in range(count)
    ]
    return [_user(), {"role": "assistant", "content": text, "tool_calls": calls}, *results]


# ----- turns


def _stop_ids(chat: TemplateFormat) -> tuple[int, ...]:
    """The token that ends a turn of this template first, then those of the generation config and the tokenizer."""
    header = chat.text([_user()], (), header=True)
    whole = chat.text([_user(), {"role": "assistant", "content": SAID}], (), header=False)
    after = whole.rpartition(SAID)[2]
    if not whole.startswith(header) and SAID not in whole:
        raise UserError("its chat template leaves out what the assistant says")
    special = {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}
    tail = [i for i in chat._encode(after) if i in special or i in chat.stop_ids]
    if not tail:
        raise UserError("its chat template ends an assistant turn without a stop token, so generation would not stop")
    return tuple(dict.fromkeys([tail[0], *chat.stop_ids]))


def _shows_system(chat: TemplateFormat) -> bool:
    """Whether the template has a system role (early Gemma templates refuse it)."""
    try:
        return SYSTEM in chat.text([{"role": "system", "content": SYSTEM}, _user()], (), header=True)
    except RefusedConversation:
        return False


def _check_turns(chat: TemplateFormat) -> None:
    """Check that system and user texts are rendered, and that a turn begins with the header that ends a prompt."""
    shown = chat.text([{"role": "system", "content": SYSTEM}, _user()], (), header=True)
    for text, role in ((SYSTEM, "system"), (USER, "user")):
        if text not in shown:
            raise UserError(f"its chat template leaves out the {role} message")
    exchange: list[Message] = [_user(), {"role": "assistant", "content": SAID}]
    _check_header(chat, exchange, ())
    _check_header(chat, exchange * 2, ())


def _check_header(chat: TemplateFormat, messages: Sequence[Message], tools: Tools) -> None:
    header, whole = chat.text(messages[:-1], tools, True), chat.text(messages, tools, False)
    said = messages[-1].get("content")
    if header == chat.text(messages[:-1], tools, False) and said:
        opening = whole[len(header) :].rpartition(said)[0]
        if chat._control.search(opening):  # the turn has a header, so the prompt must end with one
            raise UserError("its chat template has no generation prompt (`add_generation_prompt` changes nothing)")
    if not whole.startswith(header):
        other = "on" if chat.settings.thinking == "off" else "off"
        raise UserError(
            "its chat template starts a turn with other text than its generation prompt "
            f"({header[-60:]!r}); models that always reason need thinking={other!r}"
        )


# ----- tools


def _with_calls(chat: TemplateFormat) -> TemplateFormat:
    """The format with the syntax that reads its calls back."""
    if NAME not in chat.text([_user()], [TOOL], header=True):
        raise UserError("its chat template drops the list of tools; choose a model whose template knows tools")
    called = _calling()
    try:
        chat.text(called, [TOOL], header=True)
    except RefusedConversation as error:
        raise UserError(f"its chat template knows no tool calls or results: {error}") from error
    whole = chat.text(called, [TOOL], header=True)
    if f"{RESULT}-0" not in whole:
        raise UserError("its chat template drops the results of tools")
    _check_header(chat, called[:2], [TOOL])
    _check_header(chat, [*called, {"role": "assistant", "content": SAID}], [TOOL])
    written = _turn(chat, called)
    if NAME not in written:
        raise UserError("its chat template drops tool calls, so an agent's calls could not be learned")
    if not chat.until_stop(written).endswith(tuple(chat._token(i) for i in chat.stop_ids)):
        chat = replace(chat, extra_stop_ids=(*chat.stop_ids, _last_special(chat, written)))
    for syntax in _candidates(chat):
        found = replace(chat, syntax=syntax, extra_stop_ids=chat.stop_ids)
        if _reads_back(found, called, 1):
            return replace(found, parallel_calls=_several(found), extra_stop_ids=chat.stop_ids)
    raise UserError(f"the tool calls that its chat template writes cannot be parsed: {written[:200]!r}")


def _last_special(chat: TemplateFormat, written: str) -> int:
    """The special token that ends a turn with a call, if it differs from that of a text turn (Gemma 4)."""
    last = chat._encode(written.rstrip())[-1]
    token = chat.tokenizer.added_tokens_decoder.get(last)
    if token is None or not token.special:
        raise UserError("its chat template ends a turn with a call without a stop token")
    return last


def _candidates(chat: TemplateFormat) -> list[CallSyntax]:
    own: list[CallSyntax] = []
    if getattr(chat.tokenizer, "response_template", None):
        own = [ResponseTemplate(chat.tokenizer, chat.text([_user()], (), header=True))]
    return [*SYNTAXES, *own]


def _turn(chat: TemplateFormat, messages: Sequence[Message]) -> str:
    """The assistant's text of `messages[1]`, after the header."""
    return chat.text(messages[:2], [TOOL], False)[len(chat.text(messages[:1], [TOOL], True)) :]


def _reads_back(chat: TemplateFormat, messages: Sequence[Message], count: int) -> bool:
    try:
        ids = chat._encode(chat.until_stop(_turn(chat, messages)))
    except RefusedConversation:
        return False
    turn = chat.parse(ids, [TOOL])
    same = [(c.name, c.arguments) for c in turn.calls] == [(NAME, ARGUMENTS)] * count
    return turn.malformed is None and same and (turn.text or None) == (messages[1].get("content") or None)


def _several(chat: TemplateFormat) -> bool:
    """Whether a turn can hold two calls that are both parsed."""
    return _reads_back(chat, _calling(2), 2)


# ----- control tokens in user text


def _check_typed_controls(chat: TemplateFormat) -> None:
    """Check that a control token in a user's or a tool's text is encoded as text."""
    typed = " ".join(chat._controls[:64])
    ids = {i for i, t in chat.tokenizer.added_tokens_decoder.items() if t.content in chat._number}
    count: Callable[[Sequence[Message]], int] = lambda m: sum(i in ids for i in chat.prompt(m, ()))  # noqa: E731
    if count([_user(f"a {typed} b")]) != count([_user("a b")]) or set(chat.encode(typed)) & ids:
        raise UserError(
            "its tokenizer encodes control tokens in a user's text as control tokens, so users could inject turns"
        )
