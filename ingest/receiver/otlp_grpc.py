"""OTLP/gRPC: TraceService/Export and LogsService/Export, on raw message bytes.

Two traps. How much of a compressed message gRPC decompresses before it checks the limit depends on its version, so
its decompression is off and ``intake.decompressed`` does it. And an exception in a handler becomes UNKNOWN, at which
clients drop the data, so every failure is answered with one of ``ingest.refusals``.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from ingest.errors import UserError
from ingest.receiver.intake import Intake, Options
from ingest.receiver.telemetry import OWN_HEADER
from ingest.refusals import Refused, our_fault

log = logging.getLogger(__name__)
SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
GZIP = b"\x1f\x8b"  # no protobuf message starts with it: 0x1f would be wire type 7, which does not exist


class OtlpGrpc(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The two services."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.handlers = {
            f"/{name}": grpc.unary_unary_rpc_method_handler(self._exporter(signal)) for signal, name in SERVICES.items()
        }

    def service(self, details: Any) -> Any:
        """The handler of a call, or None."""
        return self.handlers.get(details.method)

    def _exporter(self, signal: str) -> Any:
        async def export(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            started, code = time.time_ns(), 0
            try:
                return await self._take(signal, data, context)
            except Refused as no:
                code = no.code
                await _abort(context, no)
            except Exception:
                log.exception("a gRPC request failed")
                code = our_fault().code
                await _abort(context, our_fault())
            finally:
                self._answered(signal, code, context, started)

        return export

    def _answered(self, signal: str, code: int, context: grpc.aio.ServicerContext, started: int) -> None:
        self.intake.metrics.answered("grpc", signal, code)
        spans = self.intake.spans
        if spans.tracer and all(key != OWN_HEADER for key, _ in context.invocation_metadata() or ()):
            spans.record(SERVICES[signal], started, {"rpc.system": "grpc", "rpc.grpc.status_code": code})

    async def _take(self, signal: str, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if self.intake.tokens:
            sent = [v for k, v in context.invocation_metadata() if k == "authorization"]
            self.intake.authorise(str(sent[0]) if sent else "")
        self.intake.hold(len(data))
        try:
            compression = "gzip" if data[:2] == GZIP else ""
            what = signal, "proto", data, compression
            taken = self.intake.take_now(*what) or await self.intake.take(*what)
        finally:
            self.intake.release(len(data))
        return taken.protobuf()


async def _abort(context: grpc.aio.ServicerContext, no: Refused) -> NoReturn:
    """End the call with the code, and with RetryInfo if the request may be sent again: without it RESOURCE_EXHAUSTED
    tells clients to drop the data."""
    if no.retry_after is not None:
        status = Status(code=no.code, message=no.message)
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=no.retry_after)))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(CODES[no.code], no.message)
    raise AssertionError("abort raises")


async def start(intake: Intake, options: Options) -> tuple[grpc.aio.Server, int]:
    """Return a running server and its port; raise ``UserError`` if the port is in use and not to be shared."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", options.max_body),
            ("grpc.so_reuseport", int(options.grpc_processes > 1)),
            ("grpc.per_message_decompression", 0),
        ]
    )
    server.add_generic_rpc_handlers((OtlpGrpc(intake),))
    address = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{address}:{options.grpc_port}"
    try:
        if options.tls_certificate and options.tls_key:
            pair = (options.tls_key.read_bytes(), options.tls_certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        raise UserError(
            f"cannot listen on {address} for gRPC; stop what uses it or choose another port with --grpc"
        ) from None
    await server.start()
    return server, port
