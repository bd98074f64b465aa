"""What a person may choose about the loop, in one place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dagster_project.stages import write_json

HOME = Path("artifacts/demo")
SAVED = "settings.json"


class Settings(BaseSettings):
    """Each field can be given as an argument, as REHEARSAL_<NAME> in the environment, or in
    `settings.json` in the home directory; the first of these that says something counts.
    """

    model_config = SettingsConfigDict(env_prefix="REHEARSAL_", extra="forbid", frozen=True)

    home: Path = Field(HOME, description="Where everything is kept: lake, adapters, reports.")
    base: str = Field("rehearsal-tiny", description="Base model: shipped name, directory, Hugging Face id.")
    environment: str = Field(
        "", description="The real environment, 'package.module:Class'; only evaluation uses it."
    )
    seed: int = Field(0, description="Seed of everything that is drawn.")

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    def save(self) -> None:
        """Keep these settings in the home directory, for whoever opens it next."""
        self.home.mkdir(parents=True, exist_ok=True)
        write_json(self.home / SAVED, self.model_dump(mode="json", exclude={"home"}))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given: dict[str, Any] = init_settings()
        home = Path(given.get("home") or os.environ.get("REHEARSAL_HOME") or HOME)
        saved = JsonConfigSettingsSource(settings_cls, json_file=home / SAVED)
        return init_settings, env_settings, saved
