"""The command line: a user's error is one line with exit status 2, and `--help` imports nothing heavy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lake_samples
import pytest
import torch

from ingest.lake import Lake
from training.models.lora import save_weights
from training.policy.registry import Registry

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("demo", "run", "train", "offline", "rollouts", "evaluate", "promote", "rollback", "report", "settings"),
    "doctor",
    *("receive", "ingest", "sql", "conversations", "conservation", "world", "renormalise", "compact", "retain"),
    "privacy",
)


def rehearsal(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a subprocess, with pipes instead of a terminal."""
    command = [sys.executable, "-m", "dagster_project.cli", *map(str, arguments)]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=300)


def refused(*arguments: str | Path, **environment: str) -> str:
    """The message of a user's error; asserts that it is one line on stderr with exit status 2."""
    found = rehearsal(*arguments, **environment)
    assert found.returncode == 2, found.stderr
    assert found.stdout == ""
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("rehearsal: "), found.stderr
    return lines[0].removeprefix("rehearsal: ")


# ----- help


def test_help_lists_all_commands() -> None:
    found = rehearsal("--help")
    assert found.returncode == 0 and found.stderr == ""
    listed = re.findall(r"^│ (\w+)  ", found.stdout, re.MULTILINE)
    assert set(listed) == set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    """Heavy imports are what makes `--help` slow; they are asserted without a clock."""
    heavy = ("torch", "transformers", "peft", "dagster", "matplotlib")
    program = f"import sys, dagster_project.cli.main; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert found.stdout.strip() == "[]"


# ----- a closed pipe


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_closed_pipe_is_no_error(tmp_path: Path, rows: int) -> None:
    """`rehearsal sql ... | head`, for output that fits into the buffer of standard output and for larger output."""
    lake = Lake.create(tmp_path / "lake")
    lake_samples.send(lake, *lake_samples.talks(1))
    lake.ingest()
    lake.build_tables()
    command = ["rehearsal", "sql", "--lake", str(lake.path), f"SELECT * FROM range({rows})", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        program = f"import sys; from dagster_project.cli.main import main; sys.argv = {command}; main()"
        surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
        found = subprocess.run(
            [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, env=surroundings
        )
    finally:
        os.close(writer)
    assert (found.returncode, found.stderr) == (0, "")


# ----- errors of the user


def test_a_missing_report(tmp_path: Path) -> None:
    told = refused("report", "--home", tmp_path)
    assert f"{tmp_path} holds no report" in told and "rehearsal demo" in told


def test_a_missing_world(tmp_path: Path) -> None:
    assert "holds no finished world" in refused("world", "card", "--world", tmp_path)


def test_an_empty_lake_gives_no_world(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake").path
    told = refused("world", "fit", "--lake", lake, "--out", tmp_path / "world")
    assert f"the lake {lake} is empty" in told and "rehearsal ingest" in told
    assert not (tmp_path / "world").exists()


def test_a_missing_base_model(traced_home: Path, tmp_path: Path) -> None:
    lake = Lake.create(traced_home / "lake")
    lake.ingest()
    told = refused("world", "fit", "--lake", lake.path, "--out", tmp_path / "world", "--base", "/no/such/model")
    assert "base model '/no/such/model' was not found" in told


def test_a_lake_of_a_newer_version(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake").path
    manifest = json.loads((lake / "lake.json").read_text())
    (lake / "lake.json").write_text(json.dumps(manifest | {"version": 99}))
    assert "has version 99" in refused("sql", "--lake", lake, "SELECT 1")


@pytest.mark.parametrize("command", ["sql", "ingest"])
def test_a_directory_without_a_lake(command: str, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    told = refused(command, "--lake", tmp_path, *(["SELECT 1"] if command == "sql" else []))
    assert "no lake" in told and (tmp_path / "letters.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_promote_rollback_and_history_import_no_model_library() -> None:
    program = "import sys, training.policy.registry; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "[]", found.stderr


def test_promotion_and_rollback_by_hand(tmp_path: Path) -> None:
    assert "no version 'policy-1'" in refused("promote", "policy-1", "--home", tmp_path)
    save_weights({"lora_A": torch.ones(2, 2)}, {"r": 2}, tmp_path / "adapter", {"kind": "policy"})
    name = Registry(tmp_path / "registry").add(tmp_path / "adapter", {}).name
    found = rehearsal("promote", name, "--home", tmp_path, "--why", "it is ours")
    assert found.returncode == 0 and f"serving {name}" in found.stdout
    (entry,) = Registry(tmp_path / "registry").history()
    assert (entry["version"], entry["why"]) == (name, "it is ours")
    assert "no earlier champion" in refused("rollback", "--home", tmp_path)


def test_an_unknown_setting(tmp_path: Path) -> None:
    told = refused("evaluate", "--home", tmp_path, REHEARSAL_TRAIN__STEPZ="3")
    assert told.startswith("settings: train.stepz: ")


# ----- the doctor


def test_the_doctor_prints_its_findings(tmp_path: Path) -> None:
    found = rehearsal("doctor", "--home", tmp_path)
    assert found.returncode in (0, 1)
    for subject in ("Python", "Packages", "Memory", "Disk", "Base model", "Port 4318", "Java", "vLLM"):
        assert re.search(rf"^[✓·✗]  {subject}  ", found.stdout, re.MULTILINE), found.stdout
    assert (found.returncode == 1) == ("✗" in found.stdout)


def test_the_doctor_reports_a_missing_base(tmp_path: Path) -> None:
    found = rehearsal("doctor", "--home", tmp_path, "--base", "/no/such/model")
    assert found.returncode == 1 and re.search(r"^✗  Base model .*/no/such/model", found.stdout, re.MULTILINE)
