"""OTLP/HTTP: POST /v1/traces and /v1/logs, protobuf or JSON; also GET /healthz and /metrics.

Answers follow opentelemetry-proto docs/specification.md, "OTLP/HTTP Response": the request's content type
comes back, and the body of every 4xx and 5xx is a ``google.rpc.Status`` in that type.
"""

from __future__ import annotations

import logging
import time

import orjson
from google.rpc.status_pb2 import Status

from ingest.http_server import Request, Response, Service
from ingest.intake import Intake, Taken
from ingest.refusals import NOT_FOUND, Refused, invalid, our_fault
from ingest.telemetry import OWN_HEADER

log = logging.getLogger(__name__)
PROTOBUF, JSON = "application/x-protobuf", "application/json"
SIGNALS = {"/v1/traces": "traces", "/v1/logs": "logs"}
PAGES = ("/healthz", "/metrics")


class OtlpHttp:
    """Requests in, answers out."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    def service(self) -> Service:
        """For the server."""
        options = self.intake.options
        return Service(
            self.admit, self.answer, self.intake.hold, self.intake.release, options.max_body, options.request_seconds
        )

    def admit(self, request: Request) -> None:
        """Refuses what its head alone shows to be wrong."""
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
        """The answer, whatever happens: an exception of ours would be a 500, at which clients drop data."""
        if request.path in PAGES and not request.refused:
            return self._page(request.path)
        started = time.time_ns()
        try:
            response = await self._export(request)
        except Refused as no:
            response = _refusal(no, _content_type(request))
        except Exception:
            log.exception("a request to %s failed", request.path)
            response = _refusal(our_fault(), _content_type(request))
        signal = SIGNALS.get(request.path, "none")
        self.intake.metrics.answered("http", signal, response.status)
        if signal != "none" and OWN_HEADER not in request.headers:
            said: dict[str, str | int] = {"http.request.method": request.method, "url.path": request.path}
            said["http.response.status_code"] = response.status
            self.intake.spans.record(f"{request.method} {request.path}", started, said)
        return response

    async def _export(self, request: Request) -> Response:
        if request.refused:
            raise request.refused
        kind = _content_type(request)
        taken = await self.intake.take(
            SIGNALS[request.path],
            "json" if kind == JSON else "proto",
            request.body(),
            request.headers.get("content-encoding", ""),
        )
        return Response(200, kind, _json(taken) if kind == JSON else taken.protobuf())

    def _page(self, path: str) -> Response:
        if path == "/metrics":
            return Response(200, "text/plain; version=0.0.4; charset=utf-8", self.intake.metrics.exposition())
        if self.intake.commits.healthy:
            return Response(200, "text/plain", b"ok\n")
        return Response(503, "text/plain", b"the journal cannot be written\n", retry_after=5)


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
