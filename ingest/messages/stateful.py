"""Stateful APIs: a call sends only what is new and names the response or the conversation that it continues.

The names stand in attributes of many dialects, or only in the raw request and response that they export as JSON:
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
_WRAPPERS = ("metadata", "configurable", "config", "kwargs", "request", "body", "extra_body", "invocation_params",
             "run_config", "response")  # fmt: skip
_ID = re.compile(r"[\w.:+/=-]{4,200}")
_RESPONSES = {"output", "outputs", "choices", "content", "candidates", "usage", "object", "stop_reason"}


def note_ids(attributes: dict[str, Any], seen: Observed) -> None:
    """Fills in the response that a model call continues, its own response's id and its conversation, where the
    attributes of its dialect did not say them."""
    for key, value in attributes.items():
        if "revious" in key and isinstance(value, str) and value and _PREVIOUS_NAME.search(key):
            seen.previous_response_id = seen.previous_response_id or value
        elif isinstance(value, str):
            if value[:1] == "{":
                _read_json(value, seen)
        elif isinstance(value, dict):
            _read_object(value, seen)


def _read_json(text: str, seen: Observed) -> None:
    if seen.previous_response_id is None and "revious" in text and (found := _PREVIOUS.search(text)):
        seen.previous_response_id = found.group(1)
    asks_conversation = seen.conversation_id is None and any(name in text for name in _QUOTED)
    asks_response = seen.response_id is None and '"id"' in text
    if (asks_conversation or asks_response) and isinstance(told := parse(text), dict):
        _note(told, seen)


def _read_object(told: dict[str, Any], seen: Observed) -> None:
    previous = first(told, "previous_response_id", "previousResponseId", "previous_interaction_id")
    if isinstance(previous, str):
        seen.previous_response_id = seen.previous_response_id or previous
    _note(told, seen)


def _note(told: dict[str, Any], seen: Observed) -> None:
    if seen.conversation_id is None:
        seen.conversation_id = _conversation_in(told)
    if seen.response_id is None:
        seen.response_id = _response_in(told)


def _conversation_in(told: dict[str, Any], depth: int = 2) -> str | None:
    """The id under one of the usual names, at the top or in what wraps a request."""
    for name in _CONVERSATIONS:
        value = told.get(name)
        value = value.get("id") if isinstance(value, dict) else value
        if isinstance(value, str) and _ID.fullmatch(value):
            return value
    inner = [told[k] for k in _WRAPPERS if isinstance(told.get(k), dict)] if depth else []
    return next((found for x in inner if (found := _conversation_in(x, depth - 1))), None)


def _response_in(told: dict[str, Any]) -> str | None:
    """The id of a raw response: an object with an id and an answer."""
    named = first(told, "response_id", "responseId")
    if isinstance(named, str):
        return named
    if isinstance(told.get("id"), str) and told["id"] and not _RESPONSES.isdisjoint(told):
        return told["id"]
    inner = next((told[k] for k in ("response", "raw", "response_metadata") if isinstance(told.get(k), dict)), None)
    return _response_in(inner) if inner is not None else None
