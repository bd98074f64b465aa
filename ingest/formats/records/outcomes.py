"""Rewards and scores beside a conversation: how people write them, as evaluations.

Read are numbers, booleans, numbers as text, labels as text, objects of named scores, and lists of evaluations. A list
of several bare numbers is not read: nothing says whether it holds rewards of steps, of samples or of judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

# Keys whose value is an outcome, whatever its form; those whose value is one only if it is true or false.
KEYS = ("reward", "score", "rewards", "scores", "rating", "grade", "outcome", "outcomes", "evaluation", "evaluations",
        "reward_info", "feedback")  # fmt: skip
FLAGS = ("success", "passed", "resolved", "solved", "correct", "is_correct", "label", "preferred")
# Objects beside the messages in which a reward or a score may lie.
NESTED = ("extra", "metadata", "info", "metrics", "final_metrics")
_VALUES = ("score", "value", "reward", "rating", "grade")
_EXPLANATIONS = ("explanation", "comment", "reason", "rationale", "feedback")
_LONGEST_LABEL = 200  # characters; what is longer is an explanation
_TRUE_AND_FALSE = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Outcome:
    """One evaluation; ``score`` or ``label`` may be missing."""

    name: str
    score: float | None = None
    label: str | None = None
    explanation: str | None = None


def outcomes_of(record: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes that a record tells, in the order of its keys."""
    found: list[Outcome] = []
    for key, value in record.items():
        if key in KEYS:
            found += _read(key, value)
        elif key in FLAGS and isinstance(value, bool):
            found.append(Outcome(key, float(value)))
        elif key in NESTED and isinstance(value, dict):
            inner = {**value.get("extra", {}), **value} if isinstance(value.get("extra"), dict) else value
            found += [o for k in ("reward", "score") if k in inner for o in _read(k, inner[k])]
    return found


def _read(name: str, value: Any) -> Iterator[Outcome]:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    if isinstance(value, dict):
        yield from _named(name, value)
    elif isinstance(value, list):
        if len(value) == 1 or all(isinstance(item, dict) for item in value):
            for item in value:
                yield from _read(name, item)
    elif (told := _plain(name, value)) is not None:
        yield told


def _named(name: str, value: dict[str, Any]) -> Iterator[Outcome]:
    """An evaluation with fields of its own, or scores by their names."""
    own = value.get("name", value.get("key", value.get("metric", name)))
    key = next((k for k in _VALUES if value.get(k) is not None), None)
    label = value.get("label")
    if key is not None or isinstance(label, str):
        own = key if own == "reward_info" else own
        told = _graded(str(own), value) if key else None
        told = told or (_plain(str(own), value[key]) if key else Outcome(str(own)))
        if told is not None:
            why = next((value[k] for k in _EXPLANATIONS if isinstance(value.get(k), str)), None)
            yield replace(told, label=label if isinstance(label, str) else told.label, explanation=why)
        return
    for inner, item in value.items():
        yield from _read(inner, item)


# How scorers of Inspect AI grade an answer (inspect_ai.scorer.value_to_float): correct, partial, incorrect, no answer.
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


def _graded(name: str, value: dict[str, Any]) -> Outcome | None:
    """A grade beside the answer that was graded. A letter alone is a label, because a C of a school is no success."""
    grade = value.get("value")
    if "answer" not in value or not isinstance(grade, str) or grade not in _GRADES:
        return None
    return Outcome(name, _GRADES[grade], grade)


def _plain(name: str, value: Any) -> Outcome | None:
    if isinstance(value, bool):
        return Outcome(name, float(value))
    if isinstance(value, int | float):
        return Outcome(name, float(value)) if math.isfinite(value) else Outcome(name, label=str(value))
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    if text.lower() in _TRUE_AND_FALSE:
        return Outcome(name, _TRUE_AND_FALSE[text.lower()])
    try:
        score = float(text)
    except ValueError:
        return Outcome(name, label=text) if len(text) <= _LONGEST_LABEL else Outcome(name, explanation=text)
    return Outcome(name, score) if math.isfinite(score) else Outcome(name, label=text)
