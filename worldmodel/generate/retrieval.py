"""The features by which calls are compared: argument values, their shapes (a number of cents differs from a number of
dollars), and short values of the entity's state before the call. Also conversations as files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingest.atomic import replacing
from training.models.edits import dumps
from worldmodel.steps import Step, is_identifier, leaves


@dataclass(frozen=True)
class Entry:
    """One past transition. `pristine`: no write to its entities came before, and its outcome was not a transient error.
    """

    conversation_id: str
    step: Step
    features: tuple[str, ...]
    pristine: bool


def features_of(tool: str, arguments: Mapping[str, Any], states: Sequence[str]) -> tuple[str, ...]:
    """Return the features by which a call is compared. `states` are the entity's observations before the call, nearest
    first."""
    found = {f"={key}={text}" for key, text in leaves(dict(arguments))}
    found |= {f"~{key}={_shape(value)}" for key, value in _scalars(arguments)}
    found |= {f"#{key}={len(value)}" for key, value in arguments.items() if isinstance(value, list)}
    for content in states[:1]:
        found |= {f"^{key}={text}" for key, text in _state(content)}
    return tuple(sorted(found))


def _scalars(value: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, list):
            for item in inner:
                yield from _scalars(item) if isinstance(item, Mapping) else [(key, item)]
        elif isinstance(inner, Mapping):
            yield from _scalars(inner)
        else:
            yield key, inner


def _shape(value: Any) -> str:
    """Return the shape of a value as a validator would see it: `W4821` is A9999, `-12.5` is a negative float."""
    if isinstance(value, str):
        letters = re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", value))
        return re.sub(r"\d", "9", letters) if len(value) < 32 else "text"
    return f"{type(value).__name__}{'-' if isinstance(value, int | float) and value < 0 else ''}"


def _state(content: str) -> Iterable[tuple[str, str]]:
    try:
        value = json.loads(content)
    except ValueError:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, bool) or (
                isinstance(inner, str) and len(inner) <= 24 and not is_identifier(inner)
            ):
                yield key, str(inner)
            elif isinstance(inner, list):
                yield f"#{key}", str(len(inner))


def write_conversations(path: Path, conversations: Mapping[str, Sequence[Step]]) -> None:
    """Store the steps of conversations, in order."""
    _write(path, [Entry(cid, step, (), False) for cid, steps in conversations.items() for step in steps])


def read_conversations(path: Path) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = defaultdict(list)
    for entry in _read(path):
        found[entry.conversation_id].append(entry.step)
    return dict(found)


def _write(path: Path, entries: Sequence[Entry]) -> None:
    columns = {
        "conversation_id": pa.array([e.conversation_id for e in entries], pa.string()),
        "tool": pa.array([e.step.tool for e in entries], pa.string()),
        "arguments": pa.array([dumps(dict(e.step.arguments)) for e in entries], pa.string()),
        "content": pa.array([e.step.content for e in entries], pa.string()),
        "outcome": pa.array([e.step.outcome for e in entries], pa.string()),
        "latency_ms": pa.array([e.step.latency_ms for e in entries], pa.float64()),
        "features": pa.array([list(e.features) for e in entries], pa.list_(pa.string())),
        "pristine": pa.array([e.pristine for e in entries], pa.bool_()),
    }
    with replacing(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")


def _read(path: Path) -> list[Entry]:
    entries = []
    for row in pq.read_table(path).to_pylist():
        arguments = json.loads(row["arguments"])
        step = Step(row["tool"], arguments, row["content"], row["outcome"], row["latency_ms"])
        entries.append(Entry(row["conversation_id"], step, tuple(row["features"]), row["pristine"]))
    return entries
