"""The model without rules: it decides the outcome and writes the body. A baseline of the card; no world answers so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.generate.context import Framed, canonical_history, trail_of
from worldmodel.generate.pins import Pins
from worldmodel.generate.resolver import Answer, Resolver, abstained, uniform
from worldmodel.steps import Step


class ModelAlone:
    """One world's answers, all of them by the model."""

    def __init__(self, resolver: Resolver, seed: int, pins: Pins) -> None:
        self.resolver, self.seed, self.pins = resolver, seed, pins

    async def answer(self, tool: str, arguments: Mapping[str, Any], steps: Sequence[Step]) -> Answer:
        """The answer after the steps that an episode made; the same for one call in one state."""
        resolver, effects = self.resolver, self.resolver.frame.effects
        why = resolver.objection(tool, arguments)
        if why is not None:
            return abstained(tool, arguments, why)
        history = canonical_history(steps, effects)
        trail = trail_of(tool, arguments, steps, effects)
        framed = resolver.frame.frame(tool, arguments, history, trail, resolver.index)
        digest = _digest(framed)
        outcome, share, content = await self.pins.settle(f"alone {digest}", lambda: self._answer(framed, digest))
        if content is None:
            return abstained(tool, arguments, "the model wrote no answer that this tool could give")
        return Answer(Step(tool, arguments, content, outcome), "generated", 0.5 * share)

    async def _answer(self, framed: Framed, digest: str) -> list[Any]:
        odds = await self.resolver.odds(framed)
        u = uniform(self.seed, "outcome", digest)
        number = next((k for k in range(len(odds)) if u < sum(odds[: k + 1])), len(odds) - 1)
        seed = int(2**31 * uniform(self.seed, "body", digest))
        content = await self.resolver.edited(framed, number, seed, 0.0)
        if content is None:
            content = await self.resolver.edited(framed, number, seed, 1.0)
        return [framed.prompt.outcomes[number], odds[number], content]


def _digest(framed: Framed) -> str:
    text = framed.prompt.text() + "\x1f" + "\x1f".join(framed.sources)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
