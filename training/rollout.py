"""One agent, one episode: token ids in, token ids out, whatever the environment behind it is.

The prompt of each turn is the last prompt, the sampled ids, and what came back, appended. Nothing that was sampled is
ever tokenised again, so a learned token's log-probability is the one under which it was drawn.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from training.batch import Row
from training.chat import AssistantTurn, ChatFormat
from training.edits import dumps
from training.engines import Engine, Sampling
from training.environment import Episode, Observation, Start, ToolCall


class Limits(BaseModel):
    """Where an episode is cut off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int = Field(16, ge=1, description="Agent turns (calls and replies) in an episode.")
    turn_tokens: int = Field(64, ge=1, description="Tokens in one turn.")
    total_tokens: int = Field(1400, ge=16, description="Tokens of the whole episode, prompt included.")


@dataclass
class Trajectory:
    """An episode as it was lived: the messages, and the ids with which of them the agent wrote.

    `ended` is left (the user had no more to say), turns, tokens, or error. `reward` is None until somebody scores it;
    a trajectory that could not be scored stays None, never zero.
    """

    start: Start
    seed: int
    messages: list[dict[str, Any]]
    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    adapter: str | None = None
    ended: str = ""
    malformed: int = 0
    reward: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, int]:
        """How many observations came from where."""
        counts: dict[str, int] = {}
        for seen in self.observations:
            counts[seen.provenance] = counts.get(seen.provenance, 0) + 1
        return counts

    def invented(self) -> float:
        """Share of the observations that a model made up."""
        made_up = sum(o.provenance in ("generated", "abstained") for o in self.observations)
        return made_up / max(1, len(self.observations))

    def row(self, advantage: float) -> Row:
        return Row(tuple(self.ids), tuple(self.trained), advantage, tuple(self.logprobs))


def seed_of(*parts: object) -> int:
    """A 63-bit seed from names and numbers; equal parts give equal seeds on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


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
    show_system: bool = True,
) -> Trajectory:
    """Let the policy act until the user leaves or a limit is met.

    A tool call that cannot be read is answered with an error and stays in the trajectory: dropping it would teach
    that malformed calls cost nothing.
    """
    limits = limits or Limits()
    opening: list[dict[str, Any]] = [{"role": "user", "content": start.first_user_message}]
    if show_system and start.system:
        opening.insert(0, {"role": "system", "content": start.system})
    trajectory = Trajectory(start, seed, opening, adapter=adapter)
    _append(trajectory, chat.prompt(opening, start.tools))
    for turn in range(limits.turns):
        room = min(limits.turn_tokens, limits.total_tokens - len(trajectory.ids))
        if room <= 1:
            trajectory.ended = "tokens"
            return trajectory
        sampling = Sampling(room, temperature, chat.stop_ids, seed_of(seed, turn), min_p)
        sample = await engine.sample(trajectory.ids, adapter=adapter, sampling=sampling)
        _append(trajectory, sample.ids, sample.logprobs)
        said = chat.parse(sample.ids)
        if not sample.stopped:
            said = AssistantTurn(said.text, (), "the turn was cut off at the token limit")
        if not await _act(trajectory, chat, episode, said):
            return trajectory
    trajectory.ended = "turns"
    return trajectory


async def _act(trajectory: Trajectory, chat: ChatFormat, episode: Episode, said: AssistantTurn) -> bool:
    """Do what the turn says and append what comes back. False when the episode is over."""
    calls = [replace(c, call_id=f"call_{len(trajectory.messages)}_{k}") for k, c in enumerate(said.calls)]
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
            if seen.provenance == "abstained":  # the world knows no answer, and the agent must not read that
                trajectory.ended = "abstained"
                return False
            back.append(_result(seen, call))
    else:
        answer = await episode.respond(said.text or "")
        if answer is None:
            trajectory.ended = "left"
            return False
        back = [{"role": "user", "content": answer}]
    trajectory.messages += back
    _append(trajectory, chat.extend(back))
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
    """Run many rollouts together, at most `at_once`. A rollout that fails comes back as its exception."""
    gate, finished = asyncio.Semaphore(at_once), 0

    async def one(run: Callable[[], Any]) -> Trajectory | Exception:
        nonlocal finished
        async with gate:
            try:
                return await run()
            except Exception as error:  # noqa: BLE001 - one rollout is a boundary where failure is counted, not fatal
                return error
            finally:
                finished += 1
                on_done(finished)

    return await asyncio.gather(*(one(run) for run in runs))
