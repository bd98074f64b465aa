"""What conversations tell before any record is known: which of them to learn from, which tools only read, which errors
pass by themselves."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from worldmodel.derive.values import parse
from worldmodel.effects import TRANSIENT_NAMES, answered_again
from worldmodel.steps import OK, Step

MOST_ROWS = 1000
"""So many calls of a tool with one outcome are enough."""
FEWEST_SENTENCES = 3
MOST_TRANSITIONS = 12_000
RARE = 20
Conversations = Mapping[str, Sequence[Step]]


def sample(conversations: Conversations, most: int = MOST_TRANSITIONS, rare: int = RARE) -> Conversations:
    """At most about `most` calls in whole conversations, in an order that no name decides; then those that show what is
    still rare among them, up to a half more. So learning takes the same time for any number of conversations."""
    order = sorted(conversations, key=lambda cid: hashlib.blake2b(cid.encode(), digest_size=8).digest())
    seen: Counter[tuple[str, str]] = Counter()
    kept: set[str] = set()
    total = 0
    for fewest, limit in ((MOST_ROWS, most), (rare, most + most // 2)):
        for cid in order:
            if total >= limit:
                break
            if cid not in kept and any(seen[(s.tool, s.outcome)] < fewest for s in conversations[cid]):
                kept.add(cid)
                total += len(conversations[cid])
                seen.update((s.tool, s.outcome) for s in conversations[cid])
    return {cid: steps for cid, steps in conversations.items() if cid in kept}


def repeatable(conversations: Conversations, fewest: int = 5) -> set[str]:
    """Tools whose call, made again in a conversation, always got the same answer: reads, whatever their name says."""
    same, other = answered_again(conversations.values())
    return {tool for tool, n in same.items() if n >= fewest} - other


def bodied(conversations: Conversations) -> set[str]:
    """Tools that answer with objects or lists, and now and then with a sentence."""
    kinds: dict[str, Counter[bool]] = defaultdict(Counter)
    for step in (step for steps in conversations.values() for step in steps if step.outcome == OK):
        body = parse(step.content)
        kinds[step.tool][isinstance(body, dict | list)] += isinstance(body, dict | list | str)
    return {tool for tool, n in kinds.items() if n[True] > n[False] >= FEWEST_SENTENCES}


def learn_transient(conversations: Conversations) -> set[tuple[str, str]]:
    """(tool, outcome) pairs that usually pass when the same call is made again at once."""
    passed: Counter[tuple[str, str]] = Counter()
    stayed: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    for steps in conversations.values():
        for before, after in zip(steps, steps[1:], strict=False):
            if before.outcome == OK:
                continue
            seen.add((before.tool, before.outcome))
            if before.key == after.key:
                (stayed if after.outcome == before.outcome else passed)[(before.tool, before.outcome)] += 1
        seen |= {(s.tool, s.outcome) for s in steps[-1:] if s.outcome != OK}
    found = set()
    for place in seen:
        n = passed[place] + stayed[place]
        if n >= 3:
            if passed[place] >= 0.5 * n:
                found.add(place)
        elif re.search(TRANSIENT_NAMES, place[1].lower()):
            found.add(place)
    return found
