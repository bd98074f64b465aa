"""The receiver: OTLP/HTTP and OTLP/gRPC into one journal; success means that the data is on disk.

Requests are unpacked, checked, and appended raw to the journal; a writer thread makes whatever waits
durable with one fsync (``ingest.commits``) and only then are they answered. This file starts the parts and
stops them in the right order.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from ingest.errors import UserError
from ingest.http_server import HttpServer
from ingest.intake import Intake, Options
from ingest.otlp_http import OtlpHttp

__all__ = ["GRPC_PORT", "Options", "bind", "serve"]
GRPC_PORT = 4317


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; a port in use is a ``UserError``."""
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
    """Runs until SIGTERM or SIGINT, then answers what is under way, seals the journal and returns."""
    tls = _tls(options.tls_certificate, options.tls_key)
    sock = bind(options.host, options.http_port)
    _keep_freed_memory()
    asyncio.run(_serve(options, sock, tls))


def _keep_freed_memory() -> None:
    """Requests of hundreds of kilobytes come and go; glibc would map and unmap memory for each of them, most of all
    for gRPC's. It may keep up to 64 MiB instead."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # another C library has none
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 16 << 20)
        mallopt(m_trim_threshold, 64 << 20)
        mallopt(m_top_pad, 16 << 20)


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
    http = HttpServer(OtlpHttp(intake).service())
    await http.start(sock, tls)
    scheme, port = "https" if tls else "http", sock.getsockname()[1]
    told = [f"receiving OTLP/HTTP on {scheme}://{options.host}:{port} into {options.journal_path}"]
    grpc = await _start_grpc(intake, options)
    if grpc is not None:
        told.append(f"receiving OTLP/gRPC on {options.host}:{grpc[1]}")
    print("\n".join(told), flush=True)
    ticking = asyncio.create_task(_tick(intake, options.seal_seconds))
    await stop.wait()
    await asyncio.gather(
        http.drain(options.drain_seconds), *([grpc[0].stop(options.drain_seconds)] if grpc else [])
    )
    ticking.cancel()
    await intake.commits.close()


async def _start_grpc(intake: Intake, options: Options) -> tuple[Any, int] | None:
    if options.grpc_port is None:
        return None
    from ingest import otlp_grpc  # grpc takes a moment to import, and not everybody needs it

    try:
        return await otlp_grpc.start(intake, options)
    except UserError as problem:
        if options.grpc_must:
            raise
        print(f"rehearsal: OTLP/gRPC is off: {problem}", file=sys.stderr, flush=True)
        return None


async def _tick(intake: Intake, seal_seconds: float) -> None:
    while True:
        await asyncio.sleep(min(1.0, seal_seconds))
        await intake.commits.tick()
