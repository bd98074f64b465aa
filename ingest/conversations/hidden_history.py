"""Calls that send only new messages (OpenAI's ``previous_response_id``) and export no id of what they continue.

A tool result has the id of its call, which joins it (``grouping``). A new user message has no id, but its input token
count shows a history: it is higher than that of an earlier call that sent at least as much text. Which conversation the
call continues is unknown. Its conversation gets the flag ``hidden_history``, and no system prompt is put in front.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingest.messages.normal import Observed

FLAG = "hidden_history"
MARGIN = 1.25  # least ratio of its tokens to those of a fresh call with as much text


Toolset = tuple[str, tuple[str, ...]]


@dataclass
class Evidence:
    """The evidence for hidden histories in all spans. It is small, and evidence of several parts can be merged.

    ``news`` holds emitters that send only new messages. ``fresh`` holds, by emitter and tools, pairs (characters, input
    tokens) of opening calls; only pairs that no other pair exceeds in characters with fewer tokens.
    """

    news: set[str] = field(default_factory=set)
    fresh: dict[Toolset, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, observed: Iterable[Observed]) -> None:
        """Add spans."""
        for o in observed:
            if o.kind == "inference" and o.input:
                if _sends_only_news(o):
                    self.news.add(o.emitter)
                if o.input_tokens and _opens(o):
                    self._add(_toolset(o), _told(o), o.input_tokens)

    def merge(self, other: Evidence) -> None:
        """Add the evidence of another part."""
        self.news |= other.news
        for toolset, found in other.fresh.items():
            for told, tokens in found:
                self._add(toolset, told, tokens)

    def _add(self, toolset: Toolset, told: int, tokens: int) -> None:
        known = self.fresh[toolset]
        if not any(a >= told and b <= tokens for a, b in known):
            self.fresh[toolset] = [(a, b) for a, b in known if not (told >= a and tokens <= b)] + [(told, tokens)]

    def mark(self, observed: Iterable[Observed]) -> None:
        """Flag the calls whose token count proves a history that was not exported."""
        for o in observed:
            if o.kind == "inference" and o.input and o.emitter in self.news and o.input_tokens and _opens(o):
                told = _told(o)
                if any(a >= told and MARGIN * b < o.input_tokens for a, b in self.fresh.get(_toolset(o), ())):
                    o.flags.append(FLAG)


def _toolset(o: Observed) -> Toolset:
    return o.emitter, tuple(str(t["name"]) for t in o.tools)


def _sends_only_news(o: Observed) -> bool:
    """Whether the history starts with a tool result, whose call it does not have."""
    opening = next((p for m in o.input if m["role"] != "system" for p in m["parts"]), None)
    return opening is not None and opening["type"] == "tool_call_response"


def _opens(o: Observed) -> bool:
    """Whether a call has no history, no conversation id and no previous response id."""
    if o.conversation_id or o.previous_response_id:
        return False
    return all(m["role"] in ("system", "user") for m in o.input)


def _told(o: Observed) -> int:
    return sum(len(str(p.get("content", ""))) for m in o.input for p in m["parts"])
