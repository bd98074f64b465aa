"""Every command in README.md runs as written: the quick ones in the default run, the long ones in the slow tests.

The commands of the page share a directory and run in the order of the page. Long ones get small settings through the
environment.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import conversation_request

from dagster_project.cli import demo
from dagster_project.loop.settings import Settings

ROOT = Path(__file__).parents[2]
LONG = ("run", "demo", "train", "evaluate", "report", "promote", "rollback", "history", "world")
"""Commands that fit models, or that need their results."""
SMALLER = {"world fit": ["--tokens", "50000"], "world card": ["--most", "40"], "demo": ["--small"]}
"""Arguments that make a command small where no setting does."""


def shell_lines(page: str) -> Iterator[str]:
    """The commands of a page's shell blocks (indented or fenced), with continued lines joined."""
    fence, indented, kept = "", False, ""
    for line in page.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line.strip("`").strip() or "text"
            continue
        indented = not fence and line.startswith("    ")
        if not (indented or fence in ("sh", "bash", "shell", "console")):
            continue
        text = kept + line.strip().removeprefix("$ ")
        if text.endswith("\\"):
            kept = text[:-1]
            continue
        kept = ""
        if text and not text.startswith("#"):
            yield text


def words(line: str) -> list[str]:
    """A command's words, without leading variable assignments."""
    found = shlex.split(line, comments=True)
    while found and re.match(r"\w+=", found[0]):
        found.pop(0)
    return found


def is_long(line: str) -> bool:
    found = words(line)
    return found[0] == "rehearsal" and (found[1] in LONG or "spark" in found)


PAGE = (ROOT / "README.md").read_text()
LINES = list(shell_lines(PAGE))
COMMANDS = [line for line in LINES if words(line) and words(line)[0] == "rehearsal"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with traces in it, as the Collector's file exporter writes them."""
    (tmp_path / "traces").mkdir()
    with gzip.open(tmp_path / "traces" / "1.otlp.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(conversation_request(k)) + "\n" for k in range(12))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "rehearsal"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dagster_project.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def surroundings(place: Path, **more: str) -> dict[str, str]:
    python = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": python, "PATH": path, "HF_HUB_OFFLINE": "1", **more}


def run(line: str, place: Path, seconds: float, **more: str) -> None:
    command = ["bash", "-o", "pipefail", "-c", line]
    found = subprocess.run(
        command, cwd=place, env=surroundings(place, **more), capture_output=True, text=True, timeout=seconds
    )
    broken_pipe = 141  # `rehearsal conversations | head`
    assert found.returncode in (0, broken_pipe), f"{line}\n{found.stdout}{found.stderr}"


def receive(line: str, place: Path) -> None:
    """Start the receiver, wait for its first line, stop it. Free ports, because 4318 may be in use."""
    command = ["bash", "-c", f"exec {line.split('#')[0]} --http 0 --no-grpc"]
    log = place / "receiver.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=place, env=surroundings(place), stdout=out, stderr=out)
    try:
        until = time.monotonic() + 120
        while "http" not in log.read_text().lower():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


# ----- the page


def test_commands_are_found_in_a_page() -> None:
    page = "text\n\n    make demo   # all\n    rehearsal sql \\\n      'SELECT 1'\n\n```python\nno()\n```"
    page += "\n```sh\n$ yes\n```\n"
    assert list(shell_lines(page)) == ["make demo   # all", "rehearsal sql 'SELECT 1'", "yes"]
    assert words("A=b rehearsal run --home 'c d'  # e") == ["rehearsal", "run", "--home", "c d"]


def test_the_page_has_commands_of_both_kinds() -> None:
    assert [line for line in COMMANDS if is_long(line)] and [line for line in COMMANDS if not is_long(line)]


@pytest.mark.parametrize("line", [line for line in LINES if words(line)[:1] == ["make"]])
def test_a_make_target_exists(line: str) -> None:
    """The target is not run: the targets are the installation, this suite and the demo."""
    found = subprocess.run(["bash", "-c", line.replace("make", "make --dry-run", 1)], cwd=ROOT, capture_output=True)
    assert found.returncode == 0, found.stderr.decode()


def test_the_environment_is_activated(tmp_path: Path) -> None:
    """The line works in a directory with the environment that `make install` creates there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (line,) = [line for line in LINES if words(line)[:1] == ["."]]
    found = subprocess.run(["sh", "-c", f"{line}\ncommand -v python"], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / ".venv" / "bin" / "python"), found.stderr


def test_exported_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    for line in LINES:
        for word in shlex.split(line, comments=True):
            name, given, value = word.partition("=")
            if given and name.startswith("REHEARSAL_") and name != "REHEARSAL_SINCE":
                found[name] = value
    assert found
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    Settings()  # raises UserError for a name that does not exist and for a value that is none


def test_every_line_is_of_a_tested_kind() -> None:
    """A new kind of command needs a test here."""
    kinds = {words(line)[0] if words(line) else "export" for line in LINES}
    assert kinds <= {"rehearsal", "make", "export", "pip", "."}, kinds


# ----- the commands


@pytest.mark.timeout(900)
def test_the_quick_commands_run(place: Path) -> None:
    run("rehearsal ingest --lake artifacts/mine/lake traces/*.gz", place, 300)  # a page may begin with a receiver
    for line in COMMANDS:
        if is_long(line):
            continue
        receive(line, place) if words(line)[1] == "receive" else run(line, place, 300)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_long_commands_run(place: Path) -> None:
    small = {f"REHEARSAL_{name.upper()}": json.dumps(value) for name, value in demo.SMALL.items()}
    small |= {"REHEARSAL_ENVIRONMENT": demo.ENVIRONMENT, "REHEARSAL_PRACTICE_WORKERS": "1"}
    home = place / "artifacts" / "mine"
    demo._traffic(Settings(home=home), 240)
    run("rehearsal ingest --lake artifacts/mine/lake", place, 300)
    for line in filter(is_long, COMMANDS):
        name = " ".join(words(line)[1:3])
        more = next((extra for start, extra in SMALLER.items() if name.startswith(start)), [])
        run(" ".join([re.sub(r"\s+#.*", "", line), *more]), place, 1200, **small)
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        (place / "page.py").write_text(code)
        run(f"{shlex.quote(sys.executable)} page.py", place, 300)
