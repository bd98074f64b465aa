"""One pass through the loop, a method a stage. Dagster's assets and the demo call these and nothing else.

A stage's directory lies in the home directory; its inputs are the fingerprints of the stages before it and
the settings that it uses, so a stage is done again exactly when something that it depends on has changed.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dagster_project.loop import fits
from dagster_project.loop.progress import Report, track
from dagster_project.loop.recipes import EvaluationRecipe, PracticeRecipe
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import Done, fingerprint, last_version, read_json, run_stage, write_json
from ingest.errors import UserError
from ingest.journal import segments as journal
from ingest.lake import IngestSummary, Lake
from ingest.records import Conversation, Scenario
from ingest.storage import arrivals
from ingest.storage.arrivals import Arrived
from training.judging.hosted import HostedSettings
from training.judging.ruler import RulerSettings
from training.learning.deadline import Stop, never
from training.learning.trajectory import Trajectory
from training.models.base import Base, load_base, load_context, load_format
from training.models.lora import manifest_of
from training.policy.evaluate import Run, summary
from training.policy.gate import as_dict, compare
from training.policy.grpo import Grpo, lasting_alarms
from training.policy.lengths import fitted_limits, fitting_scenarios
from training.policy.pool import PracticePool, play
from training.policy.practice import Practising
from training.policy.registry import Registry
from training.policy.rollout import Limits
from training.workers import Workers, choose_count
from worldmodel.artifact import read_manifest
from worldmodel.card import make_card

START = "start.json"
"""In a retraining's directory: the adapter that it started from."""


