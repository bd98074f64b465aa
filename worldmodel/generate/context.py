"""The prompt of the world model for one call: the relevant observations, abbreviated, and the recent calls.

Training (where the history is a recorded prefix) and inference (where it is the world's facts and the episode's writes)
use the same functions, so the prompts have the same form in both.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ingest.records import Conversation
from training.models.chat import ChatFormat
from training.models.edits import diff, dumps, minify
from training.models.roles import Seen, WorldPrompt, described
from worldmodel.effects import TRAIL, Effects, successful_writes
from worldmodel.generate.index import NOBODY, Apart, TransitionIndex
from worldmodel.generate.retrieval import features_of
from worldmodel.steps import OK, Step, call_key, is_identifier, leaves

MAX_SEEN = 3
RETRIEVED = 3
"""Transitions of other conversations that a prompt shows; those after the first only as far as there is room."""
RETRIEVED_TEXT = 900
USER_TOKENS = 64
"""The user's text is clipped to so many tokens in a prompt."""
TOOL_TOKENS = 192
"""The tool's description, with those of its parameters, is clipped to so many tokens in a prompt."""
LONG_SCALAR = 48
"""Longer strings are left out of what is shown, unless the call names them."""


@dataclass(frozen=True)
class Framed:
    """One call as the model sees it. `sources` are the complete observations behind the numbered, abbreviated ones."""

    prompt: WorldPrompt
    sources: tuple[str, ...]
    nearest: Step | None


@dataclass(frozen=True)
class Around:
    """What a conversation adds to the prompts of its calls: the user's first message, and what is not retrieved.

    The first message is the same for all episodes of a world and at all times, so that answers depend neither on who
    asks first nor on what was said since.
    """

    user: str = ""
    apart: Apart = NOBODY


ALONE = Around()


@dataclass(frozen=True)
class Frame:
    """Builds prompts from (call, history, recent calls). `patched` names the fields that a tool's answers change;
    `definitions` has the tools in words (`training.models.roles.described`)."""

    effects: Effects
    classes: Mapping[str, tuple[str, ...]]
    patched: Mapping[str, frozenset[str]]
    definitions: Mapping[str, str] = field(default_factory=dict)

    def frame(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        history: Sequence[Step],
        trail: Sequence[Step],
        index: TransitionIndex | None,
        around: Around = ALONE,
    ) -> Framed:
        """`history` is the result of `canonical_history`. Without `index` nothing is retrieved."""
        chosen = select(tool, arguments, history, self.effects)
        alike: list[Step] = []
        if index is not None:
            features = features_of(tool, arguments, [s.content for s in chosen])
            alike = index.nearest_of(tool, features, RETRIEVED, around.apart)
        seen = [self._seen(tool, arguments, step, retrieved=False) for step in chosen]
        sources = [step.content for step in chosen]
        for number, step in enumerate(alike):
            if number and sum(len(s.content) for s in alike[: number + 1]) > RETRIEVED_TEXT:
                break
            seen.append(self._seen(tool, arguments, step, retrieved=True))
            sources.append(step.content)
        shown = tuple((_brief(s), s.outcome) for s in trail)
        classes, definition = self.classes.get(tool, (OK,)), self.definitions.get(tool, "")
        prompt = WorldPrompt(tuple(seen), shown, tool, arguments, classes, around.user, definition)
        return Framed(prompt, tuple(sources), alike[0] if alike else None)

    def around(self, index: TransitionIndex, conversation: str, steps: Sequence[Step], user: str) -> Around:
        """Return what a conversation adds to its prompts. Itself and what names an entity of its steps are not
        retrieved."""
        named = {pair for step in steps if step.outcome == OK for pair in self.effects.entities(step.arguments).items()}
        features = ((tool, f"={key}={value}") for tool in self.classes for key, value in named)  # seldom asked for
        return Around(user, index.apart(conversation, features))

    def _seen(self, tool: str, arguments: Mapping[str, Any], step: Step, retrieved: bool) -> Seen:
        if retrieved and not self.effects.is_write(tool):
            return Seen(step.tool, step.arguments, minify(step.content), retrieved)
        named = {text for _, text in leaves(dict(arguments))}
        content = abbreviate(step.content, self.patched.get(tool, frozenset()), named)
        return Seen(step.tool, step.arguments, content, retrieved)


def prompt_ids(prompt: WorldPrompt, chat: ChatFormat) -> list[int]:
    """Return the ids of a prompt, in training and in use. The texts of the user and of the tool are clipped."""
    if not chat.compact:
        user = _clipped(prompt.user, USER_TOKENS, chat)
        prompt = replace(prompt, user=user, definition=_clipped(prompt.definition, TOOL_TOKENS, chat))
    return chat.prompt(prompt.messages(chat.compact))


def _clipped(text: str, most: int, chat: ChatFormat) -> str:
    ids = chat.encode(text)
    return text if len(ids) <= most else chat.decode(ids[:most]).rstrip("\ufffd")


def _brief(step: Step) -> str:
    """Return a call for the trail: its tool, and its number if a number is its only argument (a waiting time)."""
    values = list(step.arguments.values())
    lone = len(values) == 1 and isinstance(values[0], int | float) and not isinstance(values[0], bool)
    return f"{step.tool} {values[0]}" if lone else step.tool


