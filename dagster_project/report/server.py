"""The report over HTTP, read-only: browsers refuse to follow a link from Dagster's page to a file.

Dagster's code server serves it (defs/report/serving.py), so that the links in Dagster work wherever its UI does:
`http://127.0.0.1:3001/<home>/report.html`. REHEARSAL_REPORT_PORT is another port, or 0 for none. Behind a proxy,
REHEARSAL_REPORT_URL is what the links begin with instead of `http://127.0.0.1:3001`.
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
    """The port that the report is served on; 0 for none."""
    return int(os.environ.get("REHEARSAL_REPORT_PORT") or PORT)


def url(home: Path) -> str | None:
    """Where the report of a home can be opened; None where it is not served."""
    base = os.environ.get("REHEARSAL_REPORT_URL") or (f"http://{HOST}:{port()}" if port() else None)
    return f"{base.rstrip('/')}/{_name(home)}/report.html" if base else None


def open_server(home: Path, at: int) -> ThreadingHTTPServer:
    """A server of a home's report, which is not serving yet. Raises OSError where the port is taken."""
    return ThreadingHTTPServer((HOST, at), partial(_Handler, home))


def serve(home: Path, at: int) -> threading.Thread:
    """Serve a home's report in a thread of this process. While another process has the port, wait for it."""

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
    """A home's place in the URLs: a server of another home on the same port does not answer for it."""
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
        missing = f"Here is only the report of {self.home}, at /{_name(self.home)}/report.html\n"
        _, home, name = path.split("/") if path.count("/") == 2 else ("", "", "")
        if home == _name(self.home) and name in SERVED:
            try:
                return HTTPStatus.OK, SERVED[name], (self.home / name).read_bytes()
            except OSError:
                missing = f"{self.home} has no {name} yet: materialise report/page\n"
        return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", missing.encode()

    def log_message(self, format: str, *given: object) -> None:
        """Requests are not logged: Dagster's log is for runs."""
