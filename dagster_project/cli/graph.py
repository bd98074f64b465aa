"""Runs the asset graph in this process, up to a given stage. `rehearsal run` and `rehearsal demo` use it.

A finished stage is recorded on disk, so a run after a kill continues with the first unfinished stage.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from rich.console import Console

from dagster_project.loop import passes
from dagster_project.loop.memory import watched
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import write_json
from dagster_project.report.contents import CLOCK
from dagster_project.report.terminal import print_report
from ingest.errors import UserError
from training.progress import bars

PROJECT = Path(__file__).parents[1]
STAGES = {**passes.STAGES, "report": "report/page"}
"""The stages in their order, each with its Dagster asset."""


PROGRESS = "progress.log"
"""File in the home directory with the progress of all its runs, line by line."""


@contextmanager
def running(home: Path, console: Console) -> Iterator[None]:
    """Show progress and measure time and memory while the body runs."""
    home.mkdir(parents=True, exist_ok=True)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a script's background job: Dagster would ignore SIGTERM too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with clocked(home), watched(home), bars(console, home / PROGRESS):
        yield


@contextmanager
def clocked(home: Path) -> Iterator[None]:
    """Add the duration of the body to the home's total. The first run adds the installation time from `make demo`."""
    path, began = home / CLOCK, time.time()
    try:
        before = float(json.loads(path.read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        before = float(os.environ.get("REHEARSAL_INSTALL_SECONDS") or 0.0)
    write_json(path, {"seconds": before, "since": began, "process": os.getpid()})
    try:
        yield
    finally:
        write_json(path, {"seconds": before + time.time() - began})


def materialise(settings: Settings, until: str = "report") -> None:
    """Materialise every stage up to `until`, as a run in Dagster's history. Raises the UserError of a failed stage."""
    history = _dagster_home(settings)
    history.mkdir(parents=True, exist_ok=True)
    if not (history / "dagster.yaml").exists():
        shutil.copy(PROJECT / "dagster.yaml", history)
    os.environ["REHEARSAL_HOME"] = str(settings.home.absolute())
    _override_environment(settings)
    from dagster_project.definitions import defs
    from dagster_project.defs.runs import end_dead_runs

    definitions = defs()
    with dg.DagsterInstance.get() as instance:
        end_dead_runs(instance, settings.home)
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},  # bars() prints the progress
            instance=instance, raise_on_error=False, tags={"rehearsal/until": until},
            asset_selection=sorted(assets(definitions, until)),
        )  # fmt: skip
    if not result.success:
        _explain(result)


def _override_environment(settings: Settings) -> None:
    """Make the graph's resource use `settings`. It reads settings.json, where `settings` are saved, and REHEARSAL_*.

    REHEARSAL_* has priority over the file, so variables that a command-line option overrides are removed from this
    process.
    """
    found = Settings(home=settings.home)
    for field in type(settings).model_fields:
        if getattr(found, field) != getattr(settings, field):
            name = f"REHEARSAL_{field}".upper()
            for variable in [v for v in os.environ if v.upper() == name or v.upper().startswith(f"{name}__")]:
                del os.environ[variable]


def assets(definitions: dg.Definitions, until: str) -> set[dg.AssetKey]:
    """The keys of the assets of all stages up to `until`."""
    names = list(STAGES)
    ends = [dg.AssetKey(STAGES[name].split("/")) for name in names[: names.index(until) + 1]]
    graph = definitions.resolve_asset_graph()
    wanted = dg.AssetSelection.assets(*ends).upstream().required_multi_asset_neighbors()
    return set(wanted.resolve(graph)) & graph.executable_asset_keys


def _dagster_home(settings: Settings) -> Path:
    """Dagster's home: DAGSTER_HOME if it is set, else `dagster` in the home directory."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.home / "dagster").absolute()
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _explain(result: dg.ExecuteInProcessResult) -> None:
    """Raise the run's error: a UserError with its own message, anything else as RuntimeError with its traceback."""
    for event in result.filter_events(lambda e: e.is_failure and e.is_step_event):
        error = event.event_specific_data.error  # type: ignore[union-attr]
        cause = error
        if error is not None and error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
            raise KeyboardInterrupt
        while cause is not None and cause.cls_name != "UserError":
            cause = cause.cause
        if cause is not None:
            raise UserError(cause.message.split(": ", 1)[-1].strip())
        raise RuntimeError(f"{event.step_key} failed: {error.to_string() if error else 'unknown'}")
    raise RuntimeError("the run failed; see Dagster's run history")


def print_result(settings: Settings, until: str, console: Console) -> None:
    """Print the result and how to open the graph."""
    home = settings.home
    if until == "report":
        print_report(home)
    else:
        console.print(f"{home}: every stage up to {until} is finished", soft_wrap=True)
    if (PROJECT.parent / "Makefile").exists():  # a checkout
        how = f"REHEARSAL_HOME={home} make dev"
    else:
        history = os.environ["DAGSTER_HOME"]
        how = f"REHEARSAL_HOME={home} DAGSTER_HOME={history} dagster dev -m dagster_project.definitions"
    console.print(f"to see the graph and its metadata: [bold]{how}[/], then http://127.0.0.1:3000", soft_wrap=True)
