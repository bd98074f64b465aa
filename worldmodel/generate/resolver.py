"""Queries to the model: probabilities of outcome classes, and bodies, under a JSON schema or as an edit."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.engines import Engine, Sampling, TooLong
from training.engines.grammar import Grammar, UnusableSchema
from training.models.chat import ChatFormat
from training.models.edits import EditError, decode, minify
from worldmodel.derive.values import parse
from worldmodel.generate.context import ALONE, Around, Frame, Framed, prompt_ids
from worldmodel.generate.index import TransitionIndex
from worldmodel.profiles import Profile
from worldmodel.steps import Step

MAX_BODY_TOKENS = 640


def uniform(*parts: object) -> float:
    """Return a number in [0, 1) that is a function of the arguments only, so that all callers use common random
    numbers."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class Answer:
    """A step and its source. `support` in [0, 1] is the degree to which production supports it. `rule` names the rule
    that derived it, or the reason why there is no answer. `records` are the records that were invented for it: (type,
    key, fields)."""

    step: Step
    provenance: str
    support: float
    rule: str = ""
    records: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = ()


def abstained(tool: str, arguments: Mapping[str, Any], why: str) -> Answer:
    """Return an answer that abstains, with the reason."""
    return Answer(Step(tool, arguments, "", "abstained"), "abstained", 0.0, why)


@dataclass
class Resolver:
    """The model, the statistics that were learned without it, and past transitions.

    With `adapter` None the base model is used. `biases` are added to the log-probabilities of a tool's outcome digits.
    Tools in `blocked` (which failed their card) are replayed or abstained from, never generated. With `by_schema`,
    bodies are written under a JSON schema; otherwise freely, as an edit, and used if they are possible. Without
    `writes`, the model writes no bodies.
    """

    engine: Engine
    chat: ChatFormat
    adapter: str | None
    frame: Frame
    index: TransitionIndex
    profiles: Mapping[str, Profile]
    biases: Mapping[str, Sequence[float]] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    body_tokens: int = MAX_BODY_TOKENS
    by_schema: bool = True
    writes: bool = True
    tally: Counter[str] = field(default_factory=Counter)
    """Bodies that the model was `asked` for, and those that were `usable` as they came."""

    # ----- outcome

    async def odds(self, framed: Framed) -> tuple[float, ...]:
        """Return the corrected distribution over the tool's outcome classes."""
        names = framed.prompt.outcomes
        if len(names) == 1:
            return (1.0,)
        logprobs = await self.digit_logprobs(framed) or [0.0] * len(names)
        return corrected(logprobs, self.biases.get(framed.prompt.tool))

    async def digit_logprobs(self, framed: Framed) -> tuple[float, ...] | None:
        """Return the model's log-probabilities of the outcome digits, one per class, not normalised; None if the prompt
        is longer than the base's context."""
        digits = [self.chat.encode(str(n))[0] for n in range(len(framed.prompt.outcomes))]
        prompt = prompt_ids(framed.prompt, self.chat)
        try:
            return tuple(await self.engine.next_token_logprobs(prompt, digits, adapter=self.adapter))
        except TooLong:
            return None

    # ----- body

    async def written(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        outcome: str,
        schema: str,
        seed: int,
        around: Around = ALONE,
    ) -> Any:
        """Return a JSON body for an outcome, written under a schema; None if the model writes no valid JSON, the prompt
        is longer than the base's context, or the engine cannot follow the schema."""
        framed = self.frame.frame(tool, arguments, (), (), self.index, around)
        self.tally["asked"] += 1
        body = await self._body(framed, outcome, schema, seed)
        self.tally["usable"] += body is not None
        return body

    async def _body(self, framed: Framed, outcome: str, schema: str, seed: int) -> Any:
        if outcome not in framed.prompt.outcomes:
            return None
        if not self.by_schema:
            content = await self.edited(framed, framed.prompt.outcomes.index(outcome), seed, 1.0)
            return None if content is None else parse(content)
        grammar = Grammar(schema, self.chat.tokenizer, self.chat.stop_ids[0])
        prompt = self._prompt(framed, framed.prompt.outcomes.index(outcome), "=")
        sampling = Sampling(self.body_tokens, 1.0, self.chat.stop_ids, seed % 2**31, grammar=grammar)
        try:
            sample = await self.engine.sample(prompt, adapter=self.adapter, sampling=sampling)
        except (TooLong, UnusableSchema):
            return None
        try:
            return json.loads(self.chat.decode(sample.ids)) if sample.stopped else None
        except ValueError:
            return None

    async def edited(self, framed: Framed, outcome: int, seed: int, temperature: float) -> str | None:
        """Return a body that the model writes freely, as an edit; None if this tool could not give it."""
        name = framed.prompt.outcomes[outcome]
        sampling = Sampling(self.body_tokens, temperature, self.chat.stop_ids, seed % 2**31)
        prompt = self._prompt(framed, outcome, "")
        try:
            sample = await self.engine.sample(prompt, adapter=self.adapter, sampling=sampling)
        except TooLong:
            return None
        if not sample.stopped:
            return None
        try:
            content = minify(decode(self.chat.decode(sample.ids), framed.sources))
        except EditError:
            return None
        profile = self.profiles.get(framed.prompt.tool)
        return content if profile is None or profile.allows(name, content) else None

    def _prompt(self, framed: Framed, outcome: int, start: str) -> list[int]:
        prompt = prompt_ids(framed.prompt, self.chat)
        return [*prompt, *self.chat.encode(str(outcome)), *(self.chat.encode(start) if start else ())]

    # ----- no answer

    def knows(self, tool: str) -> bool:
        """Whether production has a tool of this name, by its definitions or by its calls."""
        return tool in self.profiles or tool in self.frame.definitions

    def objection(self, tool: str, arguments: Mapping[str, Any]) -> str | None:
        """Return the reason why no answer to this call can be supported; None if there is none."""
        profile = self.profiles.get(tool)
        if profile is None:
            return f"unknown tool {tool!r}"
        if tool in self.blocked:
            return f"tool {tool!r} may only be replayed"
        return profile.objection(arguments)


def corrected(logprobs: Sequence[float], bias: Sequence[float] | None) -> tuple[float, ...]:
    """Return log-probabilities plus a bias as probabilities over the classes."""
    shifted = [lp + b for lp, b in zip(logprobs, bias or [0.0] * len(logprobs), strict=True)]
    top = max(shifted)
    weights = [math.exp(v - top) for v in shifted]
    total = sum(weights)
    return tuple(w / total for w in weights)


def fit_bias(logprobs_NC: Sequence[Sequence[float]], outcomes: Sequence[int], rounds: int = 100) -> list[float]:
    """Return the bias for which the mean predicted class distribution equals the observed one (smoothed by half a
    count).

    Iterative proportional fitting on held-out calls, until no probability changes by 1e-4.
    """
    classes = len(logprobs_NC[0])
    observed = [0.5 / classes] * classes
    for outcome in outcomes:
        observed[outcome] += 1
    observed = [n / (len(outcomes) + 0.5) for n in observed]
    bias = [0.0] * classes
    for _ in range(rounds):
        rows = [corrected(row, bias) for row in logprobs_NC]
        mean = [sum(row[c] for row in rows) / len(rows) for c in range(classes)]
        bias = [b + math.log(o / max(m, 1e-9)) for b, o, m in zip(bias, observed, mean, strict=True)]
        bias = [max(-8.0, min(8.0, b - bias[0])) for b in bias]
        if max(abs(o - m) for o, m in zip(observed, mean, strict=True)) < 1e-4:
            break
    return bias
