"""The user of a world: the customer's next message, from the goal that the trace revealed."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ingest.records import Conversation
from training.engines import Engine, Sampling, TooLong
from training.models.chat import ChatFormat
from training.models.roles import LEAVES, user_messages
from worldmodel.steps import utterances


class Settles(Protocol):
    """A store of replies: worldmodel.generate.pins.Pins."""

    async def settle(self, question: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a question, computed once."""
        ...


@dataclass
class UserSide:
    """The `user` adapter. `max_turns` is the patience of the most patient real customers (99th percentile), and
    `max_tokens` the length of the longest replies (`reply_tokens`)."""

    engine: Engine
    chat: ChatFormat
    adapter: str | None
    max_turns: int = 12
    temperature: float = 0.7
    max_tokens: int = 160

    async def reply(self, goal: Sequence[str], said: Sequence[tuple[str, str]], seed: int, pins: Settles) -> str | None:
        """Return the customer's next message; None if they leave. Equal dialogues get equal replies in one world."""
        if sum(speaker == "user" for speaker, _ in said) >= self.max_turns:
            return None
        prompt = self.chat.prompt(user_messages(goal, said, self.chat.compact))
        digest = hashlib.blake2b(repr((seed, prompt)).encode(), digest_size=8)

        async def write() -> str:
            drawn = int.from_bytes(digest.digest()[:4], "big") >> 1
            sampling = Sampling(self.max_tokens, self.temperature, self.chat.stop_ids, drawn)
            try:
                sample = await self.engine.sample(prompt, adapter=self.adapter, sampling=sampling)
            except TooLong:  # nobody talks longer than the base can read
                return ""
            return self.chat.decode(sample.ids).strip()

        text = await pins.settle(f"user {digest.hexdigest()}", write)
        return None if not text or LEAVES in text else text


def dialogue(messages: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the spoken messages as (speaker, text). Customers see neither tool calls nor notes.

    Consecutive texts of one side are joined to one utterance, as that side's next turn would have shown them.
    """
    said: list[tuple[str, str]] = []
    for speaker, content in utterances(messages):
        if said and said[-1][0] == speaker:
            said[-1] = (speaker, f"{said[-1][1]}\n{content}")
        else:
            said.append((speaker, content))
    return said


def user_rows(
    conversations: Iterable[Conversation], chat: ChatFormat, rng: random.Random
) -> list[tuple[list[int], list[bool]]]:
    """Return training rows: one per reply of a recorded customer after their first message, and one per departure."""
    rows = []
    for conversation in conversations:
        said = dialogue(conversation.messages)
        goal = [text for speaker, text in said if speaker == "user"]
        for at, (speaker, text) in enumerate(said):
            if speaker == "user" and at > 0:
                rows.append(_row(goal, said[:at], text, chat))
        if said and said[-1][0] == "agent":
            rows.append(_row(goal, said, LEAVES, chat))
    rng.shuffle(rows)
    return rows


def _row(
    goal: Sequence[str], said: Sequence[tuple[str, str]], target: str, chat: ChatFormat
) -> tuple[list[int], list[bool]]:
    prompt = chat.prompt(user_messages(goal, said, chat.compact))
    answer = [*chat.encode(target), chat.stop_ids[0]]
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)


def patience(conversations: Iterable[Conversation]) -> int:
    """Return the maximum number of messages of real customers (99th percentile), at least two."""
    turns = sorted(sum(speaker == "user" for speaker, _ in dialogue(c.messages)) for c in conversations)
    return max(2, turns[int(0.99 * (len(turns) - 1))]) if turns else 2


def reply_tokens(lengths: Sequence[int]) -> int:
    """Return the maximum number of tokens of a reply: 1.25 times the 99th percentile of real replies, at least 16."""
    ordered = sorted(lengths)
    return max(16, math.ceil(1.25 * ordered[int(0.99 * (len(ordered) - 1))])) if ordered else 16
