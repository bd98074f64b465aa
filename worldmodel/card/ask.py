"""Held-out calls for the card, answered by the world as in practice, and by the baselines.

A question is a recorded call with the conversation before it. The world has this prefix as the episode's own past
(`worldmodel.world.Grounding`), so one wrong answer does not affect the next question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from worldmodel.card.measures import HOLE, Judged
from worldmodel.card.volatile import Volatile, without
from worldmodel.derive.engine import Engine, Session, store_determines
from worldmodel.derive.trees import Leaf, leaf_of
from worldmodel.generate.context import canonical_history
from worldmodel.generate.examples import derivable, learn_constants, learn_vocabulary
from worldmodel.generate.resolver import Resolver, uniform
from worldmodel.steps import OK, Step
from worldmodel.world import Grounding, World, WorldModel

AT_ONCE = 128
WORLDS = 8
"""So many worlds are asked for the error rate of a call, since one world's draw says little about rare errors."""
Progress = Callable[[int, int], None]
"""Told how many questions are answered, and of how many."""
Said = Mapping[str, Sequence[tuple[str, str]]]
"""By conversation, what was said in it: (speaker, text)."""


def silent(done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Question:
    """A held-out call with its recorded prefix."""

    conversation_id: str
    truth: Step
    before: tuple[Step, ...]
    derivable: bool
    after_write: bool
    writes: bool = False
    said: tuple[tuple[str, str], ...] = ()
    volatile: frozenset[str] = frozenset()

    def grounding(self) -> Grounding:
        """The grounding of a world whose episode has the recorded prefix as its past."""
        goal = tuple(text for speaker, text in self.said if speaker == "user")
        return Grounding(self.before, self.before, self.said, goal, self.conversation_id)

    def seed(self, seed: object) -> int:
        return int(2**31 * uniform(seed, self.conversation_id, len(self.before)))

    def judged(self, answer: Step | None, provenance: str = "", support: float = 0.0, odds: float | None = None,
               why: str = "", drawn_errors: float | None = None) -> Judged:  # fmt: skip
        return Judged(
            self.conversation_id, self.truth, answer, self.derivable, self.after_write, self.writes,
            provenance, support, odds, why, self.before, drawn_errors, self.volatile,
        )  # fmt: skip


def questions(
    held_out: Mapping[str, Sequence[Step]],
    trained: Mapping[str, Sequence[Step]],
    resolver: Resolver,
    most: int | None = None,
    rules: Engine | None = None,
    said: Said | None = None,
    volatile: Volatile | None = None,
) -> list[Question]:
    """Return every call of the held-out conversations, or an even sample of `most` of them.

    A call is derivable if the store determines its answer (some form of the tool, filled from the store, equals
    production's answer), or if every value of the answer occurs in the prefix. Transient errors (a timeout, a 429) are
    never derivable.
    """
    vocabulary = learn_vocabulary(trained) if rules is None else learn_constants(trained)
    found = []
    for conversation_id, steps in held_out.items():
        determined = store_determines(rules, steps) if rules is not None else [False] * len(steps)
        accident = [rules is not None and rules.passes(step.tool, step.outcome) for step in steps]
        told = tuple((said or {}).get(conversation_id, ()))
        for at, step in enumerate(steps):
            before = tuple(steps[:at])
            excluded = (volatile or {}).get(step.tool, frozenset()) if step.outcome == OK else frozenset()
            asked = Step(step.tool, step.arguments, without(step.content, excluded), step.outcome)
            known = determined[at] or derivable(asked, before, vocabulary, by_outcome=rules is not None)
            known = known and not accident[at]
            after, writes = _after_write(step, before, resolver), resolver.frame.effects.is_write(step.tool)
            found.append(Question(conversation_id, step, before, known, after, writes, told, excluded))
    if most is not None and len(found) > most:
        found = sorted(found, key=lambda q: uniform(q.conversation_id, len(q.before)))[:most]
        found.sort(key=lambda q: q.conversation_id)
    return found


def _after_write(step: Step, before: Sequence[Step], resolver: Resolver) -> bool:
    effects = resolver.frame.effects
    if effects.is_write(step.tool) or step.outcome != OK:
        return False
    writes = [s for s in before if s.outcome == OK and effects.is_write(s.tool)]
    return bool(effects.bearing(step.tool, step.arguments, step, writes))


async def ask_world(
    model: WorldModel, asked: Sequence[Question], seed: int = 0, on_progress: Progress = silent, worlds: int = WORLDS
) -> list[Judged]:
    """Return the world's answer to each question, and the share of errors in the answers of `worlds` other worlds."""
    finished = 0
    slots = asyncio.Semaphore(AT_ONCE)
    drawing = replace(model, resolver=replace(model.resolver, writes=False), pins=None)

    async def one(question: Question) -> Judged:
        nonlocal finished
        async with slots:
            episode = World(model, question.seed(seed), question.grounding()).episode()
            tool, arguments = question.truth.tool, question.truth.arguments
            answer = await episode.world.answer(episode, tool, arguments)
            odds = outcome_odds(episode.session, question.truth) if episode.session is not None else None
            others = worlds if model.rules is not None else 0
            errors = await error_share(episode.world, drawing, question, seed, others)
            finished += 1
            on_progress(finished, len(asked))
            step = None if answer.provenance == "abstained" else answer.step
            why = answer.rule if step is None else ""
            return question.judged(step, answer.provenance, answer.support, odds, why, errors)

    return list(await asyncio.gather(*(one(question) for question in asked)))


async def error_share(world: World, drawing: WorldModel, question: Question, seed: int, worlds: int) -> float | None:
    """The share of errors among the answers of `worlds` worlds of other seeds, in which no model writes bodies. None if
    none of them answers."""
    failed = []
    for number in range(worlds):
        episode = world.reseeded(question.seed(f"{seed} {number}"), drawing).episode()
        answer = await episode.world.answer(episode, question.truth.tool, question.truth.arguments)
        if answer.provenance != "abstained":
            failed.append(answer.step.outcome != OK)
    return sum(failed) / len(failed) if failed else None


def outcome_odds(session: Session, truth: Step) -> float | None:
    """Return the probability that the rules give to production's outcome, smoothed by one count per class."""
    rules = session.engine.rules.tools.get(truth.tool)
    if rules is None:
        return None
    row = rules.sources(session.situation(truth.tool, truth.arguments).row)
    passes = 0.0
    if rules.accidents is not None:
        leaf, _ = leaf_of(rules.accidents, row)
        of_truth = sum(n for label, n in leaf.counts.items() if label != "none" and _is(rules.forms, label, truth))
        passes = sum(n for label, n in leaf.counts.items() if label != "none") / max(1, leaf.n)
        if session.engine.passes(truth.tool, truth.outcome):
            return (of_truth + 0.5) / (leaf.n + 1)
    leaf, _ = leaf_of(rules.guard, row)
    return (1 - passes) * _share(leaf, rules.forms, truth)


def _share(leaf: Leaf, forms: Mapping[str, object], truth: Step) -> float:
    classes = len({getattr(form, "outcome", "") for form in forms.values()}) or 1
    right = sum(n for label, n in leaf.counts.items() if _is(forms, label, truth))
    return (right + 1 / classes) / (leaf.n + 1)


def _is(forms: Mapping[str, object], label: str, truth: Step) -> bool:
    return label in forms and getattr(forms[label], "outcome", "") == truth.outcome


def ask_rules(rules: Engine, asked: Sequence[Question], seed: int = 0) -> list[Judged]:
    """Baseline: the rules without a model. A hole counts as no answer. Grounding and seeds are the world's."""
    judged = []
    for question in asked:
        session = question.grounding().session(rules)
        truth = question.truth
        said = session.derive(truth.tool, truth.arguments, question.seed(seed))
        content = HOLE if said is None or said.content is None else said.content
        answer = None if said is None else Step(truth.tool, truth.arguments, content, said.outcome)
        odds = outcome_odds(session, truth)
        judged.append(question.judged(answer, "derived", said.support if said else 0.0, odds))
    return judged


def ask_cache(resolver: Resolver, asked: Sequence[Question]) -> list[Judged]:
    """Baseline: the answer to the same call earlier in this conversation, or else production's only answer to it."""
    judged = []
    for question in asked:
        own = [s for s in question.before if s.key == question.truth.key]
        judged.append(question.judged(own[-1] if own else resolver.index.always(question.truth.key)))
    return judged


def ask_nearest(resolver: Resolver, asked: Sequence[Question]) -> list[Judged]:
    """Baseline: a copy of the most similar transition, of this conversation's past or of the training data."""
    judged = []
    for question in asked:
        truth = question.truth
        own = [s for s in question.before if s.key == truth.key]
        history = canonical_history(question.before, resolver.frame.effects)
        framed = resolver.frame.frame(truth.tool, truth.arguments, history, (), resolver.index)
        judged.append(question.judged(own[-1] if own else framed.nearest))
    return judged
