"""Commands read missing options from REHEARSAL_* and settings.json, and refuse invalid ones before they write."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from dagster_project.cli import demo, graph, loop_commands
from dagster_project.cli.settings import settings_of
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import SAVED, Settings
from dagster_project.report.terminal import print_report
from ingest.errors import UserError
from ingest.journal import segments
from ingest.lake import Lake
from worldmodel import commands as world_commands

MANIFEST = {"version": 1, "id": "w-1", "base": "rehearsal-tiny"}


@pytest.fixture
def ingested(traced_home: Path) -> Path:
    """A home whose lake has rows."""
    Lake.create(traced_home / "lake").ingest()
    return traced_home


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    loop_commands.register(app)
    world_commands.register(app)
    return app


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which `train` would begin; the stages themselves are left out."""
    seen: list[Settings] = []

    def begin(self: Loop, *_: Any) -> None:
        seen.append(self.settings)
        raise KeyboardInterrupt

    for name in ("gate", "run_until"):
        monkeypatch.setattr(Loop, name, begin, raising=False)
    return seen


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path / "world"


def train(app: typer.Typer, home: Path, world: Path, out: Path, *more: str) -> None:
    command = ["train", "--lake", str(home / "lake"), "--world", str(world), "--out", str(out), *more]
    found = CliRunner().invoke(app, command)
    if isinstance(found.exception, UserError):
        raise found.exception
    assert found.exit_code == 130, found.output  # stopped where the stages would have begun


