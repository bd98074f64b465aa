"""OTLP/HTTP: POST /v1/traces and /v1/logs, protobuf or JSON; also GET /healthz and /metrics.

Responses follow opentelemetry-proto docs/specification.md, "OTLP/HTTP Response": they have the request's content type,
and the body of every 4xx and 5xx is a ``google.rpc.Status`` in that type.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import orjson
from google.rpc.status_pb2 import Status

from ingest.journal.segments import Bytes
from ingest.receiver.http_server import Request, Response, Service
from ingest.receiver.intake import Intake, Taken
from ingest.receiver.telemetry import OWN_HEADER, State, merged
from ingest.refusals import NOT_FOUND, Refused, invalid, our_fault

log = logging.getLogger(__name__)
PROTOBUF, JSON = "application/x-protobuf", "application/json"
SIGNALS = {"/v1/traces": "traces", "/v1/logs": "logs"}
PAGES = ("/healthz", "/metrics")


async def _nobody() -> list[State]:
    return []


class OtlpHttp:
    """The OTLP/HTTP application. ``others`` returns the states of the receiver's other processes."""

    def __init__(self, intake: Intake, others: Callable[[], Awaitable[list[State]]] = _nobody) -> None:
        self.intake, self.others = intake, others

    def service(self) -> Service:
        """The application as the server sees it."""
        options = self.intake.options
        return Service(
            self.admit, self.answer, self.answer_now, self.intake.hold, self.intake.release,
            options.max_body, options.request_seconds,
        )

    def admit(self, request: Request) -> None:
        """Refuse a request whose head alone shows an error."""
        if request.path in PAGES:
            return
        if request.path not in SIGNALS:
            raise Refused(404, NOT_FOUND, f"nothing at {request.path}; send to /v1/traces or /v1/logs")
        if request.method != "POST":
            raise invalid(f"{request.method} is not understood here; POST an OTLP request", 405)
        if (sent := _content_type(request)) not in (PROTOBUF, JSON):
            raise invalid(f"content type {sent!r}; send {PROTOBUF} or {JSON}", 415)
        self.intake.authorise(request.headers.get("authorization", ""))

    async def answer(self, request: Request) -> Response:
        """Always return a response: an exception would become a 500, at which clients drop data."""
        started = time.time_ns()
        try:
            if request.refused:
                raise request.refused
            if request.path in PAGES:
                return await self._page(request.path)
            response = _success(request, await self.intake.take(*_asked(request)))
        except Exception as error:
            response = _failure(request, error)
        self._answered(request, response, started)
        return response

    def answer_now(self, request: Request) -> Response | None:
        """Like ``answer`` but without waiting, for a request of a single sender; else None."""
        if request.refused or request.path not in SIGNALS:
            return None
        started = time.time_ns()
        try:
            taken = self.intake.take_now(*_asked(request))
            if taken is None:
                return None
            response = _success(request, taken)
        except Exception as error:
            response = _failure(request, error)
        self._answered(request, response, started)
        return response

    def _answered(self, request: Request, response: Response, started: int) -> None:
        signal = SIGNALS.get(request.path, "none")
        self.intake.metrics.answered("http", signal, response.status)
        if signal != "none" and OWN_HEADER not in request.headers:
            said: dict[str, str | int] = {"http.request.method": request.method, "url.path": request.path}
            said["http.response.status_code"] = response.status
            self.intake.spans.record(f"{request.method} {request.path}", started, said)

    async def _page(self, path: str) -> Response:
        others = await self.others()
        if path == "/metrics":
            text = self.intake.metrics.exposition()
            if others:
                text = merged([text, *(state.metrics for state in others)])
            return Response(200, "text/plain; version=0.0.4; charset=utf-8", text.encode())
        if self.intake.commits.healthy and all(state.healthy for state in others):
            return Response(200, "text/plain", b"ok\n")
        return Response(503, "text/plain", b"the journal cannot be written\n", retry_after=5)


def _asked(request: Request) -> tuple[str, str, Bytes, str]:
    """The arguments for ``Intake.take``."""
    encoding = "json" if _content_type(request) == JSON else "proto"
    return SIGNALS[request.path], encoding, request.body(), request.headers.get("content-encoding", "")


def _success(request: Request, taken: Taken) -> Response:
    kind = _content_type(request)
    return Response(200, kind, _json(taken) if kind == JSON else taken.protobuf())


def _failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        log.error("a request to %s failed", request.path, exc_info=error)
        error = our_fault()
    return _refusal(error, _content_type(request))


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _json(taken: Taken) -> bytes:
    if not taken.rejected:
        return b"{}"
    counted = "rejectedSpans" if taken.signal == "traces" else "rejectedLogRecords"
    return orjson.dumps({"partialSuccess": {counted: str(taken.rejected), "errorMessage": taken.why}})


def _refusal(no: Refused, content_type: str) -> Response:
    if content_type == JSON:
        body, kind = orjson.dumps({"code": no.code, "message": no.message}), JSON
    else:
        body, kind = Status(code=no.code, message=no.message).SerializeToString(), PROTOBUF
    return Response(no.http, kind, body, no.retry_after)
