"""`rehearsal demo`: starts the receiver, runs an example agent, then runs the same stages as `rehearsal run`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from dagster_project.cli.graph import materialise, print_result, running
from dagster_project.loop.settings import SAVED, Settings, keep_settings, merged, read_settings
from dagster_project.loop.stages import read_json, write_json
from ingest.atomic import write_text
from ingest.errors import UserError
from ingest.lake import Lake
from ingest.privacy.settings import FILE as SETTINGS_FILE
from training.progress import track

CONVERSATIONS = 6000
CARD_CALLS = 1200
EXAMPLES = "rehearsal_examples" if find_spec("rehearsal_examples") else "examples"
"""The package of the example agents. The wheel installs `examples` as `rehearsal_examples`, to avoid a name clash."""
EXAMPLE = "support_desk"
"""The default example. A demo.json without an example was written by a version that had only this one."""
ENVIRONMENTS = {
    "support_desk": f"{EXAMPLES}.support_desk.environment:SupportDesk",
    "energy_service": f"{EXAMPLES}.energy_service.environment:EnergyService",
}
"""The real environment of each example; the names are those of loop_commands.Example."""
ENVIRONMENT = ENVIRONMENTS[EXAMPLE]
MADE = "demo.json"
"""File in the home directory that records which demo (example, seed, size) created it."""

SMALL: dict[str, Any] = {
    "world": {"max_tokens": 50_000, "bias_calls": 40, "holes": 8},
    "card_calls": 60,
    "card": {"model_calls": 20, "base_calls": 20, "holes": 8, "user_turns": 20},
    "clone": {"max_tokens": 40_000, "evaluations": 2},
    "head_start": {"fit": {"max_tokens": 10_000, "evaluations": 1}},
    "judge": {"fit": {"max_tokens": 25_000, "evaluations": 2}},
    "train": {"steps": 2, "groups": 3, "group_size": 3, "held_out": 4, "evaluate_every": 1},
    "gate": {"scenarios": 8, "min_slice": 3},
    "evaluation": {"episodes": 12},
}
"""Settings of `--small`: the same stages in about a minute."""


def run_demo(
    home: Path,
    seed: int | None,
    small: bool,
    console: Console,
    file: Path | None = None,
    conversations: int | None = None,
    example: str | None = None,
) -> None:
    """Run the whole demo. `file` holds settings; `conversations` is the size of the traffic. `example` is one of
    ENVIRONMENTS; None means the home's, or EXAMPLE in a new home.

    Raises UserError if the home holds other work or a stage cannot run.
    """
    settings, count = _settings(home, seed, small, file, conversations, example)
    with running(home, console):
        _traffic(settings, count, _made(home)["example"])
        materialise(settings)
    print_result(settings, "report", console)


def _made(home: Path) -> dict[str, Any]:
    """What demo.json records; empty if no demo has created the home."""
    before = read_json(home / MADE)
    return {"example": EXAMPLE, **before} if before else {}


def _settings(
    home: Path,
    seed: int | None,
    small: bool,
    file: Path | None = None,
    conversations: int | None = None,
    example: str | None = None,
) -> tuple[Settings, int]:
    """The demo's settings, and its number of conversations. `file`, settings.json and REHEARSAL_* override the presets.

    Raises UserError if the home directory holds other work.
    """
    before = _made(home)
    earlier: dict[str, Any] = {"example": EXAMPLE, "conversations": 240 if small else CONVERSATIONS, **before}
    example = example or earlier["example"]
    given = read_settings(file, home) if file is not None else {}
    if not before:
        if (home / "lake").exists() or any(home.rglob("stage.json")):
            raise UserError(f"{home} was not created by a demo; give another --home, or remove it")
        presets = {"environment": ENVIRONMENTS[example], "card_calls": CARD_CALLS, **(SMALL if small else {})}
        Settings(home=home)  # validates settings.json before anything is written
        keep_settings(home, merged(presets, read_json(home / SAVED) or {}))
    saved = read_json(home / SAVED)
    if given:
        keep_settings(home, given)
    settings = Settings(home=home, **({} if seed is None else {"seed": seed}))
    made: dict[str, Any] = {
        "example": example,
        "conversations": conversations or earlier["conversations"],
        "seed": settings.seed,
        "small": small,
    }
    if before and earlier != made:
        if given:
            write_json(home / SAVED, saved or {})
        raise UserError(f"{home} was created by another demo ({before}); give another --home, or remove it")
    settings.save()
    write_json(home / MADE, made)
    return settings, made["conversations"]


# ----- traffic of the example agent


def _traffic(settings: Settings, conversations: int, example: str = EXAMPLE) -> None:
    """Start the receiver and run the example's agent. Returns after the receiver has acknowledged every span."""
    done = settings.home / "production.json"
    if done.exists() and json.loads(done.read_text())["conversations"] >= conversations:
        return
    report = track("running the example agent")
    with _receiver(settings.lake) as endpoint:
        import_module(f"{EXAMPLES}.{example}.production").run_production(
            endpoint,
            conversations,
            settings.seed + 1,
            lambda finished, total: report(finished, total, "conversations sent over OTLP"),
            done,
        )


def _without_privacy(lake: Lake) -> None:
    """Switch surrogates off. The demo's customers are simulated, so its traces hold no personal data."""
    path = lake.path / SETTINGS_FILE
    if not path.exists():
        write_text(path, "# Simulated customers. For real ones leave this file out: docs/privacy.md\nenabled = false\n")


@contextmanager
def _receiver(lake: Path) -> Iterator[str]:
    """Run `rehearsal receive` in a subprocess on a free port. Yields the endpoint's URL."""
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
