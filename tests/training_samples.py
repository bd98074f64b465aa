"""A base of random weights and a task so small that it is learned in seconds: paint the wall, say so, be thanked."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ingest.records import Conversation, Scenario
from training.environment import Observation, Start, ToolCall
from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.models.base import Base
from training.models.chat import CompactFormat
from training.models.edits import dumps
from training.models.lora import save_weights
from training.policy.clone import policy_rows
from training.tiny.pretraining.run import new_model
from training.tiny.pretraining.tokenizer import train_tokenizer

TOOL = {"name": "paint", "parameters": {"properties": {"colour": {}}, "required": ["colour"]}}
WISHES = ("paint the wall", "new colour please", "my wall is grey", "I want colour")


def tiny_base(seed: int = 0) -> Base:
    """Four layers of random weights, and a tokenizer that knows the task's words."""
    texts = [f"{w} red blue green done bye {dumps({'colour': 'red', 'painted': 'blue'})}" for w in WISHES] * 20
    tokenizer = train_tokenizer(texts, 340)
    model = new_model(tokenizer, seed).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Base(model, CompactFormat(tokenizer, show_tools=False), "nowhere", "random")


def conversation(k: int, colour: str) -> Conversation:
    """One painter at work."""
    call = {"id": "c0", "name": "paint", "arguments": {"colour": colour}}
    return Conversation(
        f"paint-{k}",
        "painter",
        [
            {"role": "user", "content": WISHES[k % len(WISHES)]},
            {"role": "assistant", "content": None, "tool_calls": [call]},  # type: ignore[list-item]
            {"role": "tool", "content": dumps({"painted": colour}), "tool_call_id": "c0", "name": "paint"},
            {"role": "assistant", "content": f"done {colour}"},
        ],
        [TOOL],
        [{"name": "liked", "score": float(colour == "blue"), "label": None, "explanation": None}],
        started_at_ns=k,
    )


def conversations(n: int, seed: int = 0) -> list[Conversation]:
    """Red and blue by turns of a coin."""
    rng = random.Random(seed)
    return [conversation(k, rng.choice(("red", "blue"))) for k in range(n)]


def scenario(k: int) -> Scenario:
    wish = WISHES[k % len(WISHES)]
    return Scenario(f"s{k}", f"paint-{k}", "", [TOOL], wish, (wish,), (), None, k)


def start(k: int = 0) -> Start:
    return Start(f"s{k}", "", (TOOL,), WISHES[k % len(WISHES)])


@dataclass
class Wall:
    """An episode: paints what it is told, and the customer leaves once something was painted and told."""

    provenance: str = "real"
    patience: int = 2
    painted: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    async def observe(self, call: ToolCall) -> Observation:
        if call.name != "paint" or not isinstance(call.arguments.get("colour"), str):
            return Observation(dumps({"error": "no_such_tool"}), True, "no_such_tool", provenance=self.provenance)
        self.painted.append(call.arguments["colour"])
        return Observation(dumps({"painted": self.painted[-1]}), provenance=self.provenance)

    async def respond(self, text: str) -> str | None:
        self.heard.append(text)
        return None if self.painted or len(self.heard) >= self.patience else "please"

    def success(self) -> bool:
        return self.painted == ["blue"]

    def facts(self) -> dict[str, Any]:
        return {"kind": "wall"}


@dataclass
class Walls:
    """A world factory whose worlds are walls."""

    provenance: str = "real"

    def world(self, scenario: Scenario, *, seed: int) -> Walls:
        return self

    def episode(self) -> Wall:
        return Wall(self.provenance)


@dataclass
class ComparedWall(Wall):
    """A wall whose recording painted blue, and succeeded."""

    def as_recorded(self) -> float | None:
        return float(self.painted == ["blue"])


@dataclass
class ComparedWalls(Walls):
    """A world factory whose recordings painted blue, and succeeded."""

    def episode(self) -> ComparedWall:
        return ComparedWall(self.provenance)


def random_rows(n: int, vocabulary: int, seed: int = 0, longest: int = 40) -> list[Row]:
    """Ragged rows with stretches of learned tokens between others, log-probabilities near a uniform policy's."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        length = rng.randrange(6, longest)
        ids = tuple(rng.randrange(8, vocabulary) for _ in range(length))
        trained = (False, *(rng.random() < 0.5 for _ in range(length - 2)), True)
        logprobs = tuple(rng.uniform(-8.0, -4.0) for t in trained if t)
        rows.append(Row(ids, trained, rng.uniform(-1.0, 1.0), logprobs))
    return rows


def adapter_of_all(base: Base, settings: LearnerSettings, steps: int, out: Path) -> Path:
    """Write an adapter that was trained on all conversations, good and bad."""
    learner = Learner(base, settings)
    for _ in range(steps):
        learner.sft_step(policy_rows(conversations(16), base.format, False))
    save_weights(*learner.weights(), out, {"role": "policy", "base": base.name})
    return out


def stir(learner: Learner, seed: int = 1, scale: float = 0.05) -> None:
    """Give an adapter random factors: a fresh one has B = 0, and then half of its gradients are zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in learner.parameters:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
