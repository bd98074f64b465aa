"""`rehearsal world fit`: from a lake to a world on disk.

1. Learn what needs no model (rules, effects, classes, shapes, the index) from the training conversations. 2. Train
the world LoRA on the transitions that the rules leave open, and the user LoRA on what customers wrote. 3. On
conversations held out from both, fit one bias per tool and outcome class, so that errors come at their rate.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from ingest.records import Conversation, Transition
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.fits import FitSettings as SftSettings
from training.learning.fits import fit_sft, unfinished, warm_start
from training.learning.learner import LearnerSettings
from training.models.base import Base, load_base
from training.models.lora import LoraSettings, manifest_of, save_weights
from worldmodel.artifact import VERSION, read_manifest, save_rules, save_shapes, save_tools, write_json, write_split
from worldmodel.card.ask import ask_world, questions
from worldmodel.card.health import right
from worldmodel.card.history import hand_on
from worldmodel.card.holes import ask_holes
from worldmodel.control import measure_implicit
from worldmodel.derive.engine import Engine
from worldmodel.effects import learn_effects
from worldmodel.generate.context import Frame, learn_definitions, learn_patched
from worldmodel.generate.examples import Example, build_index, frame_step, world_examples, world_row
from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.resolver import MAX_BODY_TOKENS, Resolver, fit_bias
from worldmodel.generate.retrieval import write_conversations
from worldmodel.generate.shapes import Shapes, learn_shapes
from worldmodel.learn.induce import derived_calls, learn_rules
from worldmodel.profiles import learn_profiles
from worldmodel.split import Split, entity_groups, split_conversations
from worldmodel.steps import Step, group_steps, outcome_classes, said_in
from worldmodel.support import fit_support
from worldmodel.users.knowledge import learn_knowledge
from worldmodel.users.reactions import learn_reactions
from worldmodel.users.user import UserSide, fit_leaving, patience, reaction_turns, reply_tokens, user_rows
from worldmodel.world import WorldModel

FEWEST_FOR_BIAS = 20
KEEP_DERIVED = 0.15
"""Share of the rows that rules answer which the model sees as well: it must know what such answers look like."""
MOST_FOR_LENGTHS = 2000
"""Recorded answers, evenly sampled, whose lengths are measured."""
MOST_FOR_SUPPORT = 600
"""Held-out calls that support is calibrated on."""
TITLES = {
    "adapter": "fitting the world",
    "user": "fitting the user adapter",
    "biases": "calibrating the outcomes",
    "holes": "comparing ways to fill holes",
}
"""The parts of a fit that report their progress, with what is shown to the user."""

Progress = Callable[[str, float, Mapping[str, float]], None]


class FitSettings(BaseModel):
    """Settings of a fit of the world: rules, world adapter and user adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field("rehearsal-tiny", description="The base; in a home, the setting `base` decides.")
    max_tokens: int = Field(1_900_000, gt=0, description="Tokens to train both adapters on, prompts included.")
    user_share: float = Field(0.4, ge=0, lt=1, description="The user adapter's share of max_tokens.")
    epochs: float = Field(5.0, gt=0, description="Maximum number of epochs.")
    rank: int = Field(64, ge=1, description="The adapters' rank; alpha is twice that.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; null: the preset for the base's size.")
    step_tokens: int = Field(2048, ge=1, description="Padded tokens per step.")
    longest: int = Field(1024, ge=1, description="Tokens of the longest row; longer ones are left out and counted.")
    outcome_weight: float = Field(
        8.0,
        gt=0,
        description="Weight of the outcome digit relative to another token: it is one of about sixty, and the rest of "
        "the answer depends on it.",
    )
    seed: int = Field(0, description="Random seed; in a home, the setting `seed` decides.")
    user: bool = Field(True, description="Fit a user adapter; false: the base itself writes the users' messages.")
    bias_calls: int = Field(
        300, ge=0, description="Held-out calls per tool, at most, that the model answers for the biases."
    )
    holes: int = Field(60, ge=0, description="Held-out holes, at most, that are filled in each way to compare them.")


@dataclass(frozen=True)
class Learned:
    """Everything that is known before a model is trained."""

    frame: Frame
    index: TransitionIndex
    split: Split
    steps: Mapping[str, Sequence[Step]]
    users: Mapping[str, str] = field(default_factory=dict)
    """The first message of each conversation's user."""

    def part(self, ids: Sequence[str]) -> dict[str, Sequence[Step]]:
        return {cid: self.steps[cid] for cid in ids}


