"""OTLP/gRPC: TraceService/Export and LogsService/Export, the messages taken raw.

Two traps. gRPC unpacks compressed messages without a limit of its own, so that is switched off and done by
``intake.decompressed``. And an exception in a handler becomes UNKNOWN, at which clients drop the data, so
everything that goes wrong is answered from ``ingest.refusals``.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from ingest.errors import UserError
from ingest.intake import Intake, Options
from ingest.refusals import Refused, our_fault

log = logging.getLogger(__name__)
METHODS = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
GZIP = b"\x1f\x8b"  # no protobuf message starts so: 0x1f would be a field of wire type 7, which is none


class OtlpGrpc(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The two services."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.handlers = {
            method: grpc.unary_unary_rpc_method_handler(self._exporter(signal)) for method, signal in METHODS.items()
        }

    def service(self, details: Any) -> Any:
        """The handler of a call, or None."""
        return self.handlers.get(details.method)

    def _exporter(self, signal: str) -> Any:
        async def export(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                answer = await self._take(signal, data, context)
            except Refused as no:
                await self._abort(signal, context, no)
            except Exception:
                log.exception("a gRPC request failed")
                await self._abort(signal, context, our_fault())
            self.intake.metrics.answered("grpc", signal, 0)
            return answer

        return export

    async def _take(self, signal: str, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if self.intake.tokens:
            sent = [v for k, v in context.invocation_metadata() if k == "authorization"]
            self.intake.authorise(str(sent[0]) if sent else "")
        self.intake.hold(len(data))
        try:
            taken = await self.intake.take(signal, "proto", data, "gzip" if data[:2] == GZIP else "")
        finally:
            self.intake.release(len(data))
        return taken.protobuf()

    async def _abort(self, signal: str, context: grpc.aio.ServicerContext, no: Refused) -> NoReturn:
        """Ends the call with the code, and with RetryInfo where the request is to be sent again: without it
        RESOURCE_EXHAUSTED means that the data is to be dropped."""
        self.intake.metrics.answered("grpc", signal, no.code)
        if no.retry_after is not None:
            status = Status(code=no.code, message=no.message)
            status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=no.retry_after)))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await context.abort(CODES[no.code], no.message)
        raise AssertionError("abort raises")


async def start(intake: Intake, options: Options) -> tuple[grpc.aio.Server, int]:
    """A running server and its port; a port in use is a ``UserError``."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", options.max_body),
            ("grpc.so_reuseport", 0),  # or a second receiver would share the port instead of failing
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
