"""The fits of world, judge, clone and offline policy, each in a subprocess, so that its memory is released at the end.

In the loop's own process, compiled products and heap fragments of one stage would stay resident during all later ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.frozen import FrozenTables
from ingest.records import Conversation
from training import COMPILED
from training.judging.hosted import open_client
from training.judging.judge import fit_judge
from training.judging.ruler import Ruler, RulerSettings
from training.judging.similar import Scored, judge_similar
from training.learning.deadline import Stop
from training.models.base import Base, load_base
from training.policy.clone import fit_clone
from training.policy.offline.fit import fit_offline, rewarded
from training.workers import Tell, Workers
from worldmodel.fit import FitSettings, fit_world

Fit = Callable[[None, Any, Tell], dict[str, Any]]
"""A module-level function of (None, its picklable arguments, a progress callback)."""


def run_in_subprocess(fit: Fit, needs: Any, on_told: Callable[..., None]) -> dict[str, Any]:
    """Run a fit in a new process, on all threads. `on_told` is called with each of the fit's progress reports.

    Raises what the fit raises, or WorkerDied.
    """
    with Workers(_nothing, 1, compiled=COMPILED) as workers:
        return workers.do(fit, needs, lambda told: on_told(*told))


def policy_base(settings: Settings) -> Base:
    """The base as the policy uses it: tools in the prompt unless it is the tiny one, and the chat settings."""
    return load_base(settings.base, show_tools=not settings.compact, chat=settings.chat)


def conversations(tables: Path, agent: str) -> list[Conversation]:
    """The conversations of `agent` in frozen tables; of all agents if `agent` is empty."""
    return [c for c in FrozenTables(tables).conversations() if not agent or c.agent == agent]


def world(_: None, needs: tuple[Path, Path, FitSettings, Path | None, Stop], tell: Tell) -> dict[str, Any]:
    """Fit the world of frozen tables into a directory, starting from the last version if there is one.

    Reports the adapter, the share done (0 to 1) and the latest metrics.
    """
    tables, (directory, how, last, stop) = FrozenTables(needs[0]), needs[1:]
    return fit_world(tables.conversations(), tables.transitions(), directory, how, lambda *told: tell(told), stop, last)


def judge(_: None, needs: tuple[Settings, Path, Path, Path | None, Stop], tell: Tell) -> dict[str, Any]:
    """Fit the judge of frozen tables into a directory, starting from the last version if there is one.

    Reports the share done (0 to 1) and the latest metrics.
    """
    settings, tables, directory, last, stop = needs
    return fit_judge(
        load_base(settings.base, show_tools=False), conversations(tables, settings.agent), directory / "adapter",
        settings.judge, settings.seed, directory / "state.pt", _teller(tell), stop, last / "adapter" if last else None,
    )  # fmt: skip


def clone(_: None, needs: tuple[Settings, Path, Path, Stop], tell: Tell) -> dict[str, Any]:
    """Fit the clone of frozen tables into a directory. Reports the share done (0 to 1) and the latest metrics."""
    settings, tables, directory, stop = needs
    return fit_clone(
        policy_base(settings), conversations(tables, settings.agent),
        directory / "adapter", settings.clone, show_system=not settings.compact, seed=settings.seed,
        checkpoint=directory / "state.pt", on_progress=_teller(tell), stop=stop,
    )  # fmt: skip


def offline(_: None, needs: tuple[Settings, Path, Path, Path, Stop], tell: Tell) -> dict[str, Any]:
    """Retrain an adapter on recorded conversations, without a world. Reports the share done and the latest metrics."""
    settings, tables, start, directory, stop = needs
    found, judged = conversations(tables, settings.agent), {}
    if settings.offline.rewards == "ruler":
        scored = judged_conversations(settings, found)
        rewards, judged = scored.rewards, {"judged": scored.counts()}
    else:
        rewards = rewarded(found)
    manifest = fit_offline(
        policy_base(settings), rewards, start,
        directory / "adapter", settings.offline, show_system=not settings.compact, seed=settings.seed,
        checkpoint=directory / "state.pt", on_progress=_teller(tell), stop=stop,
    )  # fmt: skip
    return {**manifest, **judged}


def judged_conversations(settings: Settings, found: list[Conversation]) -> Scored:
    """Conversations scored by the hosted judge, compared with similar ones. Raises UserError without such a judge."""
    ruler = ruler_of(settings)
    if ruler.base_url is None:
        raise UserError(
            "offline.rewards=ruler needs a judge that was not fitted on outcomes; set ruler.base_url to an "
            "OpenAI-compatible endpoint (REHEARSAL_RULER__BASE_URL)"
        )

    async def judge() -> Scored:
        async with open_client(ruler.base_url or "", ruler.hosted) as client:
            return await judge_similar(
                Ruler(ruler, client, same_goal=False), found, settings.offline.similar, settings.seed
            )

    return asyncio.run(judge())


def ruler_of(settings: Settings) -> RulerSettings:
    """The ruler's settings with the agent's rubric and, for a hosted judge, a cache of its answers."""
    ruler = settings.ruler.of_agent(settings.agent)
    if ruler.base_url is None or ruler.hosted.cache_dir is not None:
        return ruler
    hosted = ruler.hosted.model_copy(update={"cache_dir": settings.home / "judge-cache"})
    return ruler.model_copy(update={"hosted": hosted})


def _teller(tell: Tell) -> Callable[[float, Mapping[str, float]], None]:
    return lambda done, metrics: tell((done, dict(metrics)))


def _nothing() -> None:
    """Set-up of a worker that needs none."""