def learn(transitions: Sequence[Transition], conversations: Sequence[Conversation] = ()) -> Learned:
    """Learn everything except the adapters. The `conversations` of the calls say what users wanted, and what the tools
    are for. Raises UserError if there are no tool calls to learn from."""
    steps = group_steps(transitions)
    if not steps:
        raise UserError("this lake has no tool calls with results; ingest traces with tool results first")
    split = split_conversations(steps, learn_effects(list(steps.values())))
    trained = {cid: steps[cid] for cid in split.train}
    effects = learn_effects(list(trained.values()))
    classes = outcome_classes(s for part in trained.values() for s in part)
    frame = Frame(effects, classes, learn_patched(list(trained.values()), effects), learn_definitions(conversations))
    index = build_index(trained, frame, entity_groups(trained, effects))
    users = {
        cid: text for cid, said in said_in(conversations).items()
        if (text := next((text for speaker, text in said if speaker == "user"), ""))
    }  # fmt: skip
    return Learned(frame, index, split, steps, users)


def fit_world(
    conversations: Sequence[Conversation],
    transitions: Sequence[Transition],
    out: Path,
    settings: FitSettings,
    on_progress: Progress = lambda adapter, done, metrics: None,
    stop: Stop = never,
    last: Path | None = None,
) -> dict[str, Any]:
    """Fit a world, write it to `out`, and return its manifest.

    A finished fit of the same data is reused, and a killed fit is resumed. A fit that `stop` ended between two steps is
    resumed as well; its manifest has `partial`. `last` is the previous world: if it has the same base, its adapters are
    the start. `on_progress` is called with a part (TITLES), the share that is done (0 to 1), and the latest metrics.
    """
    learned = learn(transitions, conversations)
    identity = _identity(transitions, settings)
    if (out / "manifest.json").exists() and read_manifest(out).get("id") == identity:
        return read_manifest(out)
    (out / "manifest.json").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    base = load_base(settings.base)
    rng = random.Random(settings.seed)
    trained = learned.part(learned.split.train)
    rules, shared = learn_rules(trained)
    save_rules(out, rules, shared.facts)
    engine = Engine(rules, shared.facts)
    shapes = learn_shapes(engine, trained, learned.users)
    shapes.implicit = measure_implicit(trained, engine.writes)
    save_shapes(out, shapes)
    settled = derived_calls(engine, trained, shared)
    examples = [
        example
        for example in world_examples(trained, learned.frame, learned.index, rng, users=learned.users)
        if (example.conversation_id, example.at) not in settled or rng.random() < KEEP_DERIVED
    ]
    framed = [world_row(example, base.format, settings.longest) for example in examples]
    usable = [row for row in framed if row is not None]
    kept = set(learned.split.train)
    spoken = [c for c in conversations if c.conversation_id not in set(learned.split.test)]
    turns = user_rows([c for c in spoken if c.conversation_id in kept], base.format, rng)
    said = [Row(tuple(ids), tuple(trained)) for ids, trained in turns if len(ids) <= settings.longest]
    share = 1.0 - settings.user_share if settings.user and said else 1.0
    weigh = partial(_weights, outcome=settings.outcome_weight)
    marked = [Row(tuple(ids), tuple(trained), weights=weigh(trained)) for ids, trained in usable]
    train = partial(_train, base, settings=settings, identity=identity, on_progress=on_progress, stop=stop, last=last)
    history = {"world": train(marked, out / "adapter", share=share)}
    adapters = {"world": "adapter", "user": None}
    if settings.user and said:
        history["user"] = train(said, out / "user", share=settings.user_share)
        adapters["user"] = "user"
    resolver = _calibrated(learned, base, out, settings, on_progress)
    held_out, known = learned.part(learned.split.calibrate), learned.part(learned.split.train)
    on_progress("holes", 0.0, {})
    unseen = replace(resolver, index=learned.index)  # what is asked next is in the resolver's own index
    ways = asyncio.run(_ways(WorldModel(unseen, None, engine, shapes), held_out, known, settings.holes))
    on_progress("holes", 1.0, {})
    resolver = replace(resolver, writes=model_is_better(ways))
    save_tools(out, resolver)
    write_json(out / "support.json", _support(unseen, engine, shapes, learned))
    write_json(out / "said.json", said_in([c for c in conversations if c.conversation_id in set(learned.split.test)]))
    write_split(out, learned.split)
    hand_on(last, out)
    write_conversations(out / "held_out.parquet", learned.part(learned.split.test))
    stopped = next((found for found in map(unfinished, history.values()) if found), None)
    manifest = {
        "version": VERSION,
        "id": identity if stopped is None else f"{identity}-partial",
        "partial": stopped,
        "base": settings.base,
        "adapters": adapters,
        "users": _users(learned, conversations, base, out if adapters["user"] else None, settings.bias_calls),
        "reply_tokens": reply_tokens([sum(trained) for _, trained in turns]),
        "settings": settings.model_dump(),
        "counts": {
            **_counts(learned),
            "derived": len(settled),
            "rows": len(usable),
            "too_long": len(framed) - len(usable),
            "user_rows": len(said),
            "user_too_long": len(turns) - len(said),
        },
        "history": history,
        "holes": ways,
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _identity(transitions: Sequence[Transition], settings: FitSettings) -> str:
    """Return a name for (data, settings): equal inputs give equal worlds."""
    digest = hashlib.blake2b(json.dumps(settings.model_dump(), sort_keys=True).encode(), digest_size=6)
    for t in transitions:
        digest.update(f"{t.conversation_id} {t.index} {t.content}".encode())
    return digest.hexdigest()


def _counts(learned: Learned) -> dict[str, int]:
    split = learned.split
    return {
        "train_conversations": len(split.train),
        "calibrate_conversations": len(split.calibrate),
        "test_conversations": len(split.test),
        "shared_entities": split.shared_entities,
        "transitions": sum(map(len, learned.steps.values())),
        "tools": len(learned.frame.classes),
    }


# ----- adapters


def _train(
    base: Base,
    rows: Sequence[Row],
    out: Path,
    settings: FitSettings,
    share: float,
    identity: str,
    on_progress: Progress,
    stop: Stop,
    last: Path | None,
) -> list[dict[str, float]]:
    """Train one adapter on `share` of the budget, unless a killed fit of the same data has finished it."""
    done = manifest_of(out)
    if done is not None and done["fit"] == identity:
        return done["history"]
    few = min(200, len(rows) // 20)
    learner = LearnerSettings(
        lora=LoraSettings(rank=settings.rank, alpha=2 * settings.rank),
        learning_rate=settings.learning_rate,
        preset="world",
        schedule="cosine",
        max_grad_norm=1.0,
    )
    how = SftSettings(
        learner=learner,
        step_tokens=settings.step_tokens,
        max_tokens=max(1, int(settings.max_tokens * share)),
        max_epochs=settings.epochs,
    )
    weights, config, history = fit_sft(
        base,
        rows[few:],
        rows[:few],
        how,
        out.with_name(f"{out.name}.{identity}.state.pt"),
        settings.seed,
        warm_start(last / out.name if last else None, base, learner.lora),
        on_progress=lambda done, metrics: on_progress(out.name, done, metrics),
        stop=stop,
    )
    whole = unfinished(history) is None  # a fit that was stopped goes on when it is asked for again
    save_weights(weights, config, out, {"fit": identity if whole else "", "base": base.name, "history": history})
    return history


def _weights(trained: Sequence[bool], outcome: float) -> tuple[float, ...]:
    """Return the weights of the learned tokens of a world row; the first is the outcome digit."""
    return outcome, *[1.0] * (sum(trained) - 1)


# ----- users


def _users(
    learned: Learned, conversations: Sequence[Conversation], base: Base, out: Path | None, most: int
) -> dict[str, Any]:
    """Measure real users. How often they leave is fitted on conversations that the adapter in `out` did not see."""
    from training.engines.local import LocalEngine

    part = {name: set(getattr(learned.split, name)) for name in ("calibrate", "test")}
    seen = [c for c in conversations if c.conversation_id not in part["test"]]
    bias = 0.0
    if out is not None:
        engine = LocalEngine(base.model, base.format.pad_id)
        engine.load_adapter("user", out / "user")
        held_out = [c for c in seen if c.conversation_id in part["calibrate"]]
        bias = asyncio.run(fit_leaving(UserSide(engine, base.format, "user"), held_out, most))
    reactions = learn_reactions(reaction_turns(seen))
    return {
        "patience": patience(seen),
        "leave_bias": bias,
        "knowledge": learn_knowledge(seen).to_json(),
        "reactions": reactions.to_json(),
    }


# ----- biases


def _calibrated(learned: Learned, base: Base, out: Path, settings: FitSettings, on_progress: Progress) -> Resolver:
    """Return the resolver with its biases. Its index then also has the conversations on which they were fitted."""
    from training.engines.local import LocalEngine

    engine = LocalEngine(base.model, base.format.pad_id)
    engine.load_adapter("world", out / "adapter")
    steps = [s for part in learned.part(learned.split.train).values() for s in part]
    profiles = learn_profiles(steps)
    some = steps[:: max(1, len(steps) // MOST_FOR_LENGTHS)]
    longest = body_tokens([len(base.format.encode(step.content)) for step in some])
    resolver = Resolver(engine, base.format, "world", learned.frame, learned.index, profiles, body_tokens=longest)
    held_out = learned.part(learned.split.calibrate)
    biases = asyncio.run(
        fit_biases(
            resolver, held_out, learned.users, settings.bias_calls, lambda done: on_progress("biases", done, {})
        )
    )
    seen = learned.part((*learned.split.train, *learned.split.calibrate))
    groups = entity_groups(seen, learned.frame.effects)
    return replace(resolver, biases=biases, index=build_index(seen, learned.frame, groups))


async def _ways(
    model: WorldModel, held_out: Mapping[str, Sequence[Step]], trained: Mapping[str, Sequence[Step]], most: int
) -> dict[str, Any]:
    """Compare how well the model and drawn values fill holes, on conversations from which nothing was learned."""
    asked = questions(held_out, trained, model.resolver, MOST_FOR_SUPPORT, model.rules)
    return await ask_holes(model, asked, most, ("by_schema", "drawn"))


def body_tokens(lengths: Sequence[int]) -> int:
    """Return the maximum number of tokens of a body: 1.25 times the 99th percentile of recorded ones, from 32 to
    MAX_BODY_TOKENS. Without it, a base that writes on and on would always write the maximum."""
    ordered = sorted(lengths) or [MAX_BODY_TOKENS]
    return min(MAX_BODY_TOKENS, max(32, math.ceil(1.25 * ordered[int(0.99 * (len(ordered) - 1))])))


def model_is_better(ways: Mapping[str, Any]) -> bool:
    """Whether the model fills holes at least as well as drawn values; True if there are too few cases."""
    if ways["n"] < FEWEST_FOR_BIAS:
        return True
    return (ways["by_schema"]["field_f1"] or 0.0) >= (ways["drawn"]["field_f1"] or 0.0)


def _support(resolver: Resolver, engine: Engine, shapes: Shapes, learned: Learned) -> dict[str, Any]:
    """Return, per provenance, support calibrated on conversations from which nothing was learned. No model is used:
    what it would invent is drawn, and of that only the outcome can be right."""
    held_out = learned.part(learned.split.calibrate)
    trained = learned.part(learned.split.train)
    asked = questions(held_out, trained, resolver, MOST_FOR_SUPPORT, engine)
    model = WorldModel(replace(resolver, writes=False), None, engine, shapes)
    pairs: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for judged in asyncio.run(ask_world(model, asked, worlds=0)):
        if judged.answer is not None:
            pairs[judged.provenance].append((judged.support, right(judged)))
    return {name: fit_support(found) for name, found in sorted(pairs.items()) if len(found) >= FEWEST_FOR_BIAS}


async def fit_biases(
    resolver: Resolver,
    held_out: Mapping[str, Sequence[Step]],
    users: Mapping[str, str] = MappingProxyType({}),
    most: int = 300,
    on_done: Callable[[float], None] = lambda share: None,
) -> dict[str, list[float]]:
    """Return, per tool with several outcome classes and enough held-out calls (the first `most`), the bias of its
    digits. `users` has the first message of each conversation. `on_done` is called with the share of the tools that
    are done."""
    asked: dict[str, list[Example]] = defaultdict(list)
    for conversation_id, steps in held_out.items():
        for at, step in enumerate(steps):
            if len(resolver.frame.classes.get(step.tool, ())) > 1 and len(asked[step.tool]) < most:
                user = users.get(conversation_id, "")
                asked[step.tool].append(frame_step(conversation_id, steps, at, resolver.frame, resolver.index, user))
    biases = {}
    for number, (tool, examples) in enumerate(sorted(asked.items()), start=1):
        enough = examples if len(examples) >= FEWEST_FOR_BIAS else []
        found = await asyncio.gather(*(resolver.digit_logprobs(e.framed) for e in enough))
        usable = [(logprobs, e.outcome) for logprobs, e in zip(found, enough, strict=True) if logprobs is not None]
        if len(usable) >= FEWEST_FOR_BIAS:
            biases[tool] = fit_bias([logprobs for logprobs, _ in usable], [outcome for _, outcome in usable])
        on_done(number / len(asked))
    return biases
