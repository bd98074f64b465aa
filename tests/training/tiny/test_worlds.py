"""Procedural tool worlds: writes are read back, failures can be repaired, nothing of the example occurs in them."""

import ast
import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from examples.support_desk.language import words as desk
from training.tiny.pretraining.worlds import failures, lexicon, names, phrases, shapes
from training.tiny.pretraining.worlds.talk import Talk
from training.tiny.pretraining.worlds.world import Answer, Api, World

WORLDS = Path(lexicon.__file__).parent
DESK = Path(desk.__file__).parents[1]


def persistent(world: World, name: str, arguments: dict) -> Answer:
    """Repeat a call until nothing transient is in the way, correcting what errors name."""
    for _ in range(40):
        answer = world.call(name, arguments)
        if answer.reason == "throttled":
            pause = next(t for t in world.api.tools if t.sort == "pause")
            world.call(pause.name, {pause.argument: answer.hint})
        elif answer.reason != "unavailable":
            if answer.outcome == "ok" or not isinstance(answer.hint, dict):
                return answer
            arguments = {**arguments, **answer.hint}
    return answer


def test_a_write_is_read_back_after_the_lag():
    checked = 0
    for seed in range(300):
        world = World(Api(random.Random(seed)))
        for tool in world.api.tools:
            if tool.sort != "act" or world.api.failures.linked:
                continue
            kind = tool.kind
            identity, record = next(iter(world.records[kind.noun].items()))
            record[kind.status] = sorted(tool.needs)[0]
            read = next(t for t in world.api.tools if t.kind is kind and t.sort == "get")
            if persistent(world, tool.name, {kind.id_key: identity}).outcome != "ok":
                assert identity in world.denied
                continue
            told = [persistent(world, read.name, {kind.id_key: identity}).hint for _ in range(5)]
            lag = world.api.failures.lag
            assert [t[kind.status] == tool.gives for t in told] == [False] * lag + [True] * (5 - lag)
            checked += 1
    assert checked > 200


def test_refused_ids_are_accepted_in_the_form_that_the_error_names():
    refused = 0
    for seed in range(400):
        world = World(Api(random.Random(seed)))
        for tool in world.api.tools:
            if tool.sort != "get" or tool.form == "whole":
                continue
            identity = next(iter(world.records[tool.kind.noun]))
            first = world.call(tool.name, {tool.kind.id_key: identity})
            refused += first.reason == "invalid"
            assert persistent(world, tool.name, {tool.kind.id_key: identity}).hint[tool.kind.id_key] == identity
    assert refused > 20


def test_a_version_that_was_set_to_a_text_is_kept():
    checked = 0
    for seed in range(60):
        api = Api(random.Random(seed))
        for tool in (t for t in api.tools if t.sort == "set" and t.field.unit is None and t.form == "whole"):
            api.failures = replace(api.failures, versions=tool.field.name, denied=0.0, confirm="")
            world = World(api)
            identity, record = next(iter(world.records[tool.kind.noun].items()))
            arguments = {tool.kind.id_key: identity, tool.field.name: record[tool.field.name], tool.argument: "plain"}
            if persistent(world, tool.name, arguments).outcome == "ok" and tool.argument != tool.field.name:
                assert record[tool.field.name] == "plain"
                checked += 1
    assert checked > 3


def test_pages_list_every_item_once():
    checked = 0
    for seed in range(200):
        world = World(Api(random.Random(seed)))
        api = world.api
        for tool in (t for t in api.tools if t.sort == "browse"):
            first, step = (1, 1) if "page" in api.paging else (0, api.page_size)
            query = str(next(iter(world.records[tool.kind.noun].values()))[tool.kind.title])[-5:]
            seen: list[str] = []
            for page in range(8):
                answer = persistent(world, tool.name, {api.query: query, api.paging: first + page * step})
                entries, more = answer.hint
                seen += [e[tool.kind.id_key] for e in entries]
                if not more:
                    break
            assert len(seen) == len(set(seen)) >= 1
            checked += page > 0
    assert checked > 10


def test_every_failure_and_every_kind_of_tool_occurs_and_none_is_in_all_worlds():
    reasons, sorts, pages = Counter(), Counter(), set()
    for seed in range(600):
        talk = Talk(random.Random(seed))
        codes = {code: reason for reason, code in talk.api.shapes.codes.items()}
        found = talk.run()
        reasons.update({codes[o] for o in found.outcomes if o != "ok"})
        sorts.update({t.sort for t in talk.api.tools})
        pages.add(talk.api.page_size)
    assert set(reasons) >= set(shapes.CODES) - {"unknown_tool"}
    assert max(reasons.values()) < 300
    assert set(sorts) == {"get", "list", "browse", "count", "set", "act", "create", "delete", "link", "pause"}
    assert len(pages) > 6


def test_worlds_of_one_api_have_the_same_tools_and_other_records():
    api = Api(random.Random(3))
    first, second = World(api), World(api)
    assert first.api.tools is second.api.tools
    assert first.records != second.records


def test_answers_of_objects_are_json():
    for seed in range(200):
        talk = Talk(random.Random(seed)).run()
        for message in talk.messages:
            if message["role"] == "tool" and message["content"].startswith(("{", "[")):
                json.loads(message["content"])


# ----- the examples are test sets


def written_words() -> set[str]:
    """All words in the source of the procedural worlds, in lower case."""
    text = "\n".join(path.read_text() for path in WORLDS.glob("*.py"))
    return {word.lower() for word in re.findall(r"[^\W\d_]+", text)}


@pytest.mark.parametrize(
    "words", ["FIRST_NAMES", "LAST_NAMES", "STREETS", "CITIES", "DAYS", "MATERIALS", "NOUNS", "COLOURS"]
)
def test_no_word_of_the_example_is_in_the_lexicon(words):
    assert not {w.lower() for w in getattr(desk, words)} & written_words()


def test_invented_names_are_none_of_the_example():
    known = {*desk.FIRST_NAMES, *desk.LAST_NAMES, *desk.STREETS, *desk.CITIES}
    drawn = {names.Sounds(random.Random(seed)).name() for seed in range(20_000)}
    assert len(drawn) > 10_000 and not drawn & known


def strings(path: Path) -> set[str]:
    """The string constants of a file that are texts of several words, without docstrings and lists of words."""
    tree = ast.parse(path.read_text())
    found = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {text for text in found if " " in text and len(text) < 90}


def normal(text: str) -> str:
    """A template or message in lower case, with one mark for whatever is filled in."""
    return re.sub(r"\W+", " ", re.sub(r"\{[^}]*\}|[A-Z]-", "_", text)).lower().strip()


def test_no_phrase_or_error_of_the_example_is_in_the_worlds():
    theirs = {normal(text) for path in DESK.rglob("*.py") for text in strings(path)}
    ours = {normal(text) for path in WORLDS.glob("*.py") for text in strings(path)}
    shared = {text for text in theirs & ours if text.count(" ") >= 2 and text.strip("_ ")}
    assert not shared


def test_the_worlds_import_nothing_of_examples_and_benchmarks():
    for path in (WORLDS.parent).rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (examples|benchmarks|tests)\b", path.read_text(), re.M), path
    assert failures and phrases
