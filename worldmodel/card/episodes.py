"""Replay whole episodes: the tool calls of a held-out conversation, made in a world whose state its own answers change.

The world is grounded as in practice: the conversation provides the facts, and the episode starts before it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from training.environment import ToolCall
from worldmodel.card.ask import AT_ONCE, Said
from worldmodel.card.measures import Judged, error_rates, exact_match
from worldmodel.card.volatile import Volatile
from worldmodel.generate.resolver import uniform
from worldmodel.steps import OK, Step
from worldmodel.world import Grounding, World, WorldModel


@dataclass
class Replayed:
    """The calls of one conversation in a world. `ended` is the reason why the world stopped before the last call."""

    judged: list[Judged] = field(default_factory=list)
    unreached: int = 0
    ended: str = ""


async def replay_episodes(
    model: WorldModel,
    held_out: Mapping[str, Sequence[Step]],
    said: Said | None = None,
    seed: int = 0,
    volatile: Volatile | None = None,
) -> list[Replayed]:
    """Replay every conversation as one episode."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(conversation_id: str, steps: Sequence[Step]) -> Replayed:
        async with slots:
            told = tuple((said or {}).get(conversation_id, ()))
            goal = tuple(text for speaker, text in told if speaker == "user")
            number = int(2**31 * uniform(seed, conversation_id))
            world = World(model, number, Grounding(tuple(steps), (), told, goal, conversation_id))
            return await _replay(world, conversation_id, steps, volatile or {})

    return list(await asyncio.gather(*(one(cid, steps) for cid, steps in held_out.items() if steps)))


async def _replay(world: World, conversation_id: str, steps: Sequence[Step], volatile: Volatile) -> Replayed:
    out = Replayed()
    effects = world.model.resolver.frame.effects
    episode = world.episode()
    for at, truth in enumerate(steps):
        writes = [s for s in steps[:at] if s.outcome == OK and effects.is_write(s.tool)]
        is_write = effects.is_write(truth.tool)
        after = not is_write and truth.outcome == OK and bool(
            effects.bearing(truth.tool, truth.arguments, truth, writes)
        )  # fmt: skip
        seen = await episode.observe(ToolCall(truth.tool, dict(truth.arguments)))
        if episode.ended:
            out.ended, out.unreached = episode.ended, len(steps) - at
            break
        answer = Step(truth.tool, truth.arguments, seen.content, seen.error_class or OK)
        judged = Judged(conversation_id, truth, answer, True, after, is_write, seen.provenance, seen.support)
        excluded = volatile.get(truth.tool, frozenset()) if truth.outcome == OK else frozenset()
        out.judged.append(replace(judged, volatile=excluded))
    return out


def episode_measures(replayed: Sequence[Replayed], passing: frozenset[tuple[str, str]] = frozenset()) -> dict[str, Any]:
    """Return the episode part of the card: the calls of whole episodes, compared one by one. `lasting` leaves out calls
    in which production or the world had a transient error (`passing`)."""
    judged = [j for one in replayed for j in one.judged]
    lasting = [
        j for j in judged
        if (j.truth.tool, j.truth.outcome) not in passing and (j.truth.tool, j.outcome) not in passing
    ]  # fmt: skip
    after = [j for j in judged if j.after_write]
    writes = [j for j in judged if j.writes]
    whole = [one for one in replayed if not one.ended and all(j.exact for j in one.judged)]
    return {
        "episodes": len(replayed),
        "n": len(judged),
        "exact_match": exact_match(judged),
        "outcome_match": _share([j.outcome == j.truth.outcome for j in judged]),
        "lasting": {"n": len(lasting), "exact_match": exact_match(lasting)},
        "errors": error_rates(judged),
        "read_after_write": {"n": len(after), "exact_match": exact_match(after)},
        "state_changing": {"n": len(writes), "exact_match": exact_match(writes)},
        "whole_episodes": len(whole),
        "ended_early": {"n": sum(bool(one.ended) for one in replayed), "calls": sum(one.unreached for one in replayed)},
        "why_ended": dict(Counter(one.ended for one in replayed if one.ended).most_common(8)),
    }


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
