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
    rollouts = typer.Typer(help="Practised episodes, as they were stored.", no_args_is_help=True)
    rollouts.command("show")(show_rollouts)
    app.add_typer(rollouts, name="rollouts")
    app.command("offline")(offline)
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
    max_minutes: Annotated[float | None, typer.Option(help="Stop between two steps after so long; partial.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Scenarios, rollouts in the world, RULER, GRPO: a candidate, and whether it passes the gate."""
    from dagster_project.loop.passes import Loop
    from dagster_project.loop.progress import bars
    from dagster_project.loop.settings import Settings
    from training.learning.deadline import Deadline, never

    chosen: dict[str, Any] = {"train": {"steps": steps}} if steps else {}
    settings = Settings(home=out, lake_dir=lake.absolute(), world_dir=world.absolute(), base=base, seed=seed, **chosen)
    settings.save()
    console = Console()
    loop = Loop(settings, stop=never if max_minutes is None else Deadline.after(max_minutes))
    with bars(console):
        verdict, parts = loop.gate().facts, [loop.clone(), loop.candidate()]
        if settings.ruler.base_url is None:
            parts.append(loop.judge())
    for part in parts:
        if part.facts.get("partial"):
            what = f"{part.directory.name} {part.facts['partial']}"
            console.print(f"[bold]partial[/]: {what}; run the command again to go on")
    mark = "[bold green]promoted[/]" if verdict["promoted"] else "[bold]not promoted[/]"
    console.print(f"{verdict['version']}: {mark}; {verdict['why']}")


def offline(
    lake: Annotated[Path, typer.Option(help="Lake directory, as `rehearsal ingest` made it.")],
    out: Annotated[Path, typer.Option(help="Where clone and retrained adapter go.")],
    method: Annotated[str, typer.Option(help="asymre, kto or reward_weighted_sft.")] = "asymre",
    base: Annotated[str, typer.Option(help="Base model.")] = "rehearsal-tiny",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Retrain on recorded conversations and how they ended, without a world."""
    from dagster_project.loop.passes import Loop
    from dagster_project.loop.progress import bars
    from dagster_project.loop.settings import Settings

    chosen: dict[str, Any] = {"offline": {"loss": {"method": method}}}
    settings = Settings(home=out, lake_dir=lake.absolute(), base=base, seed=seed, **chosen)
    settings.save()
    console = Console()
    with bars(console):
        done = Loop(settings).offline()
    facts = done.facts
    console.print(f"{facts['method']} on {facts['conversations']} conversations: {done.directory / 'adapter'}")


def show_rollouts(
    home: HomeOption = HOME,
    step: Annotated[int | None, typer.Option(help="Only this step's.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario's.")] = None,
    most: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="All that is stored, one episode a line.")] = False,
) -> None:
    """What the policy did in practice: messages, score, the judge's reason, where answers came from."""
    from itertools import islice

    from training.policy.episodes import as_text, read_episodes

    for record in islice(read_episodes(home / "candidate" / "episodes", step, scenario), most):
        typer.echo(json.dumps(record) if as_json else as_text(record) + "\n")


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
