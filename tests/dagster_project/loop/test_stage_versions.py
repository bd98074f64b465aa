"""The old version of a stage is current until the new one is finished, and one process at a time creates one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dagster_project.loop.pins import Pins, collect, is_alive
from dagster_project.loop.stages import MANIFEST, Done, fingerprint, finished, run_stage, version_path
from ingest.errors import UserError

ROOT = Path(__file__).parents[3]


def made(home: Path, stage: str, inputs: dict[str, Any]) -> Done:
    """A version of a stage."""

    def work(directory: Path) -> dict[str, Any]:
        (directory / "what").write_text(str(inputs))
        return {}

    return run_stage(home / stage, inputs, work)


def versions(home: Path, stage: str) -> set[str]:
    return {path.name for path in (home / "stages" / stage).iterdir() if path.is_dir()}


def test_the_old_version_is_current_until_the_new_one_is_finished(tmp_path: Path) -> None:
    old = made(tmp_path, "world", {"a": 1})

    def work(directory: Path) -> dict[str, Any]:
        now = finished(tmp_path / "world")
        assert now is not None and now.fingerprint == old.fingerprint
        assert (tmp_path / "world" / "what").read_text() == "{'a': 1}"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "world", {"a": 2}, work)
    now = finished(tmp_path / "world")
    assert now is not None and now.fingerprint == old.fingerprint and now.directory == old.directory
    new = made(tmp_path, "world", {"a": 2})
    assert (tmp_path / "world" / "what").read_text() == "{'a': 2}" and old.directory.exists()
    assert new.inputs == {"a": 2}


def test_earlier_inputs_reuse_the_earlier_version(tmp_path: Path) -> None:
    old = made(tmp_path, "world", {"a": 1})
    made(tmp_path, "world", {"a": 2})
    again = made(tmp_path, "world", {"a": 1})
    assert again.reused and again.directory == old.directory
    current = finished(tmp_path / "world")
    assert current is not None and current.fingerprint == old.fingerprint


WORKER = """
import sys, time
from pathlib import Path
from dagster_project.loop.stages import run_stage

home, name = Path(sys.argv[1]), sys.argv[2]

def work(directory):
    with (home / "began").open("a") as file:
        file.write(name + "\\n")
    while not (home / "go").exists():
        time.sleep(0.02)
    return {"by": name}

done = run_stage(home / "world", {"a": 1}, work, lambda line: print(line, flush=True))
print("done by", done.facts["by"], flush=True)
"""


def start(home: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(home), name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.02)


def test_two_processes_never_run_one_stage(tmp_path: Path) -> None:
    first = start(tmp_path, "first")
    wait_for(tmp_path / "began")
    second = start(tmp_path, "second")
    assert second.stdout is not None
    said = second.stdout.readline()
    assert f"waiting: process {first.pid} runs the stage world in {tmp_path}" in said
    (tmp_path / "go").touch()
    assert "done by first" in first.communicate(timeout=120)[0]
    assert "done by first" in second.communicate(timeout=120)[0]
    assert (tmp_path / "began").read_text() == "first\n"


def test_a_killed_process_releases_the_stage_lock(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed")
    wait_for(tmp_path / "began")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (tmp_path / "go").touch()
    assert "done by second" in start(tmp_path, "second").communicate(timeout=120)[0]


def test_an_unfinished_version_of_other_inputs_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(tmp_path / "world", {"a": 1}, lambda directory: {"x": 1 // 0})
    assert versions(tmp_path, "world") == {fingerprint({"a": 1})}
    made(tmp_path, "world", {"a": 2})
    assert versions(tmp_path, "world") == {fingerprint({"a": 2})}


def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "letters.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        made(tmp_path, "world", {"a": 1})
    assert (tmp_path / "world" / "letters.txt").read_text() == "mine"


def test_a_home_can_be_moved(tmp_path: Path) -> None:
    made(tmp_path / "home", "world", {"a": 1})
    (tmp_path / "home").rename(tmp_path / "moved")
    found = finished(tmp_path / "moved" / "world")
    assert found is not None and found.directory.is_relative_to(tmp_path / "moved")


# ----- what a run reads


def test_a_run_reads_the_version_of_its_first_read(tmp_path: Path) -> None:
    old = made(tmp_path, "world", {"a": 1})
    run, other = Pins(tmp_path, "one"), Pins(tmp_path, "other")
    assert run.read("world") == Done(old.directory, old.fingerprint, {}, old.seconds, True, {"a": 1})
    new = made(tmp_path, "world", {"a": 2})
    collect(tmp_path)
    for pins in (run, Pins(tmp_path, "one")):
        found = pins.read("world")
        assert found is not None and found.fingerprint == old.fingerprint and (old.directory / "what").exists()
    found = other.read("world")
    assert found is not None and found.fingerprint == new.fingerprint


def test_a_run_without_reads_writes_nothing(tmp_path: Path) -> None:
    Pins(tmp_path / "home", "one")
    assert not (tmp_path / "home").exists()


def test_unused_versions_are_removed_and_inputs_of_used_ones_are_kept(tmp_path: Path) -> None:
    first = made(tmp_path, "data", {"n": 1})
    world = made(tmp_path, "world", {"data": first.fingerprint})
    second, third = made(tmp_path, "data", {"n": 2}), made(tmp_path, "data", {"n": 3})
    collect(tmp_path)
    assert versions(tmp_path, "data") == {first.fingerprint, third.fingerprint}
    assert not (second.directory / MANIFEST).exists()
    made(tmp_path, "world", {"data": third.fingerprint})
    collect(tmp_path)
    assert versions(tmp_path, "data") == {third.fingerprint} and not world.directory.exists()


READER = """
import sys, time
from pathlib import Path
from dagster_project.loop.pins import Pins

Pins(Path(sys.argv[1]), "killed").read("world")
print("reads", flush=True)
time.sleep(600)
"""


def test_a_killed_run_pins_no_version(tmp_path: Path) -> None:
    old = made(tmp_path, "world", {"a": 1})
    command = [sys.executable, "-c", READER, str(tmp_path)]
    reader = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "reads\n"
    made(tmp_path, "world", {"a": 2})
    collect(tmp_path)
    assert old.directory.exists() and is_alive(tmp_path, "killed")
    reader.kill()
    reader.communicate()
    assert is_alive(tmp_path, "killed") is False and is_alive(tmp_path, "never heard of") is None
    collect(tmp_path)
    assert not version_path(tmp_path / "world", old.fingerprint).exists()
