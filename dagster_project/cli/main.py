"""The command `rehearsal`: collects the commands of all rooms."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from dagster_project.cli import loop_commands
from ingest import commands as ingest_commands
from ingest.errors import UserError
from worldmodel import commands as worldmodel_commands


class _Commands(TyperGroup):
    """Exits with status 0 when the reader of standard output has closed it (`rehearsal conversations | head`)."""

    def invoke(self, ctx: Any) -> Any:  # typer has its own copy of click.Context
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            if not _reader_has_gone():
                raise  # the command's own socket: a real error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again at exit
            raise typer.Exit(0) from None


def _reader_has_gone() -> bool:
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


app = typer.Typer(
    name="rehearsal",
    cls=_Commands,
    help="Turn an agent's OpenTelemetry traces into a world to practise in, and retrain the agent there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The command modules import heavy packages inside the commands, so that `rehearsal --help` starts quickly.
for room in (loop_commands, ingest_commands, worldmodel_commands):
    room.register(app)


def main() -> None:
    """Run one command. A UserError is printed as one line on stderr, with exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("rehearsal: stopped", file=sys.stderr)
        sys.exit(130)
