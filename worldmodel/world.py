"""Worlds, episodes in them, and the model that makes them.

A `World` is one sampled reality. What it answers is a function of its seed, its grounding, the call, and the
state of the episode that asks (the writes it made, and the few recent calls that a tool's outcome may hang
on), so the members of a group meet the same world whoever asks first.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.records import Scenario
from training.engines import Engine
from training.environment import Observation, ToolCall
from training.models.edits import minify
from worldmodel.context import Framed, canonical_history, trail_of
from worldmodel.effects import Effects
from worldmodel.resolver import Answer, Odds, Resolver, uniform
from worldmodel.steps import OK, Step, call_key, step_of, steps_of_messages
from worldmodel.user import UserSide, utterances


@dataclass
class WorldModel:
    """A fitted world model: makes worlds, each grounded in a scenario or in a recorded conversation."""

    resolver: Resolver
    user: UserSide | None = None
    _loop: _Loop = field(default_factory=lambda: _Loop(), repr=False)

    @classmethod
    def load(cls, path: str | Path, engine: Engine | None = None) -> WorldModel:
        """Load what `rehearsal world fit` wrote. Without an engine, one is made in this process.

        Raises ingest.errors.UserError where `path` holds no finished world.
        """
        from worldmodel.artifact import load_model

        return load_model(Path(path), engine)

    def world(
        self,
        scenario: Scenario | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
    ) -> World:
        """A world in which the given facts hold.

        With `messages`, episodes go on where that conversation stops; with `scenario`, they start where it
        started and the whole recorded conversation says what is true. With neither, nothing is known
        beforehand.
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
        self._recorded = _recorded(facts, self._effects)
        self._known = _known(facts, prior, self._effects)
        self._pins: dict[str, Any] = {}

    @property
    def _effects(self) -> Effects:
        return self.model.resolver.frame.effects

    def episode(self) -> Episode:
        """A new run, from where the world's grounding says that it starts."""
        writes = [s for s in self.prior if s.outcome == OK and self._effects.is_write(s.tool)]
        return Episode(self, list(self.prior), writes, list(self.said))

    def fork(self) -> World:
        """The same reality, which may be told apart from here on: what is answered in one is not known to the
        other.

        Both are pure functions of the same seed, so they still agree on whatever both are asked.
        """
        copy = World.__new__(World)
        copy.__dict__.update(self.__dict__)
        copy._pins = dict(self._pins)
        return copy

    # ----- answering

    async def answer(
        self, tool: str, arguments: Mapping[str, Any], steps: Sequence[Step], writes: Sequence[Step]
    ) -> Answer:
        """The answer to a call after `steps`, of which `writes` changed something."""
        key = call_key(tool, arguments)
        recorded, related = self._replay(tool, arguments, key, steps, writes)
        base = None
        if recorded is None and not self._effects.is_write(tool) and not self._is_known(key):
            base = await self.base(tool, arguments)
            related = self._effects.bearing(tool, arguments, base.step, writes)
        tries = _tries(key, related, steps)
        state = "|".join(s.key for s in related)
        accident = await self._accident(tool, arguments, steps, writes, state, tries, bool(related))
        if accident is not None:
            return accident
        if recorded is not None:
            return recorded
        if base is not None and (not related or base.provenance == "abstained"):
            return base
        failed = [s for s in _since(related, steps) if s.key == key and s.outcome not in (OK, "abstained")]
        lasting = [s for s in failed if not self._effects.is_transient(tool, s.outcome)]
        if lasting:  # what failed for good keeps failing until something is written
            return Answer(lasting[-1], "generated", 1.0)
        told = [s for s in _since(related, steps) if s.key == key and s.outcome == OK]
        if not self._effects.is_write(tool) and len(told) > self._effects.lags(tool, related):
            return Answer(told[-1], "generated", 1.0)  # so does what was said, once it is no longer stale
        return await self._derived(tool, arguments, steps, writes, state)

    async def base(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """What a read answers before anything is written: recorded, always so in production, or invented
        once.
        """
        resolver, key = self.model.resolver, call_key(tool, arguments)
        pinned = self._pins.get(f"base {key}")
        if pinned is None:
            pinned = await self._base(resolver, tool, arguments, key)
            pinned = self._pins.setdefault(f"base {key}", pinned)
        return pinned

    async def _base(self, resolver: Resolver, tool: str, arguments: Mapping[str, Any], key: str) -> Answer:
        for state, step in self._recorded.get(key, ()):
            if state == "":
                return Answer(step, "replayed", 1.0)
        always = resolver.index.always(key)
        if always is not None:
            return Answer(always, "replayed", 1.0)
        why = resolver.objection(tool, arguments)
        if why is not None:
            return resolver.abstain(tool, arguments, why)
        reads = [s for s in self._known if not self._effects.is_write(s.tool) and s.key != key]
        framed = resolver.frame.frame(tool, arguments, reads, (), resolver.index)
        odds = await self._odds(framed)
        outcome = odds.draw_lasting(uniform(self.seed, "lasting", key, ""))
        sure = resolver.index.outcome(key)
        if sure in odds.names:
            outcome = odds.names.index(sure)
        return await self._generate(framed, outcome, odds)

    async def _derived(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        steps: Sequence[Step],
        writes: Sequence[Step],
        state: str,
    ) -> Answer:
        resolver = self.model.resolver
        why = resolver.objection(tool, arguments)
        if why is not None:
            return resolver.abstain(tool, arguments, why)
        framed = await self._framed(tool, arguments, steps, writes, own=True)
        odds = await self._odds(framed)
        outcome = odds.draw_lasting(uniform(self.seed, "lasting", call_key(tool, arguments), state))
        return await self._generate(framed, outcome, odds)

    async def _accident(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        steps: Sequence[Step],
        writes: Sequence[Step],
        state: str,
        tries: int,
        related: bool,
    ) -> Answer | None:
        """A transient error, drawn anew for every try: at the rate that the model gives for this
        situation.
        """
        resolver = self.model.resolver
        classes = resolver.frame.classes.get(tool, ())
        if tool in resolver.blocked or not any(self._effects.is_transient(tool, name) for name in classes):
            return None
        framed = await self._framed(tool, arguments, steps, writes, own=related or tries > 0)
        odds = await self._odds(framed)
        u = uniform(self.seed, "accident", call_key(tool, arguments), state, tries)
        outcome = odds.draw_transient(u)
        return None if outcome is None else await self._generate(framed, outcome, odds)

    # ----- what the model is shown

    async def _framed(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        steps: Sequence[Step],
        writes: Sequence[Step],
        own: bool,
    ) -> Framed:
        """The call with all that the world knows about its entities; `own`: this very call was answered
        before.
        """
        resolver, key = self.model.resolver, call_key(tool, arguments)
        known = [s for s in self._known if own or s.key != key]
        invented = []
        for reader, asked in self._readers(tool, arguments, own):
            found = await self.base(reader, asked)
            if found.provenance != "abstained":
                invented.append(found.step)
        new = [w for w in writes if w not in known]
        history = canonical_history([*invented, *known, *new], self._effects)
        trail = trail_of(tool, arguments, steps, self._effects)
        return resolver.frame.frame(tool, arguments, history, trail, resolver.index)

    def _readers(
        self, tool: str, arguments: Mapping[str, Any], own: bool
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """The reads that must be settled first: of each entity that the call names, and of the call
        itself.
        """
        effects = self._effects
        asked: list[tuple[str, Mapping[str, Any]]] = []
        for key, identity in effects.entities(arguments).items():
            marks = effects.touched({key: identity})
            if not any(
                effects.is_reader(s.tool) and effects.touched(s.arguments) & marks for s in self._known
            ):
                asked.append((effects.readers[key], {key: arguments[key]}))
        own_key = call_key(tool, arguments)
        asked = [(reader, a) for reader, a in asked if call_key(reader, a) != own_key]
        if own and not effects.is_write(tool) and not self._is_known(own_key):
            asked.append((tool, arguments))
        return asked

    def _is_known(self, key: str) -> bool:
        return any(s.key == key for s in self._known)

    def _replay(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        key: str,
        steps: Sequence[Step],
        writes: Sequence[Step],
    ) -> tuple[Answer | None, list[Step]]:
        """What production answered to this call in this state, and the writes that the state consists of."""
        related = self._effects.bearing(tool, arguments, None, writes)
        matching = []
        for state, step in self._recorded.get(key, ()):
            related = self._effects.bearing(tool, arguments, step, writes)
            if state == "|".join(s.key for s in related):
                matching.append((step, related))
        if not matching:
            return None, related
        lasting = sum(
            s.key == key and not self._effects.is_transient(s.tool, s.outcome)
            for s in _since(matching[0][1], steps)
        )
        step, related = matching[min(lasting, len(matching) - 1)]
        if lasting and len(matching) == 1 and self._effects.lags(tool, related):
            return None, related  # production stopped at what may have been stale
        return Answer(step, "replayed", 1.0), related

    # ----- pinned model answers

    async def _odds(self, framed: Framed) -> Odds:
        pin = f"odds {_digest(framed)}"
        if pin not in self._pins:
            odds = await self.model.resolver.odds(framed)
            self._pins.setdefault(pin, odds)
        return self._pins[pin]

    async def _generate(self, framed: Framed, outcome: int, odds: Odds) -> Answer:
        digest = _digest(framed)
        pin = f"body {outcome} {digest}"
        if pin not in self._pins:
            seed = int(2**31 * uniform(self.seed, "body", digest, outcome))
            answer = await self.model.resolver.generate(framed, outcome, odds, seed)
            self._pins.setdefault(pin, answer)
        return self._pins[pin]


class Episode:
    """One agent's run in a world; fulfils training.environment.Episode, and has the same calls
    synchronously.
    """

    def __init__(
        self, world: World, steps: list[Step], writes: list[Step], said: list[tuple[str, str]]
    ) -> None:
        self.world, self.steps, self.writes, self.said = world, steps, writes, said
        self.provenance: dict[str, int] = {}

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call in the state that this episode is in."""
        world = self.world
        answer = await world.answer(call.name, call.arguments, self.steps, self.writes)
        step = answer.step
        latency = self._latency(answer, call)
        self.steps.append(step)
        self.provenance[answer.provenance] = self.provenance.get(answer.provenance, 0) + 1
        if step.outcome == OK and world._effects.is_write(step.tool):
            self.writes.append(step)
        wrong = step.outcome != OK
        error_class = step.outcome if wrong else ""
        return Observation(
            minify(step.content), wrong, error_class, latency, answer.provenance, answer.support
        )

    def call(self, name: str, arguments: Mapping[str, Any]) -> Observation:
        """`observe`, for callers that are not asynchronous."""
        return self.world.model.run(self.observe(ToolCall(name, dict(arguments))))

    async def respond(self, text: str) -> str | None:
        """The user's next message after the agent said `text`; None when the user has left."""
        self.said.append(("agent", text))
        user = self.world.model.user
        if user is None:
            return None
        reply = await user.reply(self.world.goal, self.said, self.world.seed, self.world._pins)
        if reply is not None:
            self.said.append(("user", reply))
        return reply

    def fork(self) -> Episode:
        """A second run that has lived through the same so far, in the same world."""
        copy = Episode(self.world, list(self.steps), list(self.writes), list(self.said))
        copy.provenance = dict(self.provenance)
        return copy

    def _latency(self, answer: Answer, call: ToolCall) -> float:
        if answer.provenance == "replayed" and answer.step.latency_ms is not None:
            return answer.step.latency_ms
        profile = self.world.model.resolver.profiles.get(call.name)
        key = call_key(call.name, call.arguments)
        u = uniform(self.world.seed, "latency", key, sum(s.key == key for s in self.steps))
        return 0.0 if profile is None else profile.latency(answer.step.outcome, u)


# ----- a world's grounding


def _recorded(facts: Sequence[Step], effects: Effects) -> dict[str, list[tuple[str, Step]]]:
    """By call: the answers production gave, each with the state (the writes that bear on it) that it was
    given in.
    """
    found: dict[str, list[tuple[str, Step]]] = {}
    writes: list[Step] = []
    for step in facts:
        if not effects.is_transient(step.tool, step.outcome):
            related = effects.bearing(step.tool, step.arguments, step, writes)
            found.setdefault(step.key, []).append(("|".join(s.key for s in related), step))
        if step.outcome == OK and effects.is_write(step.tool):
            writes.append(step)
    return found


def _known(facts: Sequence[Step], prior: Sequence[Step], effects: Effects) -> list[Step]:
    """The observations that answers may refer to: all of a prior conversation; of a scenario, which
    episodes start before, only what was read while nothing had been written to it.
    """
    if prior:
        return canonical_history(facts, effects)
    pristine = {
        id(step) for answers in _recorded(facts, effects).values() for state, step in answers if state == ""
    }
    reads = [s for s in facts if id(s) in pristine and not effects.is_write(s.tool)]
    return canonical_history(reads, effects)


def _since(related: Sequence[Step], steps: Sequence[Step]) -> Sequence[Step]:
    """The steps after the last write that bears on a call."""
    if not related:
        return steps
    last = next((at for at in range(len(steps) - 1, -1, -1) if steps[at] is related[-1]), -1)
    return steps[last + 1 :]


def _tries(key: str, related: Sequence[Step], steps: Sequence[Step]) -> int:
    return sum(s.key == key for s in _since(related, steps))


def _digest(framed: Framed) -> str:
    text = framed.prompt.text() + "\x1f" + "\x1f".join(framed.sources)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
