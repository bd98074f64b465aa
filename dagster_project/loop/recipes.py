"""Small picklable values that open practice or evaluation in any process. The heavy objects are created there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from training.engines import Engine
from training.engines.choose import open_engine
from training.engines.vllm import VllmSettings
from training.judging.grounding import Evidence
from training.judging.hosted import open_client
from training.judging.judge import LocalJudge, in_process_client
from training.judging.ruler import Ruler, RulerSettings
from training.models.base import load_base, load_format
from training.models.template import ChatSettings
from training.policy.evaluate import Player, load_environment
from training.policy.practice import Practice
from training.policy.rollout import Limits
from training.policy.system import SystemShown
from worldmodel.world import WorldModel


@dataclass(frozen=True)
class PracticeRecipe:
    """Opens an engine with world, user and judge.

    With `compact`, prompts contain no tools, and of system prompts what `show_system` leaves. `judge` is the judge
    adapter's directory and `judge_facts` the result of its fit (form, max_tokens); both are unused if `ruler` names an
    endpoint.
    """

    base: str
    engine: str
    compact: bool
    show_system: SystemShown
    world: Path
    judge: Path | None
    judge_facts: Mapping[str, Any]
    ruler: RulerSettings
    limits: Limits
    temperature: float
    min_p: float
    vllm: VllmSettings = VllmSettings()
    chat: ChatSettings = ChatSettings()
    changes_weight: float = 0.0

    def open(self) -> Practice:
        base = load_base(self.base, show_tools=not self.compact, chat=self.chat)
        engine = open_engine(self.engine, base, self.vllm)
        client, forget = self._client(engine)
        return Practice(
            engine, base.format, WorldModel.load(self.world, engine), Ruler(self.ruler, client),
            self.limits, self.temperature, show_system=self.show_system, min_p=self.min_p, forget=forget,
            changes_weight=self.changes_weight,
        )  # fmt: skip

    def _client(self, engine: Engine) -> tuple[httpx.AsyncClient, Callable[[], None]]:
        """The judge's HTTP client, and a function that clears its cache of verdicts."""
        if self.judge is None:
            return open_client(self.ruler.base_url or "", self.ruler.hosted), lambda: None
        engine.load_adapter("judge", self.judge)
        chat, facts = load_format(self.base, show_tools=False), self.judge_facts
        evidence = Evidence.read(facts["evidence"])
        judge = LocalJudge(engine, chat, "judge", facts["form"], facts["max_tokens"], evidence)
        return in_process_client(judge), judge.forget


@dataclass(frozen=True)
class EvaluationRecipe:
    """Opens the adapters (by name) and the real environment `environment` ('package.module:Class')."""

    base: str
    engine: str
    compact: bool
    show_system: SystemShown
    environment: str
    adapters: Mapping[str, Path]
    episodes: int
    seed: int
    temperature: float
    min_p: float
    limits: Limits
    vllm: VllmSettings = VllmSettings()
    chat: ChatSettings = ChatSettings()

    def open(self) -> Player:
        base = load_base(self.base, show_tools=not self.compact, chat=self.chat)
        engine = open_engine(self.engine, base, self.vllm)
        for name, path in self.adapters.items():
            engine.load_adapter(name, path)
        return Player(
            engine, base.format, load_environment(self.environment), self.episodes, self.seed, self.temperature,
            self.limits, show_system=self.show_system, min_p=self.min_p,
        )  # fmt: skip
