"""What the rules leave open: answered from the recording, or by the model, once for a call in a state.

Where the rules decided the outcome, the model writes that body and the fields that the rules know are set in it. Of a
tool that the rules know nothing of, the model decides the outcome as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.models.edits import dumps
from worldmodel.derive.engine import Derivation
from worldmodel.derive.values import flatten, unflatten
from worldmodel.effects import Effects
from worldmodel.generate.context import Framed, canonical_history, trail_of
from worldmodel.generate.resolver import Answer, Odds, Resolver, uniform
from worldmodel.steps import OK, Step, call_key


@dataclass(frozen=True)
class Asked:
    """A call, after the steps that its episode made, of which `writes` changed something."""

    tool: str
    arguments: dict[str, Any]
    key: str
    steps: Sequence[Step]
    writes: Sequence[Step]


class ByModel:
    """The recording and the model behind one world; what the model said is pinned."""

    def __init__(self, resolver: Resolver, seed: int, facts: Sequence[Step], prior: Sequence[Step]) -> None:
        self.resolver, self.seed = resolver, seed
        self._recorded = _recorded(facts, self._effects)
        self._known = _known(facts, prior, self._effects)
        self.pins: dict[str, Any] = {}

    @property
    def _effects(self) -> Effects:
        return self.resolver.frame.effects

    def fork(self) -> ByModel:
        copy = ByModel.__new__(ByModel)
        copy.__dict__.update(self.__dict__)
        copy.pins = dict(self.pins)
        return copy

    # ----- the way of a call that the rules leave open

    def recorded(self, asked: Asked) -> Answer | None:
        """What production answered to this call in this state: in the grounding, or always and to everybody."""
        found, related = self._replay(asked.tool, asked.arguments, asked.key, asked.steps, asked.writes)
        if found is None and not related and not self._effects.is_write(asked.tool):
            always = self.resolver.index.always(asked.key)
            found = None if always is None else Answer(always, "replayed", 1.0)
        return found

    async def answer(self, asked: Asked, decided: Derivation | None) -> Answer:
        """The model's answer; with an outcome that the rules decided, if they did."""
        if decided is None:
            return await self._undecided(asked.tool, asked.arguments, asked.steps, asked.writes)
        why = self.resolver.objection(asked.tool, asked.arguments)
        if why is not None:
            return self.resolver.abstain(asked.tool, asked.arguments, why)
        framed = self._framed_for(asked)
        names = framed.prompt.outcomes
        if decided.outcome not in names:
            return self.resolver.abstain(asked.tool, asked.arguments, f"no answer of the kind {decided.outcome!r}")
        number = names.index(decided.outcome)
        odds = Odds(names, tuple(float(k == number) for k in range(len(names))), (False,) * len(names))
        answer = await self._generate(framed, number, odds)
        return _with_known(answer, decided)

    def _framed_for(self, asked: Asked) -> Framed:
        """The call as the model meets it. What a read says of a record that nothing was written to is a function of
        the world alone, so that whoever asks first, the answer is the same."""
        resolver, effects = self.resolver, self._effects
        related = effects.bearing(asked.tool, asked.arguments, None, asked.writes)
        if not effects.is_write(asked.tool) and not related:
            reads = [s for s in self._known if not effects.is_write(s.tool) and s.key != asked.key]
            return resolver.frame.frame(asked.tool, asked.arguments, reads, (), resolver.index)
        history = canonical_history([*self._known, *asked.steps], effects)
        trail = trail_of(asked.tool, asked.arguments, asked.steps, effects)
        return resolver.frame.frame(asked.tool, asked.arguments, history, trail, resolver.index)

    # ----- tools that the rules know nothing of

    async def _undecided(
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
        resolver, key = self.resolver, call_key(tool, arguments)
        pinned = self.pins.get(f"base {key}")
        if pinned is None:
            pinned = await self._base(resolver, tool, arguments, key)
            pinned = self.pins.setdefault(f"base {key}", pinned)
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
        resolver = self.resolver
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
        resolver = self.resolver
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
        resolver, key = self.resolver, call_key(tool, arguments)
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

    def _readers(self, tool: str, arguments: Mapping[str, Any], own: bool) -> list[tuple[str, Mapping[str, Any]]]:
        """The reads that must be settled first: of each entity that the call names, and of the call
        itself.
        """
        effects = self._effects
        asked: list[tuple[str, Mapping[str, Any]]] = []
        for key, identity in effects.entities(arguments).items():
            marks = effects.touched({key: identity})
            if not any(effects.is_reader(s.tool) and effects.touched(s.arguments) & marks for s in self._known):
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
            s.key == key and not self._effects.is_transient(s.tool, s.outcome) for s in _since(matching[0][1], steps)
        )
        step, related = matching[min(lasting, len(matching) - 1)]
        if lasting and len(matching) == 1 and self._effects.lags(tool, related):
            return None, related  # production stopped at what may have been stale
        return Answer(step, "replayed", 1.0), related

    # ----- pinned model answers

    async def _odds(self, framed: Framed) -> Odds:
        pin = f"odds {_digest(framed)}"
        if pin not in self.pins:
            odds = await self.resolver.odds(framed)
            self.pins.setdefault(pin, odds)
        return self.pins[pin]

    async def _generate(self, framed: Framed, outcome: int, odds: Odds) -> Answer:
        digest = _digest(framed)
        pin = f"body {outcome} {digest}"
        if pin not in self.pins:
            seed = int(2**31 * uniform(self.seed, "body", digest, outcome))
            answer = await self.resolver.generate(framed, outcome, odds, seed)
            self.pins.setdefault(pin, answer)
        return self.pins[pin]


def _with_known(answer: Answer, decided: Derivation) -> Answer:
    """A generated body with the fields that the rules know set in it."""
    if answer.provenance != "generated" or decided.outcome != OK or not decided.known or "" in decided.known:
        return answer
    try:
        body = json.loads(answer.step.content)
    except ValueError:
        return answer
    if not isinstance(body, dict) or decided.templated:
        return answer
    content = dumps(unflatten({**dict(flatten(body)), **decided.known}))
    step = Step(answer.step.tool, answer.step.arguments, content, answer.step.outcome)
    return Answer(step, "generated", answer.support, decided.rule)


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
    pristine = {id(step) for answers in _recorded(facts, effects).values() for state, step in answers if state == ""}
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
