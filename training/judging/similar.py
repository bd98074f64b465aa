"""RULER over recorded conversations: rewards for conversations without outcomes.

RULER compares trajectories with the same goal. Recorded conversations rarely share one exactly, so groups are formed of
conversations of one agent whose users said similar things, and scores are used relative to the group's mean.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, Field

from ingest.records import Conversation
from training.environment import Start
from training.judging.ruler import Ruler
from training.learning.trajectory import Trajectory, seed_of

COLUMNS = 4096
"""Hashed words and word pairs per conversation."""


class SimilarSettings(BaseModel):
    """How groups of similar conversations are formed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group_size: int = Field(6, ge=2, description="Conversations in a group.")
    max_groups: int = Field(200, ge=1, description="Maximum number of groups; the latest conversations come first.")
    min_similarity: float = Field(
        0.3, ge=0, le=1, description="Cosine of what the users said; conversations with fewer neighbours are left out."
    )


@dataclass(frozen=True)
class Scored:
    """Conversations with a reward in [0, 1], oldest first, and the counts of the others."""

    rewards: list[tuple[Conversation, float]]
    groups: int
    without_neighbours: int
    unscored: int

    def counts(self) -> dict[str, int]:
        """For manifests."""
        return {
            "scored": len(self.rewards),
            "groups": self.groups,
            "without_neighbours": self.without_neighbours,
            "unscored": self.unscored,
        }


async def judge_similar(
    ruler: Ruler,
    conversations: Sequence[Conversation],
    settings: SimilarSettings,
    seed: int = 0,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Judge groups of similar conversations. A reward is 0.5 + score - the group's mean score, within [0, 1].

    `ruler` should be told that the goals differ (`same_goal=False`). The ruler's client limits concurrency.
    """
    groups, alone = similar_groups(conversations, settings)
    done = 0

    async def judged(group: Sequence[Conversation]) -> list[float | None]:
        nonlocal done
        found = await ruler.judge([_trajectory(c) for c in group], seed_of(seed, group[0].conversation_id))
        done += 1
        on_done(done, len(groups))
        return found.scores

    rewards: list[tuple[Conversation, float]] = []
    unscored = 0
    for group, scores in zip(groups, await asyncio.gather(*map(judged, groups)), strict=True):
        known = [score for score in scores if score is not None]
        unscored += len(scores) - len(known)
        for conversation, score in zip(group, scores, strict=True):
            if score is not None:
                relative = 0.5 + score - sum(known) / len(known)
                rewards.append((conversation, min(1.0, max(0.0, relative))))
    rewards.sort(key=lambda pair: (pair[0].started_at_ns, pair[0].conversation_id))
    return Scored(rewards, len(groups), alone, unscored)


def similar_groups(
    conversations: Sequence[Conversation], settings: SimilarSettings
) -> tuple[list[list[Conversation]], int]:
    """Groups of similar conversations of one agent, and the number of conversations without enough neighbours.

    The latest conversation that is in no group yet takes its nearest neighbours. No conversation is in two groups.
    """
    recent = sorted(conversations, key=lambda c: (c.started_at_ns, c.conversation_id), reverse=True)
    recent = recent[: 2 * settings.max_groups * settings.group_size]
    said_NC = _vectors(recent)
    agents = [c.agent for c in recent]
    free_N = np.ones(len(recent), bool)
    groups: list[list[Conversation]] = []
    alone = 0
    for k, conversation in enumerate(recent):
        if not free_N[k] or len(groups) == settings.max_groups:
            continue
        free_N[k] = False
        near_N = said_NC @ said_NC[k]
        order = np.argsort(-near_N, kind="stable")[: int((near_N >= settings.min_similarity).sum())].tolist()
        chosen = [i for i in order if free_N[i] and agents[i] == agents[k]][: settings.group_size - 1]
        if len(chosen) < settings.group_size - 1:
            alone += 1
            continue
        free_N[chosen] = False
        groups.append([conversation, *(recent[i] for i in chosen)])
    return groups, alone


def _vectors(conversations: Sequence[Conversation]) -> np.ndarray:
    """TF-IDF [N, COLUMNS] of the words and word pairs that users said, of length 1. Numbers count as one word."""
    counts_NC: np.ndarray = np.zeros((len(conversations), COLUMNS), np.float32)
    for row, conversation in enumerate(conversations):
        said = " ".join(m.get("content") or "" for m in conversation.messages if m["role"] == "user")
        words = re.sub(r"\d+", "0", said.lower()).split()
        for term in [*words, *map(" ".join, zip(words, words[1:], strict=False))]:
            counts_NC[row, xxhash.xxh3_64_intdigest(term.encode()) % COLUMNS] += 1
    rarity_C = np.log((1 + len(conversations)) / (1 + (counts_NC > 0).sum(0))) + 1
    weighted_NC = np.log1p(counts_NC) * rarity_C.astype(np.float32)
    return weighted_NC / np.maximum(np.linalg.norm(weighted_NC, axis=1, keepdims=True), 1e-9)


def _trajectory(conversation: Conversation) -> Trajectory:
    first = next((m.get("content") or "" for m in conversation.messages if m["role"] == "user"), "")
    system = next((m.get("content") or "" for m in conversation.messages if m["role"] == "system"), "")
    start = Start(conversation.conversation_id, system, tuple(conversation.tools), first)
    return Trajectory(start, 0, [dict(m) for m in conversation.messages])
