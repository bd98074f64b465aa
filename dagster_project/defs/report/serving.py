"""Dagster's code server also serves the report, for the links that the UI shows."""

import sys
from pathlib import Path

import dagster as dg

from dagster_project.loop.settings import Settings
from dagster_project.report import server


@dg.definitions
def serving() -> dg.Definitions:
    """Nothing for the graph. The code server alone opens the port: not `dg check`, a run, or a test."""
    if is_code_server(sys.argv) and server.port():
        server.serve(Path(Settings().home).absolute(), server.port())
    return dg.Definitions()


def is_code_server(arguments: list[str]) -> bool:
    """Whether a command line is that of `dagster api grpc`, which `dagster dev` and `dagster code-server` start."""
    return arguments[1:3] == ["api", "grpc"]
