"""Whether a tool may be used for practice, and the card in words: what is derived, generated, blocked, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENOUGH = 30
"""Fewer held-out calls say too little to block a tool."""
VALID = 0.98
CLEARLY_INVALID = 0.9
"""Of production's own share on the same calls: what production says newly is no fault of the world."""
RATIO = (0.8, 1.25)
"""Simulated by real error rate. A tool is blocked only where the whole 95 % interval lies outside."""
WORSE = 0.05
"""By so much a tool must be worse than a copy of the nearest transition, in every measure, to be blocked for it."""
WORDS = {
    "derived": "derived by rules",
    "replayed": "replayed from the recording",
    "generated": "generated",
    "abstained": "not answered",
}


def verdict(entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return pass, warn or block, and the reasons for not passing."""
    nearest = entry["baselines"]["nearest_copy"]
    why: list[str] = []
    bad: list[str] = []
    if entry["n"] < ENOUGH:
        why.append(f"only {entry['n']} held-out calls")
    for name, words in (("schema_validity", "schema validity"), ("value_types", "share of right value types")):
        share = entry.get(name)
        real = entry.get(f"real_{name}") or 1.0
        if share is not None and share < VALID * real:
            (bad if share < CLEARLY_INVALID * real else why).append(f"{words} {share:.2f}")
    ratio, interval = entry["errors"]["ratio"], entry["errors"]["ratio_ci"]
    if interval is not None and not RATIO[0] <= ratio <= RATIO[1]:
        outside = interval[0] > RATIO[1] or interval[1] < RATIO[0]
        said = f"error-rate ratio {ratio:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
        (bad if outside else why).append(said)
    margins = [(entry[name] or 0.0) - (nearest[name] or 0.0) for name in ("exact_match", "outcome_f1")]
    if min(margins) < -0.005:
        (bad if max(margins) < -WORSE else why).append("does not beat a copy of the nearest transition")
    if bad and entry["n"] >= ENOUGH:
        return "block", bad + why
    return ("warn", bad + why) if bad or why else ("pass", [])


def in_words(tool: str, entry: Mapping[str, Any]) -> str:
    """Describe a tool in one or two sentences: the sources of its answers, and whether it may be used for practice."""
    n = entry["n"]
    parts = []
    for source, words in WORDS.items():
        found = entry["provenance"].get(source)
        if found:
            exact = found["exact_match"]
            right = "" if source == "abstained" or exact is None else f" ({exact:.0%} of them as production's)"
            parts.append(f"{found['n']} {words}{right}")
    answers = f"Of {n} held-out calls of {tool}, {listed(parts)}." if parts else f"{tool}: {n} held-out calls."
    why = listed(entry.get("why", ()))
    match entry.get("status"):
        case "block":
            return f"{answers} It is blocked for training: {why}. Only recorded answers of it are used."
        case "warn":
            return f"{answers} It is used with care: {why}."
    return f"{answers} It passes all thresholds."


def listed(parts: Any) -> str:
    """Join parts of a sentence with commas and a last 'and'."""
    found = list(parts)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""
