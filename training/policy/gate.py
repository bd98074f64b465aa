"""The gate: decides whether a candidate is promoted.

Champion and candidate play the same held-out scenarios in the same worlds, and the judge compares them in pairs. These
scenarios are used neither in practice nor to select its best step, which would bias the comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ingest.records import Conversation, Scenario
from training.judging.grounding import unfounded_numbers
from training.learning.trajectory import Trajectory, seed_of
from training.policy.evaluate import MIN_SCORED, Difference, chance_of_fall, paired
from training.policy.practice import Practising, finished_pairs

Pairs = Sequence[tuple[float | None, float | None]]
"""The champion's and the candidate's value per scenario."""
LEVEL = 0.05
"""Largest probability that a candidate which is nowhere worse is refused for any of its slices; that it is refused for
what it states has the same bound."""


class GateSettings(BaseModel):
    """Thresholds of the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: int = Field(128, ge=8, description="Held-out scenarios that both policies play.")
    slice_margin: float = Field(
        0.1, ge=0, description="A slice is lost if its score falls by more than this, and not by chance."
    )
    min_slice: int = Field(12, ge=2, description="Slices with fewer scenarios are not tested.")
    fact_margin: float = Field(
        0.05, ge=0, description="Largest rise of the share of episodes that state a number which nothing in them shows."
    )


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is promoted, why, and the figures."""

    promoted: bool
    why: str
    difference: Difference
    slices: dict[str, Difference]
    alarms: tuple[str, ...]
    unfounded: Difference | None = None
    """The share of episodes that state a number which nothing in them shows."""
    as_recorded: Difference | None = None
    """How far the policies change what recorded successes changed, over the scenarios that have one."""


async def compare(
    practice: Practising,
    scenarios: Sequence[Scenario],
    champion: str,
    candidate: str,
    settings: GateSettings,
    alarms: Sequence[str] = (),
    seed: int = 0,
    on_done: Callable[[int], None] = lambda count: None,
    usual: float = 0.0,
) -> tuple[Verdict, dict[int, tuple[Trajectory, Trajectory]]]:
    """Play and judge; returns the verdict and, by a scenario's number, its trajectories (champion's, candidate's).

    A scenario is left out if an episode of it failed. `usual`: see `decide`.
    """
    seeds = [seed_of(seed, "gate", s.scenario_id) for s in scenarios]
    before = await practice.singles(scenarios, seeds, champion, on_done)
    after = await practice.singles(scenarios, seeds, candidate, lambda n: on_done(len(scenarios) + n))
    played = finished_pairs(before, after)
    pairs = [*played.values()]
    judged = await practice.judge(pairs, [seeds[k] for k in played])
    scored = [
        (slice_of(scenarios[k]), j.scores[0], j.scores[1])
        for k, j in zip(played, judged, strict=True)
        if None not in j.scores
    ]
    failed = len(scenarios) - len(pairs)
    verdict = decide(scored, len(scenarios), settings, alarms, _unfounded(pairs), usual, failed)
    return replace(verdict, as_recorded=_as_recorded(pairs)), played


def usual_share(recorded: Sequence[Conversation]) -> float:
    """The share of production's conversations whose agent stated a number that nothing in them shows."""
    systems = ["\n".join(m.get("content") or "" for m in c.messages if m["role"] == "system") for c in recorded]
    stating = [bool(unfounded_numbers(c.messages, system)) for c, system in zip(recorded, systems, strict=True)]
    return sum(stating) / max(1, len(stating))


