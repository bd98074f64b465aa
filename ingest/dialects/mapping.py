"""A dialect as a table of attribute names. ``apply`` reads a span with such a table.

Every field of ``Mapping`` that names attributes uses the first one that is present. Flattened attributes
(``llm.input_messages.0.message.role``) are named by their prefix in ``flattened``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from ingest.messages.histories import Histories
from ingest.messages.kinds import is_result, kind_of
from ingest.messages.normal import Observed, Span
from ingest.messages.parts import (
    READ,
    first,
    is_cut,
    is_unread,
    json_text,
    parse,
    parse_any,
    plain_content,
    read_result,
    text_part,
)
from ingest.messages.shapes import (
    CHOICE,
    NormalMessage,
    by_choice,
    choices_of,
    lone_text,
    read_message,
    read_messages,
    role_of,
    system_parts,
)
from ingest.messages.tool_definitions import read_tools

MAX_DEPTH = 12
REDACTED = {"REDACTED", "ELIDED", "FILTERED", "REMOVED"}


Look = Callable[[Span], bool]


@dataclass(frozen=True)
class Detect:
    """Whether a dialect matches a span: by attribute names, or by a check of the span itself. Each check has the
    attribute that must be present for it ("" if none)."""

    keys: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    looks: tuple[tuple[str, Look], ...] = ()

    def by_names(self, names: tuple[str, ...]) -> bool:
        """Whether these attribute names suffice for a match."""
        return not self.keys.isdisjoint(names) or any(name.startswith(self.prefixes) for name in names)


def has(*keys: str) -> Detect:
    """Matches spans with any of these attributes."""
    return Detect(keys=frozenset(keys))


def has_prefix(*prefixes: str) -> Detect:
    """Matches spans with an attribute that starts with any of these prefixes."""
    return Detect(prefixes=prefixes)


def looks(look: Look, at: str = "") -> Detect:
    """Matches spans for which the function returns true. If ``at`` is given, only spans with that attribute are
    checked."""
    return Detect(looks=((at, look),))


def either(*tests: Detect) -> Detect:
    """Matches spans that any of these tests matches."""
    return Detect(
        frozenset(key for t in tests for key in t.keys),
        tuple(prefix for t in tests for prefix in t.prefixes),
        tuple(found for t in tests for found in t.looks),
    )


@dataclass(frozen=True, eq=False)
class Mapping:
    """One dialect. ``kinds`` maps the value of the attribute ``kind`` (lower case) to ``inference``,
    ``execution`` or ``agent``; what is not in it is ``other``."""

    name: str
    detect: Detect
    kind: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    flattened: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    response_id: tuple[str, ...] = ()
    conversation: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()  # an agent's task and answer, where they are no messages
    answered: tuple[str, ...] = ()
    tool_name: tuple[str, ...] = ()
    display_name: tuple[str, ...] = ()  # a tool's name for people, where nothing says the one that models call
    call_id: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    result: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    prepare: Callable[[Span, dict[str, Any]], dict[str, Any]] | None = None
    kind_of: Callable[[Span, dict[str, Any]], str] | None = None

    @cached_property
    def _keys(self) -> frozenset[str]:
        """All attribute names that the table uses."""
        return frozenset(key for name in _SOURCES for key in getattr(self, name))

    def among(self, values: dict[str, Any]) -> Mapping:
        """The same table, reduced to the attributes that a span has. This saves lookups: a span has few of them."""
        return _narrowed(self, self._keys.intersection(values))


_SOURCES = ("system", "input", "output", "tools", "agent", "model", "response_id", "conversation", "asked", "answered",
            "tool_name", "display_name", "call_id", "arguments", "result", "error")  # fmt: skip


@lru_cache(maxsize=1024)
def _narrowed(mapping: Mapping, keys: frozenset[str]) -> Mapping:
    left: dict[str, Any] = {name: tuple(k for k in getattr(mapping, name) if k in keys) for name in _SOURCES}
    return replace(mapping, **left)


def unflatten(attributes: dict[str, Any], prefix: str) -> tuple[Any, bool]:
    """``prefix.0.a.b`` and similar attributes as nested lists and maps, and whether indices were missing. Indices only
    sort: ``prefix.9999999.content`` makes a list of one."""
    root: dict[str, Any] = {}
    head = prefix + "."
    for key, value in attributes.items():
        if key.startswith(head):
            _put(root, key[len(head) :].split(".", MAX_DEPTH), value)
    gaps: list[bool] = []
    return (_listed(root, gaps) if root else None), any(gaps)


def _put(node: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        below = node.setdefault(step, {})
        if not isinstance(below, dict):
            below = node[step] = {"": below}
        node = below
    if isinstance(node.get(path[-1]), dict) and node[path[-1]]:
        node[path[-1]][""] = value
    else:
        node[path[-1]] = value


def _listed(node: Any, gaps: list[bool]) -> Any:
    if not isinstance(node, dict):
        return node
    if node and next(iter(node))[:1].isdigit() and all(k.isascii() and k.isdigit() and len(k) < 12 for k in node):
        indices = sorted(map(int, node))
        gaps.append(indices != list(range(len(indices))))
        return [_listed(node[k], gaps) for k in sorted(node, key=int)]
    return {k: _listed(v, gaps) if isinstance(v, dict) else v for k, v in node.items()}


def values_of(mapping: Mapping, span: Span, seen: Observed) -> dict[str, Any]:
    """The span's attributes with the flattened ones nested."""
    values = span.attributes
    for prefix in _flattened(mapping, tuple(values)) if mapping.flattened else ():
        nested, gaps = unflatten(span.attributes, prefix)
        if nested is not None:
            values = {**values, prefix: nested}
            if gaps:
                seen.flags.append("sparse_index")
    return mapping.prepare(span, values) if mapping.prepare else values


