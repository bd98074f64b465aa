"""Hold out conversations by entity and time: no entity of a test conversation was seen in training.

Conversations that name a common entity are one group (union-find). Groups are split by the time of their first
conversation. An entity that links a large share of all conversations (a shared warehouse, a test account) would join
everything into one group, so it is ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldmodel.effects import Effects
from worldmodel.steps import OK, Step

SHARED_BY_TOO_MANY = 0.02


@dataclass(frozen=True)
class Split:
    """Conversation ids of the three parts, in time order, and the number of entities that test shares with train
    (ideally 0)."""

    train: tuple[str, ...]
    calibrate: tuple[str, ...]
    test: tuple[str, ...]
    shared_entities: int


def split_conversations(
    conversations: Mapping[str, Sequence[Step]], effects: Effects, calibrate: float = 0.1, test: float = 0.15
) -> Split:
    """Split conversations (in time order) into train, calibrate and test; the latest groups are last."""
    named = {cid: _entities(steps, effects) for cid, steps in conversations.items()}
    groups = _groups(named)
    total = len(conversations)
    parts: dict[str, list[str]] = {"train": [], "calibrate": [], "test": []}
    for group in reversed(groups):
        part = "test" if len(parts["test"]) < test * total else "calibrate"
        if part == "calibrate" and len(parts["calibrate"]) >= calibrate * total:
            part = "train"
        if part != "train" and len(group) > 2 * test * total:
            part = "train"
        parts[part].extend(group)
    order = {cid: at for at, cid in enumerate(conversations)}
    train, held, tested = (
        tuple(sorted(parts[p], key=order.__getitem__)) for p in ("train", "calibrate", "test")
    )
    in_train = set().union(*(named[cid] for cid in train)) if train else set()
    in_test = set().union(*(named[cid] for cid in tested)) if tested else set()
    return Split(train, held, tested, len(in_train & in_test))


def entity_groups(conversations: Mapping[str, Sequence[Step]], effects: Effects) -> dict[str, int]:
    """Return the group number of each conversation: those that name a common entity, directly or through others."""
    named = {cid: _entities(steps, effects) for cid, steps in conversations.items()}
    return {cid: number for number, group in enumerate(_groups(named)) for cid in group}


def _entities(steps: Sequence[Step], effects: Effects) -> set[str]:
    """Return the entities that a conversation accessed: those named in a call that succeeded."""
    return {
        f"{key}={value}"
        for s in steps
        if s.outcome == OK
        for key, value in effects.entities(s.arguments).items()
    }


def _groups(named: Mapping[str, set[str]]) -> list[list[str]]:
    """Return connected conversations, groups in the order of their first member."""
    parent = {cid: cid for cid in named}

    def root(cid: str) -> str:
        while parent[cid] != cid:
            parent[cid] = parent[parent[cid]]
            cid = parent[cid]
        return cid

    holders: dict[str, list[str]] = defaultdict(list)
    for cid, entities in named.items():
        for entity in entities:
            holders[entity].append(cid)
    limit = max(8, SHARED_BY_TOO_MANY * len(named))
    for members in holders.values():
        if len(members) <= limit:
            for other in members[1:]:
                parent[root(other)] = root(members[0])
    groups: dict[str, list[str]] = defaultdict(list)
    for cid in named:
        groups[root(cid)].append(cid)
    return list(groups.values())
