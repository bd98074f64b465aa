"""Convert tool definitions of any vendor to flat ones: ``{"name", "description"?, "parameters"?}``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ingest.messages.parts import first, parse, parse_any

_TOOL_LISTS = ("tools", "functions", "functionDeclarations", "function_declarations")


def listed_tools(request: Any, depth: int = 2) -> list[Any]:
    """Return the list of tools in a request, or in a configuration within the request."""
    if not isinstance(request, dict):
        return []
    found = next((request[k] for k in _TOOL_LISTS if isinstance(request.get(k), list)), None)
    if found is not None or not depth:
        return found or []
    return next((tools for v in request.values() if (tools := listed_tools(v, depth - 1))), [])


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Return flat tool definitions: ``{"name", "description"?, "parameters"?}``. Supported: OpenAI (nested), Anthropic,
    Gemini, Bedrock, and lists of JSON strings or of names. Results for text are cached, because every call repeats the
    definitions, and must not be changed."""
    if isinstance(value, str):
        return _read_text(value) if len(value) <= _LONG else _read(parse_any(value))
    return [] if value is None else _read(value)


_LONG = 128 << 10


@lru_cache(maxsize=256)
def _read_text(text: str) -> list[dict[str, Any]]:
    return _read(parse_any(text))


def _read(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        value = listed_tools(value) or [value]
    if not isinstance(value, list):
        return []
    tools: list[dict[str, Any]] = []
    for item in map(parse_any, value):
        if isinstance(item, str):
            tools.append({"name": item})
        elif isinstance(item, dict):
            tools.extend(_tool(item))
    return tools


_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parameters_json_schema", "parametersJsonSchema",
            "args_schema")  # fmt: skip


def _tool(x: dict[str, Any]) -> list[dict[str, Any]]:
    for key in ("functionDeclarations", "function_declarations"):
        if isinstance(x.get(key), list):
            return read_tools(x[key])
    for key in ("function", "toolSpec", "tool", "data"):
        if isinstance(parse(x.get(key)), dict):
            return _tool(parse(x[key]))
    name = first(x, "name", "tool_name")
    if not isinstance(name, str) or "role" in x:  # a message, whose name is somebody's
        return []
    schema = parse(first(x, *_SCHEMAS))
    if isinstance(schema, dict) and set(schema) & {"json", "jsonSchema"}:
        schema = schema.get("json", schema.get("jsonSchema"))
    tool: dict[str, Any] = {"name": name}
    if isinstance(x.get("description"), str):
        tool["description"] = x["description"]
    if isinstance(schema, dict):
        tool["parameters"] = schema
    return [tool]
