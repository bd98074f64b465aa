"""The stages of the loop, one method per stage. Dagster's assets and the commands call only these.

The inputs of a stage are the fingerprints of the stages before it and the settings that it uses, so a stage runs again
exactly when one of these has changed. A method runs its own stage only. It reads the earlier stages in the versions
that are pinned for this run (pins.py). `read` runs nothing; `run_until` runs every stage in order.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dagster_project.loop import fits
from dagster_project.loop.landing import Landing
from dagster_project.loop.left_out import left_out
from dagster_project.loop.needs import check_data
from dagster_project.loop.pins import Pins, collect, name_of
from dagster_project.loop.recipes import EvaluationRecipe, PracticeRecipe
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import (
    Done,
    fingerprint,
    finished,
    read_json,
    read_version,
    run_stage,
    version_path,
    write_json,
)
from ingest.errors import UserError
from ingest.frozen import FrozenTables
from ingest.lake import Lake
from ingest.records import Conversation, Scenario
from training.judging.hosted import HostedSettings
from training.judging.ruler import RulerSettings
from training.learning.deadline import Stop, never
from training.models.base import load_context, load_format
from training.models.template import ChatSettings
from training.policy.evaluate import Run, environment_code, summary
from training.policy.gate import as_dict, compare, example_of, usual_share
from training.policy.grpo import Grpo, in_words, lasting_alarms
from training.policy.lengths import fitted_limits, fitting_scenarios
from training.policy.pool import PracticePool, play
from training.policy.practice import Practising
from training.policy.registry import Registry, Version
from training.policy.rollout import Limits
from training.policy.system import SystemShown
from training.progress import FitReport, Report, announce, fit_report, report_part, track
from training.workers import Workers, choose_count
from worldmodel.artifact import read_manifest
from worldmodel.card.make import CardSettings, make_card
from worldmodel.fit import TITLES

STAGES = {
    "data": "traces/conversations",
    "world": "world/simulator",
    "card": "world/fidelity_card",
    "judge": "policy/judge",
    "clone": "policy/clone",
    "candidate": "policy/candidate",
    "gate": "policy/champion",
    "evaluation": "report/evaluation",
}
"""The stages in their order, each with its Dagster asset."""

RECORDED = 1000
"""So many of production's latest conversations say how often its agent states numbers that nothing shows."""
CLONED = "clone"
"""Key in the note of a registered version: it is a clone, with the fingerprint of its stage."""


