"""Measures of the accuracy of simulated answers: the numbers of the fidelity card, for any answerer."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.models.edits import canonical
from worldmodel.card.volatile import settled
from worldmodel.derive.values import parse
from worldmodel.generate.shapes import Shapes
from worldmodel.generate.values import typed
from worldmodel.profiles import Profile
from worldmodel.steps import OK, Step

ENOUGH_OF_CLASS = 10
HOLE = "\x00"
"""The body of an answer whose outcome the rules know and whose body they do not."""


@dataclass(frozen=True)
class Judged:
    """One held-out call: production's answer, and the answer given instead (None: no answer).

    `derivable`: every value of production's answer could be known. `after_write`: a read of an entity that had been
    written to. `provenance` and `support` are those of the given answer.
    """

    conversation_id: str
    truth: Step
    answer: Step | None
    derivable: bool
    after_write: bool
    writes: bool = False
    provenance: str = ""
    support: float = 0.0
    odds: float | None = None
    """The probability that the answerer gave to production's outcome, where it gave any."""
    why: str = ""
    """Why there is no answer."""
    before: tuple[Step, ...] = ()
    drawn_errors: float | None = None
    """The share of errors among the answers of several worlds, where several were asked."""
    volatile: frozenset[str] = frozenset()
    """The tool's volatile fields (`worldmodel.card.volatile`): of these only the JSON type counts."""

    @property
    def exact(self) -> bool:
        return self.answer is not None and self.settled(self.answer) == self.settled(self.truth)

    def settled(self, step: Step) -> str:
        """An answer in canonical form, without the values that nothing determines."""
        return settled(step.content, self.volatile)

    @property
    def outcome(self) -> str:
        return "no answer" if self.answer is None else self.answer.outcome

    @property
    def errors(self) -> float:
        """How much of an error the answer is: the share over several worlds, else 0 or 1."""
        return self.drawn_errors if self.drawn_errors is not None else float(self.outcome != OK)


def exact_match(judged: Sequence[Judged]) -> float | None:
    return _mean([j.exact for j in judged])


def exact_interval(judged: Sequence[Judged]) -> list[float] | None:
    """The 95 % interval of exact match: Wilson's, with the number of calls that independent ones would need to be for
    the variance between conversations (the variance of a ratio, by linearisation)."""
    if not judged:
        return None
    by_conversation: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for j in judged:
        counts = by_conversation[j.conversation_id]
        counts[0], counts[1] = counts[0] + j.exact, counts[1] + 1
    clusters = len(by_conversation)
    share = sum(x for x, _ in by_conversation.values()) / len(judged)
    spread = sum((x - share * n) ** 2 for x, n in by_conversation.values()) * clusters / max(1, clusters - 1)
    n = share * (1 - share) * len(judged) ** 2 / spread if spread else float(clusters)
    z2 = 1.96**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def field_f1(judged: Sequence[Judged]) -> float | None:
    """Return the mean F1 of (path, value) pairs of the bodies. Words of a text count as its pairs."""
    return _mean([_pairs_f1(j.settled(j.truth), j.settled(j.answer)) if j.answer else 0.0 for j in judged])


def _pairs_f1(truth: str, answer: str) -> float:
    left, right = _pairs(truth), _pairs(answer)
    if not left and not right:
        return 1.0
    shared = sum((left & right).values())
    return 2 * shared / (sum(left.values()) + sum(right.values()))


def _pairs(content: str) -> Counter[tuple[str, str]]:
    try:
        value = json.loads(content)
    except ValueError:
        return Counter(("", word) for word in content.split())
    return Counter(_flatten(value, ""))


def _flatten(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in _flatten(v, f"{path}.{k}")]
    if isinstance(value, list) and value:
        return [pair for at, v in enumerate(value) for pair in _flatten(v, f"{path}[{at}]")]
    return [(path, canonical(json.dumps(value)))]


def outcome_f1(judged: Sequence[Judged]) -> float | None:
    """Return the macro F1 over the (tool, outcome class) pairs with at least ten cases in production, or over all pairs
    if there are none."""
    truth = Counter((j.truth.tool, j.truth.outcome) for j in judged)
    often = {pair: n for pair, n in truth.items() if n >= ENOUGH_OF_CLASS}
    said = Counter((j.truth.tool, j.outcome) for j in judged)
    right = Counter((j.truth.tool, j.outcome) for j in judged if j.outcome == j.truth.outcome)
    return _mean([2 * right[pair] / (truth[pair] + said[pair]) for pair in often or truth])


def macro(judged: Sequence[Judged]) -> dict[str, float | None]:
    """Return exact match and outcome F1 as means over tools, with equal weight per tool."""
    by_tool: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        by_tool[j.truth.tool].append(j)
    exact = [found for of_tool in by_tool.values() if (found := exact_match(of_tool)) is not None]
    f1 = [found for of_tool in by_tool.values() if (found := outcome_f1(of_tool)) is not None]
    return {"exact_match": _mean(exact), "outcome_f1": _mean(f1)}


