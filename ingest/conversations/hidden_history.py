"""Calls that send only what is new (OpenAI's ``previous_response_id``) and do not export what they continue.

A tool result names its call, which joins it (``grouping``). A new user message names nothing, but the token
count gives the history away: it counts more than an earlier call that sent at least as much text. Which
conversation it continues stays unknown; that it starts in the middle is told by the flag ``hidden_history``,
and the system prompt, which stood at the untold beginning, is not repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingest.messages.normal import Observed

FLAG = "hidden_history"
MARGIN = 1.25  # so many times the tokens of a fresh call that sent as much


Toolset = tuple[str, tuple[str, ...]]


@dataclass
class Evidence:
    """What proves hidden histories, of all spans that there are: it is small, and that of parts can be merged.

    ``news`` are emitters that send only what is new. ``fresh`` holds, by emitter and tools, (characters told,
    tokens counted) of opening calls, without those that another call outdoes in both.
    """

    news: set[str] = field(default_factory=set)
    fresh: dict[Toolset, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, observed: Iterable[Observed]) -> None:
        """Takes in spans."""
        for o in observed:
            if o.kind == "inference" and o.input:
                if _sends_only_news(o):
                    self.news.add(o.emitter)
                if o.input_tokens and _opens(o):
                    self._add(_toolset(o), _told(o), o.input_tokens)

    def merge(self, other: Evidence) -> None:
        """Takes in what another has."""
        self.news |= other.news
        for toolset, found in other.fresh.items():
            for told, tokens in found:
                self._add(toolset, told, tokens)

    def _add(self, toolset: Toolset, told: int, tokens: int) -> None:
        known = self.fresh[toolset]
        if not any(a >= told and b <= tokens for a, b in known):
            self.fresh[toolset] = [(a, b) for a, b in known if not (told >= a and tokens <= b)] + [(told, tokens)]

    def mark(self, observed: Iterable[Observed]) -> None:
        """Flags the calls whose token count proves a history that was not told."""
        for o in observed:
            if o.kind == "inference" and o.input and o.emitter in self.news and o.input_tokens and _opens(o):
                told = _told(o)
                if any(a >= told and MARGIN * b < o.input_tokens for a, b in self.fresh.get(_toolset(o), ())):
                    o.flags.append(FLAG)


def _toolset(o: Observed) -> Toolset:
    return o.emitter, tuple(str(t["name"]) for t in o.tools)


def _sends_only_news(o: Observed) -> bool:
    """Whether the history starts with a tool's answer: to a call that it does not tell."""
    opening = next((p for m in o.input if m["role"] != "system" for p in m["parts"]), None)
    return opening is not None and opening["type"] == "tool_call_response"


def _opens(o: Observed) -> bool:
    """Whether a call tells no history and no name of what it belongs to."""
    if o.conversation_id or o.previous_response_id:
        return False
    return all(m["role"] in ("system", "user") for m in o.input)


def _told(o: Observed) -> int:
    return sum(len(str(p.get("content", ""))) for m in o.input for p in m["parts"])
