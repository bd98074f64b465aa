"""A world model on a small random base: the bodies that it writes are random, so far as their schema allows."""

from __future__ import annotations

import random

from training.engines.local import LocalEngine
from training.models.chat import CompactFormat
from training.models.roles import transcript
from training.tiny.pretraining.run import new_model
from training.tiny.pretraining.tokenizer import train_tokenizer
from training.tiny.pretraining.worlds.talk import Talk
from worldmodel.derive.engine import Engine
from worldmodel.effects import learn_effects
from worldmodel.generate.context import Frame, learn_patched
from worldmodel.generate.examples import build_index
from worldmodel.generate.resolver import Resolver
from worldmodel.generate.shapes import learn_shapes
from worldmodel.learn.induce import induce
from worldmodel.profiles import learn_profiles
from worldmodel.steps import Step, outcome_classes
from worldmodel.users.user import UserSide
from worldmodel.world import WorldModel


def random_world(
    conversations: dict[str, list[Step]], texts: int, vocabulary: int, body_tokens: int, name: str = "",
    with_user: bool = False,
) -> WorldModel:  # fmt: skip
    """The rules of these conversations, beside a model with random weights whose tokenizer read `texts` transcripts."""
    tokenizer = train_tokenizer((transcript(Talk(random.Random(s)).run().messages) for s in range(texts)), vocabulary)
    chat = CompactFormat(tokenizer)
    engine = LocalEngine(new_model(tokenizer, seed=3), chat.pad_id)
    steps = [step for part in conversations.values() for step in part]
    effects = learn_effects(list(conversations.values()))
    frame = Frame(effects, outcome_classes(steps), learn_patched(list(conversations.values()), effects))
    index = build_index(conversations, frame)
    resolver = Resolver(engine, chat, None, frame, index, learn_profiles(steps), body_tokens=body_tokens)
    rules = Engine(*induce(conversations))
    user = UserSide(engine, chat, None, patience=4, max_tokens=8) if with_user else None
    return WorldModel(resolver, user, rules, learn_shapes(rules, conversations), name)
