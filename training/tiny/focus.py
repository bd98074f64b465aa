"""The record of a list that the user named, repeated after the list: for bases that are too small to look it up.

rehearsal-tiny copies what stands near. Of a list's records it takes the last one, whichever was asked for
(docs/tiny.md). So the compact format repeats the record that shares most with what the user said.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from training.models.edits import dumps

FEWEST = 2
"""Records that a list has."""


def named(content: str, said: Sequence[str]) -> str:
    """The record in a tool's answer that the user named, as the answer has it; empty if there is no list, or not one
    such record.

    A list is a JSON array of objects or texts, an object of objects, or lines of text. A record is named by its words
    and numbers that the user said; those that fewer records of the list have count more.
    """
    heard = {word for text in said for word in _words(text)}
    best: list[str] = []
    most = 0.0
    for records in _lists_in(content):
        written = [set(_words(record)) for record in records]
        count = Counter(word for own in written for word in own)
        for record, own in zip(records, written, strict=True):
            score = sum(math.log(len(records) / count[word]) for word in sorted(own & heard))
            if score > most + 1e-9:
                best, most = [record], score
            elif score and abs(score - most) <= 1e-9:
                best.append(record)
    return best[0] if len(best) == 1 else ""


def _lists_in(content: str) -> Iterator[list[str]]:
    try:
        yield from _lists(json.loads(content))
    except ValueError:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) >= FEWEST:
            yield lines


def _lists(value: Any) -> Iterator[list[str]]:
    """The lists in a JSON value, with their records as texts."""
    if isinstance(value, list):
        if len(value) >= FEWEST and len({type(v) for v in value}) == 1 and isinstance(value[0], dict | str):
            yield [v if isinstance(v, str) else dumps(v) for v in value]
    elif isinstance(value, dict) and len(value) >= FEWEST and all(isinstance(v, dict) for v in value.values()):
        yield [dumps({k: v}) for k, v in value.items()]
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _lists(part)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+(?:[.,]\d+)*", text.casefold())
