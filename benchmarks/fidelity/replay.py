"""Replay transfer on the support desk: do real episodes end in the world as they did in reality?

    python -m benchmarks.fidelity.replay --conversations 3000 --episodes 200
    python -m benchmarks.fidelity.replay --world artifacts/demo/world --episodes 200

Each task is played twice by the scripted agent in the real environment. The world is grounded in the first run; the
actions of the second are replayed in it (worldmodel/card/transfer.py). Without `--world`, a world without adapters is
fitted to that many conversations of production: what its model would write is drawn. Tasks are of a stream that no
world has seen. Errors that pass by themselves are turned off in the world. With `--misspell`, every change of the
second run is also asked for with its ids misspelt: how many of these the world accepts, and in how many episodes that
ends better than the right spelling. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.derive import desk_transitions
from benchmarks.fidelity.errors import without_model
from examples.support_desk.agent import run_scripted
from examples.support_desk.environment import SupportDesk
from worldmodel.card.transfer import Case, replay_transfer, replayed
from worldmodel.control import Control
from worldmodel.fit import learn
from worldmodel.steps import Step, is_identifier, steps_of_messages, utterances
from worldmodel.world import Grounding, WorldModel

STREAM = 90_000
"""Seed of the stream of tasks; production and evaluation use others."""


async def cases(count: int, seed: int) -> list[Case]:
    """Tasks of the desk, each played twice."""
    desk = SupportDesk("production")
    found = []
    for start in desk.starts(count, STREAM + seed):
        runs = []
        for run in range(2):
            episode = desk.episode(start, run)
            runs.append((await run_scripted(episode, start, random.Random(f"{start.episode_id} {run}")), episode))
        first, (second, played) = runs[0][0], runs[1]
        said = (("system", start.system), ("user", start.first_user_message))
        goal = tuple(text for messages in (first, second) for who, text in utterances(messages) if who == "user")
        grounding = Grounding(tuple(steps_of_messages(first)), (), said, goal)
        found.append(Case(grounding, actions_of(second), played.success(), desk.episode(start, 2)))
    return found


def actions_of(messages: Sequence[Mapping[str, Any]]) -> list[Step | str]:
    """The calls and the texts of the agent, in order."""
    steps = iter(steps_of_messages(messages))
    out: list[Step | str] = []
    for message in messages:
        if message["role"] == "tool":
            out.append(next(steps))
        elif message["role"] == "assistant" and message.get("content") and not message.get("tool_calls"):
            out.append(message["content"])
    return out


async def measure(model: WorldModel, episodes: int, seed: int, misspell: bool = False) -> dict[str, Any]:
    """Replay transfer of a world on tasks of the desk."""
    found = await replay_transfer(model, await cases(episodes, seed), seed)
    if misspell:
        found["misspelt"] = await misspelt(model, episodes, seed)
    return found


async def misspelt(model: WorldModel, episodes: int, seed: int) -> dict[str, int]:
    """The same episodes with the ids of all changes misspelt."""
    rng = random.Random(seed)
    effects = model.resolver.frame.effects
    out = Counter[str]()
    for number, (right, wrong) in enumerate(zip(await cases(episodes, seed), await cases(episodes, seed), strict=True)):
        actions = [
            replace(a, arguments={k: other_id(v, rng) for k, v in a.arguments.items()})
            if isinstance(a, Step) and effects.is_write(a.tool) else a
            for a in wrong.actions
        ]  # fmt: skip
        spelt = await replayed(model, right, seed + number)
        played = await replayed(model, replace(wrong, actions=actions), seed + number)
        out["changes_accepted_right"] += spelt.accepted
        out["changes_accepted_misspelt"] += played.accepted
        out["scored_above_the_right_one"] += played.success > spelt.success
    return dict(out)


def other_id(value: Any, rng: random.Random) -> Any:
    """An id with one of its characters replaced, dropped or doubled; other values as they are."""
    if not isinstance(value, str) or not is_identifier(value):
        return value
    at = rng.randrange(len(value))
    return value[:at] + rng.choice((rng.choice("0123456789OIl"), "", value[at] * 2)) + value[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a fitted world of the desk; else one without adapters is fitted")
    parser.add_argument("--conversations", type=int, default=3000, help="conversations to fit to, without --world")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--misspell", action="store_true", help="also ask with misspelt ids")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.world is not None:
        model = WorldModel.load(args.world)
    else:
        model = without_model(learn(desk_transitions(args.conversations, args.seed)))
    model = replace(model, control=Control(faults=0))
    found = asyncio.run(measure(model, args.episodes, args.seed, args.misspell))
    print(json.dumps({"seed": args.seed, **found}, indent=1))


if __name__ == "__main__":
    main()