class Loop(Landing):
    """The loop in one home directory.

    `log` receives progress lines. `run` is the run's id: all loops with the same id read the same stage versions.
    `stop` is called between two training steps (`training/learning/deadline.py`); work that it ends is partial.
    """

    def __init__(
        self,
        settings: Settings,
        log: Callable[[str], None] | None = None,
        run: str | None = None,
        stop: Stop = never,
    ) -> None:
        super().__init__(settings, log)
        self.stop = stop
        self._pins = Pins(settings.home, run or f"process-{uuid.uuid4().hex[:12]}")

    # ----- finished stages

    def read(self, stage: str) -> Done:
        """A finished stage, in the version pinned for this run. Raises UserError if the stage is not finished."""
        if stage == "world" and self.settings.world_dir is not None:
            manifest = read_manifest(self.settings.world_dir)
            return Done(self.settings.world_dir, manifest["id"], manifest, 0.0, reused=True)
        done = self._pins.read(stage)
        if done is None:
            raise UserError(
                f"the stage {stage} is not finished in {self.settings.home}; materialise {STAGES[stage]} first"
            )
        return done

    def read_input(self, done: Done, stage: str) -> Done:
        """The version of `stage` that was an input of a finished stage. Raises UserError if it was removed."""
        key = name_of(done.inputs[stage])
        if stage == "world" and self.settings.world_dir is not None:
            return self.read(stage)
        found = read_version(version_path(self.settings.home / stage, key))
        if found is None:
            raise UserError(f"{self.settings.home} has no {stage} {key} any more; materialise {STAGES[stage]} again")
        return found

    def run_until(self, last: str) -> Done:
        """Run every stage up to `last`, in order. Stages that are finished for the same inputs are reused."""
        for stage in STAGES:
            done: Done = getattr(self, stage)()
            if stage == last:
                return done
            if stage == "data":
                self.check_data(list(STAGES)[: list(STAGES).index(last) + 1])
        raise ValueError(f"no stage {last!r}; there are {', '.join(STAGES)}")

    def _do(self, stage: str, inputs: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Done:
        inputs = plain(inputs)
        self._pins.choose(stage, fingerprint(inputs))
        done = run_stage(self.settings.home / stage, inputs, work, partial(announce, log=self.log))
        for line in [] if done.reused else left_out(stage, done.facts):
            announce(line, self.log or print)
        collect(self.settings.home)
        return done

    # ----- telemetry

    def share(self, sql: str) -> float:
        """The result of a one-number query on the tables that this run reads; 0 for no rows."""
        return float(self.tables.query(sql).column(0)[0].as_py() or 0.0)

    def data(self) -> Done:
        """Build the tables of sql/ if they are out of date, and freeze a copy for the other stages."""
        lake = self.lake
        if lake.is_empty():
            raise UserError(f"the lake {lake.path} is empty; fill it with: rehearsal ingest --lake {lake.path}")
        while True:
            rows = lake.build_tables()
            made_of = json.loads((lake.path / "tables" / "state.json").read_text())["of"]
            try:
                return self._do("data", {"made_of": made_of}, partial(_freeze, lake, made_of, rows))
            except _TablesChanged:
                continue  # another process ingested rows in between

    def check_data(self, stages: Sequence[str]) -> None:
        """Raise UserError if the tables do not suffice for `stages`. Called before the first fit."""
        check_data(self.settings, self._recorded, self.scenarios, stages)

    @property
    def tables(self) -> FrozenTables:
        """The frozen tables that this run reads."""
        return FrozenTables(self.read("data").directory)

    # ----- world

    def world(self) -> Done:
        """Fit the world: induced rules, and the world and user adapters."""
        settings = self.settings
        if settings.world_dir is not None:
            return self.read("world")
        data = self.read("data")
        how = settings.world.model_copy(update={"base": settings.base, "seed": settings.seed})
        inputs = {"data": data.fingerprint, "settings": how}

        def work(directory: Path) -> dict[str, Any]:
            reports: dict[str, FitReport] = {}

            def progress(part: str, done: float, metrics: Mapping[str, float]) -> None:
                if part not in reports:
                    reports[part] = fit_report(TITLES[part], self.log)
                reports[part](done, metrics)

            needs = data.directory, directory, how, self._last("world"), self.stop
            return fits.run_in_subprocess(fits.world, needs, progress)

        return self._do("world", inputs, work)

    def card(self) -> Done:
        """Measure the fidelity card. A tool that fails its thresholds is only replayed from then on."""
        world = self.read("world")
        asked: dict[str, Any] = {"world": world.fingerprint, "most": self.settings.card_calls}
        if self.settings.card != CardSettings():
            asked["card"] = self.settings.card

        def work(_: Path) -> dict[str, Any]:
            report = track("measuring the fidelity card", self.log)
            return make_card(
                world.directory, most=self.settings.card_calls, settings=self.settings.card,
                on_progress=lambda done, total: report(done, total, ""), processes=self._processes(),
            )  # fmt: skip

        return self._do("card", asked, work)

    # ----- judge and policy

    def judge(self) -> Done:
        """Fit the judge adapter on production outcomes. With a hosted judge nothing is fitted; no outcome is needed."""
        settings, data = self.settings, self.read("data")
        if settings.ruler.base_url:
            hosted = {"form": "hosted", "endpoint": settings.ruler.base_url, "model": settings.ruler.model}
            return self._do("judge", hosted, lambda directory: hosted)
        inputs = {"data": data.fingerprint, "base": settings.base, "judge": settings.judge, "seed": settings.seed}
        inputs |= fits.agent_of(settings)

        def work(directory: Path) -> dict[str, Any]:
            needs = settings, data.directory, directory, self._last("judge"), self.stop
            return fits.run_in_subprocess(fits.judge, needs, fit_report("fitting the judge", self.log))

        return self._do("judge", inputs, work)

    def clone(self) -> Done:
        """Fit the clone of the production agent."""
        settings, data = self.settings, self.read("data")
        inputs = {"data": data.fingerprint, "base": settings.base, "clone": settings.clone, "seed": settings.seed}
        inputs |= {"head_start": settings.head_start, "outcome": fits.outcome_of(settings), **fits.agent_of(settings)}
        if settings.chat != ChatSettings():
            inputs["chat"] = settings.chat

        def work(directory: Path) -> dict[str, Any]:
            needs = settings, data.directory, directory, self.stop
            return fits.run_in_subprocess(fits.clone, needs, fit_report("cloning the agent", self.log))

        return self._do("clone", inputs, work)

    def offline(self) -> Done:
        """Retrain the champion (the clone if there is none) on recorded conversations, without a world."""
        settings, data, clone = self.settings, self.read("data"), self.read("clone")
        inputs = {
            "data": data.fingerprint,
            "clone": clone.fingerprint,
            "offline": settings.offline,
            "ruler": self._scoring() if settings.offline.rewards == "ruler" else None,
            "seed": settings.seed,
            "outcome": fits.outcome_of(settings),
            **fits.agent_of(settings),
        }

        def work(directory: Path) -> dict[str, Any]:
            needs = settings, data.directory, self._start(directory, clone), directory, self.stop
            return fits.run_in_subprocess(fits.offline, needs, fit_report("offline training", self.log))

        return self._do("offline", inputs, work)

    def candidate(self) -> Done:
        """Train the champion (the clone if there is none) in the world: GRPO with RULER."""
        settings = self.settings
        data, clone = self.read("data"), self.read("clone")
        scenarios = self.scenarios()
        how = settings.train.model_copy(update={"seed": settings.seed})
        inputs = {
            "data": data.fingerprint,  # the scenarios
            "world": self.read("world").fingerprint,
            "card": self.read("card").fingerprint,  # the tools that may be generated
            "clone": clone.fingerprint,
            "judge": self.read("judge").fingerprint,
            "ruler": self._scoring(),
            "train": how,
            "gate": settings.gate.scenarios,
            **fits.agent_of(settings),
        }

        def work(directory: Path) -> dict[str, Any]:
            report = track("practice in the world", self.log)
            with self.practice(how.changes_weight) as practice:
                loop = Grpo(
                    fits.policy_base(self.settings), practice, scenarios[: -settings.gate.scenarios],
                    self._start(directory, clone), directory / "adapter", how,
                )  # fmt: skip
                facts = asyncio.run(loop.train(lambda m: report(int(m["step"]), how.steps, in_words(m)), self.stop))
                report(facts["steps"], facts["steps"], f"best adapter: step {facts['best_step']}")
                return facts

        return self._do("candidate", inputs, work)

    def gate(self) -> Done:
        """Compare champion and candidate on held-out scenarios; promote the candidate if it is better.

        The champion is an input of the stage. If the candidate already serves, the champion is the version before it,
        so a finished or killed gate never compares a candidate with itself. A candidate that was rolled back is
        compared again before it can be promoted.
        """
        settings, candidate = self.settings, self.read("candidate")
        incumbent = self._incumbent(candidate)
        inputs = {
            "candidate": candidate.fingerprint,
            "champion": incumbent.name,
            "world": self.read("world").fingerprint,
            "card": self.read("card").fingerprint,
            "judge": self.read("judge").fingerprint,
            "gate": settings.gate,
        }

        def work(directory: Path) -> dict[str, Any]:
            registry, kept = self.registry, directory / "verdict.json"
            found = read_json(kept)  # of a run that was killed after the comparison
            if found is None:
                changes = len(registry.history())
                found = {**self._compare(candidate, incumbent, directory), "changes": changes}
                write_json(kept, found)
            version = registry.add(candidate.directory / "adapter", found)
            if found["promoted"] and len(registry.history()) == found["changes"]:  # the champion has not changed
                registry.promote(version.name, found["why"])
            return {**found, "version": version.name, "champion": incumbent.name}

        return self._do("gate", inputs, work)

    def _incumbent(self, candidate: Done) -> Version:
        """The version that the candidate is compared with: the champion; the clone if there is none; the champion
        before the candidate if the candidate already serves."""
        registry = self.registry
        serving = registry.champion()
        if serving is None:
            clone = self.read_input(candidate, "clone")
            first = registry.add(clone.directory / "adapter", {CLONED: clone.fingerprint})
            return registry.promote(first.name, "the production agent's clone is the first champion")
        if serving.name == registry.name_of(candidate.directory / "adapter"):
            return registry.before(serving.name) or serving
        return serving

    def _compare(self, candidate: Done, champion: Version, directory: Path) -> dict[str, Any]:
        """The verdict on the scenarios that are held out from practice."""
        settings, left_out = self.settings, int(candidate.inputs["gate"])
        if settings.gate.scenarios > left_out:
            raise UserError(
                f"the gate needs {settings.gate.scenarios} scenarios and practice held out {left_out}; "
                f"materialise {STAGES['candidate']} again"
            )
        tables = FrozenTables(self.read_input(candidate, "data").directory)
        held_out = self.scenarios(tables)[-left_out:][-settings.gate.scenarios :]
        usual = usual_share(fits.conversations(tables.path, settings.agent)[-RECORDED:])
        report = track("at the gate", self.log)
        with self.practice(candidate.inputs["train"].get("changes_weight", 0.0)) as practice:
            practice.load_adapter("champion", champion.path)
            practice.load_adapter("candidate", candidate.directory / "adapter")
            verdict, pairs = asyncio.run(
                compare(
                    practice, held_out, "champion", "candidate", settings.gate,
                    [*lasting_alarms(candidate.facts["history"]), *self._judge_alarms()], settings.seed,
                    lambda done: report(done, 2 * len(held_out), ""), usual,
                )
            )  # fmt: skip
        write_json(directory / "example.json", example_of(held_out, pairs))
        names = ("champion", "candidate")
        cut = {name: sum(pair[k].cut_off for pair in pairs.values()) for k, name in enumerate(names)}
        return {**as_dict(verdict), "cut_off": cut}

    def evaluation(self) -> Done:
        """Measure clone and candidate in the real environment, with the same start states and seeds."""
        settings = self.settings
        if not settings.environment:
            raise UserError("no real environment is configured; set `environment` to 'package.module:Class'")
        adapters = {"before": self.read("clone"), "after": self.read("candidate")}
        how = settings.evaluation
        inputs = {
            **{name: done.fingerprint for name, done in adapters.items()},
            "evaluation": how,
            "environment": settings.environment,
            "environment_code": environment_code(settings.environment),
        }

        def work(directory: Path) -> dict[str, Any]:
            report = track("evaluation in the real environment", self.log)
            paths = {name: done.directory / "adapter" for name, done in adapters.items()}
            recipe = EvaluationRecipe(
                settings.base, settings.engine, settings.compact, self.show_system, settings.environment,
                paths | fits.started(*adapters.values()), how.episodes, settings.seed, how.temperature, how.min_p,
                self.limits, settings.vllm, settings.chat,
            )  # fmt: skip
            runs = {run.name: run for run in asyncio.run(self.play(recipe, report))}
            return summary(runs["before"], runs["after"], runs.get("start"))

        return self._do("evaluation", inputs, work)

    async def play(self, recipe: EvaluationRecipe, report: Report) -> list[Run]:
        """Play each policy in the real environment. Returns one run per policy."""
        each, count = recipe.episodes, self._processes()
        total = each * len(recipe.adapters)
        places = [(partial(report_part, report, k * each, total), name) for k, name in enumerate(recipe.adapters)]
        if count > 1:
            with Workers(recipe.open, count) as workers:
                return [await play(workers, name, each, on_done) for on_done, name in places]
        player = recipe.open()
        try:
            return [await player.play(name, None, on_done) for on_done, name in places]
        finally:
            await player.engine.close()

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.home / "registry")

    # ----- shared by several stages

    def scenarios(self, tables: FrozenTables | None = None) -> list[Scenario]:
        """The scenarios for practice, oldest first, of `tables` (default: the tables that this run reads)."""
        tables = tables or self.tables
        recorded = fits.conversations(tables.path, self.settings.agent)
        found = fits.scenarios(tables.scenarios(), recorded, self.settings)
        chat = load_format(self.settings.base, not self.settings.compact, self.settings.chat)
        kept, refused = fitting_scenarios(found, chat, self.limits, self.show_system)
        for why, count in refused.items():
            announce(f"{count} of {len(found)} scenarios are not used: {why}", self.log or print)
        return kept

    @cached_property
    def limits(self) -> Limits:
        """The limits of an episode: those of the settings, raised to the lengths of the recorded conversations."""
        base, tools = self.settings.base, not self.settings.compact
        context, chat = load_context(base), load_format(base, tools, self.settings.chat)
        return fitted_limits(self.settings.train.limits, self._recorded, chat, context, self.show_system)

    @cached_property
    def show_system(self) -> SystemShown:
        """What the policy reads of system prompts."""
        return fits.system_of(self.settings, self._recorded)

    @cached_property
    def _recorded(self) -> list[Conversation]:
        return fits.conversations(self.tables.path, self.settings.agent)

    @contextmanager
    def practice(self, changes_weight: float = 0.0) -> Iterator[Practising]:
        """Engine, world, user and judge for practice, in one process or in a pool, whichever is faster."""
        settings = self.settings
        judge = None if settings.ruler.base_url else self.read("judge")
        recipe = PracticeRecipe(
            settings.base, settings.engine, settings.compact, self.show_system, self.read("world").directory,
            judge.directory / "adapter" if judge else None, judge.facts if judge else {},
            fits.ruler_of(settings), self.limits, settings.train.temperature, settings.train.min_p, settings.vllm,
            settings.chat, changes_weight,
        )  # fmt: skip
        count = self._processes()
        if count > 1:
            with PracticePool.open(recipe.open, count) as pool:
                yield pool
        else:
            yield recipe.open()

    def _scoring(self) -> RulerSettings:
        """The ruler's settings that change scores: without limits, retries and cache."""
        return fits.ruler_of(self.settings).model_copy(update={"hosted": HostedSettings()})

    def _last(self, stage: str) -> Path | None:
        """The directory of the current version of a stage, from which its next fit starts; None if there is none."""
        done = finished(self.settings.home / stage)
        return done.directory if done else None

    def _start(self, directory: Path, clone: Done) -> Path:
        """The adapter that a retraining starts from: the champion, or the clone's head start until a candidate was
        promoted. It is recorded at the first attempt; the champion can change before a killed run is continued."""
        noted = read_json(directory / fits.START)
        if noted is None:
            champion, base = self.registry.champion(), fits.base_of(clone.directory / "adapter")
            trained = champion is not None and CLONED not in champion.note and champion.manifest.get("base") == base
            chosen = champion.path if champion is not None and trained else fits.first_start(clone.directory)
            noted = {"start": str(chosen.absolute())}
            write_json(directory / fits.START, noted)
        return Path(noted["start"])

    def _processes(self) -> int:
        """The number of processes that sample."""
        settings = self.settings
        return choose_count(settings.practice_workers, settings.engine, lambda: fits.policy_base(settings).model)

    def _judge_alarms(self) -> list[str]:
        """An alarm if the judge's agreement interval includes 0.5: its rewards would be random."""
        if self.settings.ruler.base_url or self.read("judge").facts["interval"][0] > 0.5:
            return []
        return ["the interval of the judge's agreement with production outcomes includes 0.5"]


class _TablesChanged(Exception):
    """The lake's tables changed while they were being frozen."""


def _freeze(lake: Lake, made_of: Mapping[str, Any], rows: Mapping[str, int], directory: Path) -> dict[str, Any]:
    if lake.freeze(directory) != made_of:
        raise _TablesChanged
    return {"rows": dict(rows)}


def plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings among the inputs as JSON."""
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in inputs.items()}
