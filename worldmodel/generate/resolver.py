"""How one call is answered: which outcome, which body, and how much production stands behind it.

The model says the outcome's digit first; its distribution, corrected per tool, is split in two. Transient
classes (timeouts, 429) are drawn anew for every try; the rest is drawn once for a call in a state, so that
what was not found stays not found.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.engines import Engine, Sampling
from training.models.chat import ChatFormat
from training.models.edits import REFERENCE, EditError, decode, minify
from worldmodel.generate.context import Frame, Framed
from worldmodel.generate.retrieval import TransitionIndex
from worldmodel.profiles import Profile
from worldmodel.steps import OK, Step

MAX_BODY_TOKENS = 640


def uniform(*parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments alone: common random numbers for whoever
    asks.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class Answer:
    """A step and where it came from; `support` in [0, 1] is how much production stands behind it. `rule` names the rule
    that derived it, or says why there is no answer."""

    step: Step
    provenance: str
    support: float
    rule: str = ""


@dataclass(frozen=True)
class Odds:
    """The corrected distribution over a tool's outcome classes for one call in one state."""

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    transient: tuple[bool, ...]

    def draw_transient(self, u: float) -> int | None:
        """The class of an accident, or None if the call goes through."""
        for number, (p, passes) in enumerate(zip(self.probabilities, self.transient, strict=True)):
            if passes:
                if u < p:
                    return number
                u -= p
        return None

    def draw_lasting(self, u: float) -> int:
        """The class that the call has in this state, accidents aside."""
        kept = [(n, p) for n, p in enumerate(self.probabilities) if not self.transient[n]]
        u *= sum(p for _, p in kept)
        for number, p in kept:
            if u < p:
                return number
            u -= p
        return max(kept, key=lambda pair: pair[1])[0] if kept else 0


@dataclass
class Resolver:
    """All that answers need besides a state: the model, what was learned without one, and past transitions.

    `adapter` None asks the base as it is. `biases` are added to the log-probabilities of a tool's digits.
    Tools in `blocked` (their card failed) are replayed or abstained from, never generated.
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

    # ----- outcome

    async def odds(self, framed: Framed) -> Odds:
        names = framed.prompt.outcomes
        effects, tool = self.frame.effects, framed.prompt.tool
        transient = tuple(effects.is_transient(tool, name) for name in names)
        if len(names) == 1:
            return Odds(names, (1.0,), transient)
        logprobs = await self.digit_logprobs(framed)
        return Odds(names, corrected(logprobs, self.biases.get(tool)), transient)

    async def digit_logprobs(self, framed: Framed) -> tuple[float, ...]:
        """The model's own log-probabilities of the outcome digits, one a class, not normalised over them."""
        digits = [self.chat.encode(str(n))[0] for n in range(len(framed.prompt.outcomes))]
        prompt = self.chat.prompt(framed.prompt.messages(self.chat.compact))
        return tuple(await self.engine.next_token_logprobs(prompt, digits, adapter=self.adapter))

    # ----- body

    async def generate(self, framed: Framed, outcome: int, odds: Odds, seed: int) -> Answer:
        """The body for a chosen outcome: greedy, then once at temperature 1, then the nearest past
        transition.
        """
        tool, arguments = framed.prompt.tool, framed.prompt.arguments
        name = framed.prompt.outcomes[outcome]
        confidence = odds.probabilities[outcome]
        prompt = self.chat.prompt(framed.prompt.messages(self.chat.compact))
        prompt = [*prompt, *self.chat.encode(str(outcome))]
        for temperature in (0.0, 1.0):
            sampling = Sampling(self.body_tokens, temperature, self.chat.stop_ids, seed % 2**31)
            sample = await self.engine.sample(prompt, adapter=self.adapter, sampling=sampling)
            content = self._body(framed, name, self.chat.decode(sample.ids)) if sample.stopped else None
            if content is not None:
                support = confidence * self._grounding(framed, name, self.chat.decode(sample.ids))
                return Answer(
                    Step(tool, arguments, self._echo(framed, name, content), name), "generated", support
                )
        nearest = self.nearest(tool, arguments, framed, name)
        if nearest is None:
            return self.abstain(tool, arguments, "no recorded answer of that kind")
        content = self._echo(framed, name, nearest.content)
        return Answer(Step(tool, arguments, content, name), "generated", 0.25 * confidence)

    def _body(self, framed: Framed, name: str, edit: str) -> str | None:
        """The observation that an edit stands for, if it is one that this tool could have given."""
        try:
            content = minify(decode(edit, framed.sources))
        except EditError:
            return None
        return content if self._allows(framed, name, content) else None

    def _allows(self, framed: Framed, name: str, content: str) -> bool:
        profile = self.profiles.get(framed.prompt.tool)
        return profile is None or profile.allows(name, content)

    def _echo(self, framed: Framed, name: str, content: str) -> str:
        profile = self.profiles.get(framed.prompt.tool)
        if profile is None or name != OK:
            return content
        return profile.echo(content, framed.prompt.arguments)

    def _grounding(self, framed: Framed, name: str, edit: str) -> float:
        """1 where the answer is an error or edits something known of this entity, a half where it is
        invented.
        """
        reference = REFERENCE.match(edit)
        known = sum(not seen.retrieved for seen in framed.prompt.seen)
        return 1.0 if name != OK or (reference and int(reference[1]) <= known) else 0.5

    def nearest(self, tool: str, arguments: Mapping[str, Any], framed: Framed, outcome: str) -> Step | None:
        if framed.nearest is not None and framed.nearest.outcome == outcome:
            return framed.nearest
        return self.index.nearest_call(tool, arguments, framed.sources[:1], among=outcome)

    # ----- no answer

    def objection(self, tool: str, arguments: Mapping[str, Any]) -> str | None:
        """Why no answer to this call can be supported, if so."""
        profile = self.profiles.get(tool)
        if profile is None:
            return f"unknown tool {tool!r}"
        if tool in self.blocked:
            return f"tool {tool!r} may only be replayed"
        return profile.objection(arguments)

    def abstain(self, tool: str, arguments: Mapping[str, Any], why: str) -> Answer:
        return Answer(Step(tool, arguments, "", "abstained"), "abstained", 0.0, why)


def corrected(logprobs: Sequence[float], bias: Sequence[float] | None) -> tuple[float, ...]:
    """Log-probabilities plus a bias, as probabilities over the classes."""
    shifted = [lp + b for lp, b in zip(logprobs, bias or [0.0] * len(logprobs), strict=True)]
    top = max(shifted)
    weights = [math.exp(v - top) for v in shifted]
    total = sum(weights)
    return tuple(w / total for w in weights)


def fit_bias(
    logprobs_NC: Sequence[Sequence[float]], outcomes: Sequence[int], rounds: int = 100
) -> list[float]:
    """The bias under which the mean predicted class distribution is the observed one (half a count smoothed).

    Iterative proportional fitting on held-out calls; the last step that matters moves no probability by 1e-4.
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
