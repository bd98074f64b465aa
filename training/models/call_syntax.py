"""The syntaxes in which models write tool calls, and their parsers.

`TemplateFormat` finds a model's syntax by a round trip: it renders a call with the model's chat template and takes the
first syntax that parses the same call. The code does not depend on model names.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from training.environment import ToolCall

Tools = Sequence[Mapping[str, Any]]


class MalformedCall(ValueError):
    """The text starts a tool call that cannot be parsed."""


class CallSyntax(Protocol):
    """One syntax for calls. `markers` are strings that only the model itself may write."""

    @property
    def name(self) -> str: ...

    @property
    def markers(self) -> tuple[str, ...]: ...

    def read(self, text: str, tools: Tools = ()) -> tuple[str, list[ToolCall]]:
        """(text outside the calls, the calls). Raises MalformedCall."""
        ...


@dataclass(frozen=True)
class Tagged:
    """Calls between an opening and a closing marker; `close` None: a call ends at the next opening or at the end."""

    name: str
    open: str
    close: str | None
    body: Callable[[str, Tools], list[ToolCall]]

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open,) if self.close is None else (self.open, self.close)

    def read(self, text: str, tools: Tools = ()) -> tuple[str, list[ToolCall]]:
        before, *written = text.split(self.open)
        outside, calls = [before], []
        for piece in written:
            body, closed, after = (piece, "", "") if self.close is None else piece.partition(self.close)
            if self.close is not None and not closed:
                raise MalformedCall(f"a call is not closed by {self.close}: {piece[:120]!r}")
            try:
                calls += self.body(body.strip(), tools)
            except (ValueError, KeyError, TypeError, SyntaxError, RecursionError) as error:
                raise MalformedCall(f"a call is not written as {self.name}: {body.strip()[:120]!r}") from error
            outside.append(after)
        if self.close is not None and self.close in before:
            raise MalformedCall(f"{self.close} without {self.open}")
        return "".join(outside).strip(), calls


@dataclass(frozen=True)
class BareJson:
    """The whole turn is one or several calls as JSON objects (Llama 3.x), without text before them."""

    name: str = "a JSON object"
    markers: tuple[str, ...] = ("<|python_tag|>",)

    def read(self, text: str, tools: Tools = ()) -> tuple[str, list[ToolCall]]:
        body = text.strip().removeprefix("<|python_tag|>").strip()
        if not body.startswith("{"):
            return text.strip(), []
        calls, at, decoder = [], 0, json.JSONDecoder()
        while at < len(body):
            try:
                value, at = decoder.raw_decode(body, at)
            except ValueError as error:
                raise MalformedCall(f"a call is not a JSON object: {body[:120]!r}") from error
            if not isinstance(value, dict) or "name" not in value:
                return text.strip(), []
            calls.append(_call(value))
            while at < len(body) and body[at] in " \n\t;,":
                at += 1
        return "", calls


# ----- parsers of call bodies


def _call(value: Any) -> ToolCall:
    """{"name", "arguments" or "parameters", "id"?}; raises ValueError for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("a call has no name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("a call's arguments are no object")
    written = value.get("id")
    return ToolCall(value["name"], arguments, written if isinstance(written, str) else "")


def _json_body(body: str, tools: Tools) -> list[ToolCall]:
    value = json.loads(body)
    return [_call(v) for v in value] if isinstance(value, list) else [_call(value)]


_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _xml_body(body: str, tools: Tools) -> list[ToolCall]:
    """`<function=name><parameter=key>value</parameter></function>`: values are text, converted by the tool's schema."""
    calls = []
    for name, inner in _FUNCTION.findall(body):
        schema = properties(tools, name)
        arguments = {key: _typed(value, schema.get(key)) for key, value in _PARAMETER.findall(inner)}
        if _PARAMETER.sub("", inner).strip():
            raise ValueError("something beside parameters")
        calls.append(ToolCall(name, arguments))
    if not calls or _FUNCTION.sub("", body).strip():
        raise ValueError("no function, or something beside it")
    return calls


def properties(tools: Tools, name: str) -> Mapping[str, Any]:
    """The schemas of a tool's parameters; empty for an unknown tool."""
    for tool in tools:
        inner = tool.get("function") if isinstance(tool.get("function"), Mapping) else tool
        assert isinstance(inner, Mapping)
        if inner.get("name") == name:
            parameters = inner.get("parameters") or {}
            if isinstance(parameters, str):
                parameters = json.loads(parameters)
            return parameters.get("properties") or {}
    return {}


def _typed(text: str, schema: Any) -> Any:
    """A value from text: a string if the schema allows one, else JSON or a Python literal."""
    types = _types(schema)
    if "string" in types and not (types == {"string", "null"} and text in ("null", "None")):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Without a schema, a word, a number and a string look alike; only structured values are parsed.
        return value if types or isinstance(value, dict | list | bool) or value is None else text
    return text


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    found = schema.get("type")
    types = {found} if isinstance(found, str) else set(found or ())
    for part in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        types |= _types(part)
    if not types and schema.get("enum"):
        types = {"string"} if all(isinstance(v, str) for v in schema["enum"]) else set()
    return types


_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}


