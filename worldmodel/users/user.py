"""The user of a world: the customer's next message, from the goal that the trace revealed."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from ingest.records import Conversation
from training.engines import Engine, Sampling, TooLong
from training.models.chat import ChatFormat
from training.models.roles import LEAVES, user_messages
from worldmodel.generate.resolver import corrected, fit_bias, uniform
from worldmodel.steps import steps_of_messages, utterances
from worldmodel.users.goal import Goal, Said, has_value, mine_goal
from worldmodel.users.knowledge import Knowledge
from worldmodel.users.reactions import NO_REACTIONS, Reactions, Turn

DRAWS = 3
"""So many messages are drawn; if none can be used, the recorded user's own message is said."""
FEWEST_FOR_BIAS = 20
MAX_FOR_BIAS = 300
"""Turns of real users that the rate of leaving is fitted on."""
NOTHING: Mapping[str, str] = MappingProxyType({})


class Settles(Protocol):
    """A store of replies: worldmodel.generate.pins.Pins."""

    async def settle(self, question: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a question, computed once."""
        ...


@dataclass
class UserSide:
    """The `user` adapter, and what was measured of real users.

    `patience`: so many messages more than the recorded user writes a simulated one. `leave_bias` is added to the
    log-odds of leaving. `max_tokens` is the length of the longest replies (`reply_tokens`). `tally` counts `replies`,
    draws that told a fact too early (`ahead`), kept one back that was asked for (`withheld`) or were no answer to what
    the agent said (`unfit`), and replies that are the `recorded` user's own message.
    """

    engine: Engine
    chat: ChatFormat
    adapter: str | None
    patience: int = 6
    leave_bias: float = 0.0
    knowledge: Knowledge = field(default_factory=Knowledge)
    reactions: Reactions = NO_REACTIONS
    temperature: float = 0.7
    max_tokens: int = 160
    tally: Counter[str] = field(default_factory=Counter)

    async def reply(
        self, goal: Goal, said: Said, seed: int, pins: Settles, private: Mapping[str, str] = NOTHING
    ) -> str | None:
        """Return the customer's next message; None if they leave. Equal dialogues get equal replies in one world.

        `private` are facts that the agent asks for and the goal does not have: the message tells them.
        """
        if sum(speaker == "user" for speaker, _ in said) >= len(goal.messages) + self.patience:
            return None
        prompt = self.prompt(goal, said, private)
        digest = hashlib.blake2b(repr((seed, prompt)).encode(), digest_size=8)
        question = digest.hexdigest()

        async def write() -> str:
            try:
                stays = bool(private) or uniform(question, "leaves") >= await self.leaving(prompt)
                return await self._message(goal, said, private, prompt, question) if stays else LEAVES
            except TooLong:  # nobody talks longer than the base can read
                return LEAVES

        text = await pins.settle(f"user {question}", write)
        return None if LEAVES in text else text

    def prompt(self, goal: Goal, said: Said, private: Mapping[str, str] = NOTHING) -> list[int]:
        """Return the ids of the user's prompt. Training rows and replies have the same one."""
        wishes = [*goal.messages, *(f"{name}: {value}" for name, value in private.items())]
        return self.chat.prompt(user_messages(wishes, said, self.chat.compact, goal.notes()))

    async def leaving(self, prompt: Sequence[int]) -> float:
        """Return the corrected probability that the user leaves instead of writing."""
        return corrected(await self.leave_logprobs(prompt), (0.0, self.leave_bias))[1]

    async def leave_logprobs(self, prompt: Sequence[int]) -> tuple[float, float]:
        """Return the model's log-probabilities of (stay, leave)."""
        first = self.chat.encode(LEAVES)[0]
        (leave,) = await self.engine.next_token_logprobs(prompt, [first], adapter=self.adapter)
        return math.log(max(1e-9, 1.0 - math.exp(leave))), max(leave, -20.0)

    async def _message(
        self, goal: Goal, said: Said, private: Mapping[str, str], prompt: Sequence[int], question: str
    ) -> str:
        self.tally["replies"] += 1
        due = goal.due(said)
        for draw in range(DRAWS):
            seed = int(2**31 * uniform(question, draw))
            sampling = Sampling(self.max_tokens, self.temperature, self.chat.stop_ids, seed)
            sample = await self.engine.sample(prompt, adapter=self.adapter, sampling=sampling)
            text = self.chat.decode(sample.ids).strip()
            if not text or LEAVES in text:
                continue
            if goal.ahead(said, text):
                self.tally["ahead"] += 1
            elif due and not any(fact.is_in(text) for fact in due):
                self.tally["withheld"] += 1
            elif not self.reactions.fits(said, text):
                self.tally["unfit"] += 1
            elif all(has_value(text, value) for value in private.values()):
                return text
        if private:
            return ", ".join(private.values())
        self.tally["recorded"] += 1
        fits = partial(self.reactions.fits, said)
        return goal.messages[due[0].turn] if due else goal.recorded(said, fits) or LEAVES


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


def goal_of(conversation: Conversation) -> Goal:
    """Return the goal of a recorded conversation's user."""
    written = (text for speaker, text in dialogue(conversation.messages) if speaker == "user")
    return mine_goal(written, steps_of_messages(conversation.messages))


def replies(said: Said) -> Iterator[tuple[Said, str | None]]:
    """Yield what was said before each message of a real user after the first, and the message; None where they left."""
    for at, (speaker, text) in enumerate(said):
        if speaker == "user" and at > 0:
            yield said[:at], text
    if said and said[-1][0] == "agent":
        yield said, None


# ----- learning


def reaction_turns(conversations: Iterable[Conversation]) -> Iterator[Turn]:
    """Yield what an agent said, and what the user replied, of every turn after the first message."""
    for conversation in conversations:
        for before, text in replies(dialogue(conversation.messages)):
            if before[-1][0] == "agent":
                yield before[-1][1], text, conversation.conversation_id


def user_rows(
    conversations: Iterable[Conversation], chat: ChatFormat, rng: random.Random
) -> list[tuple[list[int], list[bool]]]:
    """Return training rows: one per reply of a recorded customer after their first message, and one per departure."""
    rows = []
    for conversation in conversations:
        goal = goal_of(conversation)
        for before, text in replies(dialogue(conversation.messages)):
            prompt = chat.prompt(user_messages(goal.messages, before, chat.compact, goal.notes()))
            answer = [*chat.encode(text or LEAVES), chat.stop_ids[0]]
            rows.append(([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)))
    rng.shuffle(rows)
    return rows


def patience(conversations: Iterable[Conversation]) -> int:
    """Return how many messages without anything new the most patient real customers wrote (99th percentile), at least
    one."""
    idle = sorted(goal_of(c).temperament.idle for c in conversations)
    return max(1, idle[int(0.99 * (len(idle) - 1))]) if idle else 1


def reply_tokens(lengths: Sequence[int]) -> int:
    """Return the maximum number of tokens of a reply: 1.25 times the 99th percentile of real replies, at least 16."""
    ordered = sorted(lengths)
    return max(16, math.ceil(1.25 * ordered[int(0.99 * (len(ordered) - 1))])) if ordered else 16


async def fit_leaving(user: UserSide, conversations: Iterable[Conversation], most: int = MAX_FOR_BIAS) -> float:
    """Return the bias for which simulated users leave as often as real ones, at the turns of these conversations, which
    the adapter was not trained on and that fit into the base's context; 0 if there are too few."""

    async def measured(prompt: Sequence[int], left: int) -> tuple[tuple[float, float], int] | None:
        try:
            return await user.leave_logprobs(prompt), left
        except TooLong:
            return None

    turns = [
        (user.prompt(goal, before), int(text is None))
        for conversation in conversations
        for goal in [goal_of(conversation)]
        for before, text in replies(dialogue(conversation.messages))
    ]
    some = turns[:: max(1, -(-len(turns) // most))]
    if len(some) < FEWEST_FOR_BIAS:
        return 0.0
    found = [one for one in await asyncio.gather(*(measured(*turn) for turn in some)) if one is not None]
    if len(found) < FEWEST_FOR_BIAS:
        return 0.0
    return fit_bias([logprobs for logprobs, _ in found], [left for _, left in found])[1]