def log_loss(judged: Sequence[Judged]) -> float | None:
    """Return the mean negative log-probability (nats) of production's outcomes, over the calls with known
    probabilities."""
    return _mean([-math.log(max(j.odds, 1e-6)) for j in judged if j.odds is not None])


def error_rates(judged: Sequence[Judged], draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return real and simulated error rates and their ratio with a 95 % interval, by resampling whole conversations.

    Calls without an answer are excluded from both. The ratio is None if production had no error.
    """
    answered = [j for j in judged if j.answer is not None]
    by_conversation: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for j in answered:
        counts = by_conversation[j.conversation_id]
        counts[0] += j.truth.outcome != OK
        counts[1] += j.errors
    rows = list(by_conversation.values())
    real, simulated = (sum(r[k] for r in rows) for k in (0, 1))
    n = len(answered) or 1
    out: dict[str, Any] = {"real": real / n, "simulated": simulated / n, "ratio": None, "ratio_ci": None}
    if real:
        out["ratio"] = simulated / real
        out["ratio_ci"] = _ratio_interval(rows, draws, seed)
    return out


def _ratio_interval(rows: Sequence[Sequence[float]], draws: int, seed: int) -> list[float]:
    """Both counts get a draw of the gamma distribution of shape 1/2, half a count in the mean. So an interval over few
    errors is wide, also where they all agree."""
    rng = random.Random(seed)
    ratios = []
    for _ in range(draws):
        drawn = rng.choices(rows, k=len(rows))
        simulated, real = (sum(r[k] for r in drawn) + rng.gammavariate(0.5, 1) for k in (1, 0))
        ratios.append(simulated / max(real, 1e-9))
    ratios.sort()
    return [ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]]


def value_types(judged: Sequence[Judged], shapes: Shapes, real: bool = False) -> float | None:
    """Return the share of answers in which every value has a JSON type that production showed at its place; if `real`,
    that of production's answers to the same calls."""
    answers = _answers(judged, real)
    answered = [s for s in answers if s.outcome in shapes.bodies.get(s.tool, {})]
    return _mean([typed(shapes.bodies[s.tool][s.outcome], parse(s.content)) for s in answered])


def _answers(judged: Sequence[Judged], real: bool) -> list[Step]:
    answered = [(j.truth, j.answer) for j in judged if j.answer is not None and j.answer.content != HOLE]
    return [truth if real else answer for truth, answer in answered]


def provenances(judged: Sequence[Judged]) -> dict[str, dict[str, float | None]]:
    """Return, per provenance, the number of answers and how many were exact."""
    by_source: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        if j.provenance:
            by_source[j.provenance].append(j)
    return {name: {"n": len(found), "exact_match": exact_match(found)} for name, found in sorted(by_source.items())}


def schema_validity(
    judged: Sequence[Judged], profiles: Mapping[str, Profile], real: bool = False
) -> float | None:
    """Return the share of answers with the shape of the tool's past answers of that outcome; if `real`, that of
    production's answers to the same calls."""
    answered = _answers(judged, real)
    return _mean([s.tool not in profiles or profiles[s.tool].allows(s.outcome, s.content) for s in answered])


def summary(
    judged: Sequence[Judged], profiles: Mapping[str, Profile], shapes: Shapes | None = None
) -> dict[str, Any]:
    """Return all measures of one answerer over some calls."""
    derivable = [j for j in judged if j.derivable]
    after_write = [j for j in judged if j.after_write]
    writes = [j for j in judged if j.writes]
    return {
        "n": len(judged),
        "exact_match": exact_match(judged),
        "exact_ci": exact_interval(judged),
        "derivable": {
            "n": len(derivable), "exact_match": exact_match(derivable), "exact_ci": exact_interval(derivable),
        },
        "field_f1": field_f1(judged),
        "outcome_f1": outcome_f1(judged),
        "log_loss": log_loss(judged),
        "macro": macro(judged),
        "errors": error_rates(judged),
        "schema_validity": schema_validity(judged, profiles),
        "real_schema_validity": schema_validity(judged, profiles, real=True),
        "value_types": value_types(judged, shapes) if shapes is not None else None,
        "real_value_types": value_types(judged, shapes, real=True) if shapes is not None else None,
        "read_after_write": {
            "n": len(after_write),
            "exact_match": exact_match(after_write),
            "derivable": exact_match([j for j in after_write if j.derivable]),
        },
        "state_changing": {"n": len(writes), "exact_match": exact_match(writes)},
        "coverage": _mean([j.answer is not None for j in judged]),
        "provenance": provenances(judged),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
