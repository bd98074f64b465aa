"""Records that do not exist: ids that nobody mentioned, misspelt ids, and what was declared missing before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from worldmodel.derive.engine import Derivation, Engine, Session
from worldmodel.derive.store import Key
from worldmodel.generate.shapes import Shapes, named_alone
from worldmodel.steps import OK, core, is_identifier

Mark = tuple[str, Key]
LONG_ID = 6
"""An id of so many letters and digits may be written in groups."""


class Heard:
    """All texts of an episode, to search for ids. False if no texts are known."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._text = "\n".join(texts)

    def __bool__(self) -> bool:
        return bool(self._text)

    def add(self, text: str) -> None:
        if self._text:
            self._text += "\n" + text

    def fork(self) -> Heard:
        return Heard([self._text] if self._text else [])

    def says(self, key: Key) -> bool:
        """Whether every part of a key stands in what was said as it is written, as a word of its own."""
        return bool(key) and all(re.search(rf"(?<![\w-]){re.escape(part)}(?![\w-])", self._text) for part in key)

    def has(self, key: Key) -> bool:
        """Whether every part of a key occurs, with or without the short prefix that another tool wants, and for long
        ids in any grouping and case: `1EM 659 813` mentions 1EM659813."""
        return all(part in self._text or core(part) in self._text or self._has_grouped(part) for part in key)

    def _has_grouped(self, part: str) -> bool:
        letters = [char for char in part if char.isalnum()]
        if len(letters) < LONG_ID:
            return False
        grouped = r"[\s./-]?".join(map(re.escape, letters))
        return bool(re.search(rf"(?<![^\W_]){grouped}(?![^\W_])", self._text, re.IGNORECASE))


def why_unknown(
    session: Session, tool: str, arguments: Mapping[str, Any], heard: Heard, gone: set[Mark]
) -> str | None:
    """Return why a record that a call names cannot exist: it was declared missing, or its id was never mentioned."""
    for mark in named_alone(session.engine, session.situation(tool, arguments)):
        type_, key = mark
        if session.store.known(type_, key) or not has_identity(session.engine, type_):
            continue
        if heard.says(key):
            session.store.mentioned.add(key)
        if mark in gone:
            return f"{' '.join(key)} was declared missing"
        if heard and any(is_identifier(part) for part in key) and not heard.has(key):
            return f"nobody has mentioned {' '.join(key)}"
    return None


def has_identity(engine: Engine, type_: str) -> bool:
    """Whether records of a type say their own key: what a query answers has none."""
    return any(
        site.type == type_ and all(part.source.startswith("field/") for part in site.keys)
        for site in engine.rules.schema.sites
    )


def found_after_all(
    shapes: Shapes, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation
) -> Derivation:
    """Return the decision of the rules. If it calls a known record missing, return the tool's usual answer instead."""
    if decided.outcome not in shapes.missing.get(tool, ()):
        return decided
    marks = named_alone(session.engine, session.situation(tool, arguments))
    well = [(form.n, label) for label, form in session.engine.rules.tools[tool].forms.items() if form.outcome == OK]
    if not well or not marks or not any(session.store.known(*mark) for mark in marks):
        return decided
    label = max(well)[1]
    first = Derivation(OK, None, label, f"{tool}/{label}", 1.0)
    return session.again(tool, arguments, first)


def declared_missing(
    engine: Engine, shapes: Shapes, session: Session, tool: str, arguments: Mapping[str, Any], outcome: str
) -> set[Mark]:
    """Return the records that an error declares missing."""
    if outcome not in shapes.missing.get(tool, ()):
        return set()
    marks = named_alone(engine, session.situation(tool, arguments))
    return {mark for mark in marks if not session.store.known(*mark)}
