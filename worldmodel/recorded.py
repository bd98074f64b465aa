"""What a recorded success changed, and how far an episode of the same scenario changes the same.

Where production's conversation reached its goal, its successful state-changing calls show what was right there. A world
of that scenario holds the same facts, so an episode's changes can be compared with those. A small judge misses a wrong
item of a list, or one wrong number; this comparison does not. It says nothing of what the agent told the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.models.edits import canonical, dumps
from worldmodel.steps import OK, Step

WRONG = 0.4
"""What a change keeps for each value that is not the recorded one."""
SHORT = 60
"""Longer texts are free texts: they only have to be given."""
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
CREATED = "\0"
"""Begins the mark of a value that an earlier change of the same side answered, such as the id of what it created."""


@dataclass(frozen=True)
class RecordedChanges:
    """The changes of a recorded success. `said`: what its user said; `seen`: that, and what its reads answered.
    `schemas`: the JSON schemas of the tools' arguments, as far as they are known."""

    changes: tuple[Step, ...]
    said: str
    seen: str
    schemas: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        facts: Sequence[Step],
        said: Sequence[str],
        tools: Iterable[Mapping[str, Any]],
        wrote: Callable[[Step], bool],
        may_have_been_done: Callable[[Step], bool],
    ) -> RecordedChanges | None:
        """The changes among the answered calls of a success. None if they cannot be known: a write failed in a way that
        passes by itself, so that it may have been done, and the same call did not succeed later."""
        changed = [step for step in facts if wrote(step)]
        done = {step.key for step in changed}
        if any(may_have_been_done(step) and step.key not in done for step in facts if step.outcome != OK):
            return None
        told = "\n".join(said).casefold()
        read = "\n".join(step.content for step in facts if not wrote(step)).casefold()
        return cls(_once(changed), told, f"{told}\n{read}", _schemas(tools))

    def agreement(self, made: Sequence[Step]) -> float:
        """How far the changes that an episode made are the recorded ones, from 0 to 1; 1 if there are none in both.

        Each is paired with at most one of the other side, the most similar ones first. A change too much or too few
        counts as 0; the same call twice counts once.
        """
        once = _once(made)
        left, right = dict(enumerate(self._values(once))), dict(enumerate(self._values(self.changes)))
        alike = {
            (i, j): self._similarity(once[i], self.changes[j], given, expected)
            for i, given in left.items()
            for j, expected in right.items()
        }
        found = 0.0
        for (i, j), similarity in sorted(alike.items(), key=lambda pair: (-pair[1], pair[0])):
            if i in left and j in right:
                del left[i], right[j]
                found += similarity
        most = max(len(once), len(self.changes))
        return found / most if most else 1.0

    def _similarity(self, made: Step, recorded: Step, given: Mapping[str, str], expected: Mapping[str, str]) -> float:
        """0 for two tools, else WRONG for each value that differs. An optional value that one side leaves out differs
        only if the user named it."""
        if made.tool != recorded.tool:
            return 0.0
        schema = self.schemas.get(made.tool, {})
        wrong = 0
        for path in {*given, *expected}:
            name, one, other = path.partition(".")[0], given.get(path), expected.get(path)
            if one is None or other is None:
                optional = bool(schema) and name not in (schema.get("required") or ())
                wrong += not optional or (other is not None and _names(self.said, other))
            elif one != other:
                wrong += self._compared(other, (schema.get("properties") or {}).get(name))
        return WRONG**wrong

    def _compared(self, recorded: str, declared: Any) -> bool:
        """Whether a value has to be the recorded one: a number, a choice of the schema, what an earlier change created,
        or a short text that the user said or that was read. Others are the agent's own words."""
        choice = isinstance(declared, Mapping) and "enum" in declared
        known = len(recorded) <= SHORT and recorded in self.seen
        number = NUMBER.fullmatch(recorded) is not None or recorded in ("true", "false")
        return choice or known or number or recorded.startswith(CREATED)

    def _values(self, changes: Sequence[Step]) -> list[dict[str, str]]:
        """Per change, its arguments' values by path, each in one form."""
        found = []
        for at, step in enumerate(changes):
            values = dict(_leaves("", step.arguments))
            for path, value in values.items():
                if not _names(self.seen, value):
                    born = [k for k in range(at) if _names(changes[k].content.casefold(), value)]
                    values[path] = f"{CREATED}{changes[born[0]].tool}" if born else value
            found.append(values)
        return found


def _once(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The changes without repeats of the same call."""
    return tuple({step.key: step for step in reversed(list(steps))}.values())[::-1]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Values by dotted path, without nulls and empty texts; a list of plain values in any order."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
        for at, inner in enumerate(value):
            yield from _leaves(f"{path}.{at}", inner)
    elif isinstance(value, list | tuple):
        yield from [(path, " ".join(sorted(map(_text, value))))] * bool(value)
    elif value is not None and value != "":
        yield path, _text(value)


def _text(value: Any) -> str:
    """A plain value in one form: numbers without needless zeros; texts without case, outer spaces and a leading #."""
    text = value.strip().removeprefix("#").casefold() if isinstance(value, str) else canonical(dumps(value))
    return text.rstrip("0").rstrip(".") if "." in text and NUMBER.fullmatch(text) else text


def _names(text: str, value: str) -> bool:
    """Whether a text holds a value as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text) is not None


def _schemas(tools: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    inner = [tool.get("function") or tool for tool in tools]
    return {str(t["name"]): t["parameters"] for t in inner if isinstance(t.get("parameters"), Mapping) and "name" in t}
