"""The wheel holds every file of the rooms, under names that are ours, and works without the checkout.

`make wheel-demo` (.ci/wheel_demo) installs it in an empty environment and runs the demo from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "ingest": "ingest", "training": "training", "worldmodel": "worldmodel", "dagster_project": "dagster_project",
    "sql": "ingest/sql", "examples": "rehearsal_examples",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what pip would put into site-packages."""
    tmp = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp / "source" / room, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp)]
    built = subprocess.run([*command, str(tmp / "source")], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp / "site")
    return tmp / "site"


def test_it_holds_every_file_of_the_rooms(installed: Path) -> None:
    missing = [
        str(path.relative_to(ROOT))
        for room, name in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
        and not (installed / name / path.relative_to(ROOT / room)).is_file()
    ]  # fmt: skip
    assert not missing


def test_no_top_level_name_clashes_with_other_packages(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"ingest", "training", "worldmodel", "dagster_project", "rehearsal_examples"}


PROGRAM = """
import sys, importlib.util
assert importlib.util.find_spec("examples") is None and importlib.util.find_spec("sql") is None
import dagster_project.cli.demo as demo
from dagster_project.definitions import defs
from dagster_project.cli.graph import PROJECT, assets
from dagster_project.report.page import PackageLoader, Environment
from ingest.tables.build import sql_digest
from training.models.base import load_base
from training.policy.evaluate import check_environment
assert demo.EXAMPLES == "rehearsal_examples"
for example, environment in demo.ENVIRONMENTS.items():
    check_environment(environment)
    assert importlib.import_module(f"rehearsal_examples.{example}.production").run_production
PackageLoader("dagster_project.report").get_source(Environment(), "report.html.j2")
assert (PROJECT / "dagster.yaml").exists() and len(assets(defs(), "report")) >= 14
load_base("rehearsal-tiny")
print(sql_digest(), PROJECT)
"""


def test_it_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    # Other packages come from where this interpreter has them, the rooms from the wheel.
    others = [p for p in sys.path if p and p != str(ROOT) and not (Path(p) / "dagster_project").exists()]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *others])}
    command = [sys.executable, "-S", "-c", PROGRAM]  # -S: an editable install would be found through its hook
    found = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    from ingest.tables.build import sql_digest

    assert found.stdout.split() == [sql_digest(), str(installed / "dagster_project")]
