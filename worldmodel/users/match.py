"""Compare simulated users with real ones on held-out conversations: answers, stops, disclosure.

The `user` adapter generates every message of a held-out customer after the first, given the real conversation before
it. A discriminator that cannot distinguish the two has an area under the curve of 0.5.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.steps import is_identifier
from worldmodel.users.user import Settles, UserSide

MOST_TURNS = 80
FEATURES = 512
LONG = 20
"""A message with so many characters is not said twice by chance."""


@dataclass(frozen=True)
class Turn:
    """A real customer's message (None: they left) and the simulated one, after the same dialogue."""

    before: tuple[tuple[str, str], ...]
    real: str | None
    simulated: str | None
    later: tuple[str, ...]
    """What the real customer said only after this turn."""


class Fresh:
    """Pins that store nothing, so that every turn is generated."""

    async def settle(self, question: str, make: Any) -> Any:
        return await make()


async def ask_users(
    user: UserSide, said: Mapping[str, Sequence[tuple[str, str]]], seed: int = 0, most: int = MOST_TURNS
) -> list[Turn]:
    """Return the turns of held-out conversations, evenly sampled. `said` has (speaker, text) by conversation."""
    wanted: list[tuple[tuple[str, ...], tuple[tuple[str, str], ...], str | None, tuple[str, ...]]] = []
    for talk in said.values():
        spoken = [(speaker, text) for speaker, text in talk if speaker in ("user", "agent")]
        goal = tuple(text for speaker, text in spoken if speaker == "user")
        for at, (speaker, text) in enumerate(spoken):
            if speaker == "user" and at > 0:
                later = tuple(t for s, t in spoken[at + 1 :] if s == "user")
                wanted.append((goal, tuple(spoken[:at]), text, later))
        if spoken and spoken[-1][0] == "agent":
            wanted.append((goal, tuple(spoken), None, ()))
    some = wanted[:: max(1, -(-len(wanted) // most))] if wanted else []
    pins: Settles = Fresh()

    async def one(goal: tuple[str, ...], before: tuple[tuple[str, str], ...], real: str | None, later: Any) -> Turn:
        return Turn(before, real, await user.reply(goal, before, seed, pins), later)

    return list(await asyncio.gather(*(one(*turn) for turn in some)))


def match(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the measures of the card: shares with their counts."""
    both = [t for t in turns if t.real is not None and t.simulated is not None]
    left = [t.real is None for t in turns]
    return {
        "n": len(turns),
        "left": {"real": _mean(left), "simulated": _mean([t.simulated is None for t in turns])},
        "stop_agreement": _mean([(t.real is None) == (t.simulated is None) for t in turns]),
        "words": {
            "real": _mean([len((t.real or "").split()) for t in both]),
            "simulated": _mean([len((t.simulated or "").split()) for t in both]),
        },
        "disclosed": {
            "real": _mean([len(disclosed(t.before, t.real or "")) for t in both]),
            "simulated": _mean([len(disclosed(t.before, t.simulated or "")) for t in both]),
        },
        "said_ahead": _mean([any(len(m) >= LONG and m in (t.simulated or "") for m in t.later) for t in both]),
        "discriminator_auc": auc([t.real or "" for t in both], [t.simulated or "" for t in both]),
    }


def disclosed(before: Sequence[tuple[str, str]], text: str) -> set[str]:
    """Return the identifiers that a message names for the first time."""
    told = " ".join(words for _, words in before)
    return {word for word in re.findall(r"[\w#@.-]*\w", text) if is_identifier(word) and word not in told}


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
    return float(((wins_RS > 0) + 0.5 * (wins_RS == 0)).mean())


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
