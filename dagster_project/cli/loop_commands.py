"""The commands for the whole loop: demo, run, train, offline, rollouts, evaluate, promote, rollback, report, settings,
doctor.

An option that is not given is None. A default here would override settings.json and REHEARSAL_*.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dagster_project.loop.settings import Settings

HOME = Path("artifacts/home")  # equal to settings.HOME; importing settings.py would import pydantic
DEMO = Path("artifacts/demo")
"""The demo's default home for the default example; that of another one has the example's name appended."""
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="REHEARSAL_HOME", help="Home directory: lake, stages, adapters, reports.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    rollouts = typer.Typer(help="Stored practice episodes.", no_args_is_help=True)
    rollouts.command("show")(show_rollouts)
    app.add_typer(rollouts, name="rollouts")
    app.command("demo")(demo)
    app.command("run")(run)
    app.command("train")(train)
    app.command("offline")(offline)
    app.command("evaluate")(evaluate)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("report")(report)
    app.command("settings")(list_settings)
    app.command("doctor")(doctor)


class Stage(StrEnum):
    """The stages, as values of `--until`."""

    data = "data"
    world = "world"
    card = "card"
    judge = "judge"
    clone = "clone"
    candidate = "candidate"
    gate = "gate"
    evaluation = "evaluation"
    report = "report"


BaseOption = Annotated[
    str | None,
    typer.Option(
        help="Base model: shipped name, directory or Hugging Face id. Default: REHEARSAL_BASE, settings.json, "
        "rehearsal-tiny."
    ),
]
SeedOption = Annotated[int | None, typer.Option(help="Random seed. Default: REHEARSAL_SEED, settings.json, 0.")]
FileOption = Annotated[
    Path | None, typer.Option("--settings", help="YAML or JSON file with settings; they are kept in the home.")
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        help="Real environment for evaluation, 'package.module:Class' (docs/environment.md). Default: "
        "REHEARSAL_ENVIRONMENT, settings.json."
    ),
]


class Example(StrEnum):
    """The example agents, as values of `--example`."""

    support_desk = "support_desk"
    energy_service = "energy_service"


def demo(
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="REHEARSAL_HOME",
            help="Home directory: lake, stages, adapters, reports. Default: artifacts/demo; with --example "
            "energy_service: artifacts/demo-energy-service.",
        ),
    ] = None,
    example: Annotated[
        Example | None, typer.Option(help="The example agent. Default: that of the home, support_desk.")
    ] = None,
    seed: SeedOption = None,
    small: Annotated[
        bool, typer.Option("--small", help="A quick check in about a minute; its figures mean nothing.")
    ] = False,
    file: FileOption = None,
    conversations: Annotated[
        int | None, typer.Option(min=1, help="Conversations of the example agent. Default: 6000; small: 240.")
    ] = None,
) -> None:
    """Run the whole loop on an example agent, and write a report."""
    from dagster_project.cli.demo import run_demo

    run_demo(home or _demo_home(example), seed, small, Console(), file, conversations, example)


def _demo_home(example: Example | None) -> Path:
    """The default home of a demo: one for each example."""
    if example is None or example is Example.support_desk:
        return DEMO
    return DEMO.with_name(f"{DEMO.name}-{example.replace('_', '-')}")


def run(
    home: HomeOption = HOME,
    lake: Annotated[
        Path | None, typer.Option(help="Lake of your traces. Default: the last one used, or `lake` in the home.")
    ] = None,
    until: Annotated[Stage, typer.Option(help="The last stage to run.")] = Stage.report,
    base: BaseOption = None,
    environment: EnvironmentOption = None,
    seed: SeedOption = None,
    file: FileOption = None,
) -> None:
    """Run the whole loop on your own traces, and write a report. A stopped run continues where it stopped."""
    from dagster_project.cli.graph import materialise, print_result, running
    from dagster_project.loop import preflight
    from dagster_project.loop.settings import keep_settings, read_settings

    if file is not None:
        keep_settings(home, read_settings(file, home))
    settings = _settings(home, lake=lake, base=base, environment=environment, seed=seed)
    preflight.check(settings, environment=until in (Stage.evaluation, Stage.report))
    settings.save()
    console = Console()
    with running(home, console):
        materialise(settings, until.value)
    print_result(settings, until.value, console)


def train(
    lake: Annotated[Path, typer.Option(help="Lake directory, from `rehearsal ingest`.")],
    world: Annotated[Path, typer.Option(help="World directory, from `rehearsal world fit`.")],
    out: Annotated[Path, typer.Option(help="Home directory for clone, judge, candidate and gate verdict.")],
    base: Annotated[
        str | None, typer.Option(help="Base model. Default: REHEARSAL_BASE, settings.json, the world's base.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop training after this time, between two steps. The result is partial.")
    ] = None,
    seed: SeedOption = None,
) -> None:
    """Train a candidate in a given world (rollouts, RULER, GRPO) and compare it with the champion at the gate."""
    from dagster_project.loop import preflight
    from dagster_project.loop.passes import Loop
    from training.learning.deadline import Deadline, never
    from training.progress import bars
    from worldmodel.artifact import read_manifest

    settings = _settings(
        out, lake=lake, world_dir=world.absolute(), base=base, seed=seed,
        train={"steps": steps} if steps else None,
    )  # fmt: skip
    if "base" not in settings.model_fields_set:
        settings = settings.model_copy(update={"base": read_manifest(world)["base"]})
    preflight.check(settings, environment=False, journal=False)
    # Only this command uses this world. The nightly job in the same home fits a world from the newest data.
    settings.save(leave_out=["world_dir"])
    console = Console()
    loop = Loop(settings, stop=never if max_minutes is None else Deadline.after(max_minutes))
    with bars(console):
        verdict = loop.run_until("gate").facts
    for part in (loop.read(stage) for stage in ("judge", "clone", "candidate")):
        if part.facts.get("partial"):
            what = f"{part.directory.parent.name} {part.facts['partial']}"
            console.print(f"[bold]partial[/]: {what}; run the command again to continue")
    mark = "[bold green]promoted[/]" if verdict["promoted"] else "[bold]not promoted[/]"
    console.print(f"{verdict['version']}: {mark}; {verdict['why']}")
    if world.absolute() == (out / "world").absolute():
        console.print(
            f"Note: `rehearsal run` and the nightly job write their own world to {world}. Move your world to "
            "another directory before you start them in this home.", soft_wrap=True,
        )  # fmt: skip


def offline(
    lake: Annotated[Path, typer.Option(help="Lake directory, from `rehearsal ingest`.")],
    out: Annotated[Path, typer.Option(help="Home directory for the clone and the result.")],
    method: Annotated[
        str | None,
        typer.Option(help="asymre, kto, reward_weighted_sft or iterative_ppo. Default: settings.json, asymre."),
    ] = None,
    base: BaseOption = None,
    seed: SeedOption = None,
) -> None:
    """Retrain the champion, or the clone, on recorded conversations and their outcomes, without a world. The agent is
    cloned first where that is not done yet."""
    from dagster_project.loop import preflight
    from dagster_project.loop.passes import Loop
    from training.progress import bars

    chosen = {"loss": {"method": method}} if method else None
    settings = _settings(out, lake=lake, base=base, seed=seed, offline=chosen)
    preflight.check(settings, environment=False, journal=False)
    settings.save()
    console = Console()
    loop = Loop(settings)
    with bars(console):
        loop.data()
        loop.check_data(["data", "clone"])
        loop.clone()
        done = loop.offline()
    facts = done.facts
    console.print(f"{facts['method']} on {facts['conversations']} conversations: {done.directory / 'adapter'}")


def show_rollouts(
    home: HomeOption = HOME,
    step: Annotated[int | None, typer.Option(help="Only episodes of this step.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only episodes of this scenario.")] = None,
    most: Annotated[int, typer.Option(help="Maximum number of episodes to print.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the stored records, one JSON per line.")] = False,
) -> None:
    """Print practice episodes: messages, score, the judge's reason, the provenance of each answer."""
    from itertools import islice

    from training.policy.episodes import as_text, read_episodes

    for record in islice(read_episodes(home / "candidate" / "episodes", step, scenario), most):
        typer.echo(json.dumps(record) if as_json else as_text(record) + "\n")


