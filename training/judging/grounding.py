"""Two counts per transcript that are independent of the domain: unsupported words, and user values not taken up.

A small judge does not compare spellings. Production's agent never misspells a day or changes a number, so production's
outcomes do not teach a judge to check them, and a policy that is rewarded by such a judge learns that it need not be
exact. These counts check it by code. Their weights are fitted (judge.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.models.edits import dumps

Messages = Sequence[Mapping[str, Any]]
_WORD = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?")
OWN = 0.01
"""A word that the agent uses unprompted in more than this share of its conversations belongs to its own vocabulary."""
FEWEST = 5
"""Minimum number of conversations with a user's word before the agent is expected to repeat it."""


@dataclass(frozen=True)
class Grounding:
    """`own`: words that production's agent uses although no tool or user did. `echoed`: users' words that the agent
    mostly repeats, in messages or in calls.
    """

    own: frozenset[str]
    echoed: frozenset[str]

    @classmethod
    def of(cls, conversations: Iterable[Messages]) -> Grounding:
        """Learn both sets from production's conversations, successful or not."""
        own: Counter[str] = Counter()
        said: Counter[str] = Counter()
        taken_up: Counter[str] = Counter()
        count = 0
        for messages in conversations:
            user, agent, asked, told = _spoken(messages)
            count += 1
            own.update(agent - told - user)
            said.update(user)
            taken_up.update(user & (agent | asked))
        free = {word for word, n in own.items() if n > max(1, OWN * count) and not word.isdigit()}
        echoed = {word for word, n in said.items() if n >= FEWEST and 2 * taken_up[word] > n and not _is_value(word)}
        return cls(frozenset(free), frozenset(echoed - free))

    def counts(self, messages: Messages) -> tuple[int, int]:
        """(distinct words of the agent that occur nowhere else, words of the user that the agent did not repeat)."""
        user, agent, asked, told = _spoken(messages)
        unsupported = {w for w in agent - told - user if w not in self.own}
        unmet = {w for w in user - agent - asked if w in self.echoed or _is_value(w)}
        return len(unsupported), len(unmet)


@dataclass(frozen=True)
class Evidence:
    """A correction of the score: log-odds = w0 + w1 logit(score) + w2 log1p(unsupported) + w3 log1p(unmet).

    The default `Evidence()` leaves scores unchanged.
    """

    grounding: Grounding = Grounding(frozenset(), frozenset())
    weights: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)

    def weigh(self, score: float, messages: Messages) -> float:
        """The corrected score in [0, 1] of a conversation."""
        return float(1 / (1 + math.exp(-np.dot(self.weights, self._features(score, messages)))))

    def fitted(self, scored: Sequence[tuple[float, Messages, bool]], ridge: float = 1.0) -> Evidence:
        """Evidence with weights fitted to success: ridge logistic regression by Newton's method. The weights of the two
        counts are at most 0.
        """
        features_NF = np.array([self._features(score, messages) for score, messages, _ in scored])
        success_N = np.array([success for *_, success in scored], float)
        penalty_F = ridge * np.array([1e-3, 1.0, 1.0, 1.0])
        weights_F = np.zeros(4)  # Newton's method diverges from a start with extreme odds
        for _ in range(30):
            odds_N = 1 / (1 + np.exp(-features_NF @ weights_F))
            gradient_F = features_NF.T @ (success_N - odds_N) - penalty_F * weights_F
            curvature_FF = (features_NF * (odds_N * (1 - odds_N))[:, None]).T @ features_NF + np.diag(penalty_F)
            weights_F = weights_F + np.linalg.solve(curvature_FF, gradient_F)
        bias, slope, unsupported, unmet = weights_F.tolist()
        return Evidence(self.grounding, (bias, slope, min(0.0, unsupported), min(0.0, unmet)))

    def _features(self, score: float, messages: Messages) -> tuple[float, float, float, float]:
        kept = min(max(score, 1e-4), 1 - 1e-4)
        unsupported, unmet = self.grounding.counts(messages)
        return 1.0, math.log(kept / (1 - kept)), math.log1p(unsupported), math.log1p(unmet)

    def plain(self) -> dict[str, Any]:
        """The weights as JSON; `Evidence.read` reads it."""
        words = {"own": sorted(self.grounding.own), "echoed": sorted(self.grounding.echoed)}
        return {**words, "weights": list(self.weights)}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Evidence:
        bias, slope, unsupported, unmet = value["weights"]
        grounding = Grounding(frozenset(value["own"]), frozenset(value["echoed"]))
        return cls(grounding, (bias, slope, unsupported, unmet))


def unfounded_numbers(messages: Messages, system: str = "") -> set[str]:
    """The numbers of two digits or more, as digits, that the agent tells users and that neither a tool, nor a user, nor
    the system prompt has said. A sum that the agent computed is one of them.
    """
    user, agent, _, told = _spoken(messages)
    return {word for word in agent - told - user - _words(system) if _is_value(word)}


def _spoken(messages: Messages) -> tuple[set[str], set[str], set[str], set[str]]:
    """The sets of words of users, of the agent to users, of the agent to tools, and of tools."""
    user, agent, asked, told = set(), set(), set(), set()
    for message in messages:
        words = _words(message.get("content") or "")
        if message["role"] == "user":
            user |= words
        elif message["role"] == "tool":
            told |= words
        elif message["role"] == "assistant":
            agent |= words
            for call in message.get("tool_calls") or ():
                given = call["arguments"]
                asked |= _words(given if isinstance(given, str) else dumps(given))
    return user, agent, asked, told


def _words(text: str) -> set[str]:
    """Lower-case words and numbers. A number is its digits without zeros at its ends: $70.50 equals 7050 cents."""
    found = set()
    for match in _WORD.finditer(text):
        word = match[0]
        if word[0].isdigit():
            digits = word.replace(".", "").strip("0")
            found |= {digits} if digits else set()
        elif len(word) > 1:
            found.add(word.lower())
    return found


def _is_value(word: str) -> bool:
    return word.isdigit() and len(word) > 1
