"""The fidelity card: per tool, how true the world is on held-out conversations, beside what is free.

Every held-out call is put to a world that is grounded in the recorded messages before it (teacher-forced), so
one wrong answer does not spoil the next question. The same calls go to a replay cache, to a copy of the
nearest past transition, to the rules alone, and to the base model without its adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ingest.errors import UserError
from training.workers import Tell, Workers, dealt_back
from worldmodel.artifact import read_split, save_tools, write_json
from worldmodel.card.measures import Judged, summary
from worldmodel.derive.engine import Engine, store_determines
from worldmodel.generate.context import canonical_history
from worldmodel.generate.examples import derivable, learn_constants, learn_vocabulary
from worldmodel.generate.resolver import Resolver, uniform
from worldmodel.generate.retrieval import read_conversations
from worldmodel.steps import OK, Step, group_steps
from worldmodel.world import World, WorldModel

ENOUGH = 30
VALID = 0.98
RATIO = (0.5, 2.0)
BASE_CALLS = 200
"""The unadapted base writes long wrong answers; this many calls are enough to see that."""
AT_ONCE = 128
HOLE = "\x00"
"""The body of an answer whose outcome the rules know and whose body they do not."""
Progress = Callable[[int, int], None]
"""Told how many questions are answered, and of how many."""
COLUMNS = (
    *(
        "tool",
        "n",
        "exact",
        "derivable",
        "fields",
        "outcome F1",
        "errors sim/real",
        "valid",
        "read after write",
    ),
    *("answered", "rules: exact, F1", "copy: exact, F1", "cache: exact, F1", "base: exact, F1", "status"),
)


@dataclass(frozen=True)
class Question:
    """A held-out call with its recorded prefix."""

    conversation_id: str
    truth: Step
    before: tuple[Step, ...]
    derivable: bool
    after_write: bool
    writes: bool = False


def questions(
    held_out: Mapping[str, Sequence[Step]],
    trained: Mapping[str, Sequence[Step]],
    resolver: Resolver,
    most: int | None = None,
    rules: Engine | None = None,
) -> list[Question]:
    """Every call of the held-out conversations, or an even sample of `most` of them.

    A call is derivable where the store determines its answer (some form of the tool, filled from the store, is what
    production answered), or where every value of the answer occurs in what came before. What passes by itself (a
    timeout, a 429) is determined by nothing.
    """
    vocabulary = learn_vocabulary(trained) if rules is None else learn_constants(trained)
    found = []
    for conversation_id, steps in held_out.items():
        determined = store_determines(rules, steps) if rules is not None else [False] * len(steps)
        accident = [rules is not None and rules.passes(step.tool, step.outcome) for step in steps]
        for at, step in enumerate(steps):
            before = tuple(steps[:at])
            known = determined[at] or derivable(step, before, vocabulary, by_outcome=rules is not None)
            known = known and not accident[at]
            after, writes = _after_write(step, before, resolver), resolver.frame.effects.is_write(step.tool)
            found.append(Question(conversation_id, step, before, known, after, writes))
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
    model: WorldModel, asked: Sequence[Question], seed: int = 0, on_progress: Progress = lambda done, total: None
) -> list[Judged]:
    """What the world answers to each question."""
    finished = 0
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> Judged:
        nonlocal finished
        async with slots:
            number = int(2**31 * uniform(seed, question.conversation_id, len(question.before)))
            world = World(model, number, question.before, prior=question.before)
            episode = world.episode()
            answer = await world.answer(episode, question.truth.tool, question.truth.arguments)
            finished += 1
            on_progress(finished, len(asked))
            return _judged(question, None if answer.provenance == "abstained" else answer.step)

    return list(await asyncio.gather(*(one(question) for question in asked)))


def ask_rules(rules: Engine, asked: Sequence[Question], seed: int = 0) -> list[Judged]:
    """Baseline: the rules without a model; a hole is no answer. The questions of a conversation share its replay."""
    judged: dict[int, Judged] = {}
    of_conversation: dict[str, list[tuple[int, Question]]] = {}
    for number, question in enumerate(asked):
        of_conversation.setdefault(question.conversation_id, []).append((number, question))
    for conversation_id, found in of_conversation.items():
        session, told = rules.session(), 0
        for number, question in sorted(found, key=lambda pair: len(pair[1].before)):
            for step in question.before[told:]:
                session.told(step.tool, step.arguments, step.content, step.outcome)
            told = len(question.before)
            truth = question.truth
            drawn = int(2**31 * uniform(seed, conversation_id, told))
            said = session.derive(truth.tool, truth.arguments, drawn)
            answer = None
            if said is not None:
                answer = Step(truth.tool, truth.arguments, said.content or HOLE, said.outcome)
            judged[number] = _judged(question, answer)
    return [judged[number] for number in range(len(asked))]


def ask_cache(resolver: Resolver, asked: Sequence[Question]) -> list[Judged]:
    """Baseline: the answer to the same call earlier in this conversation, else production's only answer
    to it.
    """
    judged = []
    for question in asked:
        own = [s for s in question.before if s.key == question.truth.key]
        judged.append(_judged(question, own[-1] if own else resolver.index.always(question.truth.key)))
    return judged


def ask_nearest(resolver: Resolver, asked: Sequence[Question]) -> list[Judged]:
    """Baseline: a copy of the most similar transition, of this conversation's past or of the training
    data.
    """
    judged = []
    for question in asked:
        truth = question.truth
        own = [s for s in question.before if s.key == truth.key]
        history = canonical_history(question.before, resolver.frame.effects)
        framed = resolver.frame.frame(truth.tool, truth.arguments, history, (), resolver.index)
        judged.append(_judged(question, own[-1] if own else framed.nearest))
    return judged


def _judged(question: Question, answer: Step | None) -> Judged:
    q = question
    return Judged(q.conversation_id, q.truth, answer, q.derivable, q.after_write, q.writes)


async def measure(
    model: WorldModel,
    asked: Sequence[Question],
    with_base: bool = True,
    on_progress: Progress = lambda done, total: None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """The card: `overall` and per tool, each with the world's numbers, the baselines', and per tool a
    status. `workers`, if given, each hold the model and share the questions.
    """
    resolver = model.resolver
    answers = {
        "world": await _ask(model, asked, False, on_progress, workers),
        "replay_cache": ask_cache(resolver, asked),
        "nearest_copy": ask_nearest(resolver, asked),
    }
    if model.rules is not None:
        answers["rules_alone"] = ask_rules(model.rules, asked)
    if with_base:
        some = asked[:: max(1, len(asked) // BASE_CALLS)]
        answers["base"] = await _ask(model, some, True, lambda done, total: None, workers)
    tools = {}
    for tool in sorted({q.truth.tool for q in asked}):
        of_tool = {name: [j for j in found if j.truth.tool == tool] for name, found in answers.items()}
        tools[tool] = _entry(of_tool, resolver)
        tools[tool]["status"], tools[tool]["why"] = verdict(tools[tool])
    return {"overall": _entry(answers, resolver), "tools": tools}


async def _ask(
    model: WorldModel, asked: Sequence[Question], bare: bool, on_progress: Progress, workers: Workers | None
) -> list[Judged]:
    """What the model answers with no tool blocked, here or by turns in the workers; `bare`: without its adapter."""
    if workers is None:
        return await ask_world(_opened(model, bare), asked, on_progress=on_progress)
    shares = [(asked[k :: len(workers)], bare) for k in range(len(workers))]
    return dealt_back(await workers.map(_ask_share, shares, lambda done: on_progress(done, len(asked))))


async def _ask_share(model: WorldModel, share: tuple[Sequence[Question], bool], tell: Tell) -> list[Judged]:
    asked, bare = share
    return await ask_world(_opened(model, bare), asked, on_progress=lambda done, total: tell(done))


def _opened(model: WorldModel, bare: bool) -> WorldModel:
    resolver = replace(model.resolver, blocked=frozenset())
    if bare:
        return WorldModel(replace(resolver, adapter=None, biases={}))
    return WorldModel(resolver, model.user, model.rules)


def _entry(answers: Mapping[str, Sequence[Judged]], resolver: Resolver) -> dict[str, Any]:
    measured = {name: summary(found, resolver.profiles) for name, found in answers.items()}
    return {**measured.pop("world"), "baselines": measured}


def verdict(entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    """pass, warn or block, and why not pass (reference: at least 30 calls, validity 0.98, ratio, beats
    the copy).
    """
    nearest = entry["baselines"]["nearest_copy"]
    why: list[str] = []
    bad: list[str] = []
    if entry["n"] < ENOUGH:
        why.append(f"only {entry['n']} held-out calls")
    validity = entry["schema_validity"]
    if validity is not None and validity < VALID:
        (bad if validity < 0.9 else why).append(f"schema validity {validity:.2f}")
    interval = entry["errors"]["ratio_ci"]
    if interval is not None and (interval[0] > RATIO[1] or interval[1] < RATIO[0]):
        bad.append(f"error-rate ratio {interval[0]:.2f} to {interval[1]:.2f}")
    margins = [_margin(entry, nearest, name) for name in ("exact_match", "outcome_f1")]
    if min(margins) < -0.005:
        (bad if max(margins) < -0.05 else why).append("does not beat a copy of the nearest transition")
    if bad and entry["n"] >= ENOUGH:
        return "block", bad + why
    return ("warn", bad + why) if bad or why else ("pass", [])


def _margin(entry: Mapping[str, Any], other: Mapping[str, Any], name: str) -> float:
    return (entry[name] or 0.0) - (other[name] or 0.0)


def make_card(
    path: Path,
    lake: Path | None = None,
    most: int | None = None,
    with_base: bool = True,
    on_progress: Progress = lambda done, total: None,
    processes: int = 1,
) -> dict[str, Any]:
    """Measure the world in `path` on its own held-out conversations, or on those of another lake, with as many
    processes.

    On its own, the card is written beside it, and the tools that it blocks may from then on only be replayed.
    """
    model = WorldModel.load(path)
    resolver = model.resolver
    held_out = read_conversations(path / "held_out.parquet") if lake is None else _unseen(path, lake)
    if not held_out:
        raise UserError(
            "no held-out conversation has tool calls; ingest more conversations and fit the world again"
        )
    trained: dict[str, list[Step]] = {}
    for entry in resolver.index.entries:
        trained.setdefault(entry.conversation_id, []).append(entry.step)
    asked = questions(held_out, trained, resolver, most, model.rules)
    try:
        if processes > 1:
            with Workers(partial(WorldModel.load, path), processes) as workers:
                card = model.run(measure(model, asked, with_base, on_progress, workers))
        else:
            card = model.run(measure(model, asked, with_base, on_progress))
    finally:
        model.close()
    card["held_out"] = {"conversations": len({q.conversation_id for q in asked}), "calls": len(asked)}
    card["shared_entities"] = read_split(path).shared_entities
    if lake is None:
        blocked = [tool for tool, entry in card["tools"].items() if entry["status"] == "block"]
        write_json(path / "card.json", card)
        save_tools(path, replace(resolver, blocked=frozenset(blocked)))
    return card


def _unseen(path: Path, lake: Path) -> dict[str, list[Step]]:
    from ingest.lake import Lake

    split = read_split(path)
    seen = {*split.train, *split.calibrate}
    steps = group_steps(Lake.open(lake).transitions())
    return {cid: found for cid, found in steps.items() if cid not in seen}


def table(card: Mapping[str, Any], console: Console) -> None:
    """Print a card for a person."""
    grid = Table(title="fidelity on held-out conversations (same calls for all)")
    for name in COLUMNS:
        grid.add_column(name, justify="left" if name in ("tool", "status") else "right")
    rows = [*card["tools"].items(), ("all", card["overall"])]
    for tool, entry in rows:
        baselines = entry["baselines"]
        grid.add_row(
            tool,
            str(entry["n"]),
            _shown(entry["exact_match"]),
            _with_n(entry["derivable"]),
            _shown(entry["field_f1"]),
            _shown(entry["outcome_f1"]),
            _errors(entry["errors"]),
            _shown(entry["schema_validity"]),
            _with_n(entry["read_after_write"]),
            _shown(entry["coverage"]),
            *(_baseline(baselines.get(name)) for name in ("rules_alone", "nearest_copy", "replay_cache", "base")),
            entry.get("status", ""),
            end_section=tool == rows[-2][0],
        )
    console.print(grid)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _with_n(value: Mapping[str, Any]) -> str:
    return f"{_shown(value['exact_match'])} ({value['n']})" if value["n"] else "-"


def _errors(value: Mapping[str, Any]) -> str:
    shown = f"{value['simulated']:.2f}/{value['real']:.2f}"
    return (
        shown
        if value["ratio_ci"] is None
        else f"{shown} [{value['ratio_ci'][0]:.1f}, {value['ratio_ci'][1]:.1f}]"
    )


def _baseline(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None else f"{_shown(value['exact_match'])}, {_shown(value['outcome_f1'])}"
