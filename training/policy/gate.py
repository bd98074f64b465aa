"""The gate: decides whether a candidate is promoted.

Champion and candidate play the same held-out scenarios in the same worlds, and the judge compares them in pairs. These
scenarios are used for nothing else, because scenarios that selected the best step would be biased.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ingest.records import Scenario
from training.learning.trajectory import Trajectory, seed_of
from training.policy.evaluate import Difference, paired
from training.policy.practice import Practising


class GateSettings(BaseModel):
    """Thresholds of the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: int = Field(128, ge=8, description="Held-out scenarios that both policies play.")
    slice_margin: float = Field(0.1, ge=0, description="A slice is lost if its whole interval is below -margin.")
    min_slice: int = Field(12, ge=2, description="Slices with fewer scenarios are not tested.")


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is promoted, why, and the figures."""

    promoted: bool
    why: str
    difference: Difference
    slices: dict[str, Difference]
    alarms: tuple[str, ...]


async def compare(
    practice: Practising,
    scenarios: Sequence[Scenario],
    champion: str,
    candidate: str,
    settings: GateSettings,
    alarms: Sequence[str] = (),
    seed: int = 0,
    on_done: Callable[[int], None] = lambda count: None,
) -> tuple[Verdict, list[tuple[Trajectory, Trajectory]]]:
    """Play and judge; returns the verdict and the pairs of trajectories (champion's, candidate's)."""
    seeds = [seed_of(seed, "gate", s.scenario_id) for s in scenarios]
    before = await practice.singles(scenarios, seeds, champion, on_done)
    after = await practice.singles(scenarios, seeds, candidate, lambda n: on_done(len(scenarios) + n))
    pairs = list(zip(before, after, strict=True))
    judged = await practice.judge(pairs, seeds)
    scored = [
        (slice_of(scenario), j.scores[0], j.scores[1])
        for scenario, j in zip(scenarios, judged, strict=True)
        if None not in j.scores
    ]
    return decide(scored, len(scenarios), settings, alarms), pairs


def decide(
    scored: Sequence[tuple[str, float | None, float | None]],
    asked: int,
    settings: GateSettings,
    alarms: Sequence[str] = (),
) -> Verdict:
    """The verdict on (slice, champion's score, candidate's score) of the scenarios that were scored."""
    if len(scored) < 0.9 * asked or not scored:
        nothing = Difference(0.0, 0.0, 0.0, 0.0, len(scored))
        why = f"the judge scored only {len(scored)} of {asked} scenarios"
        return Verdict(False, why, nothing, {}, tuple(alarms))
    whole = _difference([(b, a) for _, b, a in scored])
    by_slice: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for name, before, after in scored:
        by_slice[name].append((before, after))
    slices = {k: _difference(v) for k, v in sorted(by_slice.items()) if len(v) >= settings.min_slice}
    lost = [name for name, found in slices.items() if found.high < -settings.slice_margin]
    interval = f"{whole.gain:+.3f} ({whole.low:+.3f} to {whole.high:+.3f})"
    if whole.low <= 0:
        why = f"the judged gain {interval} is not above zero over its whole interval"
    elif lost:
        why = f"worse on {', '.join(lost)} by more than {settings.slice_margin}"
    elif alarms:
        why = f"alarms: {'; '.join(alarms)}"
    else:
        why = f"judged gain {interval} over {whole.episodes} held-out scenarios, no slice lost, no alarm"
        return Verdict(True, why, whole, slices, ())
    return Verdict(False, why, whole, slices, tuple(alarms))


def _difference(pairs: Sequence[tuple[float | None, float | None]]) -> Difference:
    return paired(np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float))


def slice_of(scenario: Scenario) -> str:
    """The slice of a scenario: the most frequent error class that production met in it, or `smooth`."""
    counts: dict[str, int] = defaultdict(int)
    for fact in scenario.facts:
        if fact.is_error:
            counts[fact.error_class] += 1
    return max(sorted(counts), key=lambda k: counts[k]) if counts else "smooth"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON."""

    def plain(found: Difference) -> dict[str, float]:
        return {
            "before": found.before, "after": found.after, "gain": found.gain,
            "low": found.low, "high": found.high, "n": found.episodes,
        }  # fmt: skip

    return {
        "promoted": verdict.promoted,
        "why": verdict.why,
        **plain(verdict.difference),
        "slices": {name: plain(found) for name, found in verdict.slices.items()},
        "alarms": list(verdict.alarms),
    }


def example_of(scenarios: Sequence[Scenario], pairs: Sequence[tuple[Trajectory, Trajectory]]) -> dict[str, Any]:
    """One scenario as the candidate played it, of median length, with calls."""
    played = [(s.conversation_id, after) for s, (_, after) in zip(scenarios, pairs, strict=True)]
    with_calls = [p for p in played if p[1].observations] or played
    conversation, chosen = sorted(with_calls, key=lambda p: len(p[1].messages))[len(with_calls) // 2]
    return {"conversation": conversation, "messages": chosen.messages}
