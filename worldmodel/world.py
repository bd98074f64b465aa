"""Worlds, episodes in them, and the model that makes them.

A `World` is one sampled reality. What it answers is a function of its seed, its grounding, the call, and the state of
the episode that asks, so the members of a group meet the same world whoever asks first. `World.answer` is the way of a
call: what the rules determine is derived, what production answered in this state is replayed, a hole is filled by the
model, and what nothing supports is abstained from.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.records import Scenario
from training.engines import Engine
from training.environment import Observation, ToolCall
from training.models.edits import minify
from worldmodel.derive.engine import Derivation, Session
from worldmodel.derive.engine import Engine as Rules
from worldmodel.derive.grounding import continued, opened
from worldmodel.effects import Effects
from worldmodel.generate.by_model import Asked, ByModel
from worldmodel.generate.resolver import Answer, Resolver, uniform
from worldmodel.steps import OK, Step, call_key, step_of, steps_of_messages
from worldmodel.users.user import UserSide, utterances

if TYPE_CHECKING:
    from training.models.base import Base


@dataclass
class WorldModel:
    """A fitted world model: makes worlds, each grounded in a scenario or in a recorded conversation."""

    resolver: Resolver
    user: UserSide | None = None
    rules: Rules | None = None
    _loop: _Loop = field(default_factory=lambda: _Loop(), repr=False)

    @classmethod
    def load(cls, path: str | Path, engine: Engine | None = None, base: Base | None = None) -> WorldModel:
        """Load what `rehearsal world fit` wrote. Without an engine, one is made in this process.

        Raises ingest.errors.UserError where `path` holds no finished world.
        """
        from worldmodel.artifact import load_parts  # loads torch

        return cls(*load_parts(Path(path), engine, base))

    def world(
        self,
        scenario: Scenario | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
    ) -> World:
        """A world in which the given facts hold.

        With `messages`, episodes go on where that conversation stops; with `scenario`, they start where it
        started and the recorded conversation says what is true. With neither, nothing is known beforehand.
        """
        if scenario is not None and messages is not None:
            raise ValueError("a world is grounded in a scenario or in messages, not in both")
        if scenario is not None:
            facts = [step_of(fact) for fact in scenario.facts]
            opening = (("user", scenario.first_user_message),)
            return World(self, seed, facts, prior=(), goal=scenario.goal, said=opening)
        steps = steps_of_messages(messages or ())
        said = tuple(utterances(messages or ()))
        goal = tuple(text for speaker, text in said if speaker == "user")
        return World(self, seed, steps, prior=tuple(steps), goal=goal, said=said)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on this model's own event loop and wait for it; for callers that are not
        asynchronous.
        """
        return self._loop.run(coroutine)

    def close(self) -> None:
        """Stop the engine and this model's event loop; for callers that are not asynchronous."""
        self._loop.close(self.resolver.engine)


