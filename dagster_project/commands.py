"""`rehearsal demo`, `report` and `doctor`: the commands about the whole loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ingest.errors import UserError

HOME = Path("artifacts/demo")  # as in settings.py, which would import pydantic here
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="REHEARSAL_HOME", help="Where everything is kept.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("demo")(demo)
    app.command("report")(report)
    app.command("doctor")(doctor)


def demo(
    home: HomeOption = HOME,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    small: Annotated[
        bool, typer.Option("--small", help="The same path in about a minute; proves nothing.")
    ] = False,
) -> None:
    """The whole loop on the example agent, with a report: traces, world, practice, proof."""
    from dagster_project.demo import run_demo

    run_demo(home, seed, small, Console())


def report(
    home: HomeOption = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """What the last pass through the loop achieved."""
    try:
        text = (home / "report.json").read_text()
        found = json.loads(text)
    except (OSError, ValueError):
        raise UserError(
            f"{home} holds no report; run `rehearsal demo --home {home}`, or materialise the asset `report`"
        ) from None
    if as_json:
        typer.echo(text)
        return
    low, high = found["success_ci"]
    console = Console()
    console.print(
        f"success {found['success_before']:.1%} → [bold green]{found['success_after']:.1%}[/] in the real "
        f"environment, {100 * (found['success_after'] - found['success_before']):+.1f} points "
        f"({100 * low:+.1f} to {100 * high:+.1f}), {found['episodes']} episodes each"
    )
    console.print(f"the page: {home / 'report.html'}")


def doctor(
    home: HomeOption = HOME,
    base: Annotated[str, typer.Option(help="Base model to look for.")] = "rehearsal-tiny",
) -> None:
    """Whether this machine has what the loop needs."""
    from dagster_project.doctor import examine

    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}
    grid = Table.grid(padding=(0, 2))
    findings = examine(base, home)
    for finding in findings:
        grid.add_row(marks[finding.state], finding.subject, finding.text)
    Console().print(grid)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
