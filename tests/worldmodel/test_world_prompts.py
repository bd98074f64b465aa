"""What the world's model reads: what the user wants and what the tool is for, the same in training and in use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from template_samples import FAMILIES, tokenizer_of
from world_samples import random_world

from ingest.errors import UserError
from ingest.records import Conversation, Scenario
from training.engines import TooLong
from training.engines.grammar import UnusableSchema
from training.models.chat import ChatFormat
from training.models.roles import WorldPrompt, described
from training.models.template import TemplateFormat
from worldmodel import WorldModel
from worldmodel.effects import learn_effects
from worldmodel.generate.context import TOOL_TOKENS, USER_TOKENS, Frame, learn_definitions, prompt_ids
from worldmodel.generate.examples import build_index, frame_step, world_row
from worldmodel.generate.resolver import Resolver
from worldmodel.steps import OK, Step

NOTE = {"type": "string", "description": "Which note,\n by its number."}
TOOL = {"name": "read_note", "description": "Read one note of the archive.",
        "parameters": {"type": "object", "properties": {"note": NOTE, "page": {"type": "integer"}}}}  # fmt: skip
WANTED = "what does note N-900 say about the garden?"


def note(number: int) -> Step:
    content = {"note": f"N-{number}", "title": f"about {number * 7919 % 1000}", "pages": number % 9}
    return Step("read_note", {"note": f"N-{number}"}, json.dumps(content), OK, 9.0)


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world({f"c{n}": [note(n), note(n + 300)] for n in range(100, 140)}, 40, 600, body_tokens=40)
    yield made
    made.close()


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    """A real base's format, with one token a byte."""
    return TemplateFormat(tokenizer_of(FAMILIES["qwen2.5"]))


def test_a_definition_is_told_in_words() -> None:
    words = "read_note: Read one note of the archive.\n- note: Which note, by its number."
    assert described(TOOL) == described({"type": "function", "function": TOOL}) == words
    assert described({"name": "read_note"}) == "" == described({"name": "x", "parameters": {"type": "object"}})
    earlier = {**TOOL, "description": "Old."}
    talks = [Conversation("b", "a", [], [TOOL], started_at_ns=2), Conversation("a", "a", [], [earlier, {"name": "x"}])]
    assert learn_definitions(talks) == {"read_note": words}


def test_the_prompt_has_what_the_user_wants_and_what_the_tool_is_for(chat: ChatFormat) -> None:
    def text(prompt: WorldPrompt) -> str:
        return chat.tokenizer.decode(prompt_ids(prompt, chat))

    plain = WorldPrompt((), (), "read_note", {"note": "N-1"}, (OK,))
    full = replace(plain, user=WANTED, definition=described(TOOL))
    assert WANTED in text(full) and described(TOOL) in text(full)
    assert len(text(plain)) < len(text(full)) - len(WANTED) - len(described(TOOL))
    long = text(replace(plain, user="u" * 999, definition="d" * 999))
    assert "u" * USER_TOKENS in long and "u" * (USER_TOKENS + 1) not in long
    assert "d" * TOOL_TOKENS in long and "d" * (TOOL_TOKENS + 1) not in long


def test_the_compact_prompt_has_neither(model: WorldModel) -> None:
    plain = WorldPrompt((), (), "read_note", {"note": "N-1"}, (OK,))
    full = replace(plain, user=WANTED, definition=described(TOOL))
    assert prompt_ids(plain, model.resolver.chat) == prompt_ids(full, model.resolver.chat)


def test_training_and_use_have_one_prompt_for_one_call(model: WorldModel, chat: ChatFormat) -> None:
    prompts: list[list[int]] = []

    class Listens:
        """An engine that keeps prompts and writes nothing."""

        async def sample(self, prompt: Any, **how: Any) -> Any:
            prompts.append(list(prompt))
            return type("Sample", (), {"ids": (), "stopped": False})

    frame = replace(model.resolver.frame, definitions={"read_note": described(TOOL)})
    changed = {"frame": frame, "engine": Listens(), "by_schema": False}
    asked = Step("read_note", {"note": "N-900"}, note(900).content, OK)
    for form in (chat, model.resolver.chat):
        prompts.clear()
        there = replace(model, resolver=replace(model.resolver, chat=form, **changed))
        start = Scenario("s", "new", "Be kind.", [TOOL], WANTED, (WANTED, "thanks"), (), 1.0, 0)
        seen = there.world(scenario=start, seed=0).episode().call(asked.tool, asked.arguments)
        assert seen.provenance == "generated" and len(prompts) == 1
        row = world_row(frame_step("new", [asked], 0, frame, model.resolver.index, WANTED), form, 10_000)
        assert row is not None
        ids, trained = row
        length = trained.index(True)
        assert prompts[0][:length] == ids[:length] and len(prompts[0]) == length + 1, "then the digit of the outcome"
        told = form.tokenizer.decode(prompts[0])
        assert (WANTED in told) == (described(TOOL) in told) == (not form.compact)
        assert world_row(frame_step("new", [asked], 0, frame, model.resolver.index, WANTED), form, length) is None


def test_only_a_request_that_the_engine_cannot_follow_leaves_a_body_open(chat: ChatFormat) -> None:
    class Raises:
        """An engine that fails in one way."""

        def __init__(self, error: Exception) -> None:
            self.error = error

        async def sample(self, prompt: Any, **how: Any) -> Any:
            raise self.error

    talks = {f"c{n}": [note(n)] for n in range(100, 106)}
    frame = Frame(learn_effects(list(talks.values())), {"read_note": (OK,)}, {})
    index = build_index(talks, frame)

    def written(error: Exception) -> Any:
        resolver = Resolver(Raises(error), chat, None, frame, index, {})  # type: ignore[arg-type]
        return asyncio.run(resolver.written("read_note", {"note": "N-900"}, OK, '{"type":"object"}', 0))

    assert written(UnusableSchema("too many states")) is written(TooLong("9 tokens")) is None
    for error in (UserError("no adapter 'world'"), RuntimeError("out of memory")):
        with pytest.raises(type(error), match=str(error)):
            written(error)


def test_nothing_is_retrieved_from_the_conversation_of_the_scenario(chat: ChatFormat) -> None:
    talks = {f"c{n}": [Step("motd", {"page": n}, f'{{"text":"page {n} of c{n}"}}', OK)] for n in range(100, 106)}
    frame = Frame(learn_effects(list(talks.values())), {"motd": (OK,)}, {})
    resolver = Resolver(None, chat, None, frame, build_index(talks, frame), {})  # type: ignore[arg-type]
    for own in ("c105", "new"):
        start = Scenario("s", own, "", [], "hello", ("hello",), (), 1.0, 0)
        world = WorldModel(resolver).world(scenario=start)
        shown = frame.frame("motd", {"page": 105}, (), (), resolver.index, world.around)
        assert any("c105" in text for text in shown.sources) == (own == "new")
