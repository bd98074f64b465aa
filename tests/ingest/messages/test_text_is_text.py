"""What a model or a user wrote stays the text that it is; what was told in another form is not lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.messages.chatform import to_turns
from ingest.messages.parts import is_unread
from ingest.messages.reprs import read_repr
from ingest.messages.shapes import read_messages

ANSWERS = [
    '[{"type": "bug", "title": "Lamp flickers"}, {"type": "wish", "title": "More colours"}]',
    '[{"text": "Lamp is loud", "label": "bug", "score": 0.9}]',
    '[{"text": "Lamp is loud"}]',
    '[{"type": "text", "text": "Lamp is loud"}]',
    '[{"type": "tool_use", "id": "t", "name": "get", "input": {}}]',
    '{"type": "tool_result", "content": "x"}',
    '{"type": "function_call", "name": "get", "arguments": "{}"}',
    '{"role": "user", "content": "hi"}',
    '[{"role": "assistant", "content": "hi"}]',
    "[]",
    "{}",
    "[1, 2]",
    '{"choices": ["red", "blue"]}',
    '{"messages": []}',
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("role", ["assistant", "user", "system"])
def test_json_in_a_message_stays_text(answer: str, role: str) -> None:
    for message in (
        {"role": role, "content": answer},
        {"role": role, "parts": [{"type": "text", "content": answer}]},
        {"role": role, "content": [{"type": "text", "text": answer}]},
    ):
        (got,) = read_messages({"messages": [message]})
        assert [t.message for t in to_turns(got)] == [{"role": role, "content": answer}]


def test_a_structured_answer_is_the_text_that_was_written() -> None:
    (got,) = read_messages({"role": "assistant", "content": {"answer": 42, "why": ["a"]}})
    assert json.loads(to_turns(got)[0].message["content"] or "") == {"answer": 42, "why": ["a"]}


def test_reprs_of_parts_are_read_as_parts() -> None:
    """A declared kind counts more than the class; the class counts where nothing is declared."""
    shown = read_repr("TextBlock(block_type='text', text='hi')")
    assert shown == {"type": "text", "block_type": "text", "text": "hi"}
    message = (
        "ChatMessage(role=<MessageRole.ASSISTANT: 'assistant'>, additional_kwargs={}, blocks=[ThinkingBlock("
        "block_type='thinking', content='hm'), TextBlock(block_type='text', text='Hi.'), ToolCallBlock("
        "block_type='tool_call', tool_call_id='c1', tool_name='get', tool_kwargs={'id': 1})])"
    )
    (got,) = read_messages([message])
    assert [p["type"] for p in got["parts"]] == ["reasoning", "text", "tool_call"]
    (got,) = read_messages([{"role": "assistant", "content": [{"type": "TextBlock", "text": "Hi."}]}])
    assert got["parts"] == [{"type": "text", "content": "Hi."}]


@pytest.mark.parametrize("part", [{"type": "hologram", "data": "x"}, {"weird": 1}, {"type": 3, "x": 1}, 7])
def test_unknown_parts_are_kept_and_counted_as_unread(part: Any) -> None:
    (got,) = read_messages({"role": "user", "content": ["hi", part]})
    assert got["parts"][0]["type"] == "text" and is_unread(got["parts"][1])


@pytest.mark.parametrize("kind", ["image_url", "input_image", "file", "document", "blob", "uri", "source-url"])
def test_media_parts_are_known_kinds(kind: str) -> None:
    (got,) = read_messages({"role": "user", "content": ["look", {"type": kind, "url": "https://x.example"}]})
    assert len(got["parts"]) == 2 and not any(map(is_unread, got["parts"]))


SPOKEN: dict[str, Any] = {
    "a refusal beside the content": {"role": "assistant", "content": None, "refusal": "I won't."},
    "a refusal as a part": {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't."}]},
    "audio of chat completions": {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "I won't."}},
    "audio of the realtime API": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_audio", "transcript": "I won't."}],
    },
    "audio of openinference": {
        "role": "assistant",
        "content": [{"type": "audio", "audio": {"audio": {"url": "x", "transcript": "I won't."}}}],
    },
    "the text of an assistant's thread": {
        "role": "assistant",
        "content": [{"type": "text", "text": {"value": "I won't.", "annotations": []}}],
    },
}


@pytest.mark.parametrize("name", SPOKEN)
def test_transcripts_of_audio_are_text(name: str) -> None:
    (got,) = read_messages({"messages": [SPOKEN[name]]})
    assert to_turns(got)[0].message == {"role": "assistant", "content": "I won't."}


def test_a_repeated_text_is_kept_once() -> None:
    message = {"role": "assistant", "content": "Hi.", "refusal": None, "audio": {"transcript": "Hi."}}
    (got,) = read_messages([message])
    assert to_turns(got)[0].message["content"] == "Hi."


def test_the_first_api_of_cohere_keeps_the_new_message_beside_the_history() -> None:
    called = {"name": "get", "parameters": {"id": 1}}
    asked = {
        "preamble": "Be kind.",
        "message": "And now?",
        "chat_history": [
            {"role": "USER", "message": "Hi."},
            {"role": "CHATBOT", "message": "", "tool_calls": [called]},
            {"role": "TOOL", "tool_results": [{"call": called, "outputs": [{"status": "open"}]}]},
        ],
    }
    turns = [t.message for m in read_messages(asked) for t in to_turns(m)]
    assert [(m["role"], m.get("content")) for m in turns] == [
        ("system", "Be kind."),
        ("user", "Hi."),
        ("assistant", None),
        ("tool", '[{"status":"open"}]'),
        ("user", "And now?"),
    ]
    answer = {"text": "I look.", "generation_id": "g1", "finish_reason": "COMPLETE", "tool_calls": [called]}
    (said,) = read_messages(answer, "assistant")
    assert [p["type"] for p in said["parts"]] == ["text", "tool_call"]
