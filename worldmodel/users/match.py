"""Compare simulated users with real ones on held-out conversations: answers, stops, disclosure.

The `user` adapter generates every message of a held-out customer after the first, given the real conversation before
it. A discriminator that cannot distinguish the two has an area under the curve of 0.5.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from worldmodel.steps import Step
from worldmodel.users.goal import Goal, Said, has_value, mine_goal, tokens_of
from worldmodel.users.user import Settles, UserSide, replies

MOST_TURNS = 80
FEATURES = 512
LONG = 20
"""A message with so many characters is not said twice by chance."""
ROUNDING = 1e-9
"""Scores of equal texts may differ by this: products of other rows round otherwise."""


@dataclass(frozen=True)
class Turn:
    """A real customer's message (None: they left) and the simulated one, after the same dialogue."""

    conversation_id: str
    before: tuple[tuple[str, str], ...]
    real: str | None
    simulated: str | None
    later: tuple[str, ...]
    """What the real customer said only after this turn."""
    goal: Goal = Goal()

    def told(self, text: str | None) -> set[str]:
        """Return the facts and identifiers that a message tells and nobody has said before."""
        heard = "\n".join(words for _, words in self.before)
        facts = {f.text for f in self.goal.facts if text and f.is_in(text) and not f.is_in(heard)}
        return facts | disclosed(self.before, text or "")

    def told_later(self, text: str) -> set[str]:
        """Return the facts that a message tells and that the real customer told only after this turn."""
        now = sum(speaker == "user" for speaker, _ in self.before)
        return {f.text for f in self.goal.facts if f.turn > now and f.text in self.told(text)}


class Fresh:
    """Pins that store nothing, so that every turn is generated."""

    async def settle(self, question: str, make: Any) -> Any:
        return await make()


async def ask_users(
    user: UserSide,
    said: Mapping[str, Sequence[tuple[str, str]]],
    steps: Mapping[str, Sequence[Step]] = MappingProxyType({}),
    seed: int = 0,
    most: int = MOST_TURNS,
) -> list[Turn]:
    """Return the turns of whole held-out conversations, evenly sampled, about `most` of them.

    By conversation, `said` has (speaker, text), and `steps` has the calls, which give the facts their names.
    """
    wanted: list[tuple[str, Goal, list[tuple[str, str]]]] = []
    for conversation_id, talk in said.items():
        spoken = [(speaker, text) for speaker, text in talk if speaker in ("user", "agent")]
        goal = mine_goal((t for s, t in spoken if s == "user"), steps.get(conversation_id, ()))
        if any(True for _ in replies(spoken)):
            wanted.append((conversation_id, goal, spoken))
    total = sum(1 for _, _, spoken in wanted for _ in replies(spoken))
    pins: Settles = Fresh()

    async def one(conversation_id: str, goal: Goal, before: Said, real: str | None, later: tuple[str, ...]) -> Turn:
        return Turn(conversation_id, tuple(before), real, await user.reply(goal, before, seed, pins), later, goal)

    asked = [
        one(conversation_id, goal, before, real, tuple(t for s, t in spoken[len(before) + 1 :] if s == "user"))
        for conversation_id, goal, spoken in wanted[:: max(1, -(-total // most))]
        for before, real in replies(spoken)
    ]
    return list(await asyncio.gather(*asked))


def match(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the measures of the card: shares and means of real and simulated customers, with their counts.

    `turns` are messages a conversation: the simulated customer's until they leave, in the recorded dialogue, at most
    one more than the real one's. `told_later` is the share of messages that tell a fact before the real customer did,
    `recorded` the share of those that are a recorded message, word for word.
    """
    both = [t for t in turns if t.real is not None and t.simulated is not None]
    left = [t.real is None for t in turns]
    whole: dict[str, list[Turn]] = {}
    for turn in turns:
        whole.setdefault(turn.conversation_id, []).append(turn)
    return {
        "n": len(turns),
        "conversations": len(whole),
        "turns": {
            "real": _mean([1 + sum(t.real is not None for t in talk) for talk in whole.values()]),
            "simulated": _mean([1 + _until_left(talk) for talk in whole.values()]),
        },
        "left": {"real": _mean(left), "simulated": _mean([t.simulated is None for t in turns])},
        "stop_agreement": _mean([(t.real is None) == (t.simulated is None) for t in turns]),
        "words": {
            "real": _mean([len((t.real or "").split()) for t in both]),
            "simulated": _mean([len((t.simulated or "").split()) for t in both]),
        },
        "disclosed": {
            "real": _mean([len(t.told(t.real)) for t in both]),
            "simulated": _mean([len(t.told(t.simulated)) for t in both]),
        },
        "told_later": _mean([bool(t.told_later(t.simulated or "")) for t in both]),
        "recorded": _mean([t.simulated in t.goal.messages for t in both]),
        "said_ahead": _mean([any(len(m) >= LONG and m in (t.simulated or "") for m in t.later) for t in both]),
        "discriminator_auc": auc([t.real or "" for t in both], [t.simulated or "" for t in both]),
    }


def _until_left(talk: Sequence[Turn]) -> int:
    """How many messages a simulated customer writes after the first until they leave."""
    return next((k for k, turn in enumerate(talk) if turn.simulated is None), len(talk))


def disclosed(before: Sequence[tuple[str, str]], text: str) -> set[str]:
    """Return the identifiers that a message names for the first time, and dates and longer numbers."""
    told = "\n".join(words for _, words in before)
    return {token for token in tokens_of(text) if not has_value(told, token)}


def auc(real: Sequence[str], simulated: Sequence[str], folds: int = 4) -> float | None:
    """Return the area under the curve of a logistic regression on letter trigrams, cross-validated; None for fewer than
    ten of each."""
    if min(len(real), len(simulated)) < 10:
        return None
    x_NF = np.stack([_trigrams(text) for text in (*real, *simulated)])
    y_N = np.array([1.0] * len(real) + [0.0] * len(simulated))
    place_N = np.concatenate([np.arange(len(real)), np.arange(len(simulated))]) % folds
    scores_N = np.zeros(len(y_N))
    for fold in range(folds):
        held_out_N = place_N == fold
        scores_N[held_out_N] = x_NF[held_out_N] @ _logistic(x_NF[~held_out_N], y_N[~held_out_N])
    wins_RS = scores_N[y_N == 1][:, None] - scores_N[y_N == 0][None, :]
    return float(((wins_RS > ROUNDING) + 0.5 * (np.abs(wins_RS) <= ROUNDING)).mean())


def _trigrams(text: str) -> np.ndarray:
    found_F = np.zeros(FEATURES + 1)
    low = f"  {text.lower()}  "
    for k in range(len(low) - 2):
        found_F[zlib.crc32(low[k : k + 3].encode()) % FEATURES] += 1
    found_F /= max(1.0, float(np.linalg.norm(found_F)))
    found_F[-1] = 1.0
    return found_F


def _logistic(x_NF: np.ndarray, y_N: np.ndarray, steps: int = 200, penalty: float = 1e-3) -> np.ndarray:
    weights_F = np.zeros(x_NF.shape[1])
    for _ in range(steps):
        share_N = 1 / (1 + np.exp(-np.clip(x_NF @ weights_F, -30, 30)))
        weights_F -= 4.0 * (x_NF.T @ (share_N - y_N) / len(y_N) + penalty * weights_F)
    return weights_F


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