def evaluate(
    home: HomeOption = HOME,
    environment: EnvironmentOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures.")] = False,
) -> None:
    """Measure clone and candidate in the real environment, with the same start states and seeds."""
    from dagster_project.loop.passes import Loop
    from dagster_project.report.terminal import print_success
    from training.policy.evaluate import check_environment
    from training.progress import bars

    settings = _settings(home, environment=environment)
    if settings.environment:
        check_environment(settings.environment, settings.seed)
    with bars(Console(stderr=True)):
        found = Loop(settings).evaluation().facts
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_success(found["before"], found["after"], (found["low"], found["high"]), found["episodes"])
        if broken := max(found["faults"]["before"], found["faults"]["after"]):
            Console(soft_wrap=True).print(
                f"the environment raised an error in {broken} or more other episodes; the first: "
                f"{found['faults']['first']}", markup=False,
            )  # fmt: skip


def _settings(home: Path, lake: Path | None = None, **given: Any) -> Settings:
    """A home's settings with the given command-line options; an option that is None was not given."""
    from dagster_project.loop.settings import Settings

    said = {name: value for name, value in given.items() if value is not None}
    if lake is not None:  # the home's own lake is stored without a path, so that the home can be moved
        said["lake_dir"] = None if lake.absolute() == (home / "lake").absolute() else lake.absolute()
    return Settings(home=home, **said)


def promote(
    version: Annotated[str, typer.Argument(help="A stored version, such as policy-1a2b3c4d5e6f.")],
    home: HomeOption = HOME,
    why: Annotated[str, typer.Option(help="Reason, stored in the history.")] = "promoted by hand",
) -> None:
    """Make a stored adapter the champion, whatever the gate decided."""
    from training.policy.registry import Registry

    serving = Registry(home / "registry").promote(version, why)
    Console().print(f"serving {serving.name} from {serving.path}")


def rollback(
    home: HomeOption = HOME,
    why: Annotated[str, typer.Option(help="Reason, stored in the history.")] = "rolled back by hand",
) -> None:
    """Make the previous champion the champion again."""
    from training.policy.registry import Registry

    serving = Registry(home / "registry").rollback(why)
    Console().print(f"serving {serving.name} from {serving.path}")


def report(
    home: HomeOption = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """Print the result of the last run."""
    from dagster_project.report.terminal import print_report

    print_report(home, as_json)


def list_settings(
    beginning: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Only settings whose names begin so: train, train.loss, ...")
    ] = "",
    home: HomeOption = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """List the settings: value, default if it differs, and meaning."""
    from dagster_project.cli.settings import print_settings

    print_settings(_settings(home), beginning, as_json, Console())


def doctor(
    home: HomeOption = HOME,
    base: BaseOption = None,
) -> None:
    """Check whether this machine meets the requirements."""
    from dagster_project.cli.doctor import examine

    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}
    grid = Table.grid(padding=(0, 2))
    findings = examine(_settings(home, base=base).base, home)
    for finding in findings:
        grid.add_row(marks[finding.state], finding.subject, finding.text)
    Console().print(grid)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
