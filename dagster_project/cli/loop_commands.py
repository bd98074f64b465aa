"""The commands about the whole loop: demo, train, evaluate, promote, rollback, report, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

HOME = Path("artifacts/demo")  # as in settings.py, which would import pydantic here
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="REHEARSAL_HOME", help="Where everything is kept.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("demo")(demo)
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
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
    from dagster_project.cli.demo import run_demo

    run_demo(home, seed, small, Console())


def train(
    lake: Annotated[Path, typer.Option(help="Lake directory, as `rehearsal ingest` made it.")],
    world: Annotated[Path, typer.Option(help="World directory, as `rehearsal world fit` made it.")],
    out: Annotated[Path, typer.Option(help="Where clone, judge, candidate and verdict go.")],
    base: Annotated[
        str, typer.Option(help="Base model; the one that the world stands on.", envvar="REHEARSAL_BASE")
    ] = "rehearsal-tiny",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps at most.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Scenarios, rollouts in the world, RULER, GRPO: a candidate, and whether it passes the gate."""
    from dagster_project.loop.passes import Loop
    from dagster_project.loop.progress import bars
    from dagster_project.loop.settings import Settings

    chosen: dict[str, Any] = {"train": {"steps": steps}} if steps else {}
    settings = Settings(home=out, lake_dir=lake.absolute(), world_dir=world.absolute(), base=base, seed=seed, **chosen)
    settings.save()
    console = Console()
    with bars(console):
        verdict = Loop(settings).gate().facts
    mark = "[bold green]promoted[/]" if verdict["promoted"] else "[bold]not promoted[/]"
    console.print(f"{verdict['version']}: {mark}; {verdict['why']}")


def evaluate(
    home: HomeOption = HOME,
    environment: Annotated[str, typer.Option(help="The real environment, 'package.module:Class'.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures.")] = False,
) -> None:
    """Clone and candidate in the real environment, the same starts and seeds for both."""
    from dagster_project.loop.passes import Loop
    from dagster_project.loop.progress import bars
    from dagster_project.loop.settings import Settings
    from dagster_project.report.terminal import print_success

    chosen: dict[str, Any] = {"environment": environment} if environment else {}
    with bars(Console(stderr=True)):
        found = Loop(Settings(home=home, **chosen)).evaluation().facts
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_success(found["before"], found["after"], (found["low"], found["high"]), found["episodes"])


def promote(
    version: Annotated[str, typer.Argument(help="A stored version, such as policy-1a2b3c4d5e6f.")],
    home: HomeOption = HOME,
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "promoted by hand",
) -> None:
    """Let a stored adapter serve from now on, whatever the gate said of it."""
    from training.policy.registry import Registry

    serving = Registry(home / "registry").promote(version, why)
    Console().print(f"serving {serving.name} from {serving.path}")


def rollback(
    home: HomeOption = HOME, why: Annotated[str, typer.Option(help="Kept in the history.")] = "rolled back by hand"
) -> None:
    """Let the adapter before the champion serve again."""
    from training.policy.registry import Registry

    serving = Registry(home / "registry").rollback(why)
    Console().print(f"serving {serving.name} from {serving.path}")


def report(
    home: HomeOption = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """What the last pass through the loop achieved."""
    from dagster_project.report.terminal import print_report

    print_report(home, as_json)


def doctor(
    home: HomeOption = HOME,
    base: Annotated[str, typer.Option(help="Base model to look for.")] = "rehearsal-tiny",
) -> None:
    """Whether this machine has what the loop needs."""
    from dagster_project.cli.doctor import examine

    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}
    grid = Table.grid(padding=(0, 2))
    findings = examine(base, home)
    for finding in findings:
        grid.add_row(marks[finding.state], finding.subject, finding.text)
    Console().print(grid)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
