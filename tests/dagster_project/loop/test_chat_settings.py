"""The settings of a base's chat template reach the policy, and nothing that was made under others is used again."""

from __future__ import annotations

from pathlib import Path

import pytest
from smollm2_samples import smollm2_path

from dagster_project.loop import fits
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.models.template import ChatSettings, TemplateFormat


def test_the_environment_sets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_CHAT__HISTORY", "kept")
    assert Settings(home=tmp_path).chat == ChatSettings(history="kept")
    monkeypatch.setenv("REHEARSAL_CHAT__HISTORY", "some")
    with pytest.raises(UserError, match="chat.history"):
        Settings(home=tmp_path)


def test_the_policy_is_loaded_with_them(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, base=str(smollm2_path()), chat=ChatSettings(history="kept"))
    chat = fits.policy_base(settings).format
    assert isinstance(chat, TemplateFormat) and chat.settings.history == "kept"
