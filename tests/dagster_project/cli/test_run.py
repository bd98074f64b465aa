"""`rehearsal run`: the whole loop on any lake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dagster_project.cli.graph import STAGES, assets
from dagster_project.cli.loop_commands import Stage
from dagster_project.loop.preflight import check
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.lake import Lake

ROOT = Path(__file__).parents[3]


def run(home: Path, *more: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dagster_project.cli", "run", "--home", str(home), *map(str, more)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)


def test_the_command_offers_the_stages_of_the_graph() -> None:
    assert [stage.value for stage in Stage] == list(STAGES)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="launched in 2"):
        check(Settings(home=tmp_path))


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    from dagster_project.definitions import defs

    return defs()


def test_until_selects_a_stage_and_its_upstream_assets(definitions: dg.Definitions) -> None:
    made: set[str] = set()
    for stage in STAGES:
        found = {key.to_user_string() for key in assets(definitions, stage)}
        assert made < found and STAGES[stage] in found, stage
        later = {asset for name, asset in STAGES.items() if list(STAGES).index(name) > list(STAGES).index(stage)}
        assert not found & later, stage
        made = found
    assert made == {key.to_user_string() for key in definitions.resolve_asset_graph().executable_asset_keys}


@pytest.mark.timeout(900)
def test_own_traces_become_tables_and_settings_are_saved(traced_home: Path, tmp_path: Path) -> None:
    lake, home = traced_home / "lake", tmp_path / "mine"
    first = run(home, "--lake", lake, "--until", "data", "--seed", "4", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "reading the journal: 1/1" in first.stdout and f"{home}: every stage up to data is finished" in first.stdout
    assert Lake.open(lake).query("SELECT count(*) AS n FROM scenarios")["n"][0].as_py() == 12
    history = home / "dagster"  # of this home alone: another's sensors and assets are not mixed in
    assert (history / "dagster.yaml").exists()

    again = run(home, "--until", "data", cwd=tmp_path)  # the lake and the seed are those of before
    assert again.returncode == 0, again.stdout + again.stderr
    with dg.DagsterInstance.from_config(str(history)) as instance:
        runs = instance.get_runs()
    assert len(runs) == 2 and all(found.is_success for found in runs)
    assert not (tmp_path / "artifacts").exists()


def test_an_invalid_environment_is_refused_before_the_first_stage(traced_home: Path, tmp_path: Path) -> None:
    (tmp_path / "my_shop.py").write_text("class Shop:\n    def starts(self, n, seed):\n        return []\n")
    found = run(traced_home, "--environment", "my_shop:Shop", cwd=tmp_path)
    assert found.returncode == 2 and found.stdout == ""
    assert "environment 'my_shop:Shop' does not open an episode" in found.stderr
    assert sorted(path.name for path in traced_home.iterdir()) == ["lake"]


@pytest.mark.parametrize(("name", "meant"), [("SEDE", "SEED"), ("TRIAN__STEPS", "TRAIN__STEPS"), ("DEVISE", "DEVICE")])
def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str) -> None:
    monkeypatch.setenv(f"REHEARSAL_{name}", "1")
    with pytest.raises(UserError, match=f"do you mean REHEARSAL_{meant}"):
        check(Settings(home=tmp_path))


def test_a_variable_of_somebody_else_is_not_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REHEARSAL_THEATRE_ROOM", "1")
    with pytest.raises(UserError, match="lake"):
        check(Settings(home=tmp_path))
