"""Starts the report server in Dagster's code server, for the report links in the UI."""

import sys
from pathlib import Path

import dagster as dg

from dagster_project.loop.settings import Settings
from dagster_project.report import server


@dg.definitions
def serving() -> dg.Definitions:
    """Adds no definitions. Only the code server opens the port; `dg check`, a run or a test does not."""
    if is_code_server(sys.argv) and server.port():
        server.serve(Path(Settings().home).absolute(), server.port())
    return dg.Definitions()


def is_code_server(arguments: list[str]) -> bool:
    """Whether these are the arguments of `dagster api grpc`, which `dagster dev` and `dagster code-server` start."""
    return arguments[1:3] == ["api", "grpc"]
