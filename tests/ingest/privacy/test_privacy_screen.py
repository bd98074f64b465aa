"""The screen in front of the detectors: what it lets pass holds nothing, and the rows are those of a full search."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.conversations.assembly import Assembled
from ingest.conversations.links import Link
from ingest.conversations.threads import Thread
from ingest.messages.chatform import to_turns
from ingest.privacy.conversations import Privacy
from ingest.privacy.detectors import find
from ingest.privacy.fields import Fields, Known
from ingest.privacy.screen import may_hold
from ingest.privacy.scrub import Scrubber
from ingest.privacy.settings import PrivacySettings
from ingest.privacy.tokens import find_secrets
from ingest.tables.normalise import Normalised, add_conversations

KEY = b"k" * 32
WANTED = frozenset(PrivacySettings().detectors)
PERSONAL = (
    "jane.roe@acme-mail.io", "(415) 555-2671", "+49 30 1234567", "4111 1111 1111 1111", "4111111111111111",
    "DE89 3704 0044 0532 0130 00", "81.2.69.142", "2a00:1450:4001::200e", "219-09-9999", "RSSMRA85T10A562S",
    "12345678Z", "X1234567L", "password is Hunter42x", "secret_key=abc123x", "Bearer abcdefghijklmnopqrst",
    "https://root:pass@host", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "xoxb-1-a",
    "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "to\u212aen: abc123x", "sk-abcdefghijklmnopqrst²",
)  # fmt: skip
AROUND = st.text(st.sampled_from(" \n\t\"'\\/n,.:;x0é@-"), max_size=4)
SAID = st.tuples(AROUND, st.sampled_from(PERSONAL), AROUND).map("".join)
JSON_VALUES = st.recursive(
    SAID | st.sampled_from(["plain words", "7998a803", 4111111111111111, 12]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["id", "email", "first-name"]), x, max_size=3)
    | st.dictionaries(st.just("said"), x.map(json.dumps), max_size=1),
)  # fmt: skip


@given(SAID)
def test_a_text_with_something_in_it_does_not_pass_however_it_is_written(text: str) -> None:
    if find(text, WANTED) or find_secrets(text):
        once = json.dumps(text, ensure_ascii=False)
        twice = json.dumps({"text": once}, ensure_ascii=False)
        for written in (text, once, twice, json.dumps([text]), f"a\n{text}\nb"):
            assert may_hold(written)


@pytest.mark.parametrize("number", [4111111111111111, 378282246310005])
def test_a_number_in_a_list_does_not_pass(number: int) -> None:
    assert may_hold(json.dumps([1, number, 2], separators=(",", ":")))


@pytest.mark.parametrize("text", ["the token of 12345-0", '{"id":"7998a803","name":"look"}', "at 10:30, on 2024-05-15"])
def test_plain_texts_pass(text: str) -> None:
    assert not may_hold(text)


@given(JSON_VALUES)
def test_the_fast_test_has_no_false_negatives(value: Any) -> None:
    fields, known = Fields(PrivacySettings(), lambda _: False), Known()
    fields.learn(value, known)
    fields.learn_text(json.dumps(value), known)
    assert not known or fields.may_learn(json.dumps(value))


def conversation(said: str, arguments: Any, answer: Any) -> Assembled:
    messages: list[Any] = [
        {"role": "user", "parts": [{"type": "text", "content": said}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "call-1", "name": "look", "arguments": arguments}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call-1", "response": answer}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "done"}]},
    ]
    turns = [turn for message in messages for turn in to_turns(message)]
    links = [Link(dict(turns[1].message)["tool_calls"][0], turns[1], turns[2])]
    return Assembled("c-1", Thread(turns), links, "desk", 1, 2, {"t"}, {"d"})


@given(SAID | st.just("hello"), JSON_VALUES, JSON_VALUES)
def test_the_fast_test_changes_no_row(said: str, arguments: Any, answer: Any) -> None:
    c = conversation(said, arguments, answer)
    screened, searched = Normalised().rows, Normalised().rows
    one, other = (Privacy(Scrubber(PrivacySettings(), KEY)) for _ in range(2))
    add_conversations(screened, [c], one)
    add_conversations(searched, [other.conversation(c)], None)
    assert screened == searched
    assert one.totals().report() == other.totals().report()
    assert one.known_of("c-1") == other.known_of("c-1")
