"""Replay transfer: whether an episode of the real environment would have succeeded in the world as well.

The actions of a real episode are replayed in a world that is grounded in *another* conversation of the same task, as in
practice. A change that the world accepts is made in a fresh copy of the environment, one that it refuses is not; what
the agent said is said there too. Then the environment decides. A change that the world accepts and the environment
refuses makes the verdict a failure: the world would be in a state that reality cannot be in. Errors that pass by
themselves had no effect, so the calls that met one in reality are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.environment import ScoredEpisode, ToolCall
from worldmodel.effects import Effects
from worldmodel.steps import OK, Step
from worldmodel.world import Grounding, World, WorldModel

TRIES = 5
"""A change is tried so often in the environment while it answers with an error that passes by itself."""


@dataclass(frozen=True)
class Case:
    """A real episode: its actions (calls with their answers, and texts) in order, and whether it succeeded.

    `reality` is a fresh copy of its environment."""

    grounding: Grounding
    actions: Sequence[Step | str]
    success: bool
    reality: ScoredEpisode


@dataclass
class Replay:
    """A case in the world: the verdict, the changes that the world accepted, and those on which reality differs."""

    success: bool = False
    accepted: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: str = ""


async def replay_transfer(model: WorldModel, cases: Sequence[Case], seed: int = 0) -> dict[str, Any]:
    """How often the verdicts agree, over the cases in which the world answered to the end, and where they part."""
    found: Counter[tuple[bool, bool]] = Counter()
    parted: Counter[str] = Counter()
    ended = 0
    for number, case in enumerate(cases):
        played = await replayed(model, case, seed + number)
        if played.ended:
            ended += 1
            continue
        found[(case.success, played.success)] += 1
        if played.success != case.success:
            parted.update(played.wrong[:1])
    answered = sum(found.values())
    right = found[(True, True)] + found[(False, False)]
    return {
        "episodes": len(cases),
        "ended_early": ended,
        "agree": right / answered if answered else None,
        "success_in_reality": sum(c.success for c in cases) / max(1, len(cases)),
        "only_in_reality": found[(True, False)],
        "only_in_the_world": found[(False, True)],
        "first_difference": dict(parted.most_common(8)),
    }


async def replayed(model: WorldModel, case: Case, seed: int) -> Replay:
    """The verdict on a case's actions as a world answers them."""
    effects = model.resolver.frame.effects
    episode = World(model, seed, case.grounding).episode()
    out = Replay()
    impossible = False
    for action in case.actions:
        if isinstance(action, str):
            await case.reality.respond(action)
            continue
        if effects.is_transient(action.tool, action.outcome):
            continue
        call = ToolCall(action.tool, dict(action.arguments))
        seen = await episode.observe(call)
        if episode.ended:
            out.ended = episode.ended
            return out
        outcome = seen.error_class or OK
        if not effects.is_write(action.tool):
            continue
        if (outcome == OK) != (action.outcome == OK):
            out.wrong.append(f"{action.tool}: {action.outcome} in reality, {outcome} in the world")
        if outcome == OK:
            out.accepted += 1
            impossible = not await _made(case.reality, call, effects) or impossible
    out.success = not impossible and case.reality.success()
    return out


async def _made(reality: ScoredEpisode, call: ToolCall, effects: Effects) -> bool:
    """Whether the environment accepts a change."""
    for _ in range(TRIES):
        seen = await reality.observe(call)
        if not seen.is_error or not effects.is_transient(call.name, seen.error_class):
            return not seen.is_error
    return False
