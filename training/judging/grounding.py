"""Counts per transcript that are independent of the domain: words, arguments and claims that nothing supports, and user
values not taken up.

A small judge does not compare spellings. Production's agent never misspells a day or changes a number, so production's
outcomes do not teach a judge to check them, and a policy that is rewarded by such a judge learns that it need not be
exact. These counts check it by code. Their weights are fitted (judge.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.judging.answered import Messages
from training.judging.claims import Claims
from training.judging.pairing import Pairing
from training.judging.words import is_number, words, writings
from training.models.edits import dumps

OWN = 0.01
"""A word that the agent uses unprompted in more than this share of its conversations belongs to its own vocabulary."""
FEWEST = 5
"""Minimum number of conversations with a user's word before the agent is expected to repeat it."""


@dataclass(frozen=True)
class Grounding:
    """`own`: words that production's agent uses although no tool or user did. `echoed`: users' words that the agent
    mostly repeats, in messages or in calls. `given`: what it passes to tools although nobody said it.
    """

    own: frozenset[str]
    echoed: frozenset[str]
    given: frozenset[str] = frozenset()
    claims: Claims = Claims({})
    pairing: Pairing = Pairing({})

    @classmethod
    def of(cls, conversations: Sequence[Messages], successes: Iterable[Messages] = ()) -> Grounding:
        """Learn the words from production's conversations, successful or not, and the claims from successes."""
        own: Counter[str] = Counter()
        said: Counter[str] = Counter()
        taken_up: Counter[str] = Counter()
        given: Counter[str] = Counter()
        count = 0
        for messages in conversations:
            user, agent, asked, told = _spoken(messages)
            count += 1
            own.update(agent - writings(told | user))
            said.update(user)
            taken_up.update(user & writings(agent | asked))
            given.update(_unheard(messages))
        often = max(1, OWN * count)
        free = {word for word, n in own.items() if n > often and not is_number(word)}
        echoed = {word for word, n in said.items() if n >= FEWEST and 2 * taken_up[word] > n and not _is_value(word)}
        usual = frozenset(word for word, n in given.items() if n > often)
        return cls(frozenset(free), frozenset(echoed - free), usual, Claims.of(successes), Pairing.of(conversations))

    def counts(self, messages: Messages) -> tuple[int, int, int, int, int]:
        """(distinct words of the agent that occur nowhere else, words of the user that the agent did not repeat, words
        in calls that nobody said before, messages of the agent that claim an act that did not happen, values that the
        agent says of another record)."""
        user, agent, asked, told = _spoken(messages)
        unsupported = {w for w in agent - writings(told | user) if w not in self.own}
        unmet = {w for w in user - writings(agent | asked) if w in self.echoed or _is_value(w)}
        unheard = {w for w in _unheard(messages) if w not in self.given}
        mispaired = self.pairing.mispaired(messages, self.own)
        return len(unsupported), len(unmet), len(unheard), self.claims.unfounded(messages), mispaired


