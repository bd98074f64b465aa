"""The commands `rehearsal world`: fit a world, show its rules, and measure its fidelity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

world = typer.Typer(help="Fit a world on a lake, and measure it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the `world` commands to the command line."""
    app.add_typer(world, name="world")


@world.command()
def fit(
    lake: Annotated[Path, typer.Option(help="Lake directory, as `rehearsal ingest` made it.")],
    out: Annotated[Path, typer.Option(help="Directory of the new world.")],
    base: Annotated[
        str, typer.Option(envvar="REHEARSAL_BASE", help="Base model: shipped name, directory or Hugging Face id.")
    ] = "rehearsal-tiny",
    tokens: Annotated[
        int, typer.Option(envvar="REHEARSAL_WORLD__MAX_TOKENS", help="Training budget of both adapters, in tokens.")
    ] = 1_900_000,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time; the world is then partial.")] = None,
    seed: Annotated[
        int, typer.Option(envvar="REHEARSAL_SEED", help="Seed of the drawn rows and of the adapters.")
    ] = 0,
) -> None:
    """Train the world and its users on a lake's conversations."""
    from ingest.lake import Lake
    from training.learning.deadline import Deadline, never
    from training.progress import FitReport, bars, fit_report
    from worldmodel.fit import TITLES, FitSettings, fit_world

    opened = Lake.open(lake)
    settings = FitSettings(base=base, max_tokens=tokens, seed=seed)
    reports: dict[str, FitReport] = {}

    def progress(part: str, done: float, metrics: Mapping[str, float]) -> None:
        if part not in reports:
            reports[part] = fit_report(TITLES[part])
        reports[part](done, metrics)

    with bars(Console(stderr=True)):
        stop = never if max_minutes is None else Deadline.after(max_minutes)
        manifest = fit_world(opened.conversations(), opened.transitions(), out, settings, progress, stop)
    if manifest["partial"]:
        Console(stderr=True).print(f"[bold]partial[/]: {manifest['partial']}; run the command again to go on")
    counts = manifest["counts"]
    Console(stderr=True).print(
        f"world {manifest['id']} in {out}: {counts['tools']} tools, from {counts['train_conversations']} "
        f"conversations, {counts['test_conversations']} held out. Next: rehearsal world card --world {out}"
    )


@world.command()
def rules(
    world: Annotated[Path, typer.Option(help="World directory, as `rehearsal world fit` made it.")],
    tool: Annotated[str | None, typer.Option(help="Only the rules of this tool.")] = None,
    examples: Annotated[int, typer.Option(help="Recorded transitions to show for each answer of a tool.")] = 1,
) -> None:
    """Print what the traces determine, in plain sentences, with the counts and example transitions."""
    from ingest.errors import UserError
    from worldmodel.artifact import read_manifest, read_rules
    from worldmodel.sentences import describe_rules

    read_manifest(world)
    found = read_rules(world).rules
    if tool is not None and tool not in found.tools:
        raise UserError(f"no rules for the tool {tool!r}; this world knows {', '.join(found.tools)}")
    for line in describe_rules(found, tool):
        typer.echo(line)
    for name, of_tool in found.tools.items():
        if tool is not None and name == tool and examples:
            for label, form in of_tool.forms.items():
                typer.echo(f"  example of {label}: {form.call} -> {form.example}")


@world.command()
def card(
    world: Annotated[Path, typer.Option(help="World directory, as `rehearsal world fit` made it.")],
    lake: Annotated[Path | None, typer.Option(help="Measure on this lake. Default: the held-out part.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
    most: Annotated[int | None, typer.Option(help="Use at most this many held-out calls.")] = None,
    base: Annotated[bool, typer.Option(help="Also measure the base model without its adapter.")] = True,
) -> None:
    """Measure a world on held-out conversations, per tool, with baselines."""
    from training.progress import bars, track
    from worldmodel.artifact import read_manifest
    from worldmodel.card.make import make_card, table

    read_manifest(world)  # a missing world is an error before the first progress line
    with bars(Console(stderr=True)):
        report = track("measuring the fidelity card")
        made = make_card(
            world, lake, most=most, with_base=base, on_progress=lambda done, total: report(done, total, "")
        )
    if as_json:
        typer.echo(json.dumps(made, indent=1))
    else:
        table(made, Console())
