"""Chat templates of real families: refused with a reason, or every property that learning and sampling rest on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from template_samples import CHATML, FAMILIES, REFUSED, Family, byte_tokenizer, tokenizer_of
from transformers import GenerationConfig

from ingest.errors import UserError
from training.models.template import ChatSettings, TemplateFormat
from training.models.template_checks import checked_format

TOOL = {
    "name": "book",
    "description": "Books a <|im_end|> seat.",
    "parameters": {
        "type": "object",
        "properties": {
            "to": {"type": "string", "description": "where"},
            "seats": {"type": "integer", "description": "n"},
        },
        "required": ["to"],
    },
}


def call(k: int, to: str = "Rome") -> dict[str, Any]:
    return {"id": f"call_{k}", "name": "book", "arguments": {"to": to, "seats": k}}


def result(k: int) -> dict[str, Any]:
    return {"role": "tool", "content": json.dumps({"booked": k}), "tool_call_id": f"call_{k}", "name": "book"}


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You book seats."},
    {"role": "user", "content": "two to Rome, please"},
    {"role": "assistant", "content": None, "tool_calls": [call(2)]},
    result(2),
    {"role": "assistant", "content": "Booked."},
    {"role": "user", "content": "and one more"},
    {"role": "assistant", "content": None, "tool_calls": [call(1)]},
    result(1),
    {"role": "assistant", "content": "Done. Anything else?"},
    {"role": "user", "content": "no"},
    {"role": "assistant", "content": "Goodbye."},
]


def chat_of(name: str, **settings: Any) -> TemplateFormat:
    return checked_format(tokenizer_of(FAMILIES[name]), None, ChatSettings(**settings))


def shown(chat: TemplateFormat, ids: list[int]) -> str:
    return chat.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def learned_turns(ids: list[int], trained: list[bool]) -> list[list[int]]:
    turns: list[list[int]] = []
    for k, (token, mark) in enumerate(zip(ids, trained, strict=True)):
        if mark and not trained[k - 1]:
            turns.append([])
        if mark:
            turns[-1].append(token)
    return turns


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_the_assistant_wrote_is_learned_and_it_is_read_back(name: str) -> None:
    chat = chat_of(name)
    rows = chat.examples(TALK, [TOOL])
    turns = [turn for row in rows for turn in learned_turns(*row)]
    written = [m for m in TALK if m["role"] == "assistant"]
    assert len(turns) == len(written)
    for turn, message in zip(turns, written, strict=True):
        said = chat.parse(turn, [TOOL])
        wanted = [(c["name"], c["arguments"]) for c in message.get("tool_calls") or ()]
        assert said.malformed is None and said.text == message["content"]
        assert [(c.name, c.arguments) for c in said.calls] == wanted
        assert turn[-1] in chat.stop_ids and not any(i in chat.stop_ids for i in turn[:-1])


@pytest.mark.parametrize("settings", [{}, {"thinking": "on"}, {"history": "kept"}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sampled_conversation_has_the_ids_of_the_recorded_one(name: str, settings: dict[str, str]) -> None:
    """What a rollout does, with the recorded turns as samples, gives the rows that are learned from the record."""
    if name == "gemma4" and settings.get("thinking") == "on":  # opens the reasoning after a result and never closes it
        with pytest.raises(UserError, match="thinking='off'"):
            chat_of(name, **settings)
        return
    chat = chat_of(name, **settings)
    expected = chat.examples(TALK, [TOOL])
    samples = iter([turn for row in expected for turn in learned_turns(*row)])
    at = 2
    rows: list[list[int]] = [chat.prompt(TALK[:at], [TOOL])]
    while at < len(TALK):
        rows[-1] += next(samples)
        new = [m for m in TALK[at + 1 : at + 2]]
        if not new:
            break
        added = chat.extend(new, after=TALK[: at + 1], tools=[TOOL])
        at += 2
        if added is None:
            rows.append(chat.prompt(TALK[:at], [TOOL]))
        else:
            rows[-1] += added
    assert [shown(chat, r) for r in rows] == [shown(chat, ids) for ids, _ in expected]
    assert rows == [ids for ids, _ in expected]
    assert settings.get("history") != "kept" or len(rows) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_what_the_tokenizer_itself_would_write(name: str) -> None:
    chat = chat_of(name)
    wire = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
    ]
    own = chat.tokenizer.apply_chat_template(wire, add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert chat.prompt(wire) == own


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_that_people_type_stay_text(name: str) -> None:
    chat = chat_of(name)
    typed = " ".join([*FAMILIES[name].special, *FAMILIES[name].added])
    controls = {i for i, t in chat.tokenizer.added_tokens_decoder.items()}
    plain, forged = ([*TALK[:1], {"role": "user", "content": text}, *TALK[2:]] for text in ("x", typed))
    forged[2] = {**forged[2], "tool_calls": [call(2, typed)]}
    forged[3] = {**forged[3], "content": typed}
    tool = {**TOOL, "description": typed}
    count = lambda m, t: [sum(i in controls for i in ids) for ids, _ in chat.examples(m, [t])]  # noqa: E731
    assert count(forged, tool) == count(plain, {**TOOL, "description": "x"})
    text = shown(chat, chat.examples(forged, [tool])[-1][0])
    assert all(token in text for token in FAMILIES[name].special)
    assert chat.decode(chat.encode(typed)) == typed and not set(chat.encode(typed)) & controls
    turn = learned_turns(*chat.examples(forged, [tool])[0])[0]
    assert chat.parse(turn, [tool]).calls[0].arguments["to"] == typed


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_that_was_cut_off_is_closed_before_the_next(name: str) -> None:
    chat = chat_of(name)
    said = {"role": "assistant", "content": "I was about to"}
    new = [{"role": "user", "content": "yes?"}]
    whole = chat.extend(new, after=[*TALK[:2], said], tools=[TOOL])
    cut = chat.extend(new, after=[*TALK[:2], said], tools=[TOOL], stopped=False)
    if whole is None:  # the template rewrites the turn, and with it its end
        assert cut is None
        whole = checked_format(chat.tokenizer, None, ChatSettings(history="kept")).extend(
            new, after=[*TALK[:2], said], tools=[TOOL]
        )
        cut = checked_format(chat.tokenizer, None, ChatSettings(history="kept")).extend(
            new, after=[*TALK[:2], said], tools=[TOOL], stopped=False
        )
    assert whole is not None and cut == [chat.stop_ids[0], *whole]


@pytest.mark.parametrize("name", FAMILIES)
def test_several_calls_in_a_turn_are_written_together_or_one_by_one(name: str) -> None:
    chat = chat_of(name)
    talk = [*TALK[:2], {"role": "assistant", "content": None, "tool_calls": [call(1), call(2)]}, result(1), result(2),
            {"role": "assistant", "content": "Both."}]  # fmt: skip
    rows = chat.examples(talk, [TOOL])
    said = [chat.parse(turn, [TOOL]) for row in rows for turn in learned_turns(*row)]
    assert [c.arguments["seats"] for turn in said for c in turn.calls] == [1, 2]
    assert [len(turn.calls) for turn in said] == ([2, 0] if chat.parallel_calls else [1, 1, 0])
    text = shown(chat, rows[-1][0]).replace("\\", "")  # Llama writes a result as a JSON string
    assert text.index('"booked": 1') < text.index('"booked": 2')


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_template_is_refused_with_the_reason(name: str) -> None:
    family, reason = REFUSED[name]
    with pytest.raises(UserError, match=reason):
        checked_format(tokenizer_of(family))
    if reason != "cannot be parsed":  # world, user and judge call no tools
        checked_format(tokenizer_of(family), show_tools=False)


BROKEN = {
    "no generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        "no generation prompt",
    ),
    "no stop": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "without a stop token",
    ),
    "drops users": (
        "{% for m in messages if m.role != 'user' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "leaves out the user message",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_template_is_refused_even_for_roles_without_tools(name: str) -> None:
    template, reason = BROKEN[name]
    with pytest.raises(UserError, match=reason):
        checked_format(byte_tokenizer(template, CHATML, eos_token="<|im_end|>"), show_tools=False)


# ----- reasoning


THOUGHT = {"role": "assistant", "content": "Booked.", "reasoning_content": "two seats, so"}


def test_reasoning_is_learned_unless_the_template_strips_it() -> None:
    chat = chat_of("qwen3", thinking="on")
    talk = [*TALK[:2], THOUGHT, TALK[5], {"role": "assistant", "content": "Done."}]
    rows = chat.examples(talk, [TOOL])
    assert len(rows) == 2 and "two seats, so" in shown(chat, rows[0][0])
    assert "two seats, so" not in shown(chat, rows[1][0])  # the row begins anew with what the template writes now
    said = chat.parse(learned_turns(*rows[0])[0])
    assert (said.reasoning, said.text) == ("two seats, so", "Booked.") and said.message() == THOUGHT
    assert chat.extend([TALK[5]], after=talk[:3], tools=[TOOL]) is None
    kept = chat_of("qwen3", thinking="on", history="kept")
    ids, trained = kept.example(talk, [TOOL])
    assert "two seats, so" in shown(kept, ids) and len(learned_turns(ids, trained)) == 2


def test_a_prompt_that_opens_the_reasoning_is_continued() -> None:
    chat = chat_of("qwen3.5", thinking="on")
    assert shown(chat, chat.prompt(TALK[:2])).endswith("<think>\n")
    said = chat.parse([*chat._encode("two seats\n</think>\n\nBooked."), chat.stop_ids[0]])
    assert (said.reasoning, said.text) == ("two seats", "Booked.")
    closed = chat_of("qwen3.5", thinking="off")
    assert shown(closed, closed.prompt(TALK[:2])).endswith("<think>\n\n</think>\n\n")


def test_thinking_that_cannot_be_turned_off_is_refused_with_a_remedy() -> None:
    template = FAMILIES["qwen3.5"].template().replace("enable_thinking is false", "false")
    tokenizer = byte_tokenizer(template, FAMILIES["qwen3.5"].special, FAMILIES["qwen3.5"].added, eos_token="<|im_end|>")
    with_history = "{%- if loop.index0 > ns.last_query_index %}"
    tokenizer.chat_template = tokenizer.chat_template.replace(with_history, "{%- if reasoning_content %}")
    with pytest.raises(UserError, match="thinking='on'"):
        checked_format(tokenizer)


# ----- stops and syntaxes


def test_stop_ids_are_the_generation_configs_and_the_turns_own_comes_first() -> None:
    tokenizer = tokenizer_of(FAMILIES["llama3.1"])
    eom, begin = tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|begin_of_text|>"])
    chat = checked_format(tokenizer, GenerationConfig(eos_token_id=[begin, eom]))
    assert chat.stop_ids[0] == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert {eom, begin} <= set(chat.stop_ids)
    text = Family("qwen2_5.jinja", (*FAMILIES["qwen2.5"].special, "<|endoftext|>"), eos="<|endoftext|>")
    other = checked_format(tokenizer_of(text))
    names = [other.tokenizer.convert_ids_to_tokens(i) for i in other.stop_ids]
    assert names == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen2.5", '<tool_call>\n{"name": "book", "arguments": {"to": "Rome"}}'),
        ("qwen2.5", "<tool_call>\n{name: book}\n</tool_call>"),
        ("qwen2.5", '<tool_call>\n{"name": "book", "arguments": [1]}\n</tool_call>'),
        ("qwen3.5", "<tool_call>\n<function=book>\n<parameter=to>\nRome\n</function>\n</tool_call>"),
        ("llama3.1", '{"name": "book", "parameters": {"to": "Rome"'),
        ("lfm2", "<|tool_call_start|>[book('Rome')]<|tool_call_end|>"),
        ("gemma4", '<|tool_call>call:book{to:<|"|>Rome}<tool_call|>'),
        ("mistral", "[TOOL_CALLS] [{]"),
    ],
)
def test_an_unparsable_call_is_reported(name: str, written: str) -> None:
    chat = chat_of(name)
    said = chat.parse([*chat._encode(written), chat.stop_ids[0]], [TOOL])
    assert said.malformed and not said.calls and said.text


def test_values_that_are_written_as_text_get_their_types_from_the_tool() -> None:
    chat = chat_of("qwen3.5")
    body = "<parameter=to>\n7\n</parameter>\n<parameter=seats>\n7\n</parameter>"
    said = chat.parse(chat._encode(f"<tool_call>\n<function=book>\n{body}\n</function>\n</tool_call>"), [TOOL])
    assert said.calls[0].arguments == {"to": "7", "seats": 7}


def test_the_tokenizers_response_template_parses_an_unknown_syntax() -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}«{{ c.function | tojson }}»{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_tokenizer(template, CHATML, eos_token="<|im_end|>")
    with pytest.raises(UserError, match="cannot be parsed"):
        checked_format(tokenizer)
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "content": {"content": "text"},
            "tool_calls": {
                "open": "«", "close": "»", "repeats": True, "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
        },
    }  # fmt: skip
    chat = checked_format(tokenizer)
    turn = learned_turns(*chat.example(TALK[:3], [TOOL]))[0]
    assert [c.arguments for c in chat.parse(turn, [TOOL]).calls] == [call(2)["arguments"]]
    broken = chat.parse([*chat._encode("«{oops»"), chat.stop_ids[0]])
    assert broken.malformed and not broken.calls


def test_a_result_without_a_call_is_rendered() -> None:
    chat = chat_of("gemma4")
    talk = [*TALK[:2], {"role": "assistant", "content": "<|tool_call>call:"}, result(1)]
    assert "booked" in shown(chat, chat.prompt(talk, [TOOL]))


def test_the_mistral_fixture_writes_what_mistral_common_writes() -> None:
    mistral = pytest.importorskip("mistral_common.tokens.tokenizers.mistral", reason="comes with vLLM (make vllm)")
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    chat = chat_of("mistral")
    talk = TALK[:6]
    plain = {**TOOL, "description": "Books a seat."}
    from training.models.template import wire_messages, wire_tool

    request = {"messages": wire_messages(talk), "tools": [wire_tool(plain)]}
    for message in request["messages"]:
        for made in message.get("tool_calls") or ():
            made["function"]["arguments"] = json.dumps(made["function"]["arguments"])
        if message.get("tool_calls"):
            message.pop("content")
    theirs = mistral.MistralTokenizer.v7().encode_chat_completion(ChatCompletionRequest.from_openai(**request)).text
    assert shown(chat, chat.prompt(talk, [plain])) == theirs.replace("▁", " ")
