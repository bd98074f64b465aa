"""Do a world's answers agree with each other, in what the agent did in practice?

    python -m benchmarks.fidelity.coherence --home artifacts/demo

Reads the practice episodes that a home stores. Fields that no tool is known to change stay what they are, whatever an
agent does: an order keeps its item. `members`: of these fields, counted by group and call, how many were told to
several members of a group (they live in one world) in more than one way. `again`: of those that an episode read several
times by the same call, how many were told in more than one way. Only successful answers that are JSON objects count. A
system whose answers change by themselves (clocks, changes by others) differs in reality too. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.policy.episodes import read_episodes
from training.policy.grpo import EPISODES
from worldmodel.artifact import read_rules
from worldmodel.derive.values import flatten, is_scalar, parse
from worldmodel.steps import call_key

Told = dict[tuple[str, str], list[str]]


def answers(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(call, body) of each call of an episode that was answered by a JSON object."""
    calls = {call["id"]: call for message in record["messages"] for call in message.get("tool_calls") or ()}
    for message in record["messages"]:
        call = calls.get(message.get("tool_call_id", ""))
        if message["role"] == "tool" and call is not None:
            body = parse(message["content"]) if not message.get("is_error") else None
            if isinstance(body, dict):
                yield call_key(call["name"], call["arguments"]), body


def told(record: Mapping[str, Any], changed: frozenset[str]) -> Told:
    """The values of each (call, field) in an episode, without the fields in `changed`."""
    found: Told = {}
    for call, body in answers(record):
        for name, value in flatten(body):
            if is_scalar(value) and name.rpartition(".")[2] not in changed:
                found.setdefault((call, name), []).append(json.dumps(value))
    return found


def measure(home: Path) -> dict[str, Any]:
    """The counts for one home."""
    rules = read_rules(home / "world").rules
    changed = frozenset(e.field.rpartition(".")[2] for tool in rules.tools.values() for e in tool.effects)
    groups: dict[tuple[int, int], dict[tuple[str, str], list[set[str]]]] = defaultdict(lambda: defaultdict(list))
    repeated: list[set[str]] = []
    episodes = 0
    for record in read_episodes(home / "candidate" / EPISODES):
        episodes += 1
        for mark, values in told(record, changed).items():
            groups[record["step"], record["group"]][mark].append(set(values))
            if len(values) > 1:
                repeated.append(set(values))
    shared = [set[str]().union(*sets) for group in groups.values() for sets in group.values() if len(sets) > 1]
    return {"episodes": episodes, "members": counts(shared), "again": counts(repeated)}


def counts(values: Sequence[set[str]]) -> dict[str, float]:
    """How many fields there are, and how many of them have more than one value."""
    differ = sum(len(v) > 1 for v in values)
    return {"fields": len(values), "differ": differ, "share": round(differ / max(1, len(values)), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"))
    print(json.dumps(measure(parser.parse_args().home), indent=1))


if __name__ == "__main__":
    main()