@lru_cache(maxsize=1024)
def _flattened(mapping: Mapping, names: tuple[str, ...]) -> tuple[str, ...]:
    """The prefixes that some of these names have."""
    return tuple(p for p in mapping.flattened if any(name.startswith(p + ".") for name in names))


def apply(mapping: Mapping, span: Span, seen: Observed) -> None:
    """Fills in what this dialect can read and no earlier dialect has read."""
    values = values_of(mapping, span, seen)
    if seen.kind == "other":
        seen.kind = _kind(mapping, span, values)
    mapping = mapping.among(values)
    if mapping.agent:
        seen.agent = seen.agent or _text(first(values, *mapping.agent))
    if mapping.model:
        seen.model = seen.model or _text(first(values, *mapping.model))
    if mapping.response_id:
        seen.response_id = seen.response_id or _text(first(values, *mapping.response_id))
    if mapping.conversation:
        seen.conversation_id = seen.conversation_id or _text(first(values, *mapping.conversation))
    if seen.kind == "execution":
        _execution(mapping, values, seen)
    elif seen.kind in ("inference", "agent"):
        _messages(mapping, values, seen)
    if mapping.error and not seen.is_error and first(values, *mapping.error) in ("ERROR", "error", True):
        seen.is_error = True


def _kind(mapping: Mapping, span: Span, values: dict[str, Any]) -> str:
    if mapping.kind_of:
        return mapping.kind_of(span, values)
    return mapping.kinds.get(str(values.get(mapping.kind, "")).lower(), "other")


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, dict | list) else str(value)


def _messages(mapping: Mapping, values: dict[str, Any], seen: Observed) -> None:
    if not seen.input or not _is_told(seen.input):
        seen.input = _best_messages(values, mapping.input, "user", seen) or seen.input
        system = system_parts(first(values, *mapping.system)) if mapping.system else []
        if system and not any(m["role"] == "system" for m in seen.input):
            seen.input = [{"role": "system", "parts": system}, *seen.input]
    if not seen.output or not _is_told(seen.output):  # a response may repeat its request's instructions
        said = _best_messages(values, mapping.output, "assistant", seen)
        said = [m for m in said if m["role"] != "system"] or seen.output
        if len(said) > 1:
            said, *seen.alternatives = by_choice(said)
        seen.output = said
    if seen.kind == "agent":
        seen.input = seen.input or _lone(values, (*mapping.input, *mapping.asked), "user")
        seen.output = seen.output or _lone(values, (*mapping.output, *mapping.answered), "assistant")
    if mapping.tools and not seen.tools:
        seen.tools = next((t for k in mapping.tools if (t := read_tools(values.get(k)))), [])


