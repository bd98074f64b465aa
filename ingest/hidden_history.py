"""Calls that send only what is new (OpenAI's ``previous_response_id``) and do not export what they continue.

A tool result names its call, which joins it (ingest.grouping). A new user message names nothing, but the token
count gives the history away: it counts more than an earlier call that sent at least as much text. Which
conversation it continues stays unknown; that it starts in the middle is told by the flag ``hidden_history``,
and the system prompt, which stood at the untold beginning, is not repeated.
"""

from __future__ import annotations

from collections import defaultdict

from ingest.normal import Observed

FLAG = "hidden_history"
MARGIN = 1.25  # so many times the tokens of a fresh call that sent as much


def mark(observed: list[Observed]) -> None:
    """Flags the calls whose token count proves a history that was not told, of emitters that send only news."""
    of_emitter: dict[str, list[Observed]] = defaultdict(list)
    for o in observed:
        if o.kind == "inference" and o.input:
            of_emitter[o.emitter].append(o)
    for calls in of_emitter.values():
        if any(map(_sends_only_news, calls)):
            opening = [o for o in calls if o.input_tokens and _opens(o)]
            for c in opening:
                if any(_counts_more(c, fresh) for fresh in opening):
                    c.flags.append(FLAG)


def _sends_only_news(o: Observed) -> bool:
    """Whether the history starts with a tool's answer: to a call that it does not tell."""
    parts = [p for m in o.input if m["role"] != "system" for p in m["parts"]]
    return parts[:1] != [] and parts[0]["type"] == "tool_call_response"


def _opens(o: Observed) -> bool:
    """Whether a call tells no history and no name of what it belongs to."""
    roles = {m["role"] for m in o.input}
    return roles <= {"system", "user"} and not o.conversation_id and not o.previous_response_id


def _counts_more(c: Observed, fresh: Observed) -> bool:
    same_tools = [t["name"] for t in c.tools] == [t["name"] for t in fresh.tools]
    return same_tools and _told(fresh) >= _told(c) and MARGIN * (fresh.input_tokens or 0) < (c.input_tokens or 0)


def _told(o: Observed) -> int:
    return sum(len(str(p.get("content", ""))) for m in o.input for p in m["parts"])
