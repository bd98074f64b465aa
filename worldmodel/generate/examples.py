"""Convert recorded conversations to training rows of the world: prompt, outcome digit, shortest edit."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from training.models.chat import ChatFormat
from training.models.edits import encode
from training.models.roles import world_answer
from worldmodel.effects import successful_writes
from worldmodel.generate.context import Around, Frame, Framed, canonical_history, prompt_ids, select, trail_of
from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.retrieval import Entry, features_of
from worldmodel.steps import OK, OTHER, Step, content_leaves, leaves

Conversations = Mapping[str, Sequence[Step]]


@dataclass(frozen=True)
class Example:
    """One recorded transition. `history` (what the world stores) and `before` (everything) are its prefix."""

    conversation_id: str
    at: int
    step: Step
    framed: Framed
    outcome: int
    before: tuple[Step, ...]

    def edit(self, cost: Callable[[str], int] = len) -> str:
        return encode(self.step.content, self.framed.sources, cost)


def build_index(conversations: Conversations, frame: Frame, groups: Mapping[str, int] | None = None) -> TransitionIndex:
    """Return the retrieval index over some conversations. `groups` has the conversations that name a common entity."""
    entries = (
        _entry(conversation_id, steps, at, step, frame)
        for conversation_id, steps in conversations.items()
        for at, step in enumerate(steps)
    )
    return TransitionIndex.of(entries, groups)


def _entry(conversation_id: str, steps: Sequence[Step], at: int, step: Step, frame: Frame) -> Entry:
    effects = frame.effects
    history = canonical_history(steps[:at], effects)
    chosen = select(step.tool, step.arguments, history, effects)
    written = successful_writes(steps[:at], effects)
    pristine = (
        not effects.is_write(step.tool)
        and not effects.is_transient(step.tool, step.outcome)
        and not effects.bearing(step.tool, step.arguments, step, written)
    )
    features = features_of(step.tool, step.arguments, [s.content for s in chosen])
    return Entry(conversation_id, step, features, pristine)


def frame_step(
    conversation_id: str, steps: Sequence[Step], at: int, frame: Frame, index: TransitionIndex | None, user: str = ""
) -> Example:
    """Frame one transition with the recorded steps before it and the first message of its user. Retrieved transitions
    share no entity with it."""
    step, before = steps[at], steps[:at]
    history = canonical_history(before, frame.effects)
    trail = trail_of(step.tool, step.arguments, before, frame.effects)
    around = Around(user) if index is None else frame.around(index, conversation_id, steps, user)
    framed = frame.frame(step.tool, step.arguments, history, trail, index, around)
    return Example(conversation_id, at, step, framed, class_number(step, frame.classes), tuple(before))


def class_number(step: Step, classes: Mapping[str, tuple[str, ...]]) -> int:
    """Return the digit of a step's outcome. Classes that are too rare for a digit share `other_error`."""
    names = classes.get(step.tool, (OK,))
    if step.outcome in names:
        return names.index(step.outcome)
    if OTHER in names:
        return names.index(OTHER)
    return len(names) - 1


def world_examples(
    conversations: Conversations,
    frame: Frame,
    index: TransitionIndex,
    rng: random.Random,
    dropout: float = 0.15,
    keep_unknowable: float = 0.15,
    users: Mapping[str, str] = MappingProxyType({}),
) -> list[Example]:
    """Return one example per transition, shuffled, with retrieval dropped out at a rate. `users` has the first message
    of each conversation's user.

    Two kinds are subsampled: successes that nothing before them determines, because they only teach invention, and
    repeats that the world answers from its pins, because the model is not asked for them.
    """
    vocabulary = learn_vocabulary(conversations)
    examples = []
    for conversation_id, steps in conversations.items():
        for at, step in enumerate(steps):
            shown = None if rng.random() < dropout else index
            known = derivable(step, steps[:at], vocabulary)
            if step.outcome == OK and not known and rng.random() > keep_unknowable:
                continue
            if known and is_repeat(steps, at, frame) and rng.random() > 2 * keep_unknowable:
                continue
            examples.append(frame_step(conversation_id, steps, at, frame, shown, users.get(conversation_id, "")))
    rng.shuffle(examples)
    return examples


def is_repeat(steps: Sequence[Step], at: int, frame: Frame) -> bool:
    """Whether the same call was answered equally in the same state before."""
    step = steps[at]
    for earlier in range(at - 1, -1, -1):
        before = steps[earlier]
        if before.key == step.key and before.content == step.content:
            return True
        if before.outcome == OK and frame.effects.is_write(before.tool):
            return False
    return False


def world_row(example: Example, chat: ChatFormat, longest: int = 1024) -> tuple[list[int], list[bool]] | None:
    """Return (token ids, mask of learned tokens); None if the row is longer than `longest`."""
    prompt = prompt_ids(example.framed.prompt, chat)
    edit = example.edit(lambda text: len(chat.encode(text)))
    answer = [*answer_ids(example.outcome, edit, chat)]
    if len(prompt) + len(answer) > longest:
        return None
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)


def answer_ids(outcome: int, edit: str, chat: ChatFormat) -> list[int]:
    """Return the ids of an answer. The outcome digit is a token of its own, so that its distribution can be read and
    corrected."""
    digit = world_answer(outcome, "")
    return [*chat.encode(digit), *chat.encode(edit), chat.stop_ids[0]]


# ----- what can be known


def learn_vocabulary(conversations: Conversations, share: float = 0.01) -> dict[str, frozenset[str]]:
    """Per tool, the constants: values in the answers of at least three conversations and of a minimum share of them."""
    spread: dict[str, Counter[str]] = defaultdict(Counter)
    users: Counter[str] = Counter()
    for steps in conversations.values():
        users.update({step.tool for step in steps})
        for tool, text in {(step.tool, text) for step in steps for text in _texts(step.content)}:
            spread[tool][text] += 1
    return {
        tool: frozenset(text for text, n in found.items() if n >= max(3, share * users[tool]))
        for tool, found in spread.items()
    }


def learn_constants(conversations: Conversations, share: float = 0.3) -> dict[str, frozenset[str]]:
    """Per `tool:outcome`, the values in a large share of its answers, whatever the arguments. A value that is one of
    many (a city, a day) is not a constant, because nothing determines which one it is."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for steps in conversations.values():
        for step in steps:
            mark = f"{step.tool}:{step.outcome}"
            totals[mark] += 1
            counts[mark].update(_texts(step.content))
    return {
        mark: frozenset(text for text, n in found.items() if n >= max(3, share * totals[mark]))
        for mark, found in counts.items()
    }


def derivable(
    step: Step, before: Sequence[Step], vocabulary: Mapping[str, frozenset[str]], by_outcome: bool = False
) -> bool:
    """Whether every value of an answer is in its call, in an earlier observation, or in the vocabulary of the tool
    (with `by_outcome`, of its outcome).

    Values that need arithmetic, other than a change of sign, count as not derivable.
    """
    known = set(vocabulary.get(f"{step.tool}:{step.outcome}" if by_outcome else step.tool, ()))
    for call in (step, *before):
        known.update(text.lstrip("-") for _, text in leaves(dict(call.arguments)))
    for earlier in before:
        known.update(_texts(earlier.content))
    return _texts(step.content) <= known


def _texts(content: str) -> set[str]:
    if not content.lstrip().startswith(("{", "[", '"')):
        return set(re.findall(r"[^\s,;:]+", content))
    return {text.lstrip("-") for _, text in content_leaves(content)}