def _is_told(messages: list[NormalMessage]) -> bool:
    """Whether any part of some messages could be read."""
    return any(p["type"] in READ or not is_unread(p) for m in messages for p in m["parts"])


def _lone(
    values: dict[str, Any], keys: tuple[str, ...], role: str, is_named: bool = False
) -> list[NormalMessage]:
    text = next((t for k in keys if (t := lone_text(values.get(k), role, is_named))), None)
    return [{"role": role, "parts": [text_part(text)]}] if text else []


def _best_messages(values: dict[str, Any], keys: tuple[str, ...], role: str, seen: Observed) -> list[NormalMessage]:
    """The most complete of several versions of the same messages; of equal ones the first."""
    best: list[NormalMessage] = []
    cut = ""
    for key in keys:
        value = values.get(key)
        if value is None or value == "" or value == []:
            continue
        if role == "assistant" and type(value) is str and value[:1] == "<" and _OBJECT.fullmatch(value):
            continue
        told = seen.conversation_id or seen.trace_id
        growing = _histories.read(value, role, (told, key)) if role == "user" and type(value) is str else None
        if growing is not None:
            found, cut_here = growing, False
        else:
            shown = parse(value)
            found = _read(shown, role, values)
            cut_here = shown is value and is_cut(value)
        if found and is_redacted(found[0]) and all(map(is_redacted, found)):
            seen.flags.append("redacted")
        elif _tells_more(found, best) or (not best and cut_here):
            best, cut = found, key if cut_here else ""
    if cut:
        seen.flags.append(f"truncated:{cut}")
        seen.is_cut = seen.is_cut or role == "user"
    return best


# What Python writes for an object without text of its own: a stream that an instrumentation did not read.
_OBJECT = re.compile(r"<[\w.]+(?: object)?(?: [\w.<>]+)? at 0x[0-9A-Fa-f]+>")


def _read(shown: Any, role: str, values: dict[str, Any]) -> list[NormalMessage]:
    """Reads messages. Several answers to one request are kept apart if the span says how many there are."""
    if role == "assistant" and isinstance(shown, list) and len(shown) > 1 and len(shown) == _choice_count(values):
        return choices_of(shown, role) or []
    found = read_messages(shown, role)
    if role == "assistant" and isinstance(shown, list) and len(shown) > 1 and all(isinstance(x, str) for x in shown):
        if [m["parts"] for m in found] == [[text_part(x)] for x in shown]:  # a list of words is one answer
            return [{"role": role, "parts": [text_part(json_text(shown))]}]
    return found


_COUNTS = ("told.choices", "gen_ai.request.choice.count", "gen_ai.request.n", "llm.request.n")
_REASONS = ("gen_ai.response.finish_reasons", "llm.response.finish_reasons")
_CONFIGS = ("config", "generation_config", "generationConfig")
_PARAMETERS = ("llm.invocation_parameters", "langfuse.observation.model.parameters",
               "langsmith.metadata.ls_invocation_params", "model_request_parameters")  # fmt: skip


def _choice_count(values: dict[str, Any]) -> int | None:
    """The number of answers that a call asked for, or the number of its finish reasons."""
    count = first(values, *_COUNTS)
    reasons = parse(first(values, *_REASONS))
    if count is None and isinstance(reasons, list):
        return len(reasons)
    if count is None and isinstance(given := parse(first(values, *_PARAMETERS)), dict):
        given = {**given, **{k: v for c in _CONFIGS if isinstance(given.get(c), dict) for k, v in given[c].items()}}
        count = first(given, "n", "candidate_count", "candidateCount", "num_generations")
    return int(count) if isinstance(count, int) or (isinstance(count, str) and count.isdigit()) else None


