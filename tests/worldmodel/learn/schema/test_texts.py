"""Answers in sentences are read as objects: what stands in their gaps is known afterwards."""

from __future__ import annotations

import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.templates import Sentence, joined, mask, number_in, read
from worldmodel.generate.shapes import learn_shapes
from worldmodel.learn.induce import induce
from worldmodel.learn.schema.texts import learn_texts, read_all
from worldmodel.steps import OK, Step, outcome_of

WORDS = "amber basil cedar delta ember fjord grove haven".split()


def boxes(k: int, length: int = 10) -> list[Step]:
    """Boxes that are looked at, filled and emptied; all answers are sentences."""
    rng = random.Random(f"boxes {k}")
    held: dict[str, str | None] = {f"BX-{rng.randrange(100, 999)}": rng.choice([None, *WORDS]) for _ in range(2)}
    steps = []
    for _ in range(length):
        box, tool = rng.choice(list(held)), rng.choice(["look", "look", "fill", "empty"])
        arguments: dict[str, Any] = {"box": box}
        if tool == "look":
            text = f"Box {box} holds {held[box]}." if held[box] else f"Box {box} is empty."
        elif tool == "fill":
            arguments["item"] = rng.choice(WORDS)
            text = f"Error: box {box} is full" if held[box] else f"Put {arguments['item']} into {box}."
            held[box] = held[box] or arguments["item"]
        else:
            text = f"Took {held[box]} out of {box}." if held[box] else f"Error: box {box} has nothing"
            held[box] = None
        failed = text.startswith("Error")
        steps.append(Step(tool, arguments, text, outcome_of(text, True, "") if failed else OK))
    return steps


def test_a_text_that_was_read_before_is_known() -> None:
    rules, facts = induce({f"c{k}": boxes(k) for k in range(60)})
    engine = Engine(rules, facts)
    right = asked = 0
    for k in range(60, 72):
        session = Session(engine)
        known: set[str] = set()
        for step in boxes(k):
            box = step.arguments["box"]
            if step.tool == "look" and box in known:
                answer = session.derive(step.tool, step.arguments, k, accidents=False)
                right, asked = right + (answer is not None and answer.content == step.content), asked + 1
            if step.outcome == OK:
                known.add(box)
            session.told(step.tool, step.arguments, step.content, step.outcome)
    assert asked >= 20 and right >= 0.8 * asked, (right, asked)


def test_gaps_have_the_names_of_arguments_and_of_the_words_before_them() -> None:
    conversations = {f"c{k}": boxes(k) for k in range(40)}
    texts = learn_texts(conversations)
    assert {name for sentence in texts["look"] for name in sentence.names} >= {"box"}
    first = next(step for step in read_all(conversations, texts)["c1"] if step.tool == "look")
    assert first.content.startswith('{"says":"Box _ ')


def test_texts_that_repeat_only_the_call_are_left_alone() -> None:
    steps = [Step("make", {"name": word}, f"made {word}", OK) for word in WORDS]
    assert learn_texts({"c": steps}) == {}


def held(box: int, content: str) -> Step:
    return Step("look", {"box": f"BX-{box}"}, f"Box BX-{box} {content}.", OK)


def test_what_one_conversation_says_is_no_sentence_however_often_it_says_it() -> None:
    usual = {f"c{k}": [held(k + 100, f"holds {WORDS[k % 8]}"), held(k + 200, "is empty")] for k in range(24)}
    own = {"own": [held(k + 300, "belongs to Maria Lind alone") for k in range(6)]}
    templates = [sentence.template for sentence in learn_texts({**usual, **own})["look"]]
    assert len(templates) > 1 and not any("Maria" in template for template in templates)
    shared = {f"d{k}": [held(k + 300, "belongs to the shop alone")] for k in range(6)}
    assert any("shop" in sentence.template for sentence in learn_texts({**usual, **shared})["look"])


def test_texts_in_the_gaps_of_sentences_can_be_private() -> None:
    talks = {f"c{k}": [held(k + 100, f"holds '{WORDS[k % 8]}'"), held(k + 200, "is empty")] for k in range(32)}
    talks["c0"] = [held(100, "holds 'Maria Lind'"), held(200, "is empty")]
    shapes = learn_shapes(Engine(*induce(talks)), talks)
    assert shapes.is_private("Maria Lind") and not shapes.is_private("basil")


def test_a_gap_is_read_as_its_kind() -> None:
    sentence = Sentence("Free \x00 boxes: \x00, \x00 EUR", ("size", "boxes", "price"), ("text", "list", "number"))
    said = {"says": "Free _ boxes: _, _ EUR", "size": "0042", "boxes": [1, 12], "price": 2.5}
    assert read([sentence], "Free 0042 boxes: 1, 12, 2.50 EUR") in (said, {**said, "boxes": [1], "price": "12, 2.50"})
    assert read([sentence], "No box is free") is None
    assert number_in("0042") is None and number_in("12") == 12 and number_in("-2.50") == -2.5


def test_ids_with_hyphens_are_whole_and_lists_are_one_gap() -> None:
    template, gaps = mask("Box BX-12 holds 3, 4, 5.", [])
    assert gaps == ["BX-12", "3", "4", "5"]
    assert joined(template, gaps) == ("Box \x00 holds \x00.", ["BX-12", "3, 4, 5"])


def test_a_short_argument_that_all_texts_repeat_is_a_gap() -> None:
    assert mask("Free M boxes: 3.", ["M"], ["M"])[1] == ["M", "3"]
    assert mask("Free M boxes: 3.", ["M"])[1] == ["3"]
