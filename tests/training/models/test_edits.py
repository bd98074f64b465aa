"""Edits: whatever is encoded comes back, the shortest form wins, and nonsense is refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.models.edits import EditError, apply, canonical, decode, diff, encode, minify

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


@given(target=OBJECTS, sources=st.lists(OBJECTS, max_size=3))
def test_any_object_survives_the_round_trip(target, sources):
    texts = [json.dumps(s) for s in sources]
    edit = encode(json.dumps(target), texts)
    assert canonical(decode(edit, texts)) == canonical(json.dumps(target))


@given(text=st.text(max_size=30), sources=st.lists(st.text(max_size=30), max_size=2))
def test_plain_text_survives_too(text, sources):
    assert canonical(decode(encode(text, sources), sources)) == canonical(minify(text))


def test_a_small_change_is_written_as_a_patch():
    before = '{"id": "O-1", "status": "open", "total": 12, "owner": "Ada Bell"}'
    after = '{"id":"O-1","status":"cancelled","total":12,"owner":"Ada Bell"}'
    assert encode(after, ["{}", before]) == '@2{"status":"cancelled"}'
    assert decode('@2{"status":"cancelled"}', ["{}", before]) == after


def test_an_unchanged_observation_is_a_bare_reference():
    assert encode('{"b":1.0,"a":2}', ['{"a": 2, "b": 1}']) == "@1"


def test_a_null_in_the_answer_is_never_written_as_a_deletion():
    assert encode('{"a":null,"b":1}', ['{"a":3,"b":1}']) == '={"a":null,"b":1}'


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_apply_as_the_standard_says(target, patch, result):
    assert apply(patch, target) == result


def test_true_and_one_are_not_the_same():
    assert diff({"a": True}, {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("text", ["", "hello", "@9", '@1{"a":', "@1[1]"])
def test_invalid_edits_are_refused(text):
    with pytest.raises(EditError):
        decode(text, ['{"a":1}'])
