"""Statistics of the desk's conversations: success by kind of task, lengths, errors by tool.

python -m examples.support_desk.stats --conversations 2000 --seed 1
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .agent import run_scripted
from .environment import SupportDesk


@dataclass
class Stats:
    """Counts over many conversations."""

    conversations: Counter[str] = field(default_factory=Counter)
    successes: Counter[str] = field(default_factory=Counter)
    by_temperament: Counter[str] = field(default_factory=Counter)
    successes_by_temperament: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    characters: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def success_rate(self) -> float:
        return self.successes.total() / max(1, self.conversations.total())

    def add(self, messages: list[dict[str, Any]], facts: dict[str, Any], success: bool) -> None:
        """Count one conversation."""
        kind, temperament = facts["kind"], facts["temperament"]
        self.conversations[kind] += 1
        self.successes[kind] += success
        self.by_temperament[temperament] += 1
        self.successes_by_temperament[temperament] += success
        lengths: Counter[str] = Counter()
        for message in messages:
            lengths[message["role"]] += len(message.get("content") or "")
            for call in message.get("tool_calls") or ():
                lengths["call"] += (
                    len(call["name"]) + len(json.dumps(call["arguments"], separators=(",", ":"))) + 1
                )
            if message["role"] == "tool":
                self.calls[message["name"]] += 1
                self.characters["one observation"].append(len(message["content"]))
                if message["is_error"]:
                    self.errors[message["name"]][message["error_class"]] += 1
        for role in ("system", "user", "assistant", "call", "tool"):
            self.characters[role].append(lengths[role])
        self.characters["conversation"].append(lengths.total())
        self.characters["calls (number)"].append(sum(m["role"] == "tool" for m in messages))
        self.characters["messages (number)"].append(len(messages))


async def measure(n: int, seed: int, split: str = "production", skill: float | None = None) -> Stats:
    """Play `n` conversations and count."""
    environment, stats = SupportDesk(split), Stats()
    for start in environment.starts(n, seed):
        episode = environment.episode(start, seed)
        messages = await run_scripted(episode, start, random.Random(f"production {start.episode_id}"), skill)
        stats.add(messages, episode.facts(), episode.success())
    return stats


def _rates(title: str, totals: Counter[str], successes: Counter[str]) -> Table:
    table = Table("", "conversations", "success", title=title)
    for name in sorted(totals):
        table.add_row(name, str(totals[name]), f"{successes[name] / totals[name]:.1%}")
    table.add_row("all", str(totals.total()), f"{successes.total() / max(1, totals.total()):.1%}")
    return table


def _lengths(stats: Stats) -> Table:
    table = Table("", "mean", "median", "95 %", title="characters")
    for name, values in stats.characters.items():
        ordered = sorted(values)
        middle, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        table.add_row(name, f"{sum(values) / len(values):.1f}", str(middle), str(high))
    return table


def _tools(stats: Stats) -> Table:
    table = Table("tool", "calls", "errors", "by class", title="tools")
    for tool, calls in stats.calls.most_common():
        errors = stats.errors[tool]
        shares = ", ".join(f"{name} {count / calls:.1%}" for name, count in errors.most_common())
        table.add_row(tool, str(calls), f"{errors.total() / calls:.1%}", shares)
    return table


def main(
    conversations: Annotated[int, typer.Option(min=1, help="number of conversations")] = 2000,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    skill: Annotated[
        float | None, typer.Option(help="probability of the right choice at every decision; default: production's")
    ] = None,
) -> None:
    """Print success by kind of task, lengths, and error classes by tool."""
    stats = asyncio.run(measure(conversations, seed, skill=skill))
    console = Console()
    console.print(_rates("kinds of task", stats.conversations, stats.successes))
    console.print(_rates("temperaments", stats.by_temperament, stats.successes_by_temperament))
    console.print(_lengths(stats))
    console.print(_tools(stats))


if __name__ == "__main__":
    typer.run(main)
