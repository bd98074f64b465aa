"""The fits of world, judge, clone and offline policy, each in a subprocess, so that its memory is released at the end.

In the loop's own process, compiled products and heap fragments of one stage would stay resident during all later ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import Done, read_json
from ingest.errors import UserError
from ingest.frozen import FrozenTables
from ingest.records import Conversation, Scenario
from training import COMPILED
from training.judging.hosted import open_client
from training.judging.judge import fit_judge, labelled
from training.judging.ruler import Ruler, RulerSettings
from training.judging.similar import Scored, judge_similar
from training.learning.deadline import Stop
from training.learning.fits import split_latest
from training.models.base import Base, load_base
from training.models.lora import manifest_of
from training.policy.clone import fit_clone
from training.policy.offline.fit import HeadStart, fit_offline, rewarded
from training.policy.system import SystemShown, differing
from training.workers import Tell, Workers
from worldmodel.fit import FitSettings, fit_world

Fit = Callable[[None, Any, Tell], dict[str, Any]]
"""A module-level function of (None, its picklable arguments, a progress callback)."""


HEAD_START = "head_start"
"""The adapter beside the clone's that the first practice starts from."""


START = "start.json"
"""File in the directory of a retraining: the adapter that it started from."""


def run_in_subprocess(fit: Fit, needs: Any, on_told: Callable[..., None]) -> dict[str, Any]:
    """Run a fit in a new process, on all threads. `on_told` is called with each of the fit's progress reports.

    Raises what the fit raises, or WorkerDied.
    """
    with Workers(_nothing, 1, compiled=COMPILED) as workers:
        return workers.do(fit, needs, lambda told: on_told(*told))


def policy_base(settings: Settings) -> Base:
    """The base as the policy uses it: tools in the prompt unless it is the tiny one, and the chat settings."""
    return load_base(settings.base, show_tools=not settings.compact, chat=settings.chat)


def base_of(adapter: Path) -> str | None:
    """The base that a finished adapter was trained on."""
    manifest = manifest_of(adapter)
    return manifest.get("base") if manifest else None


def agent_of(settings: Settings) -> dict[str, str]:
    """The agent whose conversations count, as an input of a stage, where one is chosen."""
    return {"agent": settings.agent} if settings.agent else {}


def outcome_of(settings: Settings) -> tuple[str, float]:
    """Which evaluation counts and from which score on it is a success, as an input of a stage."""
    return settings.judge.outcome, settings.judge.success_from


def conversations(tables: Path, agent: str) -> list[Conversation]:
    """The conversations of `agent` in frozen tables; of all agents if `agent` is empty."""
    return [c for c in FrozenTables(tables).conversations() if not agent or c.agent == agent]


def scenarios(found: Sequence[Scenario], recorded: Sequence[Conversation], settings: Settings) -> list[Scenario]:
    """The scenarios of recorded conversations in which a user said something, with whether these succeeded.

    That is not known of conversations whose calls are not all there with their answers. With a hosted judge it counts
    only if `judge.outcome` names the evaluation: others may say nothing of the goal.
    """
    known = {conversation.conversation_id: conversation for conversation in recorded}
    trusted = labelled(recorded, settings.judge) if settings.judge.outcome or not settings.ruler.base_url else ()
    good = {conversation.conversation_id: succeeded for conversation, succeeded in trusted}
    kept = [s for s in found if s.conversation_id in known and s.first_user_message]
    whole = {s.conversation_id for s in kept if _calls(known[s.conversation_id]) == len(s.facts)}
    return [replace(s, succeeded=good.get(s.conversation_id) if s.conversation_id in whole else None) for s in kept]


def _calls(conversation: Conversation) -> int:
    return sum(len(m.get("tool_calls") or ()) for m in conversation.messages if m["role"] == "assistant")


def system_of(settings: Settings, found: Sequence[Conversation]) -> SystemShown:
    """What the policy reads of system prompts: all, or what differs between conversations if the base is compact."""
    return differing(found) if settings.compact else True


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
    """Fit the clone of frozen tables into a directory, and the adapter that the first practice starts from.

    Reports the share done (0 to 1) and the latest metrics.
    """
    settings, tables, directory, stop = needs
    found, adapter, base = conversations(tables, settings.agent), directory / "adapter", policy_base(settings)
    how: dict[str, Any] = {
        "show_system": system_of(settings, found), "seed": settings.seed, "on_progress": _teller(tell), "stop": stop,
    }  # fmt: skip
    facts = manifest_of(adapter)
    if facts is None or facts["partial"]:
        facts = fit_clone(base, found, adapter, settings.clone, checkpoint=directory / "state.pt", **how)
    successes = [(c, float(good)) for c, good in labelled(found, settings.judge)]
    if not settings.head_start.enabled or facts["partial"] or not _can_start(successes, settings.head_start):
        return facts
    learned = fit_offline(
        base, successes, adapter, directory / HEAD_START, settings.head_start.offline(),
        checkpoint=directory / "head_start.pt", **how,
    )  # fmt: skip
    known = ("conversations", "mean_reward", "rows", "history", "partial")
    return {**facts, "head_start": {name: learned[name] for name in known}, "partial": learned["partial"]}


def first_start(clone: Path) -> Path:
    """The adapter in a clone's directory that the first practice starts from."""
    return clone / HEAD_START if base_of(clone / HEAD_START) is not None else clone / "adapter"


def started(clone: Done, candidate: Done) -> dict[str, Path]:
    """The adapter that a candidate's practice started from, as `start`, if it is there and not the clone's own."""
    noted = read_json(candidate.directory / START) or {}
    path = Path(noted.get("start", ""))
    own = path.resolve() == (clone.directory / "adapter").resolve()
    return {} if own or base_of(path) is None else {"start": path}


def _can_start(scored: Sequence[tuple[Conversation, float]], how: HeadStart) -> bool:
    """Whether there are failures, and successes among those that train and among those that are held out."""
    train, held_out = split_latest(scored, how.offline().held_out_share) if len(scored) > 1 else ((), ())
    return len({s for _, s in scored}) == 2 and all(any(s for _, s in part) for part in (train, held_out))


def offline(_: None, needs: tuple[Settings, Path, Path, Path, Stop], tell: Tell) -> dict[str, Any]:
    """Retrain an adapter on recorded conversations, without a world. Reports the share done and the latest metrics."""
    settings, tables, start, directory, stop = needs
    found, judged = conversations(tables, settings.agent), {}
    if settings.offline.rewards == "ruler":
        scored = judged_conversations(settings, found)
        rewards, judged = scored.rewards, {"judged": scored.counts()}
    else:
        rewards = rewarded(found, settings.judge.outcome)
    manifest = fit_offline(
        policy_base(settings), rewards, start,
        directory / "adapter", settings.offline, show_system=system_of(settings, found), seed=settings.seed,
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
