"""Stateful APIs: a call sends only the new messages, and the id of the response or conversation that it continues.

The ids are attributes in many dialects; in others they are only in the raw request and response, exported as JSON:
``previous_response_id`` and ``conversation`` (OpenAI Responses), ``previous_interaction_id`` (Gemini), ``thread_id``
(Assistants), ``conversation_id`` (Mistral, Cohere), ``sessionId`` (Bedrock).
"""

from __future__ import annotations

import re
from typing import Any

from ingest.messages.normal import Observed
from ingest.messages.parts import first, parse

_PREVIOUS = re.compile(r'"previous_?(?:response|interaction)_?id"\s*:\s*"([^"\\]+)"', re.IGNORECASE)
_PREVIOUS_NAME = re.compile(r"(?:^|[._])previous_?(?:response|interaction)_?id$", re.IGNORECASE)
_CONVERSATIONS = ("conversation", "conversation_id", "conversationId", "thread_id", "threadId", "session_id",
                  "sessionId")  # fmt: skip
_QUOTED = tuple(f'"{name}"' for name in _CONVERSATIONS)
_STATES = ("conversation", "conversation_id", "conversationId", "thread_id", "threadId")  # kept by the API
_KEPT = re.compile(r'"(?:conversation(?:_?id)?|thread_?id)"\s*:\s*["{]', re.IGNORECASE)
_WRAPPERS = ("metadata", "configurable", "config", "kwargs", "request", "body", "extra_body", "invocation_params",
             "run_config", "response")  # fmt: skip
_ID = re.compile(r"[\w.:+/=-]{4,200}")
_RESPONSES = {"output", "outputs", "choices", "content", "candidates", "usage", "object", "stop_reason"}


Places = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def note_ids(places: Places, attributes: dict[str, Any], seen: Observed) -> None:
    """Set the id of the previous response, of the response, and of the conversation of a model call, if the dialect's
    attributes did not have them. They are searched at ``places`` (from ``places_of``)."""
    named, asked, answered = places
    for key in named:
        if isinstance(value := attributes[key], str) and value:
            seen.previous_response_id = seen.previous_response_id or value
    for keys, is_answer in ((asked, False), (answered, True)):
        for key in keys:
            value = attributes[key]
            if type(value) is dict or (type(value) is str and value[:1] == "{"):
                _read(value, seen, is_answer)


def places_of(names: tuple[str, ...]) -> Places:
    """Return the attributes that are named after the previous response, those that may hold a raw request, and those
    that may hold a raw response. Flattened attributes are left out, because there are many."""
    named = tuple(name for name in names if _PREVIOUS_NAME.search(name))
    whole = [name for name in names if not _FLAT.search(name) and not _SMALL.search(name)]
    answered = tuple(name for name in whole if any(word in name.lower() for word in _ANSWERS))
    return named, tuple(n for n in whole if n not in answered and n not in named), answered


_SMALL = re.compile(r"[._](?:id|name|model|tokens|count|type|kind|system|version|mime_?type|temperature)$", re.I)
_FLAT = re.compile(r"\.\d+(?:\.|$)")
_ANSWERS = ("out", "resp", "compl", "result", "answer")


def _read(value: dict[str, Any] | str, seen: Observed, is_answer: bool) -> None:
    """Read the ids of a raw request or response: an object, or one as JSON text."""
    if isinstance(value, dict):
        _read_object(value, seen, is_answer)
        return
    if seen.previous_response_id is None and "revious" in value and (found := _PREVIOUS.search(value)):
        seen.previous_response_id = found.group(1)
    if seen.conversation_id is None:
        asks = any(name in value for name in _QUOTED)
    else:
        asks = seen.state_id is None and ('"conversation' in value or '"thread' in value)
        asks = asks and _KEPT.search(value) is not None
    asks = asks or (is_answer and seen.response_id is None and '"id"' in value)
    if asks and isinstance(told := parse(value), dict):
        _note(told, seen, is_answer)


def _read_object(told: dict[str, Any], seen: Observed, is_answer: bool) -> None:
    previous = first(told, "previous_response_id", "previousResponseId", "previous_interaction_id")
    if isinstance(previous, str):
        seen.previous_response_id = seen.previous_response_id or previous
    _note(told, seen, is_answer)


def _note(told: dict[str, Any], seen: Observed, is_answer: bool) -> None:
    if seen.conversation_id is None:
        seen.conversation_id = _conversation_in(told)
    if seen.state_id is None:
        seen.state_id = _named(told, _STATES)
    if is_answer and seen.response_id is None:
        seen.response_id = _response_in(told)


def _conversation_in(told: dict[str, Any], depth: int = 2) -> str | None:
    """Return the id under one of the usual names, at the top level or in a wrapper of the request."""
    if named := _named(told, _CONVERSATIONS):
        return named
    inner = [told[k] for k in _WRAPPERS if isinstance(told.get(k), dict)] if depth else []
    return next((found for x in inner if (found := _conversation_in(x, depth - 1))), None)


def _named(told: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = told.get(name)
        value = value.get("id") if isinstance(value, dict) else value
        if isinstance(value, str) and _ID.fullmatch(value):
            return value
    return None


def _response_in(told: dict[str, Any]) -> str | None:
    """Return the id of a raw response, that is, of an object with an id and an answer."""
    named = first(told, "response_id", "responseId")
    if isinstance(named, str):
        return named
    if isinstance(told.get("id"), str) and told["id"] and not _RESPONSES.isdisjoint(told):
        return told["id"]
    inner = next((told[k] for k in ("response", "raw", "response_metadata") if isinstance(told.get(k), dict)), None)
    return _response_in(inner) if inner is not None else None
