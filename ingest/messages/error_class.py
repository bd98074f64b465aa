"""Which error an observation is: a short, stable class name that outcome prediction can count on."""

from __future__ import annotations

import re
from typing import Any

from ingest.messages.parts import parse

# error.type values that only repeat that there was an error
GENERIC = {"", "_other", "error", "tool_error", "toolerror", "exception", "toolexception", "tool_exception",
           "modelbehaviorerror", "runtimeerror", "true", "2", "500", "toolretryerror", "modelretry",
           "executionerror", "toolexecutionerror", "agenttoolexecutionerror", "toolinvocationerror"}  # fmt: skip
_ERROR_TEXT = re.compile(
    r"^\s*(?:errors?|exception|traceback|tool error|[A-Za-z]+(?:error|exception))\b\s*(?:[:\-(\[]|\w+ing\b)",
    re.IGNORECASE,
)
_ERROR_WORDS = re.compile(  # how agent frameworks word a tool's failure to the model
    r"^\s*(?:an? (?:\w+ )?error (?:has )?occurred\b|(?:tool )?(?:execution|invocation|call) (?:error|failed)\b"
    r"|failed to (?:invoke|execute|call|run)\b)",
    re.IGNORECASE,
)
_ERROR_END = re.compile(r"(?:fix the errors and try again|please fix your mistakes)\.?$", re.IGNORECASE)
_LONGEST_END = 32  # characters
_PREFIX = re.compile(r"^\s*(?:[A-Za-z_. ]*?(?:error|exception)\b(?: -|[^:'\"]{0,40}:)\s*)+", re.IGNORECASE)
_RAISED = re.compile(r"\b\w*(?:Error|Exception)\((['\"])(.*?)\1\)")  # ToolError('no such order')
_WRAPPED = re.compile(
    r"^\s*(?:failed to|an? (?:\w+ )?error (?:has )?occurred|error executing)\b.*?\b(?:error|exception):", re.I | re.S
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|<[^>]*>|\([^)]*\)")
_CODES = ("code", "error_code", "errorCode", "type", "status", "status_code", "statusCode", "reason", "kind")
_WORDS = 6


def error_body(content: Any) -> Any:
    """The error in a JSON answer (``{"error": ...}``), else None."""
    return _error_in(parse(content))


def _error_in(body: Any) -> Any:
    if not isinstance(body, dict):
        return None
    for key in ("error", "Error", "errors", "exception"):
        if body.get(key):
            return body if isinstance(body[key], bool) else body[key]
    if body.get("is_error") is True or body.get("isError") is True or body.get("success") is False:
        return body
    if str(body.get("status", "")).lower() in ("error", "failed", "failure") and len(body) <= 4:
        return body
    return None


def says_error(content: Any) -> bool:
    """Whether an observation's own text says that it is an error."""
    if isinstance(content, str) and _reads_as_error(content):
        return True
    body = parse(content)
    if isinstance(body, dict) and len(body) == 1 and isinstance(inner := next(iter(body.values())), str):
        return says_error(inner) or _error_in(body) is not None  # {"result": "Error: ..."}
    return _error_in(body) is not None


def _reads_as_error(text: str) -> bool:
    if _ERROR_TEXT.match(text[:200]) or _ERROR_WORDS.match(text):
        return True
    return _ERROR_END.search(text.rstrip()[-_LONGEST_END:]) is not None


def classify_error(error_type: str | None, content: Any, message: str | None = None) -> str:
    """``error.type`` where it says something, else the code in a JSON error body, else a slug of the first
    words without ids, quotes and digits; "error" if nothing is left."""
    named = error_type.rsplit(".", 1)[-1] if error_type else ""  # without the module
    if named.lower() not in GENERIC:
        return named
    body = error_body(content)
    if isinstance(body, dict):
        codes = [body[k] for k in _CODES if isinstance(body.get(k), str | int)]
        code = next((c for c in codes if c not in ("", True, False)), None)
        if code is not None and str(code).lower() not in GENERIC | {"error", "failed"}:
            return slug(str(code), keep_digits=True)
        texts = [body[k] for k in ("message", "error", "detail", "msg") if isinstance(body.get(k), str)]
        return slug(texts[0] if texts else "") or "error"
    text = body if isinstance(body, str) else content if isinstance(content, str) else message or ""
    return slug(text) or slug(message or "") or "error"


def slug(text: str, keep_digits: bool = False) -> str:
    """The first words as ``snake_case``, without what varies: ids, numbers, quoted and bracketed pieces."""
    said = _WRAPPED.sub("", _RAISED.sub(r"\2", text[:400]), count=1)
    head = _QUOTED.sub(" ", _PREFIX.sub("", said, count=1))
    clause = next((c for c in re.split(r"[.,;:!?\n]", head) if c.strip()), "")
    words = [w for w in re.findall(r"[A-Za-z0-9_\-#]+", clause)]
    if not keep_digits:
        words = [w for w in words if not re.search(r"\d", w)]
    return "_".join(w.strip("-_#").lower().replace("-", "_") for w in words[:_WORDS]).strip("_")
