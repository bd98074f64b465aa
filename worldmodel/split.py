"""Hold out conversations by entity and time: no entity of a test conversation was seen in training.

Conversations that name a common entity are one group (union-find). A large group starts early, because any of its
conversations may be its first one. So groups are split by the time of their first conversation within each size class,
and the test part has as large a share of each class as the whole. Without the classes, the test part held short
conversations that had failed before they named a shared entity, and its error rates were too high.

An entity that links a large share of all conversations (a shared warehouse, a test account) would join everything into
one group, so it is ignored.
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
    """Conversation ids of the three parts, in time order, the number of entities that test shares with train (ideally
    0), and the number of conversations in which an entity was found (None for worlds that did not count them)."""

    train: tuple[str, ...]
    calibrate: tuple[str, ...]
    test: tuple[str, ...]
    shared_entities: int
    with_entities: int | None = None

    def in_words(self) -> str:
        """How conversations were held out."""
        if self.with_entities == 0:
            return "No entity was found in any conversation, so the held-out ones were chosen by time alone."
        if self.shared_entities:
            return f"{self.shared_entities} entities of held-out conversations were named in trained ones as well."
        found = "as far as entities were found"
        if self.with_entities is not None:
            total = len(self.train) + len(self.calibrate) + len(self.test)
            found = f"entities were found in {self.with_entities} of {total} conversations"
        return f"No entity of a held-out conversation was named in a trained one ({found})."


def split_conversations(
    conversations: Mapping[str, Sequence[Step]], effects: Effects, calibrate: float = 0.1, test: float = 0.15
) -> Split:
    """Split conversations (in time order) into train, calibrate and test; the latest groups of each size class are
    last."""
    named = {cid: _entities(steps, effects) for cid, steps in conversations.items()}
    parts: dict[str, list[str]] = {"train": [], "calibrate": [], "test": []}
    dealt = 0
    largest = 2 * test * len(conversations)
    for groups in _by_size(_groups(named)):
        dealt += sum(map(len, groups))
        wanted = {"test": test * dealt, "calibrate": calibrate * dealt}
        for group in reversed(groups):
            fits = [p for p, most in wanted.items() if len(parts[p]) + len(group) / 2 <= most and len(group) <= largest]
            parts[fits[0] if fits else "train"].extend(group)
    order = {cid: at for at, cid in enumerate(conversations)}
    train, held, tested = (
        tuple(sorted(parts[p], key=order.__getitem__)) for p in ("train", "calibrate", "test")
    )
    in_train = set().union(*(named[cid] for cid in train)) if train else set()
    in_test = set().union(*(named[cid] for cid in tested)) if tested else set()
    return Split(train, held, tested, len(in_train & in_test), sum(map(bool, named.values())))


def _by_size(groups: Sequence[list[str]]) -> list[list[list[str]]]:
    """Groups of about equal size (1, 2, 3 to 4, 5 to 8, ...), each class in the order of first members; the largest
    class first, so that what it has too few of is made up for by the smaller ones."""
    classes: dict[int, list[list[str]]] = defaultdict(list)
    for group in groups:
        classes[(len(group) - 1).bit_length()].append(group)
    return [classes[size] for size in sorted(classes, reverse=True)]


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