@dataclass(frozen=True)
class Evidence:
    """A correction of the score: log-odds = w0 + w1 logit(score) + the sum of w_k log1p(count) over `Grounding.counts`.

    The default `Evidence()` leaves scores unchanged.
    """

    grounding: Grounding = Grounding(frozenset(), frozenset())
    weights: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def weigh(self, score: float, messages: Messages) -> float:
        """The corrected score in [0, 1] of a conversation."""
        return float(1 / (1 + math.exp(-np.dot(self.weights, self._features(score, messages)))))

    def fitted(self, scored: Sequence[tuple[float, Messages, bool]], ridge: float = 1.0) -> Evidence:
        """Evidence with weights fitted to success: ridge logistic regression by Newton's method. The weights of the
        counts are at most 0.
        """
        features_NF = np.array([self._features(score, messages) for score, messages, _ in scored])
        success_N = np.array([success for *_, success in scored], float)
        penalty_F = ridge * np.array([1e-3, *[1.0] * (features_NF.shape[1] - 1)])
        weights_F = np.zeros(features_NF.shape[1])  # Newton's method diverges from a start with extreme odds
        for _ in range(30):
            odds_N = 1 / (1 + np.exp(-features_NF @ weights_F))
            gradient_F = features_NF.T @ (success_N - odds_N) - penalty_F * weights_F
            curvature_FF = (features_NF * (odds_N * (1 - odds_N))[:, None]).T @ features_NF + np.diag(penalty_F)
            weights_F = weights_F + np.linalg.solve(curvature_FF, gradient_F)
        bias, slope, *counts = weights_F.tolist()
        return Evidence(self.grounding, (bias, slope, *(min(0.0, weight) for weight in counts)))

    def _features(self, score: float, messages: Messages) -> tuple[float, ...]:
        kept = min(max(score, 1e-4), 1 - 1e-4)
        return 1.0, math.log(kept / (1 - kept)), *(math.log1p(n) for n in self.grounding.counts(messages))

    def plain(self) -> dict[str, Any]:
        """The evidence as JSON; `Evidence.read` reads it."""
        known = self.grounding
        sets = {"own": sorted(known.own), "echoed": sorted(known.echoed), "given": sorted(known.given)}
        claims, fields = (dict(sorted(learned.items())) for learned in (known.claims.act, known.pairing.field_of))
        return {**sets, "claims": claims, "fields": fields, "weights": list(self.weights)}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Evidence:
        """The evidence in the form of `plain`. A count that a judge of an earlier version lacks has no weight."""
        own, echoed, given = (frozenset(value.get(name, ())) for name in ("own", "echoed", "given"))
        known = Grounding(own, echoed, given, Claims(value.get("claims", {})), Pairing(value.get("fields", {})))
        weights = value["weights"]
        return cls(known, (*weights, *[0.0] * (len(cls.weights) - len(weights))))


def unfounded_numbers(messages: Messages, system: str = "") -> set[str]:
    """The numbers of two digits or more that the agent tells users and that neither a tool, nor a user, nor the system
    prompt has said. A sum that the agent computed is one of them.
    """
    user, agent, _, told = _spoken(messages)
    return {word for word in agent - writings(told | user | words(system)) if _is_value(word)}


def _spoken(messages: Messages) -> tuple[set[str], set[str], set[str], set[str]]:
    """The sets of words of users, of the agent to users, of the agent to tools, and of tools."""
    user, agent, asked, told = set(), set(), set(), set()
    for message in messages:
        found = words(message.get("content") or "")
        if message["role"] == "user":
            user |= found
        elif message["role"] == "tool":
            told |= found
        elif message["role"] == "assistant":
            agent |= found
            asked |= {word for call in message.get("tool_calls") or () for word in words(_arguments(call))}
    return user, agent, asked, told


def _unheard(messages: Messages) -> set[str]:
    """Words in the values of calls' arguments that neither the system prompt, nor a user, nor a tool said before."""
    heard: set[str] = set()
    found: set[str] = set()
    for message in messages:
        if message["role"] != "assistant":
            heard |= words(message.get("content") or "")
        elif message.get("tool_calls"):
            known = writings(heard)
            for call in message["tool_calls"]:
                found |= _passed(call["arguments"]) - known
    return found


def _arguments(call: Mapping[str, Any]) -> str:
    given = call["arguments"]
    return given if isinstance(given, str) else dumps(given)


def _passed(arguments: Any) -> set[str]:
    """The words in the arguments' values; the numbers in arguments that are no JSON."""
    found = {word for value in _leaves(arguments) for word in words(value)}
    return {word for word in found if is_number(word)} if isinstance(arguments, str) else found


def _leaves(value: Any) -> Iterator[str]:
    """The scalars in a value, as text."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _is_value(word: str) -> bool:
    """Whether a word is a number of two digits or more."""
    return is_number(word) and sum(c.isdigit() for c in word) > 1