class Loop:
    """The loop in one home directory. `log` is told, line by line, how far long work is.

    `stop` is asked between two steps of training (training/learning/deadline.py): what it ends is partial.
    """

    def __init__(self, settings: Settings, log: Callable[[str], None] | None = None, stop: Stop = never) -> None:
        self.settings, self.log, self.stop = settings, log, stop
        self._partial: dict[str, Done] = {}

    @property
    def lake_path(self) -> Path:
        return self.settings.lake

    @property
    def lake(self) -> Lake:
        """The lake. Raises UserError where there is none."""
        return Lake.open(self.lake_path)

    # ----- telemetry

    def ingest(self) -> IngestSummary:
        """What is new in the journal, into raw tables."""
        lake = Lake.create(self.lake_path)
        report = track("reading the journal", self.log)
        total = len(journal.segments(lake.journal_path))
        seen: list[Path] = []

        def progress(path: Path, rows: int) -> None:
            seen.append(path)
            report(len(seen), total, f"{rows} rows")

        return lake.ingest(progress=progress)

    def build_tables(self) -> dict[str, int]:
        """The tables of sql/; returns how many rows each has."""
        return self.lake.build_tables()

    def share(self, sql: str) -> float:
        """The answer to a query for one number; no rows count as 0."""
        return float(self.lake.query(sql).column(0)[0].as_py() or 0.0)

    def land_again(self, from_ns: int, to_ns: int) -> IngestSummary:
        """What arrived in a stretch of time, into the raw tables, whether it was read before or not."""
        return Lake.create(self.lake_path).ingest(again=True, arrived=(from_ns, to_ns))

    def arrived(self, from_ns: int = 0, to_ns: int = 2**63 - 1) -> Arrived:
        """What the receiver said yes to in a stretch of time, and how much of it the lake has. Rows that have expired
        do not count."""
        return arrivals.count(self.lake.path, max(from_ns, self.lake.rows_from_ns), to_ns)

    def data(self) -> str:
        """A name for what the tables hold: equal raw parts, mapping and SQL have equal names."""
        lake = self.lake
        lake.build_tables()
        return fingerprint(json.loads((lake.path / "tables" / "state.json").read_text())["of"])

    # ----- world

    def world(self) -> Done:
        """The world and user adapters, and all that the world knows without a model."""
        settings = self.settings
        if settings.world_dir is not None:
            manifest = read_manifest(settings.world_dir)
            return Done(settings.world_dir, manifest["id"], manifest, 0.0, reused=True)
        how = replace(settings.world, base=settings.base, seed=settings.seed)
        inputs = {"data": self.data(), "settings": asdict(how)}

        def work(directory: Path) -> dict[str, Any]:
            reports: dict[str, FitReport] = {}

            def progress(adapter: str, done: float, metrics: Mapping[str, float]) -> None:
                if adapter not in reports:
                    title = "learning the users" if adapter == "user" else "learning the world"
                    reports[adapter] = fit_report(title, self.log)
                reports[adapter](done, metrics)

            needs = (self.lake_path, directory, how, last_version(directory), self.stop)
            return fits.run_in_subprocess(fits.world, needs, progress)

        return self._train("world", inputs, work, keep_last=True)

    def card(self) -> Done:
        """How true the world is; a tool that fails may from then on only be replayed."""
        world = self.world()
        asked = {"world": world.fingerprint, "most": self.settings.card_calls}

        def work(_: Path) -> dict[str, Any]:
            report = track("asking the world held-out calls", self.log)
            return make_card(
                world.directory, most=self.settings.card_calls,
                on_progress=lambda done, total: report(done, total, ""), processes=self._processes(),
            )  # fmt: skip

        return run_stage(self.settings.home / "card", asked, work)

    # ----- judge and policy

    def judge(self) -> Done:
        """The judge adapter, trained on production's outcomes."""
        settings = self.settings
        inputs = {"data": self.data(), "base": settings.base, "judge": settings.judge, "seed": settings.seed}

        def work(directory: Path) -> dict[str, Any]:
            needs = (settings, directory, last_version(directory), self.stop)
            return fits.run_in_subprocess(fits.judge, needs, fit_report("learning to judge", self.log))

        return self._train("judge", plain(inputs), work, keep_last=True)

    def clone(self) -> Done:
        """The production agent as an adapter."""
        settings = self.settings
        inputs = {"data": self.data(), "base": settings.base, "clone": settings.clone, "seed": settings.seed}

        def work(directory: Path) -> dict[str, Any]:
            needs = (settings, directory, self.stop)
            return fits.run_in_subprocess(fits.clone, needs, fit_report("cloning the agent", self.log))

        return self._train("clone", plain(inputs), work)

    def offline(self) -> Done:
        """The adapter that serves (the clone before any does), retrained on recorded conversations without a world."""
        settings, clone = self.settings, self.clone()
        inputs = {"data": self.data(), "clone": clone.fingerprint, "offline": settings.offline, "seed": settings.seed}

        def work(directory: Path) -> dict[str, Any]:
            needs = (settings, self._start(directory, clone), directory, self.stop)
            return fits.run_in_subprocess(fits.offline, needs, fit_report("learning from the records", self.log))

        return self._train("offline", plain(inputs), work)

    def candidate(self) -> Done:
        """The adapter that serves (the clone before any does) after practice in the world: GRPO with RULER."""
        settings = self.settings
        clone, scenarios = self.clone(), self.scenarios()
        how = settings.train.model_copy(update={"seed": settings.seed})
        inputs = {
            "world": self.world().fingerprint,
            "card": self.card().fingerprint,  # which tools may be generated
            "clone": clone.fingerprint,
            "judge": self.judge().fingerprint,
            "ruler": self._ruler().model_copy(update={"hosted": HostedSettings()}),  # how it is asked changes nothing
            "train": how,
            "gate": settings.gate.scenarios,
        }

        def work(directory: Path) -> dict[str, Any]:
            report = track("practising in the world", self.log)
            with self.practice() as practice:
                loop = Grpo(
                    self._base(), practice, scenarios[: -settings.gate.scenarios],
                    self._start(directory, clone), directory / "adapter", how,
                )  # fmt: skip
                facts = asyncio.run(
                    loop.train(lambda m: report(int(m["step"]), how.steps, f"reward {m['reward']:.3f}"), self.stop)
                )
                report(facts["steps"], facts["steps"], f"the adapter of step {facts['best_step']} is the best")
                return facts

        return self._train("candidate", plain(inputs), work)

    def gate(self) -> Done:
        """Champion against candidate on scenarios that nothing else has used; promotes the better one."""
        settings = self.settings
        candidate, clone, scenarios = self.candidate(), self.clone(), self.scenarios()
        inputs = {"candidate": candidate.fingerprint, "gate": settings.gate}

        def work(directory: Path) -> dict[str, Any]:
            registry = self.registry
            serving = registry.champion() or registry.add(clone.directory / "adapter", {"clone": clone.fingerprint})
            registry.promote(serving.name, "the production agent's clone is the first champion")
            held_out = scenarios[-settings.gate.scenarios :]
            report = track("at the gate", self.log)
            with self.practice() as practice:
                practice.load_adapter("champion", serving.path)
                practice.load_adapter("candidate", candidate.directory / "adapter")
                verdict, pairs = asyncio.run(
                    compare(
                        practice, held_out, "champion", "candidate", settings.gate,
                        [*lasting_alarms(candidate.facts["history"]), *self._judge_alarms()], settings.seed,
                        lambda done: report(done, 2 * len(held_out), ""),
                    )
                )  # fmt: skip
            found = as_dict(verdict)
            version = registry.add(candidate.directory / "adapter", found)
            if verdict.promoted:
                registry.promote(version.name, verdict.why)
            write_json(directory / "example.json", example_of(held_out, pairs))
            return {**found, "version": version.name, "champion": serving.name}

        return run_stage(settings.home / "gate", plain(inputs), work)

    def evaluation(self) -> Done:
        """The clone and the candidate in the real environment, the same starts and seeds for both."""
        settings = self.settings
        if not settings.environment:
            raise UserError("no real environment is configured; set `environment` to 'package.module:Class'")
        adapters = {"before": self.clone(), "after": self.candidate()}
        how = settings.evaluation
        inputs = {
            **{name: done.fingerprint for name, done in adapters.items()},
            "evaluation": how,
            "environment": settings.environment,
        }

        def work(directory: Path) -> dict[str, Any]:
            report = track("in the real environment", self.log)
            recipe = EvaluationRecipe(
                settings.base, settings.engine, settings.compact, settings.environment,
                {name: done.directory / "adapter" for name, done in adapters.items()},
                how.episodes, settings.seed, how.temperature, how.min_p, self.limits, settings.vllm,
            )  # fmt: skip
            return summary(*asyncio.run(self._play(recipe, partial(report_from, report))))

        return run_stage(settings.home / "evaluation", plain(inputs), work)

    async def _play(self, recipe: EvaluationRecipe, on_done: Callable[[int, int, int], None]) -> list[Run]:
        """Each of the policies in the real environment."""
        places, each = list(enumerate(recipe.adapters)), recipe.episodes
        count = self._processes()
        if count > 1:
            with Workers(recipe.open, count) as workers:
                return [await play(workers, name, each, partial(on_done, place, each)) for place, name in places]
        player = recipe.open()
        try:
            return [await player.play(name, None, partial(on_done, place, each)) for place, name in places]
        finally:
            await player.engine.close()

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.home / "registry")

    # ----- what stages share

    def _conversations(self) -> list[Conversation]:
        return fits.conversations(self.settings)

    def scenarios(self) -> list[Scenario]:
        """Where practice may start, oldest first."""
        known = {c.conversation_id for c in self._conversations()}
        found = [s for s in self.lake.scenarios() if s.conversation_id in known and s.first_user_message]
        shown = not self.settings.compact
        kept, refused = fitting_scenarios(found, load_format(self.settings.base, shown), self.limits, shown)
        for why, count in refused.items():
            (self.log or print)(f"{count} of {len(found)} scenarios are not practised: {why}")
        return kept

    @cached_property
    def limits(self) -> Limits:
        """Where episodes are cut off: the settings', raised to what the recorded conversations need."""
        base, shown = self.settings.base, not self.settings.compact
        context, chat = load_context(base), load_format(base, shown)
        return fitted_limits(self.settings.train.limits, self._conversations(), chat, context, shown)

    @contextmanager
    def practice(self) -> Iterator[Practising]:
        """The engine with world, user and judge behind it, in as many processes as do it soonest."""
        settings = self.settings
        judge = None if settings.ruler.base_url else self.judge()
        recipe = PracticeRecipe(
            settings.base, settings.engine, settings.compact, self.world().directory,
            judge.directory / "adapter" if judge else None, judge.facts if judge else {},
            self._ruler(), self.limits, settings.train.temperature, settings.train.min_p, settings.vllm,
        )  # fmt: skip
        count = self._processes()
        if count > 1:
            with PracticePool.open(recipe.open, count) as pool:
                yield pool
        else:
            yield recipe.open()

    def _ruler(self) -> RulerSettings:
        """The ruler's settings with this agent's rubric, and a cache for a hosted judge's answers."""
        ruler = self.settings.ruler.of_agent(self.settings.agent)
        if ruler.base_url is None or ruler.hosted.cache_dir is not None:
            return ruler
        hosted = ruler.hosted.model_copy(update={"cache_dir": self.settings.home / "judge-cache"})
        return ruler.model_copy(update={"hosted": hosted})

    def _train(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], Mapping[str, Any]],
        keep_last: bool = False,
    ) -> Done:
        """A stage that `stop` may end. What was partial stays so for this pass: going on is for the next one."""
        if name not in self._partial:
            done = run_stage(self.settings.home / name, inputs, work, keep_last)
            if not done.facts.get("partial"):
                return done
            self._partial[name] = done
        return self._partial[name]

    def _start(self, directory: Path, clone: Done) -> Path:
        """The adapter that a retraining starts from. It is written down at the first try: who serves may have changed
        when a killed run goes on, or when the finished one is asked for again."""
        noted = read_json(directory / START)
        if noted is None:
            champion = self.registry.champion()
            same = champion is not None and champion.manifest.get("base") == manifest_base(clone.directory / "adapter")
            chosen = champion.path if champion is not None and same else clone.directory / "adapter"
            noted = {"start": str(chosen.absolute())}
            write_json(directory / START, noted)
        return Path(noted["start"])

    def _base(self) -> Base:
        return load_base(self.settings.base, show_tools=not self.settings.compact)

    def _processes(self) -> int:
        """How many processes sample."""
        return choose_count(self.settings.practice_workers, self.settings.engine, lambda: self._base().model)

    def _judge_alarms(self) -> list[str]:
        """What is wrong with the offline judge: one that orders pairs like a coin rewards nothing."""
        if self.settings.ruler.base_url or self.judge().facts["interval"][0] > 0.5:
            return []
        return ["the judge does not surely agree with production's outcomes"]


