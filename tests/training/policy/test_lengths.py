"""Rows, turns and episodes are as long as the data need and the base allows, and nothing goes missing uncounted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from template_samples import CHATML, byte_tokenizer
from training_samples import Wall, conversation, conversations, scenario, start, tiny_base

from ingest.errors import UserError
from training.learning.fits import FitSettings
from training.models.base import Base, context_length
from training.models.template import TemplateFormat
from training.policy.clone import fit_clone
from training.policy.lengths import conversation_rows, cut_row, fitted_limits, fitting_scenarios
from training.policy.rollout import Limits, rollout
from training.policy.system import differing, shown_system


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def test_every_conversation_is_a_row_or_is_counted_with_its_reason(base: Base) -> None:
    good = conversation(0, "red")
    given_ = [
        good,
        replace(good, messages=good.messages[:1]),
        replace(good, messages=good.messages[1:]),
        replace(good, messages=[{"role": "user", "content": "grey " * 300}, *good.messages[1:]]),
        replace(good, messages=[*good.messages] * 30),
    ]
    rows, counts = conversation_rows(given_, base.format, False, max_tokens=200)
    assert counts.conversations == 5 == len(rows) + counts.left_out.total()
    assert set(counts.left_out) == {
        "no turn of the agent after a user's",
        "the agent's first turn ends after 200 tokens",
    }
    assert dict(counts.cut) == {"longer than 200 tokens": 1} and counts.longest <= 200
    assert "2 left out: no turn of the agent after a user's" in counts.text() and counts.as_dict()["rows"] == 2


def test_a_row_begins_where_practice_begins_if_the_agent_greets_first(base: Base) -> None:
    plain = conversation(0, "red")
    greeted = replace(plain, messages=[{"role": "assistant", "content": "hello, what is it?"}, *plain.messages])
    for show_system in (False, True):
        system = [{"role": "system", "content": "be kind"}] if show_system else []
        rows, counts = conversation_rows(
            [replace(c, messages=[*system, *c.messages]) for c in (plain, greeted)], base.format, show_system, 500
        )
        assert rows[0] == rows[1] and not counts.left_out


def test_conversations_that_the_template_refuses_are_counted_with_its_message(base: Base) -> None:
    template = "{% for m in messages %}{{ raise_exception('no tools here') if m.role == 'tool' }}{% endfor %}"
    chat = TemplateFormat(byte_tokenizer(template, CHATML, eos_token="<|im_end|>"))
    rows, counts = conversation_rows(conversations(3), chat, False, 1000)
    assert not rows and counts.left_out.total() == 3 and "no tools here" in next(iter(counts.left_out))


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 45))
def test_a_cut_row_is_a_prefix_that_ends_with_a_whole_turn(marks: list[bool], most: int) -> None:
    trained = [False, *marks]
    row = cut_row(range(len(trained)), trained, most)
    if row is None:
        first = next((k for k, t in enumerate(trained) if t), None)
        whole = first is not None and any(trained[k] and not trained[k + 1] for k in range(min(most, len(marks))))
        assert not whole or not any(trained[:most])
        return
    kept = len(row.ids)
    assert kept <= most and row.ids == tuple(range(kept)) and row.trained == tuple(trained[:kept])
    assert kept == len(trained) or (trained[kept - 1] and not trained[kept])


def test_limits_rise_to_what_the_conversations_need_and_stay_within_the_context(base: Base) -> None:
    talk = conversation(0, "red")
    long = [replace(talk, messages=[*talk.messages] * 20)] * 4  # forty turns each
    given_ = Limits(turns=4, turn_tokens=8, total_tokens=64)
    found = fitted_limits(given_, long, base.format, 10_000, show_system=False)
    rows, _ = conversation_rows(long, base.format, False, 1 << 30)
    assert found.turns == 40 and found.turn_tokens > 8 and found.total_tokens > len(rows[0].ids)
    assert fitted_limits(given_, long, base.format, 100, show_system=False).total_tokens == 100
    exact = given_.model_copy(update={"from_data": False})
    assert fitted_limits(exact, long, base.format, 10_000, show_system=False) == exact
    wide = Limits(turns=99, turn_tokens=999, total_tokens=9999)
    assert fitted_limits(wide, long, base.format, 1 << 30, show_system=False) == wide
    assert fitted_limits(given_, [], base.format, 1 << 30, show_system=False) == given_


def test_a_scenario_that_cannot_fit_is_refused_before_practice(base: Base) -> None:
    fits, big = scenario(0), replace(scenario(1), first_user_message="grey " * 200)
    limits = Limits(total_tokens=120)
    kept, refused = fitting_scenarios([fits, big], base.format, limits, show_system=False)
    assert kept == [fits] and list(refused.values()) == [1]
    assert "no room for a turn in 120 tokens" in next(iter(refused))
    with pytest.raises(UserError, match=r"none of 1 scenarios can be practised.*the longest prompt has \d+ tokens"):
        fitting_scenarios([big], base.format, limits, show_system=False)


def test_a_rollout_without_room_for_a_turn_is_refused(base: Base) -> None:
    begun = replace(start(), first_user_message="grey " * 200)
    run: Any = rollout(object(), base.format, Wall(), begun, adapter=None, limits=Limits(total_tokens=64))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="its prompt has .* tokens"):
        asyncio.run(run)


def test_a_clone_reports_its_rows(base: Base, tmp_path: Path) -> None:
    given_ = [*conversations(6), replace(conversation(9, "red"), messages=[])]
    manifest = fit_clone(base, [given_[-1], *given_[:-1]], tmp_path / "c", FitSettings(max_epochs=1), show_system=False)
    assert manifest["row_counts"]["left_out"] == {"no turn of the agent after a user's": 1} and manifest["rows"] == 5
    with pytest.raises(UserError, match="nothing to clone: .*no turn of the agent"):
        fit_clone(base, [given_[-1]] * 2, tmp_path / "d", FitSettings(max_epochs=1), show_system=False)


def test_the_context_length_comes_from_the_configuration(base: Base) -> None:
    assert context_length(base.model.config) == base.model.config.max_position_embeddings


def test_a_compact_prompt_keeps_the_sentences_in_which_system_prompts_differ() -> None:
    common = "You work for the mill. Be brief."
    told = [f"{common}\nToday is day {k}. The customer is C-{k}." for k in range(30)]
    given_ = [replace(conversation(0, "red"), messages=[{"role": "system", "content": text}]) for text in told]
    shown = differing(given_)
    assert shown_system(told[7], shown) == "Today is day 7.\nThe customer is C-7."
    assert shown_system("Be brief.", shown) == "" and shown_system("Be kind.", shown) == "Be kind."
    assert (shown_system("a", True), shown_system("a", False)) == ("a", "")
    assert differing([given_[0]] * 30) is False and differing([conversation(0, "red")]) is False
    long = [replace(c, messages=[{"role": "system", "content": c.messages[0]["content"] * 50}]) for c in given_]
    assert differing(long) is False


def test_rows_and_scenarios_have_the_same_part_of_the_system_prompt(base: Base) -> None:
    shown = frozenset({"Be brief."})
    plain = conversation(0, "red")
    one = replace(plain, messages=[{"role": "system", "content": "Be brief. The customer is C-1."}, *plain.messages])
    (row,), _ = conversation_rows([one], base.format, shown, 500)
    said = base.format.decode(row.ids)
    assert "The customer is C-1." in said and "Be brief." not in said
