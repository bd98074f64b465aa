"""User settings of the loop."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dagster_project.loop.stages import read_json, write_json
from ingest.errors import UserError
from training.engines.vllm import VllmSettings
from training.judging.judge import JudgeSettings
from training.judging.ruler import RulerSettings
from training.learning.fits import FitSettings
from training.models.base import is_compact
from training.models.template import ChatSettings
from training.policy.gate import GateSettings
from training.policy.grpo import TrainSettings
from training.policy.offline.fit import HeadStart, OfflineSettings
from worldmodel.card.make import CardSettings
from worldmodel.fit import FitSettings as WorldSettings

HOME = Path("artifacts/home")
"""The default home. `--home` and REHEARSAL_HOME override it. The demo has its own default, artifacts/demo."""
SAVED = "settings.json"


class EvaluationSettings(BaseModel):
    """The evaluation of both policies in the real environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    episodes: int = Field(500, ge=2, description="Episodes per policy, with the same start states and seeds.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    min_p: float = Field(
        0.05, ge=0, lt=1, description="Tokens whose probability is below min_p times the largest one are not sampled."
    )


class Settings(BaseSettings):
    """The settings of a home.

    Order of priority: argument (command-line option), environment variable REHEARSAL_<NAME> (nested fields with two
    underscores: REHEARSAL_TRAIN__STEPS), `settings.json` in the home directory, default. The defaults were chosen for
    the tiny base on two cores (docs/training.md). Raises UserError for an invalid value.
    """

    model_config = SettingsConfigDict(
        env_prefix="REHEARSAL_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(HOME, description="Home directory: lake, stages, adapters, reports.")
    base: str = Field("rehearsal-tiny", description="Base model: shipped name, directory or Hugging Face id.")
    chat: ChatSettings = Field(ChatSettings(), description="How the base's chat template writes the policy's turns.")
    engine: str = Field("transformers", description="Sampling engine: transformers (in process) or vllm.")
    vllm: VllmSettings = Field(VllmSettings(), description="Settings of the vLLM engine.")
    lake_dir: Path | None = Field(None, description="The lake, if it is not `lake` in the home directory.")
    world_dir: Path | None = Field(None, description="A world from `rehearsal world fit`; no world is fitted then.")
    environment: str = Field("", description="Real environment, 'package.module:Class'; only evaluation uses it.")
    agent: str = Field("", description="The agent to retrain, by its name in the traces; empty: all agents.")
    seed: int = Field(0, description="Random seed.")
    practice_workers: int = Field(
        0, ge=0, description="Processes that sample. 0: chosen from the model's size and the cores; 1: no subprocess."
    )
    # Values and not factories: pydantic-settings completes a partly given nested model only from a default value.
    world: WorldSettings = Field(WorldSettings(), description="Fit of the world.")
    card_calls: int | None = Field(None, description="Held-out calls that the card is measured on; default: all.")
    card: CardSettings = Field(CardSettings(), description="How often the card asks the model.")
    clone: FitSettings = Field(FitSettings(max_tokens=3_600_000), description="Fit of the clone.")
    head_start: HeadStart = Field(HeadStart(), description="What the clone learns before its first practice.")
    judge: JudgeSettings = Field(JudgeSettings(), description="Fit of the offline judge.")
    ruler: RulerSettings = Field(RulerSettings(), description="RULER: the judge's endpoint and prompts.")
    train: TrainSettings = Field(TrainSettings(), description="Practice: GRPO in the world.")
    offline: OfflineSettings = Field(OfflineSettings(), description="Training on recorded conversations.")
    gate: GateSettings = Field(GateSettings(), description="Conditions for a promotion.")
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="Measurement in the real environment.")

    def __init__(self, **given: Any) -> None:
        """Raises UserError for an invalid value, with its source."""
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UserError(f"settings: {wrong} (from arguments, REHEARSAL_* or {SAVED} in the home)") from error
        except ValueError as error:  # invalid JSON
            raise UserError(f"settings: {error} (in REHEARSAL_* or in {SAVED} in the home)") from error

    @property
    def lake(self) -> Path:
        return self.lake_dir or self.home / "lake"

    @property
    def compact(self) -> bool:
        """Whether the base declares the compact chat format: prompts without system prompts and tool definitions."""
        return is_compact(self.base)

    def save(self, leave_out: Collection[str] = ()) -> None:
        """Write the values that differ from the defaults to settings.json, without the fields in `leave_out` and
        without keys. Later commands in this home use them.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        dumped = self.model_dump(mode="json", exclude={"home", *leave_out})
        write_json(self.home / SAVED, _different(dumped, type(self).model_construct().model_dump(mode="json")))

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
        _refuse_key(saved(), home / SAVED)
        return init_settings, env_settings, saved


def read_settings(file: Path, home: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file. Raises UserError for a file that cannot be read and for an invalid value."""
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read as settings: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{file} holds no settings: expected names with values, as in settings.json")
    _refuse_key(values, file)
    Settings(**{"home": home, **values})
    return values


def _refuse_key(values: Mapping[str, Any], file: Path) -> None:
    ruler = values.get("ruler")
    if isinstance(ruler, dict) and ruler.get("api_key"):
        raise UserError(f"{file} holds ruler.api_key; keys are not stored in files; set REHEARSAL_RULER__API_KEY")


def keep_settings(home: Path, values: Mapping[str, Any]) -> None:
    """Write settings over those of the home's settings.json. REHEARSAL_* and options still override them."""
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / SAVED, merged(read_json(home / SAVED) or {}, values))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested JSON objects. Where both have a value, the value in `above` is used."""
    both = {k: merged(below[k], v) if isinstance(v, dict) and isinstance(below.get(k), dict) else v
            for k, v in above.items()}  # fmt: skip
    return {**below, **both}


def _different(value: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of nested JSON objects that differ from the defaults."""
    found: dict[str, Any] = {}
    for name, own in value.items():
        other = default.get(name)
        if isinstance(own, dict) and isinstance(other, dict):
            if inner := _different(own, other):
                found[name] = inner
        elif own != other:
            found[name] = own
    return found
