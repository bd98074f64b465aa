"""Simulated users beside real ones, on held-out conversations of the support desk.

    python -m benchmarks.fidelity.users --desk 300 --tokens 300000

A world is fitted to the conversations (`--tokens` is the budget of its two adapters). Its users then write every
message of whole held-out conversations, as in the card. Prints JSON: the card's measures, the same without the bias of
leaving, and how many replies were drawn again because they told a fact too early, or were the recorded user's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from examples.support_desk.environment import SupportDesk
from examples.support_desk.production import play
from examples.support_desk.tools import TOOLS
from ingest.messages.tool_definitions import read_tools
from ingest.records import Conversation, Message, Transition
from worldmodel import WorldModel
from worldmodel.fit import FitSettings, fit_world
from worldmodel.steps import OK, said_in, steps_of_messages
from worldmodel.users.match import ask_users, match


def desk_conversations(count: int, seed: int) -> list[Conversation]:
    """Conversations of the support desk's own production, without the telemetry."""
    found = []
    for number, start in enumerate(SupportDesk("production").starts(count, seed)):
        recorded, _ = asyncio.run(play(start, seed, number))
        one = Conversation(
            recorded.conversation_id, "desk", cast(list[Message], list(recorded.messages)), read_tools(list(TOOLS))
        )
        found.append(replace(one, started_at_ns=recorded.started_at_ns))
    return found


def transitions_of(conversation: Conversation) -> list[Transition]:
    """The calls of a conversation as the lake's table has them."""
    return [
        Transition(conversation.conversation_id, at, s.tool, dict(s.arguments), s.content, s.outcome != OK,
                   "" if s.outcome == OK else s.outcome, s.latency_ms, conversation.started_at_ns)
        for at, s in enumerate(steps_of_messages(conversation.messages))
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desk", type=int, default=300, help="conversations")
    parser.add_argument("--tokens", type=int, default=300_000, help="the budget of the fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=200, help="ask about so many turns")
    args = parser.parse_args()
    talks = desk_conversations(args.desk, args.seed)
    calls = [call for talk in talks for call in transitions_of(talk)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "world"
        manifest = fit_world(talks, calls, out, FitSettings(max_tokens=args.tokens, seed=args.seed))
        model = WorldModel.load(out)
        held_out = json.loads((out / "said.json").read_text())
        steps = {talk.conversation_id: steps_of_messages(talk.messages) for talk in talks}
        assert model.user is not None and said_in(talks).keys() >= held_out.keys()
        found: dict[str, Any] = {name: manifest["users"][name] for name in ("patience", "leave_bias")}
        for name, bias in (("users", model.user.leave_bias), ("without the bias", 0.0)):
            user = replace(model.user, leave_bias=bias, tally=Counter())
            found[name] = match(model.run(ask_users(user, held_out, steps, args.seed, args.most)))
            found[name]["tally"] = dict(user.tally)
        model.close()
    print(json.dumps({**found, "knowledge": manifest["users"]["knowledge"]}, indent=1))


if __name__ == "__main__":
    main()
