"""`rehearsal demo`: the receiver, the agent at work, and the whole graph through Dagster, in one process tree.

Every stage remembers that it is finished, so a demo that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
from rich.console import Console

from dagster_project.loop.memory import watched
from dagster_project.loop.progress import bars, track
from dagster_project.loop.settings import SAVED, Settings
from dagster_project.loop.stages import write_json
from dagster_project.report.story import CLOCK
from dagster_project.report.terminal import print_report
from examples.support_desk.production import run_production
from ingest.errors import UserError
from ingest.lake import Lake
from ingest.privacy.settings import FILE as SETTINGS_FILE

CONVERSATIONS = 6000
CARD_CALLS = 1200
ENVIRONMENT = "examples.support_desk.environment:SupportDesk"
MADE = "demo.json"
"""In the home directory: which demo made it."""

SMALL: dict[str, Any] = {
    "world": {"max_tokens": 200_000},
    "card_calls": 60,
    "clone": {"max_tokens": 150_000, "evaluations": 2},
    "judge": {"fit": {"max_tokens": 70_000, "evaluations": 2}},
    "train": {"steps": 2, "groups": 3, "group_size": 3, "held_out": 4, "evaluate_every": 1},
    "gate": {"scenarios": 8, "min_slice": 3},
    "evaluation": {"episodes": 12},
}
"""The same path in about a minute."""


def run_demo(home: Path, seed: int, small: bool, console: Console) -> None:
    """All of it. Raises UserError where something is in the way."""
    settings = _settings(home, seed, small)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a script's background job: Dagster would ignore SIGTERM too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with _clocked(home), watched(home):
        with bars(console):
            _traffic(settings, 240 if small else CONVERSATIONS)
            _materialise(settings)
    _tell(home, console)


def _settings(home: Path, seed: int, small: bool) -> Settings:
    """This demo's settings. A home that holds another demo's work is not mixed with it."""
    wanted = {"environment": ENVIRONMENT, "seed": seed, "card_calls": CARD_CALLS, **(SMALL if small else {})}
    made = {"seed": seed, "small": small}
    before = json.loads((home / MADE).read_text()) if (home / MADE).exists() else None
    if before is not None and before != made or before is None and (home / SAVED).exists():
        what = f"another demo ({before})" if before else "something else than a demo"
        raise UserError(f"{home} holds the work of {what}; give another --home, or remove it")
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / MADE, made)
    settings = Settings(home=home, **wanted)
    settings.save()
    return settings


@contextmanager
def _clocked(home: Path) -> Iterator[None]:
    """Adds up how long the demo ran, over as many runs as it takes; `make demo` passes on how long it installed."""
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


# ----- the agent at work


def _traffic(settings: Settings, conversations: int) -> None:
    """Start the receiver and let the agent work; every span is confirmed by the receiver before this returns."""
    done = settings.home / "production.json"
    if done.exists() and json.loads(done.read_text())["conversations"] >= conversations:
        return
    report = track("the agent at work")
    with _receiver(settings.lake) as endpoint:
        run_production(
            endpoint,
            conversations,
            settings.seed + 1,
            lambda finished, total: report(finished, total, "spans over OTLP, on disk before the answer"),
            done,
        )


def _without_privacy(lake: Lake) -> None:
    """The demo's customers are drawn, nobody's data is in its traces; the desk is learned as it is."""
    path = lake.path / SETTINGS_FILE
    if not path.exists():
        path.write_text("# Simulated customers. For real ones leave this file out: docs/privacy.md\nenabled = false\n")


@contextmanager
def _receiver(lake: Path) -> Iterator[str]:
    """`rehearsal receive` as a process of its own, on a free port."""
    _without_privacy(Lake.create(lake))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    doors = ["--http", str(port), "--no-grpc"]
    command = [sys.executable, "-m", "dagster_project.cli", "receive", "--lake", str(lake), *doors]
    log = lake.parent / "receiver.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait(endpoint, process, log)
            yield endpoint
        finally:
            process.terminate()
            process.wait(30)


def _wait(endpoint: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise UserError(f"the receiver stopped ({process.returncode}); see {log}")
        try:
            httpx.post(f"{endpoint}/v1/traces", json={"resourceSpans": []}, timeout=5).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise UserError(f"the receiver did not answer within {seconds:.0f} s; see {log}")


# ----- the graph


def _materialise(settings: Settings) -> None:
    """The whole graph in this process, with a run in the history that `make dev` shows."""
    history = _dagster_home(settings)
    history.mkdir(parents=True, exist_ok=True)
    if not (history / "dagster.yaml").exists():
        shutil.copy(Path(__file__).parents[1] / "dagster.yaml", history)
    os.environ["REHEARSAL_HOME"] = str(settings.home.absolute())
    from dagster_project.definitions import defs

    definitions = defs()
    with dg.DagsterInstance.get() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},  # the bars tell it better
            instance=instance, raise_on_error=False, tags={"rehearsal/demo": "true"},
        )  # fmt: skip
    if not result.success:
        _explain(result, settings)


def _dagster_home(settings: Settings) -> Path:
    """Where Dagster keeps its history: DAGSTER_HOME if it says anything, else beside the demo's home."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.home.parent / "dagster").absolute()
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _explain(result: dg.ExecuteInProcessResult, settings: Settings) -> None:
    """Say in one line why the run failed: a user's error as it is, anything else with where to read more."""
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
    raise RuntimeError("the run failed; see Dagster's history with `make dev`")


def _tell(home: Path, console: Console) -> None:
    print_report(home)
    console.print("the graph and all its metadata: [bold]make dev[/], then http://127.0.0.1:3000")
