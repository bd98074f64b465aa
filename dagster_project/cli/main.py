"""The command `rehearsal`: the rooms' own commands, put together."""

from __future__ import annotations

import sys

import click
import typer

from dagster_project.cli import loop_commands
from ingest import commands as ingest_commands
from ingest.errors import UserError
from worldmodel import commands as worldmodel_commands

app = typer.Typer(
    name="rehearsal",
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
    except BrokenPipeError:  # `rehearsal conversations | head`
        sys.stderr.close()
        sys.exit(0)

