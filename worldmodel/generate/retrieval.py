"""The training corpus as a memory: the nearest past transition, and answers that production always gave.

Similarity is the summed inverse document frequency, within the tool, of the features that two calls share: argument
values, their shapes (a number of cents differs from a number of dollars), and short values of the entity's state before
the call.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.atomic import replacing
from training.models.edits import canonical, dumps
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


@dataclass
class TransitionIndex:
    """All training transitions, searchable. Build it with `of`, store it with `save`, read it with `load`."""

    entries: list[Entry]
    groups: Mapping[str, int] = field(default_factory=dict)
    """By conversation, the group of those that name a common entity: none of them is retrieved for another."""
    _postings: dict[tuple[str, str], np.ndarray] = field(init=False, repr=False)
    _of_tool: dict[str, np.ndarray] = field(init=False, repr=False)
    _always: dict[str, Step] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        postings: dict[tuple[str, str], list[int]] = defaultdict(list)
        of_tool: dict[str, list[int]] = defaultdict(list)
        for at, entry in enumerate(self.entries):
            of_tool[entry.step.tool].append(at)
            for feature in entry.features:
                postings[(entry.step.tool, feature)].append(at)
        self._postings = {key: np.asarray(rows) for key, rows in postings.items()}
        self._of_tool = {tool: np.asarray(rows) for tool, rows in of_tool.items()}
        self._always = _unanimous(self.entries, lambda step: canonical(step.content))

    def calls(self, tool: str) -> int:
        return len(self._of_tool.get(tool, ()))

    def nearest(
        self, tool: str, features: Sequence[str], not_conversation: str = "", among: str | None = None
    ) -> Step | None:
        """Return the most similar past transition of a tool (the latest of equals), optionally of one outcome class."""
        return next(iter(self.nearest_of(tool, features, 1, not_conversation, among)), None)

    def nearest_of(
        self, tool: str, features: Sequence[str], most: int, not_conversation: str = "", among: str | None = None
    ) -> list[Step]:
        """Return the `most` most similar past transitions of a tool, from conversations that share no entity with the
        given one, at most one per call."""
        rows = self._of_tool.get(tool)
        if rows is None:
            return []
        own = self.groups.get(not_conversation)
        found: dict[str, Step] = {}
        scores = np.zeros(len(self.entries), dtype=np.float32)
        for feature in features:
            hits = self._postings.get((tool, feature))
            if hits is not None:
                scores[hits] += math.log((len(rows) + 1) / len(hits))
        for at in rows[np.argsort(-scores[rows] - 1e-6 * np.arange(len(rows)), kind="stable")]:
            entry = self.entries[at]
            if own is not None and self.groups.get(entry.conversation_id) == own:
                continue
            if entry.conversation_id != not_conversation and among in (None, entry.step.outcome):
                found.setdefault(entry.step.key, entry.step)
                if len(found) == most:
                    break
        return list(found.values())

    def always(self, key: str) -> Step | None:
        """Return production's answer to a call if it was always the same."""
        return self._always.get(key)

    def save(self, path: Path) -> None:
        _write(path, self.entries)

    @classmethod
    def load(cls, path: Path) -> TransitionIndex:
        return cls(_read(path))


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


def _unanimous(entries: Iterable[Entry], told: Callable[[Step], str]) -> dict[str, Step]:
    """Return the latest step of every call that always had the same answer before any write."""
    answers: dict[str, set[str]] = defaultdict(set)
    examples: dict[str, Step] = {}
    for entry in entries:
        if entry.pristine:
            answers[entry.step.key].add(told(entry.step))
            examples[entry.step.key] = entry.step
    return {key: examples[key] for key, found in answers.items() if len(found) == 1}
