"""One rollout: the policy in one episode, token ids in and token ids out, in any environment.

The prompt of each turn is the last prompt, the sampled ids, and the appended answer. Sampled ids are never tokenised
again, so a learned token's log-probability is the one under which it was sampled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from training.engines import Engine, Sampling
from training.environment import Episode, Observation, Start, ToolCall
from training.learning.trajectory import Trajectory, seed_of
from training.models.chat import AssistantTurn, ChatFormat
from training.models.edits import dumps
from training.policy.system import SystemShown, shown_system


class Limits(BaseModel):
    """Length limits of an episode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int = Field(16, ge=1, description="Maximum number of agent turns (calls and replies).")
    turn_tokens: int = Field(64, ge=1, description="Maximum tokens of one turn.")
    total_tokens: int = Field(1400, ge=16, description="Maximum tokens of the episode, prompt included.")
    from_data: bool = Field(
        True, description="Raise these limits to the lengths of the recorded conversations, within the base's context."
    )


async def rollout(
    engine: Engine,
    chat: ChatFormat,
    episode: Episode,
    start: Start,
    *,
    adapter: str | None,
    temperature: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    limits: Limits | None = None,
    show_system: SystemShown = True,
    learned: bool = False,
) -> Trajectory:
    """Run the policy until the user leaves or a limit is reached.

    `learned`: the trajectory's log-probabilities are of the sampling distribution.

    A malformed tool call is answered with an error and stays in the trajectory. Dropping it would teach that malformed
    calls have no cost.
    """
    limits = limits or Limits()
    opening: list[dict[str, Any]] = [{"role": "user", "content": start.first_user_message}]
    if system := shown_system(start.system, show_system):
        opening.insert(0, {"role": "system", "content": system})
    trajectory = Trajectory(start, seed, opening, adapter=adapter, temperature=temperature, min_p=min_p)
    _append(trajectory, chat.prompt(opening, start.tools))
    for turn in range(limits.turns):
        room = min(limits.turn_tokens, limits.total_tokens - len(trajectory.ids))
        if room <= 1 and turn == 0:
            raise UserError(
                f"scenario {start.episode_id!r} cannot be practised: its prompt has {len(trajectory.ids)} tokens, "
                f"which leaves no room for a turn in {limits.total_tokens} (limits.total_tokens)"
            )
        if room <= 1:
            trajectory.ended = "tokens"
            return trajectory
        sampling = Sampling(room, temperature, chat.stop_ids, seed_of(seed, turn), min_p, learned)
        sample = await engine.sample(trajectory.ids, adapter=adapter, sampling=sampling)
        _append(trajectory, sample.ids, sample.logprobs)
        said = chat.parse(sample.ids, start.tools)
        if not sample.stopped:
            cut = "the turn was cut off at the token limit"
            said = AssistantTurn(said.text, (), cut, said.reasoning)
        if not await _act(trajectory, chat, episode, said, sample.stopped):
            return trajectory
    trajectory.ended = "turns"
    return trajectory


async def _act(
    trajectory: Trajectory, chat: ChatFormat, episode: Episode, said: AssistantTurn, stopped: bool
) -> bool:
    """Execute the turn and append the answer. False when the episode is over."""
    at = len(trajectory.messages)
    calls = [replace(c, call_id=c.call_id or f"call_{at}_{k}") for k, c in enumerate(said.calls)]
    trajectory.messages.append(replace(said, calls=tuple(calls)).message())
    if said.malformed:
        trajectory.malformed += 1
        seen = Observation(dumps({"error": "malformed_call", "message": said.malformed}), True, "malformed_call")
        back = [_result(seen, ToolCall("", {}, "malformed"))]
    elif calls:
        back = []
        for call in calls:
            seen = await episode.observe(call)
            trajectory.observations.append(seen)
            if seen.provenance == "abstained":  # the episode ends; the agent must not read the placeholder
                trajectory.ended = "abstained"
                trajectory.extra["abstained"] = seen.reason
                return False
            back.append(_result(seen, call))
    else:
        answer = await episode.respond(said.text or "")
        if answer is None:
            trajectory.ended = "left"
            return False
        back = [{"role": "user", "content": answer}]
    tools = trajectory.start.tools
    added = chat.extend(back, after=trajectory.messages, tools=tools, stopped=stopped)
    trajectory.messages += back
    if added is None:
        trajectory.begin_row(chat.prompt(trajectory.messages, tools))
    else:
        _append(trajectory, added)
    return True


def _result(seen: Observation, call: ToolCall) -> dict[str, Any]:
    result = {"role": "tool", "content": seen.content, "tool_call_id": call.call_id, "name": call.name}
    return {**result, "is_error": seen.is_error, "provenance": seen.provenance}


def _append(trajectory: Trajectory, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
    trajectory.ids += ids
    trajectory.trained += [logprobs is not None] * len(ids)
    if logprobs is not None:
        trajectory.logprobs += logprobs


async def gather(
    runs: Sequence[Callable[[], Any]], at_once: int = 256, on_done: Callable[[int], None] = lambda count: None
) -> list[Trajectory | Exception]:
    """Run many rollouts concurrently, at most `at_once`. A failed rollout is returned as its exception."""
    gate, finished = asyncio.Semaphore(at_once), 0

    async def one(run: Callable[[], Any]) -> Trajectory | Exception:
        nonlocal finished
        async with gate:
            try:
                return await run()
            except Exception as error:  # noqa: BLE001 - a tolerated boundary: a failed rollout is counted, not fatal
                return error
            finally:
                finished += 1
                on_done(finished)

    return await asyncio.gather(*(one(run) for run in runs))
