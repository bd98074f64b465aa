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
_PREFIX = re.compile(
    r"^\s*(?:(?-i:-?ERR:? +)|[A-Za-z_. ]*?(?:error|exception)\b(?: -|[^:'\"]{0,40}:)\s*)+", re.IGNORECASE
)
_RAISED = re.compile(r"\b\w*(?:Error|Exception)\((['\"])(.*?)\1\)")  # ToolError('no such order')
_WRAPPED = re.compile(
    r"^\s*(?:failed to|an? (?:\w+ )?error (?:has )?occurred|error executing)\b.*?\b(?:error|exception):", re.I | re.S
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|<[^>]*>|\([^)]*\)")
_NUMBERED = re.compile(r"^\s*err(?:or)?[ #-]?(\d{1,5})\s*[:\-]", re.IGNORECASE)  # ERR 73: OVER-PICK
# As line protocols answer: `ERR no such key`, `-WRONGTYPE Operation`, `ERR_BUSY: wait`
_PROTOCOL = re.compile(r"^\s*(?:-[A-Z]{3,}\b|ERR\b:? +\S|ERR_[A-Z_\d]+\s*(?::|\n|$))")
_WORDS = 6


# Keys as _folded writes them. Keys of an error's code, whose value is an error, and that explain a word like "failed".
_CODES = ("code", "errorcode", "rule", "errortype", "type", "status", "statuscode", "reason", "kind")
_CODES_BESIDE = ("code", "errorcode", "errortype")
_NAMED = re.compile(r"[A-Za-z]+(?:[._ -][A-Za-z]+)+|[A-Z][a-z]+(?:[A-Z][a-z]+)+|[EX]\d+")  # ORDER_CLOSED, not SAVE10
_ERRORS = ("error", "errors", "exception", "errormessage")
_REASONS = ("message", "msg", "detail", "details", "reason", "code", "errorcode", "errortype", "violations")
_TEXTS = ("message", "error", "detail", "msg", "errormessage", "title")
_FAILED = ("failed", "failure", "error")
_HTTP_ERRORS = range(400, 600)
_MOST_KEYS = 4  # of a body whose status is about the call; a record has more


def error_body(content: Any) -> Any:
    """Return the error in a JSON result (``{"error": ...}``, ``{"success": false, "message": ...}``), else None."""
    body = parse(content)
    found = _error_in(body)
    return body if found is None and _says_failed(body) else found


def _folded(body: dict[str, Any]) -> dict[str, Any]:
    """A body with keys as one writes them: `errorCode`, `ErrorCode` and `error_code` are one key."""
    return {key.lower().replace("_", "").replace("-", ""): value for key, value in reversed(body.items())}


def _error_in(body: Any, went_well: bool = False) -> Any:
    """Return what a body explicitly declares as an error, else None. A status as of HTTP says nothing of a call that
    ``went_well``."""
    if not isinstance(body, dict):
        return None
    folded = _folded(body)
    for key in _ERRORS:
        value = folded.get(key)
        if value and not (key == "errors" and isinstance(value, int | float)):  # a count of rows, say
            has_code = isinstance(value, str) and any(_NAMED.fullmatch(str(folded.get(k))) for k in _CODES_BESIDE)
            if isinstance(value, list) and isinstance(value[0], dict):
                value = value[0]
            return body if isinstance(value, bool) or has_code else value
    if folded.get("iserror") is True:
        return body
    if re.search(r"(?:Exception|Error|Fault)$", str(body.get("__type", ""))) or (
        not went_well and _has_http_error(folded, len(body))
    ):
        return body
    return body if folded.get("status") == "error" and _is_explained(folded) else None


def _has_http_error(folded: dict[str, Any], size: int) -> bool:
    """Whether a small body has the status of a failed request, and a text that explains it."""
    texts = [k for k in _TEXTS if isinstance(folded.get(k), str) and folded[k]]
    codes = [k for k in ("code", "status", "statuscode") if type(folded.get(k)) is int and folded[k] in _HTTP_ERRORS]
    return size <= _MOST_KEYS and bool(codes) and bool(texts) and (codes != ["code"] or texts != ["title"])


def _says_failed(body: Any) -> bool:
    """Whether a body reports a failure: of the call itself, or of the record that was asked for."""
    if not isinstance(body, dict):
        return False
    folded = _folded(body)
    if folded.get("success") is False or folded.get("ok") is False:
        return True
    return str(folded.get("status", "")).lower() in _FAILED and len(body) <= _MOST_KEYS


def _is_explained(folded: dict[str, Any]) -> bool:
    return any(folded.get(key) not in (None, "") for key in _REASONS)


def says_error(content: Any, went_well: bool = False) -> bool:
    """Whether an observation's content shows an error.

    ``{"success": false}`` and ``{"status": "failed"}`` can be normal results. Such a body is an error only if it has a
    reason, and if no other evidence (span status, a flag beside the result) says that the call ``went_well``."""
    if isinstance(content, str) and not (content[:1] == "{" and content[-1:] == "}") and _reads_as_error(content):
        return True
    body = parse(content)
    if _error_in(body, went_well) is not None or (
        not went_well and _says_failed(body) and _is_explained(_folded(body))
    ):
        return True
    if isinstance(body, dict) and len(body) == 1 and isinstance(inner := next(iter(body.values())), str):
        return says_error(inner, went_well)  # {"result": "Error: ..."}
    return False


def _reads_as_error(text: str) -> bool:
    if any(said.match(text[:200]) for said in (_ERROR_TEXT, _ERROR_WORDS, _NUMBERED, _PROTOCOL)) or _status_line(text):
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
        body = _folded(body)
        codes = [
            str(body[k]).rpartition("#")[2] for k in _CODES  # com.amazon.coral#NotFoundException
            if isinstance(body.get(k), str | int) and body[k] not in ("", True, False) and not _is_link(body[k])
        ]  # fmt: skip
        code = next((c for c in codes if c.lower() not in GENERIC | {"error", "failed"}), None)
        if code is not None:
            return slug(code, keep_digits=True)
        texts = [body[k] for k in _TEXTS if isinstance(body.get(k), str)]
        return slug(texts[0] if texts else "") or "error"
    enveloped = parse(content)
    if body is None and isinstance(enveloped, dict) and len(enveloped) == 1:
        body = next(iter(enveloped.values()))
    text = body if isinstance(body, str) else content if isinstance(content, str) else message or ""
    if numbered := _NUMBERED.match(text):
        return slug(text[numbered.end() :]) or f"error_{numbered[1]}"
    return slug(_status_line(text) or text) or slug(message or "") or "error"


def _is_link(value: Any) -> bool:
    """Whether a problem's `type` is the address of its description (RFC 9457)."""
    return isinstance(value, str) and re.match(r"about:|https?://|urn:|/", value) is not None


def slug(text: str, keep_digits: bool = False) -> str:
    """Return the first words as ``snake_case``, without ids, numbers, and quoted or bracketed pieces."""
    said = _WRAPPED.sub("", _RAISED.sub(r"\2", text[:400]), count=1)
    head = _QUOTED.sub(" ", _PREFIX.sub("", said, count=1))
    clause = next((c for c in re.split(r"[.,;:!?\n]", head) if c.strip()), "")
    words = [w for w in re.findall(r"[A-Za-z0-9_\-#]+", clause)]
    if not keep_digits:
        words = [w for w in words if not re.search(r"\d", w)]
    return "_".join(w.strip("-_#").lower().replace("-", "_") for w in words[:_WORDS]).strip("_")
