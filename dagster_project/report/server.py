"""A read-only HTTP server for the report. Browsers refuse to open a file link from Dagster's page.

It runs in Dagster's code server (defs/report/serving.py), at `http://127.0.0.1:3001/<home>/report.html`.
REHEARSAL_REPORT_PORT sets another port; 0 switches the server off. Behind a proxy, REHEARSAL_REPORT_URL replaces
`http://127.0.0.1:3001` in the links.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dagster_project.loop.stages import fingerprint

PORT = 3001
HOST = "127.0.0.1"
SERVED = {"report.html": "text/html; charset=utf-8", "report.json": "application/json"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
RETRY_SECONDS = 2.0


def port() -> int:
    """The port of the report server; 0 if it is switched off."""
    return int(os.environ.get("REHEARSAL_REPORT_PORT") or PORT)


def url(home: Path) -> str | None:
    """The URL of a home's report; None if it is not served."""
    base = os.environ.get("REHEARSAL_REPORT_URL") or (f"http://{HOST}:{port()}" if port() else None)
    return f"{base.rstrip('/')}/{_name(home)}/report.html" if base else None


def open_server(home: Path, at: int) -> ThreadingHTTPServer:
    """Bind a server for a home's report, without serving yet. Raises OSError if the port is in use."""
    return ThreadingHTTPServer((HOST, at), partial(_Handler, home))


def serve(home: Path, at: int) -> threading.Thread:
    """Serve a home's report in a thread. While another process uses the port, retry."""

    def work() -> None:
        while True:
            try:
                server = open_server(home, at)
            except OSError:
                time.sleep(RETRY_SECONDS)
                continue
            server.serve_forever()

    thread = threading.Thread(target=work, name="report", daemon=True)
    thread.start()
    return thread


def _name(home: Path) -> str:
    """The home's part of the URL path. A server of another home on the same port answers it with 404."""
    return fingerprint(str(home.absolute()))


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the report's two files, and 404 for everything else."""

    def __init__(self, home: Path, *given: object) -> None:
        self.home = home
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        status, kind, body = self._find(self.path.split("?")[0])
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _find(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        missing = f"This server has only the report of {self.home}, at /{_name(self.home)}/report.html\n"
        _, home, name = path.split("/") if path.count("/") == 2 else ("", "", "")
        if home == _name(self.home) and name in SERVED:
            try:
                return HTTPStatus.OK, SERVED[name], (self.home / name).read_bytes()
            except OSError:
                missing = f"{self.home} has no {name} yet: materialise report/page\n"
        return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", missing.encode()

    def log_message(self, format: str, *given: object) -> None:
        """Does nothing: Dagster's log is for runs."""
