"""Which texts are one form, and rounding to as many places as a call says."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.templates import GAP
from worldmodel.learn.forms import Draft, absorbed, draft_texts
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step


def test_a_text_with_two_gaps_where_another_has_one_is_the_same_form() -> None:
    one = Draft("", OK, f"Seen: {GAP} today.", True, [0, 2, 4], {"0": ["red fox", "owl", "old oak"]})
    two = Draft("", OK, f"Seen: {GAP} {GAP} today.", True, [1, 3], {"0": ["wet", "dry"], "1": ["stone", "leaf"]})
    (found,) = absorbed([two, one])
    assert (found.template, found.at) == (one.template, [0, 1, 2, 3, 4])
    assert found.slots == {"0": ["red fox", "wet stone", "owl", "dry leaf", "old oak"]}


def test_words_between_gaps_make_another_form() -> None:
    rows: list[dict[str, Any]] = [{"arg/who": name} for name in ("Ana", "Bert", "Cleo", "Dora") * 3]
    rows += [{"arg/who": name, "arg/to": other} for name, other in (("Ana", "Bert"), ("Cleo", "Dora")) * 3]
    bodies = [f"Gave {row['arg/who']}{' to ' + row['arg/to'] if 'arg/to' in row else ''}." for row in rows]
    found: list[Draft] = draft_texts(OK, list(range(len(rows))), bodies, rows)
    assert {draft.template for draft in found} == {f"Gave {GAP}.", f"Gave {GAP} to {GAP}."}


def test_a_function_that_is_often_right_unrounded_is_still_rounded() -> None:
    """The square of 1.5 has two places, so to four it is right without rounding; not that of 72.1 in floating point."""

    def ask(x: float, places: int) -> Step:
        text = json.dumps({"square": round(x * x, places)})
        return Step("square", {"x": x, "places": places}, text, OK, 1.0)

    rng = random.Random(3)
    calls = [ask(round(rng.uniform(1, 900), 1), rng.choice([1, 2, 3, 4])) for _ in range(240)]
    engine = Engine(*induce({f"c{k}": calls[4 * k : 4 * k + 4] for k in range(60)}))
    for x, places in ((72.1, 4), (645.9, 1), (137.2, 3), (0.5, 2)):
        found = Session(engine).derive("square", {"x": x, "places": places}, 0)
        assert found is not None and json.loads(found.content or "null") == {"square": round(x * x, places)}
