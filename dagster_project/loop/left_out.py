"""What a finished stage left out or cut, as lines for the user. Every stage counts it in its facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.policy.lengths import RowCounts

CUT_OFF = "ended at a limit of turns or tokens (train.limits)"


def left_out(stage: str, facts: Mapping[str, Any]) -> list[str]:
    """Lines on what a stage left out or cut; none if it used everything."""
    return _READERS[stage](facts) if stage in _READERS else []


def _world(facts: Mapping[str, Any]) -> list[str]:
    counts, longest = facts["counts"], facts["settings"]["longest"]
    parts = (("world", "rows", "too_long"), ("user", "user_rows", "user_too_long"))
    return [
        f"{name} adapter: {counts[long]} of {counts[rows] + counts[long]} rows are left out: longer than {longest} "
        "tokens (world.longest)"
        for name, rows, long in parts
        if counts.get(long)
    ]


def _judge(facts: Mapping[str, Any]) -> list[str]:
    lines, names = [], facts.get("outcomes", {})
    if facts.get("cut"):
        lines.append(
            f"judge: {facts['cut']} of {facts['transcripts']} transcripts are cut at the front to "
            f"{facts['max_tokens']} tokens (judge.max_tokens)"
        )
    if len(names) > 1 and not facts.get("outcome"):
        counted = ", ".join(f"{name or 'unnamed'} {count}" for name, count in names.items())
        lines.append(
            f"judge: outcomes have several names ({counted}); the last one of a conversation counts, 0.5 or more is a "
            "success (judge.outcome and judge.success_from change that)"
        )
    return lines


def _clone(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, part in (("clone", "row_counts"), ("clone, held out", "held_out_counts")):
        counts = facts.get(part) or {}
        if counts.get("left_out") or counts.get("cut"):
            lines.append(f"{name}: {RowCounts.of(counts).text()}")
    return lines


def _candidate(facts: Mapping[str, Any]) -> list[str]:
    steps = facts.get("history", ())
    episodes = sum(step["episodes"] for step in steps)
    cut = round(sum(step.get("cut_off", 0.0) * step["episodes"] for step in steps))
    failed = sum(step.get("failed_episodes", 0) for step in steps)
    lines = [f"practice: {cut} of {episodes} episodes {CUT_OFF}"] if cut else []
    return lines + ([f"practice: {failed} more episodes failed and are left out"] if failed else [])


def _gate(facts: Mapping[str, Any]) -> list[str]:
    cut = facts.get("cut_off") or {}
    return [f"gate: {count} of the {name}'s episodes {CUT_OFF}" for name, count in cut.items() if count]


_READERS = {"world": _world, "judge": _judge, "clone": _clone, "candidate": _candidate, "gate": _gate}
