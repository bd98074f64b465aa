"""The small demo: receiver, agent, Dagster, real environment, report; killed once and continued."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dagster_project.cli import demo, loop_commands
from ingest.errors import UserError

KEY = "sk-marker-0123456789abcdef"


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Also not after a failure: a demo that goes on takes the cores of all later tests."""
    yield
    while STARTED:
        with suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


def start(home: Path, dagster_home: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    asked = arguments or ("demo", "--small")
    command = [sys.executable, "-m", "dagster_project.cli", *asked, "--home", str(home)]
    environment = os.environ | {"DAGSTER_HOME": str(dagster_home), "COLUMNS": "200", "REHEARSAL_RULER__API_KEY": KEY,
                                "REHEARSAL_PRACTICE_WORKERS": "1"}  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        **more,
    )  # fmt: skip
    STARTED.append(process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has made the path. The test's own timeout is the only limit: machines are busy."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_demo_continues_and_repeats_no_stage(tmp_path: Path) -> None:
    home = tmp_path / "home"
    killed = start(home, tmp_path / "dagster")
    wait_for(home / "clone" / "stage.json", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    told_before, _ = killed.communicate()
    # progress lines in a pipe
    assert "running the example agent: 240/240" in told_before and "cloning the agent: started" in told_before
    before = (home / "clone" / "stage.json").stat().st_mtime_ns
    sent = (home / "production.json").read_text()

    again = start(home, tmp_path / "dagster")
    told, _ = again.communicate()
    assert again.returncode == 0, told
    assert (home / "clone" / "stage.json").stat().st_mtime_ns == before
    assert (home / "production.json").read_text() == sent

    report = json.loads((home / "report.json").read_text())
    assert report["episodes"] == 12 and 0 <= report["success_before"] <= 1 and 0 <= report["success_after"] <= 1
    assert report["success_ci"][0] <= report["success_after"] - report["success_before"] <= report["success_ci"][1]
    assert 0 < report["judge_agreement"] <= 1 and report["minutes"] > 0
    assert {"exact_match", "outcome_f1", "baselines"} <= set(report["world"]["overall"])
    assert report["traffic"]["conversations"] == json.loads(sent)["conversations"] == 240
    page = (home / "report.html").read_text()
    assert "<h1>" in page and not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?http""", page)
    assert "report.html" in told and "make dev" in told


    manifests = {path: path.stat().st_mtime_ns for path in home.rglob("stage.json")}
    finished = start(home, tmp_path / "dagster", "run")  # a demo's home is a home like any other
    told, _ = finished.communicate()
    assert finished.returncode == 0, told
    assert manifests and {path: path.stat().st_mtime_ns for path in home.rglob("stage.json")} == manifests
    assert json.loads((home / "report.json").read_text())["success_after"] == report["success_after"]

    holders = [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not holders, "the judge's key is written down"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_in_the_background_ends_on_sigterm(tmp_path: Path) -> None:
    def as_scripts_do() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    told = start(tmp_path / "home", tmp_path / "dagster", preexec_fn=as_scripts_do)
    wait_for(tmp_path / "home" / "stages" / "clone", told)
    told.terminate()
    said, _ = told.communicate(timeout=60)
    assert told.returncode not in (0, None) and "Traceback" not in said


def test_a_home_of_another_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"seed": 7, "small": True}))
    command = [sys.executable, "-m", "dagster_project.cli", "demo", "--small", "--home", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 2 and answer.stderr.startswith("rehearsal: ")
    assert "'seed': 7" in answer.stderr and len(answer.stderr.splitlines()) == 1


# ----- the examples


def test_each_example_has_an_environment_and_a_production_agent() -> None:
    assert {example.value for example in loop_commands.Example} == set(demo.ENVIRONMENTS)
    for example, environment in demo.ENVIRONMENTS.items():
        module, _, name = environment.partition(":")
        assert getattr(import_module(module), name)().starts(1, 0)
        assert import_module(f"{demo.EXAMPLES}.{example}.production").run_production


@pytest.mark.parametrize(
    ("given", "home"),
    [
        ([], "artifacts/demo"),
        (["--example", "support_desk"], "artifacts/demo"),
        (["--example", "energy_service"], "artifacts/demo-energy-service"),
        (["--example", "energy_service", "--home", "mine"], "mine"),
    ],
)
def test_another_example_has_another_default_home(given: list[str], home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(demo, "run_demo", lambda *arguments: seen.append(arguments))
    app = typer.Typer()
    loop_commands.register(app)
    found = CliRunner().invoke(app, ["demo", *given], env={"REHEARSAL_HOME": None})
    assert found.exit_code == 0, found.output
    ((where, *_, example),) = seen
    assert where == Path(home) and example == (given[1] if given else None)


def test_a_home_keeps_its_example(tmp_path: Path) -> None:
    found = demo._settings(tmp_path, None, small=True, example="energy_service")
    assert found[0].environment == demo.ENVIRONMENTS["energy_service"]
    assert json.loads((tmp_path / demo.MADE).read_text())["example"] == "energy_service"
    assert demo._settings(tmp_path, None, small=True) == found
    with pytest.raises(UserError, match="'example': 'energy_service'"):
        demo._settings(tmp_path, None, small=True, example="support_desk")


def test_a_home_without_a_recorded_example_is_the_support_desk_s(tmp_path: Path) -> None:
    """It was created by a version that had one example only."""
    (tmp_path / demo.MADE).write_text(json.dumps({"conversations": 240, "seed": 0, "small": True}))
    with pytest.raises(UserError, match="another demo"):
        demo._settings(tmp_path, None, small=True, example="energy_service")
    demo._settings(tmp_path, None, small=True, example="support_desk")
    assert json.loads((tmp_path / demo.MADE).read_text())["example"] == "support_desk"