def _python_body(body: str, tools: Tools) -> list[ToolCall]:
    """`[name(key="value", n=1), ...]` (LFM2, Llama 3.2's pythonic calls)."""
    try:
        tree = ast.parse(body, mode="eval").body
    except SyntaxError:  # some templates write line breaks inside quotes
        tree = ast.parse(body.replace("\n", "\\n").replace("\r", "\\r"), mode="eval").body
    nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
    calls = []
    for node in nodes:
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError("not a call with keyword arguments")
        arguments = {k.arg: _literal(k.value) for k in node.keywords if k.arg is not None}
        calls.append(ToolCall(ast.unparse(node.func), arguments))
    return calls


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    return ast.literal_eval(node)


def _named_body(body: str, tools: Tools) -> list[ToolCall]:
    """Mistral: `[{...}]`, or `name{...}` with `[CALL_ID]` and `[ARGS]` between in newer versions."""
    if body.startswith(("[", "{")):
        return _json_body(body, tools)
    found = re.fullmatch(r"([^\[{\s]+)(?:\[CALL_ID\]([^\[{]*))?(?:\[ARGS\])?\s*(\{.*\})", body, re.DOTALL)
    if found is None:
        raise ValueError("no name with arguments")
    return [_call({"name": found[1], "id": found[2], "arguments": json.loads(found[3])})]


def _quoted_body(quote: str) -> Callable[[str, Tools], list[ToolCall]]:
    """`call:name{key:<quote>text<quote>,n:1}`: keys bare, strings between quotes that are tokens (Gemma)."""

    def read(body: str, tools: Tools) -> list[ToolCall]:
        found = re.fullmatch(r"call:([^{\s]+)(\{.*\})", body, re.DOTALL)
        if found is None:
            raise ValueError("no call:name{...}")
        held: list[str] = []

        def keep(match: re.Match[str]) -> str:
            held.append(match[1])
            return f'"\ufdd3{len(held) - 1}"'

        text = re.sub(re.escape(quote) + r"(.*?)" + re.escape(quote), keep, found[2], flags=re.DOTALL)
        value = json.loads(re.sub(r"([{,]\s*)([^\s\"{}\[\],:]+):", r'\1"\2":', text))
        return [_call({"name": found[1], "arguments": _restored(value, held)})]

    return read


def _restored(value: Any, held: Sequence[str]) -> Any:
    if isinstance(value, str):
        return held[int(value[1:])] if value.startswith("\ufdd3") else value
    if isinstance(value, list):
        return [_restored(item, held) for item in value]
    if isinstance(value, dict):
        return {_restored(k, held): _restored(v, held) for k, v in value.items()}
    return value


SYNTAXES: tuple[CallSyntax, ...] = (
    Tagged("{name, arguments} in <tool_call>", "<tool_call>", "</tool_call>", _json_body),
    Tagged("<function=name> in <tool_call>", "<tool_call>", "</tool_call>", _xml_body),
    Tagged("[name(key=value)]", "<|tool_call_start|>", "<|tool_call_end|>", _python_body),
    Tagged("call:name{key:value}", "<|tool_call>", "<tool_call|>", _quoted_body('<|"|>')),
    Tagged("call:name{key:value}", "<start_function_call>", "<end_function_call>", _quoted_body("<escape>")),
    Tagged("[TOOL_CALLS]", "[TOOL_CALLS]", None, _named_body),
    BareJson(),
)
