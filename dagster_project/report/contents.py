"""Collects the content of the report from the finished stages."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_project.loop.memory import peak_bytes
from dagster_project.loop.passes import Loop
from dagster_project.loop.stages import Done, read_json
from dagster_project.report import page as report
from dagster_project.report.page import Contents, Rate, Reality, Slice
from ingest.errors import UserError
from ingest.frozen import FrozenTables

JUDGE = {"agreement": "agreement", "interval": "interval", "n": "pairs"}
"""The figures about a fitted judge in the report, and their facts. A hosted judge has none."""
CLOCK = "clock.json"
"""File in the home directory: seconds of all finished runs, and the start of the current run."""


def gather(loop: Loop) -> Contents:
    """The report's content for the last gate and its inputs. Runs no stage. Raises UserError if no gate is finished.
    Without an evaluation of this candidate, `reality` is None."""
    gate = loop.read("gate")
    candidate = loop.read_input(gate, "candidate")
    world, card, judge, clone = (loop.read_input(candidate, name) for name in ("world", "card", "judge", "clone"))
    tables = FrozenTables(loop.read_input(candidate, "data").directory)
    evaluation, note = _evaluation(loop, candidate)
    stages = [
        _stage("World and users", world, f"fitted on {world.facts['counts']['rows']:,} tool calls"),
        _stage("Fidelity card", card, f"measured on {card.facts['held_out']['calls']:,} held-out calls"),
        _stage("Judge", judge, _judged(judge.facts)),
        _stage("Clone", clone, f"fitted on {clone.facts['rows']:,} conversations"),
        _stage("Practice", candidate, _practised(candidate.facts)),
        _stage("Gate", gate, f"{gate.facts['n']:,} held-out scenarios, played by both"),
    ]
    if evaluation is not None:
        stages.append(_stage("Reality", evaluation, _measured(evaluation.facts)))
    example = json.loads((gate.directory / "example.json").read_text())
    recorded = next(c for c in tables.conversations() if c.conversation_id == example["conversation"])
    minutes = max(_clock(loop.settings.home), sum(stage["seconds"] for stage in stages)) / 60
    return Contents(
        seed=loop.settings.seed,
        base=loop.settings.base,
        agent=recorded.agent or "the agent",
        minutes=round(minutes, 1),
        peak_gib=round(peak_bytes(loop.settings.home) / 2**30, 2) or None,
        traffic=_traffic(tables),
        stages=stages,
        card=card.facts,
        history=candidate.facts["history"],
        reality=_reality(evaluation.facts) if evaluation else None,
        reality_note=note,
        judge={name: judge.facts.get(fact) for name, fact in JUDGE.items()},
        gate={**gate.facts, **_standing(loop, gate)},
        real=report.turns(recorded.messages),
        simulated=report.turns(example["messages"]),
        head_start=bool(clone.facts.get("head_start")),
    )


def _evaluation(loop: Loop, candidate: Done) -> tuple[Done | None, str]:
    """The evaluation of this candidate, or None and the reason."""
    if not loop.settings.environment:
        return None, "no real environment is configured"
    try:
        found = loop.read("evaluation")
    except UserError:
        return None, "the evaluation has not run yet"
    if found.inputs["after"] != candidate.fingerprint:
        return None, "the last evaluation was of another candidate"
    return found, ""


def _standing(loop: Loop, gate: Done) -> dict[str, str]:
    """The current state of the gate's verdict: a user may have rolled back or promoted by hand since."""
    found = loop.registry.standing(gate.facts["version"])
    promoted = {"serving": "promoted", "replaced": "rolled back", "stored": "not promoted"}
    return {"state": promoted[found.state], "standing": found.says, "serving": found.serving}


def _reality(facts: Mapping[str, Any]) -> Reality:
    start = facts.get("start")
    return {
        "episodes": facts["episodes"],
        "before": _rate(facts["before"], facts["intervals"]["before"]),
        "after": _rate(facts["after"], facts["intervals"]["after"]),
        "difference": _rate(facts["gain"], (facts["low"], facts["high"])),
        "slices": slices(facts),
        "start": start["before"] if start else None,
        "practised": _rate(start["gain"], (start["low"], start["high"])) if start else None,
    }


def slices(facts: Mapping[str, Any]) -> list[Slice]:
    """Success per kind of task."""
    return [
        {
            "name": name,
            "n": entry["episodes"],
            "before": _rate(entry["before"]["rate"], entry["before"]["interval"]),
            "after": _rate(entry["after"]["rate"], entry["after"]["interval"]),
        }
        for name, entry in facts["kinds"].items()
    ]


def whole(facts: Mapping[str, Any]) -> Slice:
    """Success over all tasks, as a slice."""
    return {
        "name": "all tasks",
        "n": facts["episodes"],
        "before": _rate(facts["before"], facts["intervals"]["before"]),
        "after": _rate(facts["after"], facts["intervals"]["after"]),
    }


def _rate(rate: float, interval: tuple[float, float] | list[float]) -> Rate:
    return {"rate": rate, "low": interval[0], "high": interval[1]}


def _stage(name: str, done: Done, says: str) -> dict[str, Any]:
    return {"name": name, "seconds": done.seconds, "says": says}


def _judged(facts: Mapping[str, Any]) -> str:
    if facts["form"] == "hosted":
        return f"hosted: {facts['model']}"
    return f"fitted on {facts['labelled']:,} outcomes, answers {facts['form']}"


def _measured(facts: Mapping[str, Any]) -> str:
    text = f"{(3 if facts.get('start') else 2) * facts['episodes']:,} episodes in the real environment"
    faults = facts.get("faults") or {"before": 0, "after": 0}
    if faults["before"] or faults["after"]:
        text += (
            f"; errors of the environment ended {faults['before']:,} episodes of the clone and {faults['after']:,} of "
            f"the candidate, which are excluded in pairs (the first error: {faults['first']})"
        )
    return text


def _practised(facts: Mapping[str, Any]) -> str:
    episodes = sum(step["episodes"] for step in facts["history"])
    return f"{episodes:,} episodes in {facts['steps']} steps; the best adapter is that of step {facts['best_step']}"


def _traffic(tables: FrozenTables) -> dict[str, Any]:
    row = tables.query(
        """SELECT (SELECT count(*) FROM conversations) AS conversations,
                  (SELECT count(*) FROM tool_calls) AS tool_calls,
                  (SELECT avg(CASE WHEN is_error THEN 1.0 ELSE 0.0 END) FROM tool_calls) AS error_rate,
                  (SELECT count(DISTINCT conversation_id) FROM outcomes) AS evaluated"""
    )
    return row.to_pylist()[0]


def _clock(home: Path) -> float:
    """Seconds of all runs so far, including the current one; 0 if none is recorded."""
    clock = read_json(home / CLOCK)
    if clock is None:
        return 0.0
    running = time.time() - clock["since"] if clock.get("process") == os.getpid() else 0.0
    return float(clock["seconds"]) + running
