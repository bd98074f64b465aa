"""The best scores that a world can reach on a card where production has errors that pass by themselves.

Such an error (a timeout, a 429) is drawn at its rate, in production and in a world, and the two draws are independent.
So a world that knows every rule still differs from production in the calls where one of them draws an error. Here the
same calls are answered by production's own answers, with errors drawn at the rates of the world's rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.card.ask import Question
from worldmodel.card.measures import Judged, exact_match, outcome_f1
from worldmodel.derive.engine import Engine, Session, uniform
from worldmodel.derive.trees import Leaf, leaf_of
from worldmodel.steps import Step

DRAWS = 16
"""The mean is over this many draws of all errors."""


def is_lasting(rules: Engine, one: Judged) -> bool:
    """Whether neither production's answer nor the given one is an error that passes by itself."""
    return not any(rules.passes(one.truth.tool, outcome) for outcome in (one.truth.outcome, one.outcome))


def lasting(rules: Engine, judged: Sequence[Judged]) -> dict[str, Any]:
    """Return exact match, that of derivable calls and of state-changing ones, and outcome F1, over the lasting answers,
    each with the number of its calls."""
    return _measures([j for j in judged if is_lasting(rules, j)])


def ceiling(rules: Engine, asked: Sequence[Question]) -> dict[str, Any]:
    """Return the same measures of a world that knows everything but the draws of production. An upper bound: an answer
    that no rule determines counts as right as well.

    Where production drew an error and the world does not, the world's answer is wrong; its outcome is drawn from the
    tool's others.
    """
    others: dict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        if not rules.passes(question.truth.tool, question.truth.outcome):
            others[question.truth.tool][question.truth.outcome] += 1
    leaves = [_accidents(rules, question) for question in asked]
    found = [
        _measures([
            question.judged(_answer(question, leaf, others[question.truth.tool], number))
            for question, leaf in zip(asked, leaves, strict=True)
        ])
        for number in range(DRAWS if any(leaves) else 1)
    ]  # fmt: skip
    return {name: _mean_of([one[name] for one in found]) for name in found[0]}


def _accidents(rules: Engine, question: Question) -> Leaf | None:
    """The odds of errors that pass by themselves, in the state before a call."""
    of_tool = rules.rules.tools.get(question.truth.tool)
    if of_tool is None or of_tool.accidents is None:
        return None
    session: Session = question.grounding().session(rules)
    row = of_tool.sources(session.situation(question.truth.tool, question.truth.arguments).row)
    named = Leaf(Counter())
    for label, n in leaf_of(of_tool.accidents, row)[0].counts.items():
        named.counts[of_tool.forms[label].outcome if label in of_tool.forms else ""] += n
    return named


def _answer(question: Question, leaf: Leaf | None, others: Counter[str], number: int) -> Step:
    truth = question.truth
    parts = (number, question.conversation_id, len(question.before))
    drawn = leaf.draw(uniform("fault", *parts)) if leaf is not None else None
    if drawn:
        return Step(truth.tool, truth.arguments, truth.content if drawn == truth.outcome else "", drawn)
    if truth.outcome in others:
        return truth
    return Step(truth.tool, truth.arguments, "", Leaf(others).draw(uniform("other", *parts)) or "")


def _measures(judged: Sequence[Judged]) -> dict[str, Any]:
    derivable = [j for j in judged if j.derivable]
    writes = [j for j in judged if j.writes]
    return {
        "n": len(judged),
        "exact_match": exact_match(judged),
        "derivable": {"n": len(derivable), "exact_match": exact_match(derivable)},
        "state_changing": {"n": len(writes), "exact_match": exact_match(writes)},
        "outcome_f1": outcome_f1(judged),
    }


def _mean_of(values: Sequence[Any]) -> Any:
    """The mean of equal structures, number by number; None where any of them has none."""
    if isinstance(values[0], Mapping):
        return {name: _mean_of([value[name] for value in values]) for name in values[0]}
    return None if None in values else sum(values) / len(values)
