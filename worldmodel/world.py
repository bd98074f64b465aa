"""Worlds, their episodes, and the model that creates them.

A `World` is one sampled reality. Its answers are a function of its seed, its grounding, the call, and the state of the
calling episode, so the members of a group have the same world whoever asks first. `World.answer` shows the steps of a
call: guard, projection or recipe, recording, model, store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.records import Scenario
from training.engines import Engine
from training.environment import Observation, ToolCall
from training.models.edits import dumps, minify
from worldmodel.control import NO_CONTROL, Control, Steering
from worldmodel.derive.engine import Derivation, Session
from worldmodel.derive.engine import Engine as Rules
from worldmodel.derive.grounding import opened
from worldmodel.generate.agreement import Recorded, put
from worldmodel.generate.alone import ModelAlone
from worldmodel.generate.holes import INVENTED, Holes, Invented
from worldmodel.generate.invent import Inventor
from worldmodel.generate.pins import PinFile, Pins
from worldmodel.generate.recording import Recording
from worldmodel.generate.resolver import Answer, Resolver, abstained, uniform
from worldmodel.generate.shapes import Shapes
from worldmodel.generate.unknown import Heard, declared_missing, found_after_all, why_unknown
from worldmodel.recorded import RecordedChanges
from worldmodel.steps import OK, Step, call_key, step_of, steps_of_messages, utterances
from worldmodel.support import Curves, calibrated
from worldmodel.users.goal import Goal, mine_goal
from worldmodel.users.private import private_facts
from worldmodel.users.user import UserSide

if TYPE_CHECKING:
    from training.models.base import Base


@dataclass(frozen=True)
class Grounding:
    """The facts and the history of a world. Practice and the card build it in the same way.

    `facts` are recorded calls: the facts of the world, and production's answers. `prior` are calls that the episodes of
    this world have made themselves. `said` is the conversation so far, and `goal` is what the user will say. Nothing of
    the conversation `conversation_id`, or of one that names an entity of the facts, is retrieved for the model.
    `succeeded`: the facts are those of a conversation that reached its goal, with `tools` (their definitions).
    """

    facts: tuple[Step, ...] = ()
    prior: tuple[Step, ...] = ()
    said: tuple[tuple[str, str], ...] = ()
    goal: tuple[str, ...] = ()
    conversation_id: str = ""
    succeeded: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()

    def about(self) -> str:
        """Return the user's first message."""
        return next((text for speaker, text in self.said if speaker == "user"), "")

    def session(self, rules: Rules) -> Session:
        """Return the records and the history at the start of an episode: the recording's facts, then its own calls."""
        session = opened(rules, self.facts)
        for step in self.prior:
            session.told(step.tool, step.arguments, step.content, step.outcome)
        return session


@dataclass
class WorldModel:
    """A fitted world model. It creates worlds, each grounded in a scenario or in a recorded conversation.

    `pins` stores the answers of its worlds in an SQLite file. `control` applies to all of its worlds.
    """

    resolver: Resolver
    user: UserSide | None = None
    rules: Rules | None = None
    shapes: Shapes = field(default_factory=Shapes)
    name: str = ""
    pins: PinFile | None = None
    control: Control = NO_CONTROL
    curves: Curves = field(default_factory=dict)
    _loop: _Loop = field(default_factory=lambda: _Loop(), repr=False)

    @classmethod
    def load(
        cls,
        path: str | Path,
        engine: Engine | None = None,
        base: Base | None = None,
        pins: str | Path | None = None,
        control: Control = NO_CONTROL,
    ) -> WorldModel:
        """Load the output of `rehearsal world fit`. Without an engine, one is created in this process.

        With `pins`, an SQLite file, worlds keep their answers across processes and restarts. Raises
        ingest.errors.UserError if `path` has no finished world.
        """
        from worldmodel.artifact import load_parts  # loads torch

        parts, curves = load_parts(Path(path), engine, base)
        return cls(*parts, pins=PinFile(pins) if pins else None, control=control, curves=curves)

    def world(
        self,
        scenario: Scenario | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        seed: int = 0,
        control: Control | None = None,
    ) -> World:
        """Return a world in which the given facts hold.

        With `messages`, episodes continue where that conversation stops. With `scenario`, they start where the recorded
        conversation started, and the conversation provides the facts. With neither, the world starts without facts.
        """
        if scenario is not None and messages is not None:
            raise ValueError("a world is grounded in a scenario or in messages, not in both")
        if scenario is not None:
            facts = tuple(step_of(fact) for fact in scenario.facts)
            said = (("system", scenario.system), ("user", scenario.first_user_message))
            goal, succeeded, tools = tuple(scenario.goal), scenario.succeeded is True, tuple(scenario.tools)
            grounding = Grounding(facts, (), said, goal, scenario.conversation_id, succeeded, tools)
            return World(self, seed, grounding, control)
        steps = tuple(steps_of_messages(messages or ()))
        told = tuple(utterances(messages or ()))
        system = tuple(("system", m["content"]) for m in messages or () if m["role"] == "system" and m.get("content"))
        goal = tuple(text for speaker, text in told if speaker == "user")
        return World(self, seed, Grounding(steps, steps, (*system, *told), goal), control)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on this model's own event loop and wait for it, for synchronous callers."""
        return self._loop.run(coroutine)

    def close(self) -> None:
        """Stop the engine and this model's event loop, for synchronous callers."""
        self._loop.close(self.resolver.engine)