def canonical_history(steps: Sequence[Step], effects: Effects) -> list[Step]:
    """Return the part of a conversation that the world stores: the successful writes in order, and the first answer of
    each read.

    A read that is repeated after a write is left out, because its answer follows from the first answer and the write.
    """
    kept: list[Step] = []
    keys: set[str] = set()
    for step in steps:
        if step.outcome != OK or (not effects.is_write(step.tool) and step.key in keys):
            continue
        keys.add(step.key)
        kept.append(step)
    return kept


def select(tool: str, arguments: Mapping[str, Any], history: Sequence[Step], effects: Effects) -> list[Step]:
    """Return at most three observations that are relevant for a call: writes to its entities (latest first), then the
    entities' own records, then other observations that mention most of the identifiers in its arguments."""
    marks = effects.touched(arguments)
    done = [s for s in history if effects.is_write(s.tool)]
    writes = effects.bearing(tool, arguments, None, done)[:-3:-1]
    reads = [s for s in history if not effects.is_write(s.tool)]
    own_key = call_key(tool, arguments)
    records = [s for s in reads if effects.is_reader(s.tool) and effects.touched(s.arguments) & marks]
    records += [s for s in reads if s.key == own_key and s not in records]
    chosen = [*writes, *records[:-2:-1]]
    named = {text for _, text in leaves(dict(arguments)) if is_identifier(text)}
    named |= {mark for mark in marks if not any(mark in s.mentions for s in chosen)}
    others = [s for s in reversed(reads) if s not in chosen]
    while named and len(chosen) < MAX_SEEN:
        best = max(others, key=lambda s: len(named & s.mentions), default=None)
        if best is None or not named & best.mentions:
            break
        chosen.append(best)
        others.remove(best)
        named -= best.mentions
    return chosen[:MAX_SEEN]


def trail_of(tool: str, arguments: Mapping[str, Any], steps: Sequence[Step], effects: Effects) -> list[Step]:
    """Return the recent calls that can affect a call's outcome.

    For a tool whose errors depend on the call rate, these are the last few calls. For other tools they are earlier
    attempts of the same call and the writes to its entities (the first read after a write can be stale), so that
    unrelated calls cannot change an answer.
    """
    recent = list(steps[-TRAIL:])
    if tool in effects.historic:
        return recent
    own = call_key(tool, arguments)
    written = effects.bearing(tool, arguments, None, successful_writes(steps, effects))
    return [s for s in steps if s.key == own or any(s is w for w in written)][-TRAIL:]


# ----- abbreviation


def abbreviate(content: str, patched: frozenset[str], named: set[str]) -> str:
    """Return an observation without the parts that no answer to this call needs.

    A reference to it still means the complete observation, because a merge patch keeps what it does not name. Kept are
    short scalars, the fields that the tool is known to change, and the items that contain a value of the call.
    """
    try:
        value = json.loads(content)
    except ValueError:
        return content.strip()[:400]
    if isinstance(value, list):
        kept = [v for v in value if _names(v, named)]
        return dumps(kept or value[:1])
    if not isinstance(value, dict) or len(minify(content)) <= 240:
        return minify(content)
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        return dumps({key: json.loads(abbreviate(dumps(inner), patched, named))}) if inner else minify(content)
    shown = {}
    for key, inner in value.items():
        if key in patched or not isinstance(inner, dict | list | str):
            shown[key] = inner
        elif isinstance(inner, str):
            if len(inner) <= LONG_SCALAR or inner in named:
                shown[key] = inner
        elif isinstance(inner, list):
            items = [v for v in inner if _names(v, named)]
            if items:
                shown[key] = items
        else:
            children = {k: v for k, v in inner.items() if k in named or _names(v, named)}
            if children:
                shown[key] = children
    return dumps(shown)


def _names(value: Any, named: set[str]) -> bool:
    return any(text in named and is_identifier(text) for _, text in leaves(value))


def learn_definitions(conversations: Sequence[Conversation]) -> dict[str, str]:
    """Per tool, its latest definition in words; tools of which nothing is said are left out."""
    found: dict[str, str] = {}
    for conversation in sorted(conversations, key=lambda c: c.started_at_ns):
        for tool in conversation.tools:
            if text := described(tool):
                found[tool["name"]] = text
    return dict(sorted(found.items()))


def learn_patched(
    conversations: Sequence[Sequence[Step]], effects: Effects, at_least: float = 0.02
) -> dict[str, frozenset[str]]:
    """Per tool, the top-level fields in which its answers differ from earlier observations of the same entity."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for steps in conversations:
        for at, step in enumerate(steps):
            if step.outcome != OK:
                continue
            chosen = select(step.tool, step.arguments, canonical_history(steps[:at], effects), effects)
            patch = _smallest_patch(step.content, [s.content for s in chosen])
            if patch is not None:
                totals[step.tool] += 1
                counts[step.tool].update(patch)
    return {
        tool: frozenset(key for key, n in found.items() if n >= max(2, at_least * totals[tool]))
        for tool, found in sorted(counts.items())
    }


def _smallest_patch(target: str, sources: Sequence[str]) -> list[str] | None:
    best: dict[str, Any] | None = None
    for source in sources:
        try:
            old, new = json.loads(source), json.loads(target)
        except ValueError:
            continue
        if not isinstance(old, dict) or not isinstance(new, dict):
            continue
        patch = diff(old, new)
        if len(patch) <= len(new) / 2 and (best is None or len(patch) < len(best)):
            best = patch
    return None if best is None else list(best)