def _unfounded(pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[tuple[float, float]]:
    """Per pair, whether each episode states a number that nothing in it shows (1 or 0)."""

    def states(played: Trajectory) -> float:
        return float(bool(unfounded_numbers(played.messages, played.start.system)))

    return [(states(before), states(after)) for before, after in pairs]


def _as_recorded(pairs: Sequence[tuple[Trajectory, Trajectory]]) -> Difference | None:
    """The gain in agreement with recorded successes; None without any."""
    agreed = [(before.as_recorded, after.as_recorded) for before, after in pairs]
    known = [pair for pair in agreed if None not in pair]
    return _difference(known) if known else None


def decide(
    scored: Sequence[tuple[str, float | None, float | None]],
    asked: int,
    settings: GateSettings,
    alarms: Sequence[str] = (),
    unfounded: Sequence[tuple[float, float]] = (),
    usual: float = 0.0,
    failed: int = 0,
) -> Verdict:
    """The verdict on (slice, champion's score, candidate's score) of the scenarios that were scored.

    A slice is lost if the candidate's score is lower by more than the margin and a sign-flip test excludes chance, at a
    level that is divided by the number of slices. A bound of an interval in place of the test fails for the few
    scenarios of a slice: the lower one refuses most good candidates, the upper one misses most bad ones
    (docs/training.md). `unfounded`: per scenario, whether the episodes state numbers that nothing in them shows.
    `usual`: the share of production's conversations that do; computed sums are among them, so a candidate may do so as
    often as production's agent. `failed`: how many scenarios are left out because an episode raised an error.
    """
    if len(scored) < MIN_SCORED * asked or not scored:
        nothing = Difference(0.0, 0.0, 0.0, 0.0, len(scored))
        why = f"the judge scored only {len(scored)} of {asked} scenarios"
        why += f"; in {failed} of them an episode raised an error" * bool(failed)
        return Verdict(False, why, nothing, {}, tuple(alarms))
    whole = _difference([(b, a) for _, b, a in scored])
    by_slice: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for name, before, after in scored:
        by_slice[name].append((before, after))
    tested = {name: pairs for name, pairs in sorted(by_slice.items()) if len(pairs) >= settings.min_slice}
    slices = {name: _difference(pairs) for name, pairs in tested.items()}
    lost = [name for name, pairs in tested.items() if _falls(pairs, settings.slice_margin, LEVEL / len(tested))]
    stated = _difference(unfounded) if unfounded else None
    interval = f"{whole.gain:+.3f} ({whole.low:+.3f} to {whole.high:+.3f})"
    if whole.low <= 0:
        why = f"the judged gain {interval} is not above zero over its whole interval"
    elif lost:
        why = f"worse on {', '.join(lost)} by more than {settings.slice_margin}"
    elif stated and _states_more(unfounded, stated, usual, settings.fact_margin):
        why = (
            f"{stated.after:.0%} of its episodes state a number that nothing in them shows, {stated.before:.0%} of "
            f"the champion's and {usual:.0%} of production's; the largest rise is {settings.fact_margin:.0%} "
            "(gate.fact_margin)"
        )
    elif alarms:
        why = f"alarms: {'; '.join(alarms)}"
    else:
        why = f"judged gain {interval} over {whole.episodes} held-out scenarios, no slice lost, no alarm"
        return Verdict(True, why, whole, slices, (), stated)
    return Verdict(False, why, whole, slices, tuple(alarms), stated)


def _difference(pairs: Pairs) -> Difference:
    return paired(*_series(pairs))


def _states_more(unfounded: Sequence[tuple[float, float]], stated: Difference, usual: float, margin: float) -> bool:
    """Whether the share rises by more than the margin, not by chance, and is higher than production's by the margin."""
    falls = _falls([(-before, -after) for before, after in unfounded], margin, LEVEL)
    return falls and stated.after > usual + margin


def _falls(pairs: Pairs, margin: float, level: float) -> bool:
    """Whether the mean falls by more than the margin, and with less than this probability by chance."""
    before_N, after_N = _series(pairs)
    return float(after_N.mean() - before_N.mean()) < -margin and chance_of_fall(before_N, after_N) < level


def _series(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)


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
        "unfounded": plain(verdict.unfounded) if verdict.unfounded else None,
        "as_recorded": plain(verdict.as_recorded) if verdict.as_recorded else None,
    }


def example_of(scenarios: Sequence[Scenario], pairs: Mapping[int, tuple[Trajectory, Trajectory]]) -> dict[str, Any]:
    """One scenario as the candidate played it, of median length, with calls. `pairs`: as from `compare`."""
    played = [(scenarios[k].conversation_id, after) for k, (_, after) in pairs.items()]
    with_calls = [p for p in played if p[1].observations] or played
    conversation, chosen = sorted(with_calls, key=lambda p: len(p[1].messages))[len(with_calls) // 2]
    return {"conversation": conversation, "messages": chosen.messages}