def test_train_takes_seed_and_steps_from_the_environment(
    app: typer.Typer, gated: list[Settings], ingested: Path, world: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("REHEARSAL_SEED", "7")
    monkeypatch.setenv("REHEARSAL_TRAIN__STEPS", "9")
    train(app, ingested, world, tmp_path / "out")
    assert (gated[0].seed, gated[0].train.steps, gated[0].base) == (7, 9, "rehearsal-tiny")
    train(app, ingested, world, tmp_path / "out", "--seed", "0", "--steps", "3")
    assert (gated[1].seed, gated[1].train.steps) == (0, 3)


def test_train_takes_seed_and_base_from_the_settings_file(
    app: typer.Typer, gated: list[Settings], ingested: Path, world: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SAVED).write_text(json.dumps({"seed": 5, "clone": {"evaluations": 2}}))
    train(app, ingested, world, tmp_path / "out")
    assert (gated[0].seed, gated[0].clone.evaluations) == (5, 2)


def test_train_does_not_save_the_world_s_path(
    app: typer.Typer, gated: list[Settings], ingested: Path, world: Path, tmp_path: Path
) -> None:
    """Whoever opens the home next, such as the nightly job, fits a world from the newest data."""
    train(app, ingested, world, tmp_path / "out")
    assert gated[0].world_dir == world
    after = Settings(home=tmp_path / "out")
    assert after.world_dir is None and after.lake == ingested / "lake"
    assert world.name not in json.loads((tmp_path / "out" / SAVED).read_text()).values()


def test_train_refuses_another_base_than_the_world_s_and_writes_nothing(
    app: typer.Typer, gated: list[Settings], ingested: Path, world: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(UserError, match="was fitted on the base 'rehearsal-tiny'.*'another/base'"):
        train(app, ingested, world, tmp_path / "out", "--base", "another/base")
    monkeypatch.setenv("REHEARSAL_BASE", "another/base")
    with pytest.raises(UserError, match="was fitted on the base 'rehearsal-tiny'"):
        train(app, ingested, world, tmp_path / "out")
    assert not gated and not (tmp_path / "out").exists()


def test_train_takes_the_base_of_the_world(
    app: typer.Typer, gated: list[Settings], ingested: Path, world: Path, tmp_path: Path
) -> None:
    (world / "manifest.json").write_text(json.dumps(MANIFEST | {"base": "/no/such/model"}))
    with pytest.raises(UserError, match="base model '/no/such/model' was not found"):
        train(app, ingested, world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lake", ["nothing", "empty", "a journal that was not read"])
def test_train_refuses_a_lake_without_data_and_writes_nothing(
    app: typer.Typer, gated: list[Settings], world: Path, tmp_path: Path, lake: str
) -> None:
    if lake != "nothing":
        made = Lake.create(tmp_path / "home" / "lake")
    if lake.startswith("a journal"):
        segments.JournalWriter(made.journal_path).append([segments.record("traces_json", 1, b"{}")])
    with pytest.raises(UserError, match="no lake at|is empty"):
        train(app, tmp_path / "home", world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ----- run


@pytest.mark.parametrize(
    "wrong, told",
    [
        (["--environment", "no.such.module:Thing"], "cannot be loaded"),
        (["--base", "/no/such/model"], "base model '/no/such/model' was not found"),
        (["--lake", "nowhere"], "no lake at"),
    ],
)
def test_run_refuses_before_it_writes(app: typer.Typer, traced_home: Path, wrong: list[str], told: str) -> None:
    found = CliRunner().invoke(app, ["run", "--home", str(traced_home), *wrong])
    assert isinstance(found.exception, UserError) and told in str(found.exception)
    assert sorted(path.name for path in traced_home.iterdir()) == ["lake"]


def test_run_refuses_a_home_that_holds_something_else(
    app: typer.Typer, traced_home: Path, world: Path, tmp_path: Path
) -> None:
    """A world of `rehearsal world fit` where the run would put its own: told at once and not after the tables."""
    world.rename(traced_home / "world")
    found = CliRunner().invoke(app, ["run", "--home", str(traced_home)])
    assert "world is where the stage world goes, and it holds something else" in str(found.exception)
    assert (traced_home / "world" / "manifest.json").exists() and not (traced_home / SAVED).exists()


def test_the_default_home_is_not_the_demo_s() -> None:
    assert Settings().home == loop_commands.HOME != loop_commands.DEMO


def test_options_override_the_environment_in_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    os.environ |= {
        "REHEARSAL_SEED": "7", "REHEARSAL_LAKE_DIR": "/nowhere", "REHEARSAL_TRAIN__STEPS": "9",
        "REHEARSAL_AGENT": "desk", "REHEARSAL_CARD_CALLS": "11",
    }  # fmt: skip
    said: dict[str, Any] = {"seed": 0, "lake_dir": None, "card_calls": 12}
    settings = Settings(home=tmp_path, **said)
    settings.save()
    assert Settings(home=tmp_path).seed == 7
    graph._override_environment(settings)
    assert Settings(home=tmp_path) == settings
    assert (settings.seed, settings.lake_dir, settings.card_calls) == (0, None, 12)
    assert (settings.train.steps, settings.agent) == (9, "desk")


# ----- the demo


def test_environment_and_settings_file_override_the_demo_s_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REHEARSAL_SEED", "3")
    monkeypatch.setenv("REHEARSAL_CARD_CALLS", "11")
    (tmp_path / SAVED).write_text(json.dumps({"train": {"steps": 5}, "gate": {"scenarios": 9}}))
    found, conversations = demo._settings(tmp_path, None, small=True)
    small = demo.SMALL
    assert conversations == 240
    assert (found.seed, found.card_calls, found.train.steps, found.gate.scenarios) == (3, 11, 5, 9)
    assert found.train.groups == small["train"]["groups"] and found.gate.min_slice == small["gate"]["min_slice"]
    assert found.environment == demo.ENVIRONMENT
    monkeypatch.delenv("REHEARSAL_SEED")
    assert demo._settings(tmp_path, None, small=True) == (found, 240)  # what it began with is what it goes on with
    with pytest.raises(UserError, match="'seed': 3"):
        demo._settings(tmp_path, 4, small=True)


def test_a_file_of_settings_overrides_the_presets_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, file = tmp_path / "home", tmp_path / "mine.yaml"
    file.write_text("train: {steps: 5}\ncard_calls: 7\n")
    monkeypatch.setenv("REHEARSAL_CARD_CALLS", "11")
    found, conversations = demo._settings(home, None, False, file, 300)
    assert (found.train.steps, found.card_calls, conversations) == (5, 11, 300)
    monkeypatch.delenv("REHEARSAL_CARD_CALLS")
    found, conversations = demo._settings(home, None, False)
    assert (found.train.steps, found.environment, conversations) == (5, demo.ENVIRONMENT, 300)
    with pytest.raises(UserError, match="'conversations': 300"):
        demo._settings(home, None, False, None, 301)


@pytest.mark.parametrize("text", ["train: {stepz: 5}", "train: [", "- 5", ""])
def test_an_invalid_file_of_settings_is_refused_before_anything_is_written(
    app: typer.Typer, tmp_path: Path, text: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    for command in ("run", "demo"):
        home = tmp_path / command
        found = CliRunner().invoke(app, [command, "--home", str(home), "--settings", str(tmp_path / "mine.yaml")])
        assert isinstance(found.exception, UserError) and "settings" in str(found.exception)
        assert not home.exists()


@pytest.mark.parametrize(
    ("text", "why"), [(b"ruler: {api_key: s3cret}", "ruler.api_key"), (b"1: 2", "names"), (b"base: \xff", "read")]
)
def test_neither_a_key_nor_what_is_no_text_is_kept_from_a_file(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(text)
    with pytest.raises(UserError, match=why):
        demo._settings(tmp_path / "home", None, True, tmp_path / "mine.yaml")
    assert not (tmp_path / "home").exists()


def test_a_file_that_a_demo_refuses_leaves_its_home_as_it_was(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "mine.yaml"
    found = demo._settings(home, None, True)
    file.write_text("seed: 7")
    with pytest.raises(UserError, match="another demo"):
        demo._settings(home, None, True, file)
    assert demo._settings(home, None, True) == found


def test_run_keeps_a_file_of_settings(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {steps: 5}")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / SAVED).write_text(json.dumps({"train": {"steps": 3, "groups": 2}}))
    command = ["run", "--home", str(tmp_path / "home"), "--settings", str(tmp_path / "mine.yaml")]
    assert isinstance(CliRunner().invoke(app, command).exception, UserError)  # there is no lake
    assert Settings(home=tmp_path / "home").train.steps == 5 and Settings(home=tmp_path / "home").train.groups == 2


def test_the_demo_refuses_a_home_with_other_work(traced_home: Path) -> None:
    with pytest.raises(UserError, match="was not created by a demo"):
        demo._settings(traced_home, None, small=True)
    assert not (traced_home / SAVED).exists()


# ----- the others


def test_the_doctor_checks_the_configured_base(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SAVED).write_text(json.dumps({"base": "/no/such/model"}))
    found = CliRunner().invoke(app, ["doctor", "--home", str(tmp_path)])
    assert found.exit_code == 1 and "/no/such/model" in " ".join(found.output.split())


def test_world_fit_takes_base_and_seed_from_the_environment(
    app: typer.Typer, traced_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake.create(traced_home / "lake").ingest()
    monkeypatch.setenv("REHEARSAL_BASE", "/no/such/model")
    command = ["world", "fit", "--lake", str(traced_home / "lake"), "--out", str(tmp_path / "world")]
    found = CliRunner().invoke(app, command)
    assert "'/no/such/model' was not found" in str(found.exception)
    monkeypatch.setenv("REHEARSAL_SEED", "seven")
    assert CliRunner().invoke(app, command).exit_code == 2


def test_the_asset_that_a_missing_report_names_exists(tmp_path: Path) -> None:
    from dagster_project.definitions import defs

    with pytest.raises(UserError) as found:
        print_report(tmp_path)
    (named,) = re.findall(r"asset `([^`]+)`", str(found.value))
    assert named in {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
    assert f"rehearsal run --home {tmp_path}" in str(found.value)


# ----- progress without a terminal


def test_a_file_gets_a_first_line_and_one_per_ten_per_cent(tmp_path: Path) -> None:
    """`make demo > log`: what is on disk while the work goes on."""
    from training.progress import bars, track

    log = tmp_path / "log"
    with log.open("w") as file, bars(Console(file=file, width=80)):
        report = track("fitting the world")
        assert log.read_text() == "fitting the world: started\n"
        for done in range(1, 101):
            report(done, 100, f"loss 0.{done:03}")
            if done == 50:
                assert "fitting the world: 50/100, loss 0.050" in log.read_text()
    lines = log.read_text().splitlines()
    assert len(lines) == 12 and "100/100" in lines[-1]


def test_a_slow_task_gets_a_line_a_minute_and_the_log_has_the_lines_of_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log, terminal = tmp_path / "progress.log", Console(file=(tmp_path / "screen").open("w"), force_terminal=True)
    with progress.bars(terminal, log):
        report = progress.track("fitting the world")
        for now[0], done in ((0, 0), (30, 1), (70, 2), (75, 3), (200, 3)):
            report(done, 100, "")
        progress.announce("2 rows are left out")
    lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    reported = ["started", "0/100, 0 s", "2/100, 70 s", "3/100, 200 s"]
    assert lines == [*(f"fitting the world: {text}" for text in reported), "2 rows are left out"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", log.read_text().split(" ")[0])


def test_waiting_is_announced_with_the_progress(tmp_path: Path) -> None:
    from training.progress import announce, bars

    log, logged = tmp_path / "log", list[str]()
    with log.open("w") as file, bars(Console(file=file, width=20)):
        announce("waiting: process 7 runs the stage world in [home]", log=logged.append)
        assert log.read_text() == "waiting: process 7 runs the stage world in [home]\n"
    announce("process 8 works", log=logged.append)
    announce("process 9 works")
    assert logged == ["process 8 works"]


def test_world_fit_and_card_print_progress_lines(
    app: typer.Typer, ingested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(conversations: object, transitions: object, out: Path, how: object, progress: Any, stop: object) -> Any:
        for done in (0.0, 0.5, 1.0):
            progress("adapter", done, {"loss": 1.0 - done})
        progress("user", 1.0, {})
        counts = {"tools": 1, "train_conversations": 2, "test_conversations": 1}
        return {"id": "w-1", "partial": None, "counts": counts}

    def card(world: Path, lake: Path | None, on_progress: Any, **how: object) -> dict[str, Any]:
        on_progress(10, 10)
        return {}

    monkeypatch.setattr("worldmodel.fit.fit_world", fit)
    monkeypatch.setattr("worldmodel.card.make.make_card", card)
    monkeypatch.setattr("worldmodel.artifact.read_manifest", lambda world: MANIFEST)
    found = CliRunner().invoke(app, ["world", "fit", "--lake", str(ingested / "lake"), "--out", "w"])
    assert "fitting the world: started\n" in found.stderr, found.output
    assert "fitting the world: 50/100, loss 0.500" in found.stderr and "user adapter: 100/100" in found.stderr
    found = CliRunner().invoke(app, ["world", "card", "--world", "w", "--json"])
    assert found.stdout == "{}\n" and "measuring the fidelity card: 10/10" in found.stderr


def test_settings_lists_every_field_with_its_meaning(app: typer.Typer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REHEARSAL_TRAIN__STEPS", "3")
    monkeypatch.setenv("REHEARSAL_TRAIN__LOSS", '{"form": "gspo"}')
    monkeypatch.setenv("REHEARSAL_RULER__API_KEY", "secret-7")
    shown = CliRunner().invoke(app, ["settings", "--home", str(tmp_path), "--json"])
    rows = {row["name"]: row for row in json.loads(shown.output)}
    assert rows["train.steps"]["value"] == 3 and rows["train.steps"]["default"] == 16
    assert rows["train.loss.form"]["value"] == "gspo"
    assert rows["world.max_tokens"]["value"] == rows["world.max_tokens"]["default"] == 1_900_000
    assert not [name for name, row in rows.items() if not row["meaning"]]
    assert "secret-7" not in shown.output and not list(tmp_path.iterdir())

    part = CliRunner().invoke(app, ["settings", "train.limits", "--home", str(tmp_path)]).output
    assert "train.limits.turns = " in part and "train.steps" not in part
    wrong = CliRunner().invoke(app, ["settings", "trian", "--home", str(tmp_path)])
    assert isinstance(wrong.exception, UserError) and "trian" in str(wrong.exception)


def test_every_name_that_settings_lists_can_be_set(tmp_path: Path) -> None:
    """The listed name of a field is its path in settings.json."""
    for setting in settings_of(Settings(home=tmp_path)):
        if setting.group or setting.value is None:
            continue
        given: Any = setting.value
        for part in reversed(setting.name.split(".")):
            given = {part: given}
        assert Settings(home=tmp_path, **given) is not None
