"""The receiver: OTLP/HTTP and OTLP/gRPC into one journal. It acknowledges a request only after fsync.

Requests are decompressed, validated, and appended raw to the journal. A writer thread makes all waiting requests
durable with one fsync (``ingest.journal.commits``), and only then are they answered. This module starts the parts
and stops them in the right order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from ingest.errors import UserError
from ingest.garbage import keep_freed_memory
from ingest.receiver.http_server import HttpServer
from ingest.receiver.intake import Intake, Options
from ingest.receiver.otlp_http import OtlpHttp
from ingest.receiver.telemetry import State

__all__ = ["GRPC_PORT", "Options", "bind", "grpc_processes_here", "serve"]
GRPC_PORT = 4317


def grpc_processes_here(wanted: int | None) -> int:
    """How many processes serve gRPC: the wanted number, else two if there are two CPUs. Only Linux distributes a port's
    connections among processes."""
    if sys.platform != "linux":
        return 1
    return wanted or min(2, len(os.sched_getaffinity(0)))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise ``UserError`` if the port is in use."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it or choose another port"
        ) from None
    return sock


def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT; then answer running requests, seal the journal and return."""
    tls = _tls(options.tls_certificate, options.tls_key)
    sock = bind(options.host, options.http_port)
    keep_freed_memory()
    asyncio.run(_serve(options, sock, tls))


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UserError("TLS needs both files; give --tls-cert and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"the TLS files {certificate} and {key} cannot be used: {error}; give PEM files") from None
    return context


async def _serve(options: Options, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    intake = Intake(options)
    grpc = Grpc(intake, options)
    http = HttpServer(OtlpHttp(intake, grpc.others).service())
    await http.start(sock, tls)
    scheme, port = "https" if tls else "http", sock.getsockname()[1]
    told = [f"receiving OTLP/HTTP on {scheme}://{options.host}:{port} into {options.journal_path}"]
    if grpc_port := await grpc.start():
        told.append(f"receiving OTLP/gRPC on {options.host}:{grpc_port}")
    print("\n".join(told), flush=True)
    ticking = asyncio.create_task(intake.commits.keep(options.seal_seconds))
    await stop.wait()
    await asyncio.gather(http.drain(options.drain_seconds), grpc.stop())
    ticking.cancel()
    await intake.commits.close()


class Grpc:
    """The gRPC side, if there is one: in this process and in others. The library is imported only when it is needed,
    because that takes a moment."""

    def __init__(self, intake: Intake, options: Options) -> None:
        self.intake, self.options = intake, options
        self._server: Any = None
        self._processes: Any = None

    async def start(self) -> int | None:
        """Start; return the port, or None."""
        options = self.options
        if options.grpc_port is None:
            return None
        from ingest.receiver import grpc_processes, otlp_grpc

        try:
            if options.grpc_processes > 1 and options.grpc_port:  # a shared port never counts as in use
                bind(options.host, options.grpc_port).close()
            self._server, port = await otlp_grpc.start(self.intake, options)
        except UserError as problem:
            if options.grpc_must:
                raise
            self.intake.stay_alone()
            print(f"rehearsal: OTLP/gRPC is off: {problem}", file=sys.stderr, flush=True)
            return None
        self._processes = grpc_processes.GrpcProcesses()
        await self._processes.start(options, port)
        return port

    async def others(self) -> list[State]:
        """The states of the other processes."""
        return await self._processes.states() if self._processes else []

    async def stop(self) -> None:
        """Drain all processes."""
        if self._server:
            seconds = self.options.drain_seconds
            await asyncio.gather(self._server.stop(seconds), self._processes.stop(seconds))