class World:
    """One reality. `episode` starts an episode; `fork` returns a copy that shares all answers so far."""

    def __init__(
        self, model: WorldModel, seed: int, grounding: Grounding | None = None, control: Control | None = None
    ) -> None:
        self.model, self.seed, self.grounding = model, seed, grounding or Grounding()
        self.control = control or model.control
        facts, resolver = self.grounding.facts, model.resolver
        self.recording = Recording(facts, resolver.frame.effects, resolver.index)
        about, own = self.grounding.about(), self.grounding.conversation_id
        self.around = resolver.frame.around(resolver.index, own, facts, about)
        self.start = self.grounding.session(model.rules) if model.rules is not None else None
        self._connect(Pins(world_name(model.name, seed, self.grounding), model.pins))

    def _connect(self, pins: Pins) -> None:
        model = self.model
        self.pins = pins
        self.holes: Holes | None = None
        if model.rules is not None:
            assert self.start is not None
            recorded = Recorded(self.start, self.grounding.facts, self._passes)
            inventor = Inventor(model.rules, model.shapes, model.resolver, self.seed, pins, recorded, self.around)
            self.holes = Holes(inventor, model.resolver, model.shapes, self.seed)
        self.alone = ModelAlone(model.resolver, self.seed, pins, self.around)

    @cached_property
    def goal(self) -> Goal:
        """What the user of this world wants and knows."""
        return mine_goal(self.grounding.goal, self.grounding.facts)

    @cached_property
    def recorded_changes(self) -> RecordedChanges | None:
        """What the recorded success changed; None if the recording is no known success."""
        grounding, effects = self.grounding, self.model.resolver.frame.effects
        if not grounding.succeeded:
            return None
        return RecordedChanges.of(
            grounding.facts, grounding.goal, grounding.tools, self.wrote,
            lambda step: effects.is_write(step.tool) and effects.is_transient(step.tool, step.outcome),
        )  # fmt: skip

    def wrote(self, step: Step) -> bool:
        """Whether a call changed the state."""
        if self.model.rules is not None:
            return self.model.rules.wrote(step.tool, step.content, step.outcome)
        return step.outcome == OK and self.model.resolver.frame.effects.is_write(step.tool)

    def episode(self) -> Episode:
        """Start an episode at the world's grounding. It does not see the writes of other episodes."""
        return Episode(self, list(self.grounding.prior), self.start.fork() if self.start else None)

    def reseeded(self, seed: int, model: WorldModel) -> World:
        """Another world with the same grounding, answered by `model`, which has the same rules."""
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.model, other.seed = model, seed
        other._connect(Pins(world_name(model.name, seed, self.grounding)))
        return other

    def fork(self) -> World:
        """Return the same reality for separate use: later answers in one are not known to the other.

        Both are pure functions of the same seed, so they agree on calls that both are asked.
        """
        copy = World.__new__(World)
        copy.__dict__.update(self.__dict__)
        copy._connect(self.pins.fork())
        return copy

    async def answer(self, episode: Episode, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return the answer to a call in the state of an episode. The episode is not changed."""
        answer = await self._answer(episode, tool, dict(arguments))
        return replace(answer, support=calibrated(self.model.curves.get(answer.provenance, ()), answer.support))

    async def _answer(self, episode: Episode, tool: str, asked: dict[str, Any]) -> Answer:
        if not self.model.resolver.knows(tool):
            said = {"error": "unknown_tool", "message": f"there is no tool {tool!r}"}
            return Answer(Step(tool, asked, dumps(said), "unknown_tool"), "derived", 1.0, "no tool has this name")
        if episode.session is None or self.holes is None:
            return await self.alone.answer(tool, asked, episode.steps)
        session = episode.session
        blocked = tool in self.model.resolver.blocked

        def recorded() -> Answer | None:
            return self.recording.answer(tool, asked, episode.steps, episode.writes)

        # guard: what cannot exist is refused; else the rules decide, and the control may make them fail
        unknown = why_unknown(session, tool, asked, episode.heard, episode.gone)
        decided = None if blocked else episode.steering.decide(session, tool, asked, self.seed)
        if decided is not None:
            decided = found_after_all(self.model.shapes, session, tool, asked, decided)
        if unknown is not None and not blocked and (decided is None or decided.outcome == OK) and not recorded():
            refused = session.refused(tool, asked, self.seed)
            if refused is None or refused.content is None:
                return abstained(tool, asked, f"{unknown}, and no recorded answer says how {tool} refuses that")
            return derived(tool, asked, refused)
        # an error that passes by itself is drawn, whatever a recording answered at another time; else a write invents
        # the unseen records that it depends on or changes, and the rules decide again
        drawn = decided is not None and (decided.accident or self._passes(tool, decided.outcome))
        made: Invented = []
        if decided is not None and not drawn:
            session, decided, made = await self._met(session, tool, asked, decided)
        answer = await self._decided(episode, session, tool, asked, decided, drawn, recorded)
        return replace(answer, records=(*made, *answer.records))

    async def _decided(
        self, episode: Episode, session: Session, tool: str, asked: dict[str, Any], decided: Derivation | None,
        drawn: bool, recorded: Callable[[], Answer | None],
    ) -> Answer:  # fmt: skip
        """The answer to a call whose outcome the rules have decided, as far as they could."""
        # what production never tried has no answer, except a recorded one
        if decided is not None and decided.untried:
            return recorded() or abstained(tool, asked, decided.untried)
        # projection or recipe
        whole = decided is not None and decided.content is not None
        if decided is not None and whole and (decided.sure or drawn):
            return derived(tool, asked, decided)
        # recording
        answered = recorded()
        if answered is not None and (decided is None or not self._at_another_time(session, answered, decided)):
            return answered
        if decided is not None and whole:
            return derived(tool, asked, decided)
        # a hole: invented records, then the rules again, then the model
        why = self.model.resolver.objection(tool, asked)
        if decided is None or why is not None:
            return abstained(tool, asked, why or f"nothing was learned of the tool {tool!r}")
        assert self.holes is not None
        return await self.holes.fill(session.fork(), tool, asked, decided, episode.steps)

    async def _met(
        self, session: Session, tool: str, asked: Mapping[str, Any], decided: Derivation
    ) -> tuple[Session, Derivation, Invented]:
        """Invent the unseen records that a write depends on or changes. Returns a session with them, what the rules
        decide there, and the records. A refusal that depends on no record, or that says that one does not exist,
        invents nothing."""
        if self.holes is None or tool not in session.engine.writes or tool in self.model.resolver.blocked:
            return session, decided, []
        if decided.outcome != OK and (decided.sure or decided.outcome in self.model.shapes.missing_outcomes()):
            return session, decided, []
        met = session.fork()
        made = await self.holes.meet(met, tool, asked)
        if not made:
            return session, decided, []
        again = met.derive(tool, asked, self.seed, accidents=False) or decided
        again = found_after_all(self.model.shapes, met, tool, asked, again)
        if again.outcome != decided.outcome or not decided.sure:
            again = replace(again, invented=True, support=INVENTED * again.support)
        return met, again, made

    def _at_another_time(self, session: Session, answered: Answer, decided: Derivation) -> bool:
        if answered.step.outcome == decided.outcome:
            return False
        return self.recording.at_another_time(session.engine, answered.step, decided.path)

    def _passes(self, tool: str, outcome: str) -> bool:
        return self.model.resolver.frame.effects.is_transient(tool, outcome)


def derived(tool: str, arguments: Mapping[str, Any], decided: Derivation) -> Answer:
    """An answer that the rules determine, from what was seen or from what was invented for it."""
    step = Step(tool, arguments, decided.content or "", decided.outcome)
    return Answer(step, "generated" if decided.invented else "derived", decided.support, decided.rule)


def world_name(model: str, seed: int, grounding: Grounding) -> str:
    """Return the world's name in a file of pins. Equal worlds have equal names."""
    facts = [f"{s.key} {s.content}" for s in (*grounding.facts, None, *grounding.prior) if s is not None]
    own = f"{grounding.conversation_id} " if grounding.conversation_id else ""
    return f"{model} {seed} {own}{int(2**53 * uniform(len(grounding.prior), grounding.about(), *facts)):x}"


class Episode:
    """One agent's run in a world. Implements training.environment.Episode, with the same calls in synchronous form."""

    def __init__(self, world: World, steps: list[Step], session: Session | None = None) -> None:
        self.world, self.steps, self.session = world, steps, session
        effects = world.model.resolver.frame.effects
        self.writes = [s for s in steps if s.outcome == OK and effects.is_write(s.tool)]
        grounding = world.grounding
        self.said = [(speaker, text) for speaker, text in grounding.said if speaker != "system"]
        self.heard = Heard([text for _, text in grounding.said] + list(grounding.goal))
        for step in steps:
            self.heard.add(step.content)
        self.gone: set[tuple[str, tuple[str, ...]]] = set()
        self.steering = Steering(world.control, world.model.shapes.implicit)
        self.provenance: dict[str, int] = {}
        self.ended: str | None = None
        self._turn: asyncio.Lock | None = None

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call in the state of this episode. Concurrent calls are answered in their order.

        For an unsupported call, the content is empty and the episode has ended (`ended` has the reason).
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
            return Observation("", True, "abstained", latency, "abstained", 0.0, self.ended)
        if self.session is not None:
            self._store(answer, self.session)
        self.steps.append(step)
        if step.outcome == OK and self.world.model.resolver.frame.effects.is_write(step.tool):
            self.writes.append(step)
        shown = self.steering.shown(self.session, self.steps, step, self.world.seed)
        self.heard.add(shown)
        wrong = step.outcome != OK
        error_class = step.outcome if wrong else ""
        return Observation(minify(shown), wrong, error_class, latency, answer.provenance, answer.support)

    def _store(self, answer: Answer, session: Session) -> None:
        step = answer.step
        for type_, key, record in answer.records:
            put(session, type_, key, record)
        rules = session.engine
        self.steering.met(session, step.tool)
        if step.outcome != OK:
            self.gone |= declared_missing(
                rules, self.world.model.shapes, session, step.tool, step.arguments, step.outcome
            )
        source = "generated" if answer.provenance == "generated" else "seen"
        session.told(step.tool, step.arguments, step.content, step.outcome, source)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Observation:
        """`observe`, for synchronous callers."""
        return self.world.model.run(self.observe(ToolCall(name, dict(arguments))))

    async def respond(self, text: str) -> str | None:
        """Return the user's next message after the agent's `text`; None if the user has left."""
        self.said.append(("agent", text))
        user = self.world.model.user
        if user is None:
            return None
        private: dict[str, str] = {}
        world, goal = self.world, self.world.goal
        if self.session is not None and world.start is not None and world.holes is not None:
            private = await private_facts(user.knowledge, self.session, world.start, world.holes, goal, self.said)
        reply = await user.reply(goal, self.said, world.seed, world.pins, private)
        if reply is not None:
            self.said.append(("user", reply))
            self.heard.add(reply)
        return reply

    def as_recorded(self) -> float | None:
        """How far the agent's changes are those of the recorded success; None without one."""
        recorded = self.world.recorded_changes
        return None if recorded is None else recorded.agreement([s for s in self.steps if self.world.wrote(s)])

    def fork(self) -> Episode:
        """Return a second run with the same past in the same world."""
        copy = Episode(self.world, list(self.steps), self.session.fork() if self.session else None)
        copy.writes, copy.said = list(self.writes), list(self.said)
        copy.provenance, copy.ended, copy.gone = dict(self.provenance), self.ended, set(self.gone)
        copy.heard, copy.steering = self.heard.fork(), self.steering.fork()
        return copy

    def _latency(self, answer: Answer, call: ToolCall) -> float:
        if answer.provenance == "replayed" and answer.step.latency_ms is not None:
            return answer.step.latency_ms
        profile = self.world.model.resolver.profiles.get(call.name)
        key = call_key(call.name, call.arguments)
        u = uniform(self.world.seed, "latency", key, sum(s.key == key for s in self.steps))
        return 0.0 if profile is None else profile.latency(answer.step.outcome, u)


class _Loop:
    """An event loop in its own thread, started at first use."""

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
