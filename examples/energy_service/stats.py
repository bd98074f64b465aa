"""Statistics of the service's conversations: success by kind of task, case and temperament, lengths, transcripts.

python -m examples.energy_service.stats --conversations 300 --seed 1
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .agent import run_scripted
from .environment import EnergyService


@dataclass(frozen=True)
class Played:
    """One conversation: its messages, the facts of its verdict, and whether it succeeded."""

    messages: list[dict[str, Any]]
    facts: dict[str, Any]
    success: bool

    @property
    def results(self) -> list[dict[str, Any]]:
        """The messages with a tool's answer."""
        return [m for m in self.messages if m["role"] == "tool"]


async def measure(n: int, seed: int, split: str = "production", faults: bool = True) -> list[Played]:
    """Play `n` conversations, without the agent's faults if `faults` is False."""
    environment, played = EnergyService(split), []
    for start in environment.starts(n, seed):
        episode = environment.episode(start, seed)
        messages = await run_scripted(episode, start, random.Random(f"production {start.episode_id}"), faults)
        played.append(Played(messages, episode.facts(), episode.success()))
    return played


def transcript(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation as text, without the system prompt."""
    lines = []
    for message in messages[1:]:
        for call in message.get("tool_calls") or ():
            lines.append(f"    call {call['name']} {json.dumps(call['arguments'])}")
        if message.get("content"):
            who = "    ->" if message["role"] == "tool" else f"  {message['role']}:"
            lines.append(f"{who} {message['content']}")
    return "\n".join(lines)


def _rates(title: str, played: Sequence[Played], name: Callable[[dict[str, Any]], str]) -> Table:
    totals = Counter(name(p.facts) for p in played)
    successes = Counter(name(p.facts) for p in played if p.success)
    table = Table("", "conversations", "success", title=title)
    for key in sorted(totals):
        table.add_row(key, str(totals[key]), f"{successes[key] / totals[key]:.1%}")
    table.add_row("all", str(totals.total()), f"{successes.total() / totals.total():.1%}")
    return table


def _lengths(played: Sequence[Played]) -> Table:
    lengths = {
        "characters": [len(json.dumps(p.messages[1:])) for p in played],
        "calls": [len(p.results) for p in played],
        "user messages": [sum(m["role"] == "user" for m in p.messages) for p in played],
    }
    table = Table("", "mean", "median", "95 %", "most", title="lengths")
    for name, values in lengths.items():
        ordered = sorted(values)
        middle, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        table.add_row(name, f"{sum(values) / len(values):.1f}", str(middle), str(high), str(ordered[-1]))
    return table


def _errors(played: Sequence[Played]) -> Table:
    results = [message for p in played for message in p.results]
    table = Table("error class", "per call", title="errors")
    for name, count in Counter(m["error_class"] for m in results if m["is_error"]).most_common():
        table.add_row(name, f"{count / len(results):.1%}")
    return table


def main(
    conversations: Annotated[int, typer.Option(min=1, help="number of conversations")] = 300,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    faults: Annotated[bool, typer.Option(help="whether the agent makes its mistakes")] = True,
    transcripts: Annotated[int, typer.Option(help="number of transcripts to print")] = 0,
) -> None:
    """Print success by kind of task, lengths, errors, and transcripts."""
    played = asyncio.run(measure(conversations, seed, faults=faults))
    console = Console()
    console.print(_rates("kinds of task", played, lambda facts: facts["kind"]))
    console.print(_rates("cases", played, lambda facts: f"{facts['kind']}: {facts['case']}"))
    console.print(_rates("temperaments", played, lambda facts: facts["temperament"]))
    console.print(_lengths(played))
    console.print(_errors(played))
    for p in played[:transcripts]:
        print(f"\n{p.facts['kind']} ({p.facts['case']}), {'success' if p.success else 'failure'} {p.facts['told']}")
        print(transcript(p.messages))


if __name__ == "__main__":
    typer.run(main)