FitReport = Callable[[float, Mapping[str, float]], None]


def fit_report(title: str, log: Callable[[str], None] | None) -> FitReport:
    """A bar for a fit, which tells how much of it is done (0 to 1) and its latest metrics."""
    report = track(title, log)
    return lambda done, m: report(round(100 * done), 100, f"loss {m.get('loss', math.nan):.3f}")


def report_from(report: Report, place: int, each: int, done: int) -> None:
    """Tell how far a run is that is one of two, each of `each` episodes."""
    report(place * each + done, 2 * each, "")


def manifest_base(adapter: Path) -> str | None:
    """The base that a finished adapter was trained on."""
    manifest = manifest_of(adapter)
    return manifest.get("base") if manifest else None


def plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings among the inputs as JSON."""
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in inputs.items()}


def example_of(scenarios: Sequence[Scenario], pairs: Sequence[tuple[Trajectory, Trajectory]]) -> dict[str, Any]:
    """One scenario as the candidate played it: of middling length, with calls."""
    played = [(s.conversation_id, after) for s, (_, after) in zip(scenarios, pairs, strict=True)]
    with_calls = [p for p in played if p[1].observations] or played
    conversation, chosen = sorted(with_calls, key=lambda p: len(p[1].messages))[len(with_calls) // 2]
    return {"conversation": conversation, "messages": chosen.messages}