class World:
    """One reality. Make episodes with `episode`; `fork` gives a copy that shares all that has been
    answered.
    """

    def __init__(
        self,
        model: WorldModel,
        seed: int,
        facts: Sequence[Step],
        prior: Sequence[Step] = (),
        goal: Sequence[str] = (),
        said: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.model, self.seed = model, seed
        self.goal, self.said, self.prior = tuple(goal), tuple(said), tuple(prior)
        self.by_model = ByModel(model.resolver, seed, facts, prior)
        self.start: Session | None = None
        if model.rules is not None:
            self.start = continued(model.rules, prior) if prior else opened(model.rules, facts)

    @property
    def _effects(self) -> Effects:
        return self.model.resolver.frame.effects

    def episode(self) -> Episode:
        """A new run, from where the world's grounding says that it starts."""
        writes = [s for s in self.prior if s.outcome == OK and self._effects.is_write(s.tool)]
        session = self.start.fork() if self.start else None
        return Episode(self, list(self.prior), writes, list(self.said), session)

    def fork(self) -> World:
        """The same reality, which may be told apart from here on: what is answered in one is not known to the
        other.

        Both are pure functions of the same seed, so they still agree on whatever both are asked.
        """
        copy = World.__new__(World)
        copy.__dict__.update(self.__dict__)
        copy.by_model = self.by_model.fork()
        return copy

    async def answer(self, episode: Episode, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """The answer to a call in the state that an episode is in: guard, then projection or recipe, then the
        recording, then the model. The episode is left as it is."""
        asked = Asked(tool, dict(arguments), call_key(tool, arguments), episode.steps, episode.writes)
        blocked = tool in self.model.resolver.blocked
        decided = None if episode.session is None or blocked else episode.session.derive(tool, arguments, self.seed)
        if decided is not None and decided.content is not None and (decided.sure or decided.accident):
            return derived(asked, decided, decided.content)
        recorded = self.by_model.recorded(asked)
        if recorded is not None:
            return recorded
        if decided is not None and decided.content is not None:
            return derived(asked, decided, decided.content)
        return await self.by_model.answer(asked, decided)


def derived(asked: Asked, decided: Derivation, content: str) -> Answer:
    step = Step(asked.tool, asked.arguments, content, decided.outcome)
    return Answer(step, "derived", decided.support, decided.rule)


class Episode:
    """One agent's run in a world; fulfils training.environment.Episode, and has the same calls
    synchronously.
    """

    def __init__(
        self,
        world: World,
        steps: list[Step],
        writes: list[Step],
        said: list[tuple[str, str]],
        session: Session | None = None,
    ) -> None:
        self.world, self.steps, self.writes, self.said, self.session = world, steps, writes, said, session
        self.provenance: dict[str, int] = {}
        self.ended: str | None = None
        self._turn: asyncio.Lock | None = None

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call in the state that this episode is in; calls made at once are answered in their order.

        What nothing supports is no observation: its content is empty, and the episode has ended (`ended` says why).
        """
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            answer = await self.world.answer(self, call.name, call.arguments)
            return self._take(answer, call)

    def _take(self, answer: Answer, call: ToolCall) -> Observation:
        step = answer.step
        latency = self._latency(answer, call)
        self.provenance[answer.provenance] = self.provenance.get(answer.provenance, 0) + 1
        if answer.provenance == "abstained":
            self.ended = answer.rule or "nothing in production supports an answer"
            return Observation("", True, "abstained", latency, "abstained", 0.0)
        self.steps.append(step)
        if step.outcome == OK and self.world._effects.is_write(step.tool):
            self.writes.append(step)
        if self.session is not None:
            source = "invented" if answer.provenance == "generated" else "seen"
            self.session.told(step.tool, step.arguments, step.content, step.outcome, source)
        wrong = step.outcome != OK
        error_class = step.outcome if wrong else ""
        return Observation(minify(step.content), wrong, error_class, latency, answer.provenance, answer.support)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Observation:
        """`observe`, for callers that are not asynchronous."""
        return self.world.model.run(self.observe(ToolCall(name, dict(arguments))))

    async def respond(self, text: str) -> str | None:
        """The user's next message after the agent said `text`; None when the user has left."""
        self.said.append(("agent", text))
        user = self.world.model.user
        if user is None:
            return None
        reply = await user.reply(self.world.goal, self.said, self.world.seed, self.world.by_model.pins)
        if reply is not None:
            self.said.append(("user", reply))
        return reply

    def fork(self) -> Episode:
        """A second run that has lived through the same so far, in the same world."""
        session = self.session.fork() if self.session else None
        copy = Episode(self.world, list(self.steps), list(self.writes), list(self.said), session)
        copy.provenance, copy.ended = dict(self.provenance), self.ended
        return copy

    def _latency(self, answer: Answer, call: ToolCall) -> float:
        if answer.provenance == "replayed" and answer.step.latency_ms is not None:
            return answer.step.latency_ms
        profile = self.world.model.resolver.profiles.get(call.name)
        key = call_key(call.name, call.arguments)
        u = uniform(self.world.seed, "latency", key, sum(s.key == key for s in self.steps))
        return 0.0 if profile is None else profile.latency(answer.step.outcome, u)


class _Loop:
    """An event loop in a thread of its own, started when first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self, engine: Engine) -> None:
        if self._loop is not None:
            self.run(engine.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
