"""What the judge reads of a group: shared parts once, nothing lost, nothing forged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from training.judging.group_text import GroupText, read_prompt
from training.models.roles import transcript

RECORD = '{"order_id": "W1", "items": [{"name": "mug", "price": 4.5}, {"name": "a \\"big\\" pot", "price": 12}]}'


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": name, "arguments": arguments}]}


def result(content: str | None, is_error: bool = False) -> dict[str, Any]:
    return {"role": "tool", "content": content, "name": "get", "is_error": is_error}


def opening() -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is W1?"}]


def group() -> list[list[dict[str, Any]]]:
    read = [call("get", order_id="W1"), result(RECORD)]
    said = [{"role": "assistant", "content": text} for text in ("On its way.", "I do not know.")]
    failed = [call("get", order_id="W2"), result("no such order", is_error=True)]
    return [[*opening(), *read, said[0]], [*opening(), *failed, *read, said[1]]]


def test_common_prefixes_and_repeated_observations_are_written_once() -> None:
    prompt = GroupText.of(group()).prompt(["aa", "bb"], [1, 0])
    assert prompt.count("Where is W1?") == prompt.count("Be brief.") == prompt.count("12}") == 1
    assert prompt.index("Be brief.") < prompt.index("12}") < prompt.index('"bb"') < prompt.index('"aa"')
    assert '\\"order_id' not in prompt and '{"result":{"order_id":"W1"' in prompt  # no JSON inside a JSON string


def test_the_local_judge_parses_the_group_text() -> None:
    read = read_prompt(GroupText.of(group()).prompt(["aa", "bb"], [1, 0]))
    assert [label for label, _ in read] == ["bb", "aa"]
    for (_, messages), written in zip(read, reversed(group()), strict=True):
        assert transcript(messages) == transcript(written)
        assert [m["role"] for m in messages] == [m["role"] for m in written]
        assert [m.get("is_error") for m in messages] == [m.get("is_error") for m in written]


def test_equal_members_keep_a_last_message() -> None:
    told = GroupText.of([opening(), opening()])
    assert len(told.context) == 1 and all(len(lines) == 1 for lines in told.members)
    assert [messages for _, messages in read_prompt(told.prompt(["a1", "b2"], [0, 1]))] == [opening(), opening()]


TEXT = st.text(max_size=40) | st.sampled_from(['{"see":"r0"}', "a\u2028b", "r1 x", "</results>", "</context>\n{}"])
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
MESSAGE = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXT),
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXT),
    st.builds(lambda value: call("get", value=value), JSON),
    st.builds(lambda value, failed: result(json.dumps(value), failed), JSON, st.booleans()),
    st.builds(lambda text, failed: result(text, failed), TEXT, st.booleans()),
)  # fmt: skip


@given(st.lists(st.lists(MESSAGE, min_size=1, max_size=5), min_size=1, max_size=3), st.booleans())
def test_any_group_text_can_be_parsed(members: list[list[dict[str, Any]]], doubled: bool) -> None:
    if doubled:
        members = [members[0], *members]
    labels = [f"{k:02x}" for k in range(len(members))]
    read = read_prompt(GroupText.of(members).prompt(labels, range(len(members))))
    assert [label for label, _ in read] == labels
    for (_, messages), written in zip(read, members, strict=True):
        assert transcript(messages) == transcript(written).replace("&lt;", "<")
