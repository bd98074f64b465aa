"""Classify errors of observations: short and stable class names, for outcome prediction."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from ingest.messages.parts import parse

# Values of error.type without information
GENERIC = {"", "_other", "error", "tool_error", "toolerror", "exception", "toolexception", "tool_exception",
           "modelbehaviorerror", "runtimeerror", "true", "2", "500", "toolretryerror", "modelretry",
           "executionerror", "toolexecutionerror", "agenttoolexecutionerror", "toolinvocationerror"}  # fmt: skip
_ERROR_TEXT = re.compile(
    r"^\s*(?:errors?|exception|traceback|tool error|[A-Za-z]+(?:error|exception))\b\s*(?:[:\-(\[]"
    r"|(?!(?:handl|logg|report|track|check|messag|monitor|correct|cod|bound|budget)ing\b)\w+ing\b)",
    re.IGNORECASE,
)
_ERROR_WORDS = re.compile(  # how agent frameworks word a tool's failure to the model
    r"^\s*(?:an? (?:\w+ )?error (?:has )?occurred\b|(?:tool )?(?:execution|invocation|call) (?:error|failed)\b"
    r"|failed to (?:invoke|execute|call|run)\b)",
    re.IGNORECASE,
)
_PHRASES = [(status.value, status.phrase) for status in HTTPStatus if status >= 400] + [
    (413, "Payload Too Large"), (413, "Content Too Large"), (413, "Request Entity Too Large"),
    (422, "Unprocessable Entity"), (422, "Unprocessable Content"),
    (503, "Service Temporarily Unavailable"), (504, "Gateway Time-out"),
]  # fmt: skip
_STATUSES = "|".join(rf"{code}[ :-]+({re.escape(phrase)})" for code, phrase in _PHRASES)
_STATUS_LINE = re.compile(  # what a client returns for a failed request: "504 Gateway Timeout"
    rf"^\s*(?:HTTP )?(?:{_STATUSES})(?=\s*(?:$|[:.,;\n(-]))", re.IGNORECASE
)
_LONGEST_STATUS = 300  # characters
_ERROR_END = re.compile(r"(?:fix the errors and try again|please fix your mistakes)\.?$", re.IGNORECASE)
_LONGEST_END = 32  # characters
_PREFIX = re.compile(r"^\s*(?:[A-Za-z_. ]*?(?:error|exception)\b(?: -|[^:'\"]{0,40}:)\s*)+", re.IGNORECASE)
_RAISED = re.compile(r"\b\w*(?:Error|Exception)\((['\"])(.*?)\1\)")  # ToolError('no such order')
_WRAPPED = re.compile(
    r"^\s*(?:failed to|an? (?:\w+ )?error (?:has )?occurred|error executing)\b.*?\b(?:error|exception):", re.I | re.S
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|<[^>]*>|\([^)]*\)")
_CODES = ("code", "error_code", "errorCode", "rule", "error_type", "errorType", "type", "status", "status_code",
          "statusCode", "reason", "kind")  # fmt: skip
_WORDS = 6


# Keys whose value is an error, and keys that explain a word like "failed" beside them.
_ERRORS = ("error", "Error", "errors", "exception", "error_message", "errorMessage")
_REASONS = ("message", "msg", "detail", "details", "reason", "code", "error_code", "errorCode", "error_type",
            "errorType", "violations")  # fmt: skip
_FAILED = ("failed", "failure", "error")
_MOST_KEYS = 4  # of a body whose status is about the call; a record has more


def error_body(content: Any) -> Any:
    """Return the error in a JSON result (``{"error": ...}``, ``{"success": false, "message": ...}``), else None."""
    body = parse(content)
    found = _error_in(body)
    return body if found is None and _says_failed(body) else found


def _error_in(body: Any) -> Any:
    """Return what a body explicitly declares as an error, else None."""
    if not isinstance(body, dict):
        return None
    for key in _ERRORS:
        if body.get(key) and not (key == "errors" and isinstance(body[key], int | float)):  # a count of rows, say
            return body if isinstance(body[key], bool) else body[key]
    if body.get("is_error") is True or body.get("isError") is True:
        return body
    return body if body.get("status") == "error" and _is_explained(body) else None


def _says_failed(body: Any) -> bool:
    """Whether a body reports a failure: of the call itself, or of the record that was asked for."""
    if not isinstance(body, dict):
        return False
    if body.get("success") is False or body.get("ok") is False:
        return True
    return str(body.get("status", "")).lower() in _FAILED and len(body) <= _MOST_KEYS


def _is_explained(body: dict[str, Any]) -> bool:
    return any(body.get(key) not in (None, "") for key in _REASONS)


def says_error(content: Any, went_well: bool = False) -> bool:
    """Whether an observation's content shows an error.

    ``{"success": false}`` and ``{"status": "failed"}`` can be normal results. Such a body is an error only if it has a
    reason, and if no other evidence (span status, a flag beside the result) says that the call ``went_well``."""
    if isinstance(content, str) and not (content[:1] == "{" and content[-1:] == "}") and _reads_as_error(content):
        return True
    body = parse(content)
    if _error_in(body) is not None or (not went_well and _says_failed(body) and _is_explained(body)):
        return True
    if isinstance(body, dict) and len(body) == 1 and isinstance(inner := next(iter(body.values())), str):
        return says_error(inner, went_well)  # {"result": "Error: ..."}
    return False


def _reads_as_error(text: str) -> bool:
    if _ERROR_TEXT.match(text[:200]) or _ERROR_WORDS.match(text) or _status_line(text):
        return True
    return _ERROR_END.search(text.rstrip()[-_LONGEST_END:]) is not None


def _status_line(text: str) -> str | None:
    """The phrase of an HTTP status, if that is what a short text begins with."""
    found = _STATUS_LINE.match(text) if len(text) <= _LONGEST_STATUS else None
    return next(filter(None, found.groups())) if found else None


def classify_error(error_type: str | None, content: Any, message: str | None = None) -> str:
    """Return ``error.type`` if it is specific, else the code in a JSON error body, else a slug of the first words
    without ids, quotes and digits; "error" if nothing is left."""
    named = error_type.rsplit(".", 1)[-1] if error_type else ""  # without the module
    if named.lower() not in GENERIC:
        return named
    body = error_body(content)
    if isinstance(body, dict):
        codes = [
            str(body[k]) for k in _CODES if isinstance(body.get(k), str | int) and body[k] not in ("", True, False)
        ]
        code = next((c for c in codes if c.lower() not in GENERIC | {"error", "failed"}), None)
        if code is not None:
            return slug(code, keep_digits=True)
        texts = [body[k] for k in ("message", "error", "detail", "msg") if isinstance(body.get(k), str)]
        return slug(texts[0] if texts else "") or "error"
    enveloped = parse(content)
    if body is None and isinstance(enveloped, dict) and len(enveloped) == 1:
        body = next(iter(enveloped.values()))
    text = body if isinstance(body, str) else content if isinstance(content, str) else message or ""
    return slug(_status_line(text) or text) or slug(message or "") or "error"


def slug(text: str, keep_digits: bool = False) -> str:
    """Return the first words as ``snake_case``, without ids, numbers, and quoted or bracketed pieces."""
    said = _WRAPPED.sub("", _RAISED.sub(r"\2", text[:400]), count=1)
    head = _QUOTED.sub(" ", _PREFIX.sub("", said, count=1))
    clause = next((c for c in re.split(r"[.,;:!?\n]", head) if c.strip()), "")
    words = [w for w in re.findall(r"[A-Za-z0-9_\-#]+", clause)]
    if not keep_digits:
        words = [w for w in words if not re.search(r"\d", w)]
    return "_".join(w.strip("-_#").lower().replace("-", "_") for w in words[:_WORDS]).strip("_")
