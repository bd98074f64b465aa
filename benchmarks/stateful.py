"""Random systems whose tools keep state of a conversation: sessions, places, interlocks, running totals, lists, laws.

A system is a few *kinds* of tools (`benchmarks/kinds/`) with random names, so that no word says what a tool does.
Every answer knows whether what the conversation showed before, and the rules of the system, determine it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldmodel.steps import OK, Step, outcome_of

WORDS = "amber basil cedar delta ember fjord grove haven inlet jetty knoll larch maple north ocean pearl quartz".split()
SYLLABLES = "ba co du fe gi ha jo ku li mo na pe ro su ta ve wi xo ya zu".split()


class Refused(Exception):
    """A call that the system refuses; the text is the error."""


@dataclass
class Run:
    """One conversation: the state of each kind, and which cells of it the conversation has shown."""

    rng: random.Random
    state: dict[str, Any] = field(default_factory=dict)
    known: set[Any] = field(default_factory=set)
    determined: bool = True
    volatile: bool = False

    def need(self, *cell: Any) -> None:
        """The answer depends on a cell: nobody who has not been shown it can know the answer."""
        self.determined = self.determined and cell in self.known

    def show(self, *cell: Any) -> None:
        self.known.add(cell)


@dataclass(frozen=True)
class Tool:
    """`run` answers a call and changes the state; `draw` makes arguments; `often` is how likely it is called."""

    name: str
    run: Callable[[Run, dict[str, Any]], Any]
    draw: Callable[[Run, random.Random], dict[str, Any]]
    often: float = 1.0


@dataclass(frozen=True)
class Part:
    """The tools of one kind in one system, and how a conversation starts with them."""

    kind: str
    tools: Sequence[Tool]
    start: Callable[[Run], None] = lambda run: None


class Names:
    """Names that say nothing."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.used = rng, set[str]()

    def word(self) -> str:
        while True:
            word = "".join(self.rng.choice(SYLLABLES) for _ in range(self.rng.choice([2, 2, 3])))
            if word not in self.used:
                self.used.add(word)
                return word

    def tool(self) -> str:
        return self.rng.choice(["{}_{}", "{}{}"]).format(self.word(), self.word())


@dataclass
class Manners:
    """How a system says that it is done, and how it says no."""

    rng: random.Random
    names: Names

    def __post_init__(self) -> None:
        self.style = self.rng.choice(["ok", "text", "null", "status"])
        self.error = self.rng.choice(["json", "text", "detail"])
        self.envelope = self.rng.choice([None, None, None, "data", "result"])

    def done(self, text: str, **fields: Any) -> Any:
        """The answer of a write: its fields if it has any, else as this system acknowledges."""
        if fields:
            return fields
        return {"ok": {"ok": True}, "text": text, "null": None, "status": {"status": text}}[self.style]

    def body(self, value: Any) -> str:
        if self.envelope and isinstance(value, dict):
            value = {"success": True, self.envelope: value}
        return value if isinstance(value, str) else json.dumps(value)

    def refusal(self, text: str) -> str:
        if self.error == "text":
            return f"Error: {text}"
        return json.dumps({"error": text} if self.error == "json" else {"error": True, "detail": text})


class StatefulSystem:
    """A system of `kinds`, each drawn anew from `seed`."""

    def __init__(self, seed: object, makers: Sequence[Callable[[random.Random, Names, Manners], Part]]) -> None:
        rng = random.Random(f"stateful {seed}")
        self.manners = Manners(rng, Names(rng))
        self.parts = [maker(rng, self.manners.names, self.manners) for maker in makers]
        self.kind_of = {tool.name: part.kind for part in self.parts for tool in part.tools}

    def conversation(self, seed: object, length: int = 16) -> list[tuple[Step, bool]]:
        """The calls of one random agent, each with whether the conversation before it determines its answer.

        The agent stays with one kind for some calls and repeats itself now and then, as agents do."""
        rng = random.Random(f"stateful run {seed}")
        run = Run(random.Random(f"world {seed}"))
        for part in self.parts:
            part.start(run)
        out: list[tuple[Step, bool]] = []
        part = rng.choice(self.parts)
        before: tuple[Tool, dict[str, Any]] | None = None
        for _ in range(length):
            if rng.random() < 0.2:
                part = rng.choice(self.parts)
            if before is not None and rng.random() < 0.12:
                tool, arguments = before
            else:
                (tool,) = rng.choices(part.tools, [t.often for t in part.tools])
                arguments = tool.draw(run, rng)
            before = (tool, arguments)
            out.append(self._call(run, tool, arguments))
        return out

    def _call(self, run: Run, tool: Tool, arguments: dict[str, Any]) -> tuple[Step, bool]:
        run.determined, run.volatile = True, False
        try:
            content, outcome = self.manners.body(tool.run(run, arguments)), OK
        except Refused as refused:
            content = self.manners.refusal(str(refused))
            outcome = outcome_of(content, True, "")
        return Step(tool.name, arguments, content, outcome), run.determined and not run.volatile