_ENVELOPES = {"choices", "candidates", "usage", "usage_metadata", "usageMetadata", "object", "generations", "model",
              "raw"}  # fmt: skip


def _structured(values: dict[str, Any], keys: tuple[str, ...]) -> list[NormalMessage]:
    """A JSON answer that is not a message, as the text that the model wrote."""
    for key in keys:
        value = values.get(key)
        shown = parse(value)
        if isinstance(shown, list) and not any(map(_has_content, shown)):  # texts or messages, all empty
            continue
        if isinstance(shown, dict | list) and shown and _ENVELOPES.isdisjoint(shown if isinstance(shown, dict) else ()):
            text = value if isinstance(value, str) else json_text(value)
            return [{"role": "assistant", "parts": [{"type": "text", "content": text}]}]
    return []


def _has_content(x: Any) -> bool:
    """Whether an item is more than an empty text or a message without content."""
    is_message = isinstance(x, dict) and role_of(x) is not None
    return any(x.get(key) for key in ("parts", "content", "tool_calls")) if is_message else bool(x)


def finish(mappings: list[Mapping], span: Span, seen: Observed) -> None:
    """Keeps as text what no dialect could read as messages. Flags a call that ended and whose answer cannot be read."""
    if seen.input and seen.output and seen.output[0]["parts"]:  # as nearly always
        return
    values = span.attributes
    if not seen.input and "redacted" not in seen.flags:
        seen.input = next((m for d in mappings if (m := _lone(values, d.input, "user", True))), [])
    if not any(m["parts"] for m in seen.output) and "redacted" not in seen.flags:
        seen.output = next((m for d in mappings if (m := _structured(values, d.output))), seen.output)
    if not seen.is_error and not any(m["parts"] for m in seen.output) and not _ENDED.isdisjoint(values):
        seen.flags.append("unread_output")


_ENDED = {"gen_ai.response.finish_reasons", "llm.finish_reason", "llm.response.finish_reason",
          "llm.response.finish_reasons", "ai.response.finishReason", "gen_ai.completion.0.finish_reason",
          "llm.response.stop_reason"}  # fmt: skip


_histories = Histories()


def _tells_more(found: list[NormalMessage], best: list[NormalMessage]) -> bool:
    if not best:
        return bool(found and found[0]["parts"]) or any(m["parts"] for m in found)
    new, old = completeness(found), completeness(best)
    return new > old or (new == old and CHOICE in found[-1] and CHOICE not in best[-1])


def completeness(messages: list[NormalMessage]) -> int:
    """A measure of content: the number of parts, ids, arguments and results."""
    parts = [p for m in messages for p in m["parts"] if p["type"] in READ or not is_unread(p)]
    return len(parts) + sum(p.get(k) is not None for p in parts for k in ("id", "arguments", "response"))


def is_redacted(message: NormalMessage) -> bool:
    """Whether an exporter replaced the whole content of a message by a marker."""
    for part in message["parts"]:
        text = part.get("content")
        if not isinstance(text, str) or text.strip().strip("<[_]>").upper() not in REDACTED:
            return False
    return bool(message["parts"])


def _execution(mapping: Mapping, values: dict[str, Any], seen: Observed) -> None:
    if not seen.tool_name or seen.is_display_name:
        named = _text(first(values, "gen_ai.tool.name", *mapping.tool_name))
        shown = None if named or seen.tool_name else _text(first(values, *mapping.display_name))
        seen.tool_name, seen.is_display_name = named or shown or seen.tool_name, named is None
    call_id = _text(first(values, *mapping.call_id))
    if not seen.call_id and call_id and not call_id.startswith("<not "):
        seen.call_id = call_id
    if seen.arguments is None:
        seen.arguments = called_with(first(values, *mapping.arguments))
    if seen.result is None:
        told = unquoted(next((values[k] for k in mapping.result if values.get(k) is not None), None))
        seen.result, said_id, failed = answered_with(told)
        seen.call_id = seen.call_id or said_id
        seen.is_error = seen.is_error or failed


