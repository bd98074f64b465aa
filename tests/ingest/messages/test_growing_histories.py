"""What is read once of histories that every call repeats is what reading all of each would give."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ingest_samples import answer, call, chat, conversation, request, text

from ingest.conversations import threads
from ingest.conversations.assembly import conversations_of, groups_of
from ingest.conversations.hidden_history import Evidence
from ingest.formats import otlp
from ingest.messages.chatform import canonical, key_of
from ingest.messages.histories import Histories
from ingest.messages.parts import parse
from ingest.messages.shapes import read_messages
from ingest.tables.normalise import Normalised, Rows, normalise, read, rows_of
from ingest.tables.packing import pack_conversation, pack_spans, unpack_conversation, unpack_spans

WORDS = st.sampled_from(["hello", "hi ", "hi\u00a0", "hi\t", " hi", "", "[1]", '{"a": 1.0}', "a]", ",", '"', "é", "\n"])
MESSAGES = st.one_of(
    st.builds(text, st.sampled_from(["system", "user", "assistant"]), WORDS),
    st.builds(call, WORDS, st.sampled_from(["look", "find"]), st.dictionaries(WORDS, WORDS, max_size=2)),
    st.builds(answer, WORDS, WORDS),
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "ai"]), WORDS),
    WORDS,
)
FORMS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]


@settings(deadline=None)
@given(st.data(), st.lists(MESSAGES, max_size=8), st.sampled_from(FORMS))
def test_a_growing_list_gives_the_same_messages_as_the_whole(
    data: st.DataObject, told: list[Any], form: dict[str, Any]
) -> None:
    histories = Histories()
    for _ in range(6):
        shown = told[: data.draw(st.integers(0, len(told)))] + data.draw(st.lists(MESSAGES, max_size=2))
        written = json.dumps(shown, **form)
        written = written[: data.draw(st.sampled_from([None, -1, -2, 1]))]
        found = histories.read(written, "user", ("c", data.draw(st.sampled_from("kl"))))
        whole = parse(written)
        assert found == (read_messages(whole, "user") if isinstance(whole, list) else None)


def test_text_that_is_not_a_list_is_not_read_as_a_continuation() -> None:
    histories = Histories()
    assert histories.read("[]", "user", ("c", "k")) == []
    assert histories.read('[,"hello"]', "user", ("c", "k")) is None
    assert histories.read('["hello"]', "user", ("c", "k")) is not None
    assert histories.read('["hello",]', "user", ("c", "k")) is None
    assert histories.read('[""]', "user", ("c", "k")) == []
    assert histories.read('["",]', "user", ("c", "k")) is None


def test_a_continued_list_reuses_its_message_objects() -> None:
    histories = Histories()
    told = [{**text("user", f"number {n}"), "name": "me"} for n in range(9)]
    before = histories.read(json.dumps(told[:-1]), "user", ("c", "k"))
    after = histories.read(json.dumps(told), "user", ("c", "k"))
    assert before and after and len(after) == 9
    assert all(a is b for a, b in zip(after, before, strict=False))


def test_the_history_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.messages.histories._MAX_CHARACTERS", 1000)
    histories = Histories()
    for n in range(50):
        histories.read(json.dumps([text("user", "x" * 100)]), "user", (f"c-{n}", "k"))
    assert sum(len(told.text) for told in histories._last.values()) <= 1000


SCALARS = st.one_of(WORDS, st.text(max_size=6), st.integers(-(2**63), 2**63), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3), max_leaves=8
)


@settings(deadline=None)
@given(VALUES)
def test_a_key_is_the_hash_of_the_canonical_value(value: Any) -> None:
    told = orjson.dumps(canonical(orjson.loads(orjson.dumps(value))), option=orjson.OPT_SORT_KEYS)
    assert key_of(value) == xxhash.xxh3_64_digest(told)


CALL, THANKS = call("c-1", "look", {"id": 1}), text("user", "thanks")
TURNS = st.sampled_from(
    [text("user", "where is it"), text("user", "and now"), text("assistant", "there"), text("system", "be kind"),
     call("", "look", {"id": 1}), CALL, call("c-2", "look", {"id": 1.0}),
     answer("c-1", "found"), answer("", '{"error": "gone"}'),
     {**text("assistant", "there"), "finish_reason": "stop"}]
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.lists(TURNS, max_size=3), st.integers(0, 9), TURNS), min_size=1, max_size=7))
@example([([CALL], 9, THANKS), ([answer("c-1", "ok")], 2, THANKS), ([CALL], 5, THANKS)])
def test_conversations_equal_those_of_a_full_comparison(calls: list[tuple[list[Any], int, Any]]) -> None:
    """Each call repeats the history, at times cut back (a branch), without its calls, or not at all, and adds to it."""
    history: list[Any] = []
    spans = []
    for number, (more, kept, said) in enumerate(calls):
        spoken = [m for m in history if m["parts"][0]["type"] == "text"]
        history = [*(history if kept > 4 else spoken if kept > 2 else history[:kept]), *more]
        spans.append(chat(1, number + 2, float(number), history, [said], "c"))
        history = [*history, {k: v for k, v in said.items() if k != "finish_reason"}]
    rows = otlp.Rows()
    otlp.read_json(json.dumps(request(*spans)), rows, 1, "test")
    made = made_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_known", lambda *_: (0, [], None))
        assert made_of(rows).rows == made.rows


def test_packed_values_are_unchanged() -> None:
    rows = otlp.Rows()
    otlp.read_json(json.dumps(conversation(1, "c-1")), rows, 1, "test")
    otlp.read_json(json.dumps(conversation(2, None)), rows, 1, "test")
    observed, _ = read(*raw_of(rows), {})
    found = groups_of(observed)
    for g in found:
        assert unpack_spans(pack_spans(g.members)) == g.members
    made = conversations_of(found, {}, Evidence())
    assert len(made) == 2 and all(c.links for c in made)
    assert [unpack_conversation(pack_conversation(c)) for c in made] == made


def made_of(rows: otlp.Rows) -> Normalised:
    return normalise(*raw_of(rows))


def raw_of(rows: otlp.Rows) -> tuple[Rows, Rows]:
    tables = [otlp.to_table(rows.spans, otlp.SPAN_SCHEMA), otlp.to_table(rows.log_records, otlp.LOG_SCHEMA)]
    spans, records = (table.to_batches() for table in tables)
    return rows_of(spans, "spans"), rows_of(records, "log_records")
