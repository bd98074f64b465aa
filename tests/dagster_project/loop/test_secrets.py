"""The judge's API key is in no file, message or fingerprint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from dagster_project.loop.passes import plain
from dagster_project.loop.settings import SAVED, Settings
from dagster_project.loop.stages import fingerprint, run_stage
from ingest.errors import UserError

KEY = "sk-marker-0123456789abcdef"


def files_with(text: str, root: Path) -> list[str]:
    """The files below a directory whose bytes hold `text`."""
    return [str(path) for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REHEARSAL_RULER__API_KEY", KEY)
    monkeypatch.setenv("REHEARSAL_RULER__BASE_URL", "https://judge.example/v1")
    return Settings(home=tmp_path / "home")


def test_the_key_is_read(settings: Settings) -> None:
    assert settings.ruler.api_key is not None and settings.ruler.api_key.get_secret_value() == KEY
    travelled = pickle.loads(pickle.dumps(settings.ruler))  # as a worker process gets it
    assert travelled.api_key.get_secret_value() == KEY


def test_no_file_of_a_home_holds_the_key(settings: Settings) -> None:
    """Neither the files of a finished or killed stage with the judge's settings as inputs, nor the saved settings."""
    settings.save()
    inputs = plain({"ruler": settings.ruler, "train": settings.train})
    run_stage(settings.home / "candidate", inputs, lambda directory: {})

    def killed(_: Path) -> dict[str, str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(settings.home / "gate", inputs, killed)
    assert list(settings.home.rglob("stage.begun.json"))
    assert files_with("judge.example", settings.home)
    assert files_with(KEY, settings.home) == []


def test_the_key_is_not_printed(settings: Settings) -> None:
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_key_is_not_in_the_fingerprint(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(plain({"ruler": settings.ruler}))
    monkeypatch.setenv("REHEARSAL_RULER__API_KEY", "sk-rotated")
    after = Settings(home=settings.home)
    assert after.ruler.api_key != settings.ruler.api_key
    assert fingerprint(plain({"ruler": after.ruler})) == before


def test_an_error_message_does_not_contain_the_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_RULER", json.dumps({"api_key": KEY, "orders": "many"}))
    with pytest.raises(UserError, match="ruler.orders") as found:
        Settings(home=settings.home)
    assert KEY not in f"{found.value!r} {found.value.__cause__!r} {found.value.__cause__}"


def test_a_key_in_the_settings_file_is_refused(tmp_path: Path) -> None:
    """Saving settings would drop the key or store it in plain text."""
    (tmp_path / SAVED).write_text(json.dumps({"ruler": {"api_key": KEY}}))
    with pytest.raises(UserError, match="REHEARSAL_RULER__API_KEY") as found:
        Settings(home=tmp_path)
    assert KEY not in str(found.value)


@pytest.mark.parametrize("url", [f"https://me:{KEY}@judge.example/v1", f"https://judge.example/v1?key={KEY}"])
def test_a_key_inside_the_judges_url_is_refused(url: str, tmp_path: Path) -> None:
    """The URL is an input of a stage and is written to its manifest."""
    with pytest.raises(UserError, match="ruler.base_url.*api_key") as found:
        Settings(home=tmp_path, ruler={"base_url": url})  # type: ignore[arg-type]
    assert KEY not in str(found.value)
