"""Stages run once for equal inputs and continue after a kill; settings come from four sources; progress output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dagster_project.loop import stages
from dagster_project.loop.pins import collect
from dagster_project.loop.settings import SAVED, Settings
from dagster_project.loop.stages import BEGUN, MANIFEST, fingerprint, finished, read_version, run_stage, version_path
from ingest.errors import UserError
from training.progress import bars, track

ROOT = Path(__file__).parents[2]


class Work:
    """Writes one file per step. It can be stopped before a step, and continues from the files that it finds."""

    def __init__(self, steps: int = 3, stop_at: int | None = None, seconds: float = 0.0) -> None:
        self.steps, self.stop_at, self.seconds = steps, stop_at, seconds
        self.found: list[str] = []
        self.runs = 0

    def __call__(self, directory: Path) -> dict[str, Any]:
        self.runs += 1
        self.found = sorted(p.name for p in directory.glob("step-*"))
        for step in range(len(self.found), self.steps):
            time.sleep(self.seconds)
            if step == self.stop_at:
                raise KeyboardInterrupt
            (directory / f"step-{step}").write_text("done")
        return {"steps": self.steps, "where": directory}


def interrupted(directory: Path, inputs: dict[str, Any], work: Work) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(directory, inputs, work)


# ----- stages


def test_a_stage_runs_once_for_equal_inputs(tmp_path: Path) -> None:
    work = Work()
    first = run_stage(tmp_path / "stage", {"a": 1, "b": [2, 3]}, work)
    again = run_stage(tmp_path / "stage", {"b": [2, 3], "a": 1}, work)
    assert work.runs == 1
    assert (first.reused, again.reused) == (False, True)
    assert first.directory == again.directory == (tmp_path / "stage").resolve()
    assert first.facts == again.facts == {"steps": 3, "where": str(first.directory)}
    assert (first.fingerprint, first.seconds) == (again.fingerprint, again.seconds)
    assert finished(tmp_path / "stage") == again


def test_other_inputs_run_the_stage_in_an_empty_directory(tmp_path: Path) -> None:
    run_stage(tmp_path / "stage", {"a": 1}, Work(steps=3))
    other = Work(steps=2)
    done = run_stage(tmp_path / "stage", {"a": 2}, other)
    assert (other.runs, other.found, done.reused) == (1, [], False)
    assert sorted(p.name for p in (tmp_path / "stage").iterdir()) == [MANIFEST, "step-0", "step-1"]


def test_a_killed_stage_continues_and_adds_up_its_seconds(tmp_path: Path) -> None:
    directory = tmp_path / "stage"
    interrupted(directory, {"a": 1}, Work(stop_at=2, seconds=0.1))
    assert finished(directory) is None and not directory.exists()
    interrupted(directory, {"a": 1}, Work(stop_at=2, seconds=0.1))
    work = Work(seconds=0.1)
    done = run_stage(directory, {"a": 1}, work)
    assert work.found == ["step-0", "step-1"]
    assert done.seconds >= 0.5  # three steps, then one, then one
    assert not (done.directory / BEGUN).exists()


SLOW = """
import sys, time
from pathlib import Path
from dagster_project.loop.stages import run_stage

def work(directory):
    for step in range(1000):
        time.sleep(0.05)
        (directory / f"step-{step}").write_text("done")