def answered_with(value: Any) -> tuple[Any, str | None, bool]:
    """A tool's result, the id of its call, and whether it failed. Removes the wrappers of frameworks: tool messages,
    MCP's ``{"content": [...], "isError": ...}``, LlamaIndex's ``{"blocks": [...], "raw_output": ...}``, AG2's
    ``[went_well, message]``. Any other value is the result itself."""
    told = parse_any(value)
    if isinstance(told, list) and len(told) == 2 and isinstance(told[0], bool) and isinstance(told[1], dict):
        content, call_id, failed = answered_with(told[1])
        return (value, None, False) if content is told[1] else (content, call_id, failed or not told[0])
    if not isinstance(told, dict) or _ANSWER_WRAPPERS.isdisjoint(told):
        return value, None, False
    if "output" in told and set(told) <= {"output", "kwargs"}:  # OpenLLMetry for LangChain
        if not isinstance(told["output"], dict):
            return (told["output"] if "kwargs" in told else value), None, False
        told = told["output"]
    failed = bool(told.get("isError", told.get("is_error")))
    if isinstance(inner := told.get("tool_output"), dict):  # LlamaIndex
        content, call_id, inner_failed = answered_with(inner)
        return content, call_id or told.get("tool_id"), failed or inner_failed
    if isinstance(told.get("content"), list) and ("isError" in told or "is_error" in told):
        return plain_content(told["content"]), None, failed
    if "raw_output" in told and ("tool_name" in told or "blocks" in told):
        return told["raw_output"], None, failed
    part = _result_part(told)
    return (value, None, False) if part is None else (part["response"], part.get("id"), bool(part.get("is_error")))


# One of these stands in all that ``answered_with`` takes apart.
_ANSWER_WRAPPERS = {"output", "content", "tool_output", "raw_output", "kwargs", "type", "kind", "part_kind",
                    "block_type", "isError", "is_error"}  # fmt: skip


def _result_part(told: dict[str, Any]) -> dict[str, Any] | None:
    """The result inside a framework's tool message or result object."""
    if is_result(kind_of(told)) and len(told) > 1:
        return read_result({k: v for k, v in told.items() if v is not None})
    if isinstance(told.get("tool_call_id"), str) and "content" in told:
        told = {**told, "role": "tool"}
    is_wrapped = "kwargs" in told or (told.get("type") == "tool" and isinstance(told.get("data"), dict))  # LangChain
    message = read_message(told) if "content" in told or is_wrapped else None
    return message["parts"][0] if message and message["role"] == "tool" and message["parts"] else None


def unquoted(value: Any) -> Any:
    """The text of a JSON string literal; other values unchanged."""
    if isinstance(value, str) and value[:1] == value[-1:] == '"' and len(value) > 1:
        inner = parse(f"[{value}]")
        return inner[0] if isinstance(inner, list) and len(inner) == 1 else value
    return value


def called_with(value: Any) -> Any:
    """Arguments without their wrapper, such as ``{"args": [], "kwargs": {...}}`` or ``{"arguments": ...}``."""
    value = parse_any(value)
    if isinstance(value, dict) and not _ARGUMENT_WRAPPERS.isdisjoint(value):
        if isinstance(value.get("kwargs"), dict) and set(value) <= {"args", "kwargs", "sanitize_inputs_outputs"}:
            return value["kwargs"] if value["kwargs"] or not value.get("args") else {"args": value["args"]}
        if isinstance(value.get("input_str"), str) and "metadata" in value:  # OpenLLMetry for LangChain
            inner = value["inputs"] if isinstance(value.get("inputs"), dict) else parse_any(value["input_str"])
            return inner if isinstance(inner, dict) else value
        for key in ("arguments", "args", "input", "kwargs"):
            inner = parse(value.get(key))
            if isinstance(inner, dict) and set(value) <= {key, "name", "tool_name", "id", "type", "call_id"}:
                return inner
    return None if value == "N/A" else value


_ARGUMENT_WRAPPERS = frozenset(("arguments", "args", "input", "kwargs", "input_str"))
