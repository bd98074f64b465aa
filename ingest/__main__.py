"""`python -m ingest`: this room's commands alone, as the whole `rehearsal` command runs them."""

import sys

import typer

from ingest.commands import register
from ingest.errors import UserError


def main() -> None:
    """Runs a command; a user error is one line on stderr and exit status 2."""
    app = typer.Typer(add_completion=False)
    register(app)
    try:
        app()
    except UserError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        raise SystemExit(2) from None


main()