run_stage(Path(sys.argv[1]), {"a": 1}, work)
"""


def test_the_seconds_before_a_sigkill_count(tmp_path: Path) -> None:
    """After SIGKILL the time of the last write gives the duration of the killed run."""
    directory = tmp_path / "stage"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(directory)], env=environment)
    until = time.monotonic() + 60
    version = version_path(directory, fingerprint({"a": 1}))
    while not (version / "step-11").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # time between two runs does not count
    work = Work(steps=12)
    done = run_stage(directory, {"a": 1}, work)
    assert len(work.found) >= 12
    lived = max(p.stat().st_mtime for p in version.glob("step-*")) - (version / "step-0").stat().st_mtime
    assert lived - 0.1 <= done.seconds <= lived + 0.9


def test_an_incomplete_manifest_is_no_finished_stage(tmp_path: Path) -> None:
    run_stage(tmp_path / "stage", {"a": 1}, Work())
    manifest = tmp_path / "stage" / MANIFEST
    whole = manifest.read_text().rstrip()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        manifest.write_text(whole[:size])
        assert finished(tmp_path / "stage") is None
        work = Work()
        assert not run_stage(tmp_path / "stage", {"a": 1}, work).reused
        assert work.runs == 1
        assert finished(tmp_path / "stage") is not None


def test_unfinished_files_of_other_inputs_are_removed(tmp_path: Path) -> None:
    interrupted(tmp_path / "stage", {"a": 1}, Work(stop_at=2, seconds=0.2))
    work = Work(steps=1)
    done = run_stage(tmp_path / "stage", {"a": 2}, work)
    assert work.found == [] and done.seconds < 0.4  # the other run's seconds do not count either
    assert not (tmp_path / "stage" / "step-1").exists()


def test_a_killed_removal_leaves_no_finished_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "stage"
    run_stage(directory, {"a": 1}, Work())

    def killed(path: Path, *_: Any, **__: Any) -> None:
        (path / "step-1").unlink()
        raise KeyboardInterrupt

    run_stage(directory, {"a": 2}, Work())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages.shutil, "rmtree", killed)
        collect(tmp_path)
    assert read_version(version_path(directory, fingerprint({"a": 1}))) is None
    work = Work()
    run_stage(directory, {"a": 1}, work)
    assert work.found == [] and (directory / "step-1").exists()


def test_files_that_cannot_be_removed_stop_the_stage(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "step-0").write_text("another's")
    (tmp_path / "stage").symlink_to(tmp_path / "elsewhere")
    work = Work()
    with pytest.raises(UserError, match="holds something else"):
        run_stage(tmp_path / "stage", {"a": 1}, work)
    assert work.runs == 0


def test_a_fingerprint_does_not_depend_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": Path("x")}) == fingerprint({"b": "x", "a": 1})
    values: list[Any] = [{"a": 1}, {"a": "1"}, {"a": [1]}, {}, [], None]
    assert len({fingerprint(value) for value in values}) == 6


# ----- settings


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(value: dict[str, Any]) -> Path:
        (tmp_path / SAVED).write_text(json.dumps(value))
        return tmp_path

    return write


def test_arguments_come_before_the_environment_before_the_file_before_defaults(
    saved: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = saved({"seed": 1, "agent": "file", "environment": "file:File"})
    monkeypatch.setenv("REHEARSAL_SEED", "2")
    monkeypatch.setenv("REHEARSAL_AGENT", "shell")
    found = Settings(home=home, seed=3)
    assert (found.seed, found.agent, found.environment, found.base) == (3, "shell", "file:File", "rehearsal-tiny")


def test_nested_fields_are_merged_from_all_sources(
    saved: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Settings(home=Path("nowhere"))
    home = saved({"train": {"steps": 7, "groups": 5}, "world": {"max_tokens": 500}, "clone": {"evaluations": 2}})
    monkeypatch.setenv("REHEARSAL_TRAIN__GROUPS", "4")
    monkeypatch.setenv("REHEARSAL_WORLD__SEED", "8")
    found = Settings(home=home, train={"group_size": 3})  # type: ignore[arg-type]
    assert (found.train.steps, found.train.groups, found.train.group_size) == (7, 4, 3)
    assert found.train.held_out == plain.train.held_out
    assert found.world == plain.world.model_copy(update={"max_tokens": 500, "seed": 8})
    assert (found.clone.evaluations, found.clone.max_tokens) == (2, plain.clone.max_tokens)
    deep = Settings(home=home, train={"learner": {"max_grad_norm": 0.9}})  # type: ignore[arg-type]
    assert deep.train.learner == plain.train.learner.model_copy(update={"max_grad_norm": 0.9})


def test_the_settings_file_is_read_from_rehearsal_home(
    saved: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = saved({"seed": 5})
    monkeypatch.setenv("REHEARSAL_HOME", str(home))
    assert (Settings().home, Settings().seed, Settings().lake) == (home, 5, home / "lake")


@pytest.mark.parametrize("wrong", [{"sead": 1}, {"train": {"stepz": 1}}, {"world": {"minuets": 1}}])
def test_unknown_keys_are_refused_in_every_source(
    wrong: dict[str, Any], saved: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="settings: (sead|train.stepz|world.minuets): "):
        Settings(home=tmp_path / "other", **wrong)
    with pytest.raises(UserError, match="settings: (sead|train.stepz|world.minuets): "):
        Settings(home=saved(wrong))


def test_an_unknown_nested_variable_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REHEARSAL_TRAIN__STEPZ", "1")
    with pytest.raises(UserError, match="stepz"):
        Settings(home=tmp_path)


def test_invalid_json_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / SAVED).write_text('{"seed": ')
    with pytest.raises(UserError, match="settings: Expecting value") as found:
        Settings(home=tmp_path)
    assert "\n" not in str(found.value)


def test_saved_settings_are_read_back(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {
        "seed": 9, "lake_dir": tmp_path / "lake", "environment": "a.b:C", "card_calls": 12,
        "world": {"max_tokens": 250, "rank": 4}, "train": {"steps": 2, "limits": {"turns": 5}},
        "ruler": {"base_url": "http://judge"}, "evaluation": {"episodes": 10},
    }  # fmt: skip
    before = Settings(home=tmp_path / "home", **chosen)
    before.save()
    assert Settings(home=tmp_path / "home") == before
    assert json.loads((tmp_path / "home" / SAVED).read_text())["world"]["rank"] == 4
    (tmp_path / "home").rename(tmp_path / "moved")  # the home does not name itself, so it can be moved
    assert Settings(home=tmp_path / "moved").model_copy(update={"home": before.home}) == before


# ----- progress


def test_a_task_inside_bars_is_a_bar(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=120)
    with bars(console) as progress:
        report = track("learning")
        report(3, 10, "loss 0.5")
        (task,) = progress.tasks
        assert (task.description.strip(), task.completed, task.total) == ("learning", 3, 10)
        assert task.fields["note"] == "loss 0.5"
    lines: list[str] = []
    track("learning", lines.append)(10, 10, "")
    assert lines and len(progress.tasks) == 1  # the bars are over


def test_outside_bars_lines_are_logged() -> None:
    lines: list[str] = []
    report = track("learning", lines.append, every_seconds=3600)
    for done in range(1, 101):
        report(done, 100, f"loss {done}")
    assert lines == ["learning: 1 of 100 loss 1", "learning: 100 of 100 loss 100"]


def test_bars_without_a_task_print_nothing() -> None:
    told = StringIO()
    with pytest.raises(UserError), bars(Console(file=told, width=120)):
        raise UserError("before any work")
    assert told.getvalue() == ""
    with bars(Console(file=told, width=120)):
        track("learning")(10, 10, "")
    assert "learning" in told.getvalue() and "10/10" in told.getvalue()


def test_progress_without_a_log_is_dropped() -> None:
    track("learning")(1, 2, "unheard")
