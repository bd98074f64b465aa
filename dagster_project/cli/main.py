"""The command `rehearsal`: the rooms' own commands, put together."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from dagster_project.cli import loop_commands
from ingest import commands as ingest_commands
from ingest.errors import UserError
from worldmodel import commands as worldmodel_commands


class _Commands(TyperGroup):
    """Ends quietly, with status 0, when the reader of standard output has gone (`rehearsal conversations | head`)."""

    def invoke(self, ctx: Any) -> Any:  # typer has a context class of its own
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            if not _reader_has_gone():
                raise  # a socket of the command's own, which is an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
            raise typer.Exit(0) from None


def _reader_has_gone() -> bool:
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


app = typer.Typer(
    name="rehearsal",
    cls=_Commands,
    help="Turn an agent's OpenTelemetry traces into a world it can practise in, and retrain it there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The rooms' command files import nothing heavy at their top, so that `rehearsal --help` answers at once.
for room in (loop_commands, ingest_commands, worldmodel_commands):
    room.register(app)


def main() -> None:
    """Run one command. What the user can put right is one line on stderr and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("rehearsal: stopped", file=sys.stderr)
        sys.exit(130)
