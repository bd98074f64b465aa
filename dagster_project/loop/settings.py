"""User settings of the loop, in one place."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dagster_project.loop.stages import write_json
from ingest.errors import UserError
from training.engines.vllm import VllmSettings
from training.judging.judge import JudgeSettings
from training.judging.ruler import RulerSettings
from training.learning.fits import FitSettings
from training.models.template import ChatSettings
from training.policy.gate import GateSettings
from training.policy.grpo import TrainSettings
from training.policy.offline import OfflineSettings
from worldmodel.fit import FitSettings as WorldSettings

HOME = Path("artifacts/home")
"""Where everything is kept unless `--home` or REHEARSAL_HOME says otherwise. The demo has a home of its own."""
SAVED = "settings.json"


class EvaluationSettings(BaseModel):
    """The last word: both policies in the real environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    episodes: int = Field(500, ge=2, description="Episodes of each policy, the same starts and seeds for both.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    min_p: float = Field(
        0.05, ge=0, lt=1, description="Tokens less likely than this times the likeliest are not drawn."
    )


class Settings(BaseSettings):
    """Each field can be given as an argument, as REHEARSAL_<NAME> in the environment (parts of a part with two
    underscores: REHEARSAL_TRAIN__STEPS), or in `settings.json` in the home directory; the first of these that says
    something counts. The defaults are the vetted ones for the tiny base on two cores (docs/training.md).
    """

    model_config = SettingsConfigDict(
        env_prefix="REHEARSAL_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(HOME, description="Where everything is kept: lake, adapters, reports.")
    base: str = Field("rehearsal-tiny", description="Base model: shipped name, directory, Hugging Face id.")
    chat: ChatSettings = Field(ChatSettings(), description="How the base's chat template writes the policy's turns.")
    engine: str = Field("transformers", description="What samples: transformers (in process) or vllm.")
    vllm: VllmSettings = Field(VllmSettings(), description="How vLLM is run, where it samples.")
    lake_dir: Path | None = Field(None, description="The lake, if it is not `lake` in the home directory.")
    world_dir: Path | None = Field(None, description="A world that `rehearsal world fit` made, instead of fitting one.")
    environment: str = Field("", description="The real environment, 'package.module:Class'; only evaluation uses it.")
    agent: str = Field("", description="Which agent of the traces is retrained; empty: all of them.")
    seed: int = Field(0, description="Seed of everything that is drawn.")
    practice_workers: int = Field(
        0, ge=0, description="Processes that sample; 1 is the loop's own alone, 0 as many as suit a tiny model here."
    )
    # The parts' defaults are values and not factories: only a value is completed where no more than a part is given.
    world: WorldSettings = Field(WorldSettings(), description="How the world is learned.")
    card_calls: int | None = Field(None, description="Held-out calls the card is measured on; all of them by default.")
    clone: FitSettings = Field(FitSettings(max_tokens=3_600_000), description="How the production agent is cloned.")
    judge: JudgeSettings = Field(JudgeSettings(), description="How the offline judge is trained.")
    ruler: RulerSettings = Field(RulerSettings(), description="Who judges, and how they are asked.")
    train: TrainSettings = Field(TrainSettings(), description="How the policy practises.")
    offline: OfflineSettings = Field(OfflineSettings(), description="How recorded conversations teach without a world.")
    gate: GateSettings = Field(GateSettings(), description="What a candidate must show.")
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="The measurement in the real environment."
    )

    def __init__(self, **given: Any) -> None:
        """Raises UserError for what nobody may choose, wherever it was said."""
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UserError(f"settings: {wrong} (from arguments, REHEARSAL_* or {SAVED} in the home)") from error
        except ValueError as error:  # not even JSON
            raise UserError(f"settings: {error} (in REHEARSAL_* or in {SAVED} in the home)") from error

    @property
    def lake(self) -> Path:
        return self.lake_dir or self.home / "lake"

    @property
    def compact(self) -> bool:
        """Whether the base is the tiny one, which is shown neither system prompts nor tool definitions."""
        return self.base == "rehearsal-tiny"

    def save(self, leave_out: Collection[str] = ()) -> None:
        """Write what differs from the defaults to the home directory, without the fields in `leave_out` and without
        keys. Whoever opens the home next gets these settings.
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
        ruler = saved().get("ruler")
        if isinstance(ruler, dict) and ruler.get("api_key"):
            raise UserError(
                f"{home / SAVED} holds ruler.api_key; keys are not kept in files: set REHEARSAL_RULER__API_KEY instead"
            )
        return init_settings, env_settings, saved


def _different(value: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of nested JSON objects whose values are not the default's."""
    found: dict[str, Any] = {}
    for name, own in value.items():
        other = default.get(name)
        if isinstance(own, dict) and isinstance(other, dict):
            if inner := _different(own, other):
                found[name] = inner
        elif own != other:
            found[name] = own
    return found
