"""`rehearsal offline`: from a lake alone to a retrained adapter, without a world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from talk_samples import talk
from typer.testing import CliRunner

from dagster_project.cli.main import app
from ingest.lake import Lake
from training.models.lora import manifest_of

BUDGETS = {
    "REHEARSAL_CLONE": '{"max_tokens": 2000, "step_tokens": 512, "evaluations": 1}',
    "REHEARSAL_OFFLINE__FIT": '{"max_tokens": 1, "step_tokens": 512, "evaluations": 1}',
}


def offline(home: Path, *arguments: str) -> Result:
    command = ["offline", "--lake", str(home / "lake"), "--out", str(home), *arguments]
    return CliRunner().invoke(app, command, env=BUDGETS, catch_exceptions=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps(talk(k)) + "\n" for k in range(24)))
    Lake.create(tmp_path / "home" / "lake").ingest([talks])
    return tmp_path / "home"


@pytest.mark.slow
def test_a_lake_suffices(home: Path) -> None:
    found = offline(home, "--method", "kto")
    assert found.exit_code == 0 and "kto on 24 conversations" in " ".join(found.output.split())
    assert manifest_of(home / "offline" / "adapter") is not None
    assert not (home / "world").exists() and not (home / "judge").exists()
    saved = json.loads((home / "settings.json").read_text())
    assert saved["offline"]["loss"]["method"] == "kto" and "lake_dir" not in saved
    cloned = (home / "clone" / "stage.json").stat().st_mtime_ns

    again = offline(home)  # the method stands in the home's settings
    assert again.exit_code == 0 and "kto on 24" in " ".join(again.output.split())
    assert (home / "clone" / "stage.json").stat().st_mtime_ns == cloned
