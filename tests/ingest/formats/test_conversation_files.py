"""Conversations as people have them, without telemetry: each form becomes the conversation that it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.lake import Lake
from ingest.records import Conversation

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = {"name": "find", "arguments": {"id": 7}}
CHAT_CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"id": 7}'}}
USER, DONE = {"role": "user", "content": "where is 7"}, {"role": "assistant", "content": "Here."}
WHOLE = [
    ("user", "where is 7"), ("assistant", None, ("find", {"id": 7})), ("tool", "shelf 3", "find", False),
    ("assistant", "Here."),
]  # fmt: skip


def read(tmp_path: Path, **files: Any) -> tuple[list[Conversation], list[str]]:
    """The conversations of files, given by their names; a list is written as lines."""
    data = tmp_path / "data"
    data.mkdir()
    for name, content in files.items():
        lines = content if isinstance(content, list) else [content]
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (data / f"{name}.jsonl").write_text(text)
    lake = Lake.create(tmp_path / "lake")
    (tmp_path / "lake" / "privacy.toml").write_text("enabled = false")
    done = lake.ingest([data])
    assert lake.ingest([data]).new == 0
    return ([] if lake.is_empty() else lake.conversations()), done.problems


def told(c: Conversation) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for m in c.messages:
        content = m.get("content")
        if m["role"] == "tool":
            out.append(("tool", content, m["name"], m["is_error"]))
        else:
            calls = [(call["name"], call["arguments"]) for call in m.get("tool_calls") or ()]
            out.append((m["role"], content, *calls))
    return out


def outcomes(c: Conversation) -> dict[str, Any]:
    return {o["name"]: o["score"] if o["score"] is not None else o["label"] for o in c.outcomes}


OPENAI = [USER, {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
          {"role": "tool", "tool_call_id": "c", "content": "shelf 3"}, DONE]  # fmt: skip
HERMES = [{"from": "human", "value": "where is 7"},
          {"from": "gpt", "value": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
          {"from": "tool", "value": "<tool_response>\nshelf 3\n</tool_response>"},
          {"from": "gpt", "value": "Here."}]  # fmt: skip
ANTHROPIC = [USER,
             {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "find", "input": {"id": 7}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                                           "content": [{"type": "text", "text": "shelf 3"}]}]},
             {"role": "assistant", "content": [{"type": "text", "text": "Here."}]}]  # fmt: skip
FORMS: dict[str, Any] = {
    "openai": {"messages": OPENAI, "tools": [TOOL], "parallel_tool_calls": False},
    "bare list": OPENAI,
    "list of records": json.dumps([{"messages": OPENAI}]),
    "over many lines": json.dumps({"messages": OPENAI}, indent=2),
    "line in a line": json.dumps(json.dumps({"messages": OPENAI})),
    "messages as text": {"messages": json.dumps(OPENAI), "tools": json.dumps([TOOL])},
    "messages as texts": {"messages": [json.dumps(m) for m in OPENAI]},
    "messages as a repr": {"messages": repr(OPENAI)},
    "nulls of a table": {"messages": [{"name": None, "tool_calls": None, "tool_call_id": None, **m} for m in OPENAI]},
    "weights": {"messages": [*OPENAI[:-1], {**DONE, "weight": 1}]},
    "legacy functions": {"messages": [
        USER, {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": '{"id": 7}'}},
        {"role": "function", "name": "find", "content": "shelf 3"}, DONE], "functions": [TOOL["function"]]},
    "sharegpt": {"conversations": [
        {"from": "human", "value": "where is 7"}, {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "shelf 3"}, {"from": "gpt", "value": "Here."}], "tools": json.dumps([TOOL])},
    "sharegpt with chat roles": {"conversations": OPENAI},
    "hermes": {"conversations": HERMES},
    "hermes in chat roles": {"messages": [
        {"role": {"human": "user", "gpt": "assistant"}.get(m["from"], m["from"]), "content": m["value"]}
        for m in HERMES]},
    "qwen": {"messages": [
        USER, {"role": "assistant", "content":
               "<tool_call>\n<function=find>\n<parameter=id>\n7\n</parameter>\n</function>\n</tool_call>"},
        {"role": "user", "content": "<tool_response>\nshelf 3\n</tool_response>"}, DONE]},
    "hermes response with its name": {"conversations": [
        *HERMES[:2], {"from": "tool", "value": '<tool_response>{"name": "find", "content": "shelf 3"}</tool_response>'},
        HERMES[3]]},
    "anthropic": {"messages": ANTHROPIC, "tools": [{"name": "find", "input_schema": {"type": "object"}}]},
    "anthropic bare": ANTHROPIC,
    "gemini": {"contents": [
        {"role": "user", "parts": [{"text": "where is 7"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "find", "args": {"id": 7}}}]},
        {"role": "function", "parts": [{"functionResponse": {"name": "find", "response": "shelf 3"}}]},
        {"role": "model", "parts": [{"text": "Here."}]}]},
    "langchain": [
        {"type": "human", "data": {"content": "where is 7"}},
        {"type": "ai", "data": {"content": "", "tool_calls": [{"name": "find", "args": {"id": 7}, "id": "c"}]}},
        {"type": "tool", "data": {"content": "shelf 3", "tool_call_id": "c"}},
        {"type": "ai", "data": {"content": "Here."}}],
    "ai sdk ui messages": {"messages": [
        {"id": "1", "role": "user", "parts": [{"type": "text", "text": "where is 7"}]},
        {"id": "2", "role": "assistant", "parts": [
            {"type": "step-start"},
            {"type": "tool-find", "toolCallId": "c", "state": "output-available", "input": {"id": 7},
             "output": "shelf 3"},
            {"type": "step-start"}, {"type": "text", "text": "Here.", "state": "done"}]}]},
    "ai sdk content output": {"messages": [
        USER, {"role": "assistant", "content": [
            {"type": "tool-call", "toolCallId": "c", "toolName": "find", "input": {"id": 7}}]},
        {"role": "tool", "content": [
            {"type": "tool-result", "toolCallId": "c", "toolName": "find",
             "output": {"type": "content", "value": [{"type": "text", "text": "shelf 3"}]}}]}, DONE]},
    "choices": {"messages_and_choices": [
        USER, {"finish_reason": "tool_calls", "index": 0, "message": OPENAI[1]}, OPENAI[2],
        {"finish_reason": "stop", "index": 0, "message": DONE}]},
    "request and response": {
        "request": {"model": "m", "messages": OPENAI[:-1]},
        "response": {"id": "chatcmpl-1", "object": "chat.completion", "created": 1764000000, "model": "m-1",
                     "choices": [{"index": 0, "finish_reason": "stop", "message": DONE}]}},
    "prompt and completion": {"prompt": OPENAI[:-1], "completion": [DONE]},
    "responses api": {
        "request": {"model": "m", "input": [USER, {"type": "function_call", "call_id": "c", **CALL},
                                            {"type": "function_call_output", "call_id": "c", "output": "shelf 3"}]},
        "response": {"id": "resp_1", "output": [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Here."}]}]}},
    "rows of a data set": {"features": [{"name": "messages"}],
                           "rows": [{"row_idx": 0, "row": {"messages": OPENAI}}]},
    "speakers": {"dialogue": [
        {"speaker": "customer", "text": "where is 7"}, {"speaker": "function_call", "text": json.dumps(CALL)},
        {"speaker": "observation", "text": "shelf 3"}, {"speaker": "agent", "text": "Here."}]},
    "a transcript": {"system": "", "chat": (
        "USER: where is 7\n\n\nASSISTANT: <functioncall> "
        "{\"name\": \"find\", \"arguments\": '{\"id\": 7}'} <|endoftext|>\n\n\n"
        "FUNCTION RESPONSE: shelf 3\n\n\nASSISTANT: Here. <|endoftext|>\n")},
    "bedrock's log": {
        "schemaType": "ModelInvocationLog", "modelId": "m",
        "input": {"inputBodyJson": {"messages": [
            {"role": "user", "content": [{"text": "where is 7"}]},
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "find", "input": {"id": 7}}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"text": "shelf 3"}]}}]}]}},
        "output": {"outputBodyJson": {"output": {"message": {"role": "assistant", "content": [{"text": "Here."}]}}}}},
    "choices beside messages": {"messages": OPENAI[:-1], "choices": [{"message": DONE, "finish_reason": "stop"}]},
    "a text that answers messages": {"messages": OPENAI[:-1], "response": "Here."},
    "a line with a comma": json.dumps({"messages": OPENAI}) + ",",
    "a line of python": repr({"messages": OPENAI}),
    "capital roles, message for content": {"chat_history": [
        {"role": "USER", "message": "where is 7"}, OPENAI[1], OPENAI[2], {"role": "CHATBOT", "message": "Here."}]},
    "what this project exports": {
        "conversation_id": "c9", "agent": "desk", "tools": [{"name": "find"}], "flags": [], "outcomes": [],
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **CALL}]},
                     {"role": "tool", "content": "shelf 3", "tool_call_id": "c", "name": "find", "is_error": False,
                      "error_class": "", "latency_ms": 3.0}, DONE]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_is_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    content = FORMS[form]
    (c,), problems = read(tmp_path, data=[content] if isinstance(content, list) else content)
    assert not problems and told(c) == WHOLE
    assert Lake.open(tmp_path / "lake").conservation().holds
    assert [t["name"] for t in c.tools] == ["find"]


EXPORTS: dict[str, Any] = {
    "chatgpt": [{
        "title": "t", "conversation_id": "g-1", "create_time": 1764000000.5, "current_node": "d", "mapping": {
            "a": {"id": "a", "message": None, "parent": None, "children": ["b"]},
            "b": {"id": "b", "parent": "a", "children": ["c", "d"], "message": {
                "author": {"role": "user"}, "create_time": 1764000001.0,
                "content": {"content_type": "text", "parts": ["where is 7"]}}},
            "c": {"id": "c", "parent": "b", "children": [], "message": {
                "author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Nowhere."]}}},
            "d": {"id": "d", "parent": "b", "children": [], "message": {
                "author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Here."]}}}}}],
    "claude.ai": [{"uuid": "u", "name": "t", "chat_messages": [
        {"uuid": "1", "sender": "human", "text": "where is 7", "content": [{"type": "text", "text": "where is 7"}]},
        {"uuid": "2", "sender": "assistant", "text": "Here.", "content": [{"type": "text", "text": "Here."}]}]}],
    "transcript": {"text": "", "prompt": "\n\nHuman: where is 7\n\nAssistant: Here."},
    "alpaca": {"instruction": "where is", "input": "7", "output": "Here."},
    "texts": {"prompt": "where is 7", "completion": "Here."},
    "text completion": {"request": {"model": "m", "prompt": "where is 7"},
                        "response": {"id": "cmpl-1", "object": "text_completion", "choices": [{"text": "Here."}]}},
}  # fmt: skip


@pytest.mark.parametrize("form", EXPORTS)
def test_conversations_without_tools(tmp_path: Path, form: str) -> None:
    (c,), problems = read(tmp_path, data=json.dumps(EXPORTS[form]))
    asked = "where is\n\n7" if form == "alpaca" else "where is 7"
    assert not problems and told(c) == [("user", asked), ("assistant", "Here.")]


@pytest.mark.parametrize(
    "record",
    [{"custom_id": "r", "method": "POST", "url": "/v1/embeddings", "body": {"model": "e", "input": "where is 7"}},
     {"id": "b", "custom_id": "r", "error": None, "response": {"status_code": 200, "body": {
         "object": "list", "model": "e", "data": [{"object": "embedding", "embedding": [0.1]}]}}}],
    ids=["request", "result"],
)  # fmt: skip
def test_a_batch_of_embeddings_is_no_conversation(tmp_path: Path, record: dict[str, Any]) -> None:
    found, problems = read(tmp_path, data=record)
    assert not found and "line 1 is no OTLP/JSON request and no conversation" in problems[0]


def test_tags_that_are_only_mentioned_stay_text(tmp_path: Path) -> None:
    said = '<tool_call>{"name": "x", "arguments": {}}</tool_call> is how Hermes calls.'
    (c,), _ = read(tmp_path, data={"messages": [USER, {"role": "assistant", "content": said}]})
    assert told(c)[-1] == ("assistant", said)


def test_a_system_prompt_between_tags_defines_the_tools(tmp_path: Path) -> None:
    system = {"from": "system", "value": f"You call. <tools>\n{json.dumps(TOOL)}\n</tools>"}
    (c,), _ = read(tmp_path, data={"conversations": [system, *HERMES]})
    assert c.tools == [{"name": "find", "parameters": {"type": "object"}}] and told(c)[1:] == WHOLE


def test_fields_beside_the_messages_are_read_or_kept(tmp_path: Path) -> None:
    record = {"id": "m-1", "system": "Be kind.", "model": "m", "agent": {"name": "desk"}, "messages": OPENAI,
              "created_at": "2026-09-14T05:02:14Z", "split": "train", "reward": 1}  # fmt: skip
    (c,), _ = read(tmp_path, data=record)
    assert (c.conversation_id, c.agent) == ("m-1", "desk") and told(c) == [("system", "Be kind."), *WHOLE]
    assert c.started_at_ns == 1_789_362_134 * 10**9
    kept = Lake.open(tmp_path / "lake").query("SELECT attributes FROM spans").to_pylist()[0]["attributes"]
    assert json.loads(json.loads(kept)["rehearsal.record"])["split"] == "train"


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"reward": 1}, {"reward": 1.0}),
        ({"reward": "0.25"}, {"reward": 0.25}),
        ({"reward": True}, {"reward": 1.0}),
        ({"score": " 7 "}, {"score": 7.0}),
        ({"score": "good"}, {"score": "good"}),
        ({"rating": "4/5"}, {"rating": "4/5"}),
        ({"reward": "false"}, {"reward": 0.0}),
        ({"reward": "nan"}, {"reward": "nan"}),
        ({"success": True}, {"success": 1.0}),
        ({"success": "maybe later"}, {}),
        ({"rewards": {"task": 1, "style": "0.5"}}, {"task": 1.0, "style": 0.5}),
        ({"rewards": [0.5]}, {"rewards": 0.5}),
        ({"rewards": [0, 0, 1]}, {}),
        ({"scores": [{"name": "correct", "value": 1, "comment": "yes"}]}, {"correct": 1.0}),
        ({"reward_info": {"reward": 0.0, "db_check": {"match": False}}}, {"reward": 0.0}),
        ({"metadata": {"reward": "1"}}, {"reward": 1.0}),
        ({"outcomes": [{"name": "a", "score": None, "label": "pass", "explanation": "ok"}]}, {"a": "pass"}),
        ({"reward": None}, {}),
        ({"reward": '{"score": "0.5"}'}, {"reward": 0.5}),
        ({"final_metrics": {"extra": {"reward": 1}}}, {"reward": 1.0}),
    ],
    ids=str,
)
def test_rewards_in_every_spelling_are_outcomes(
    tmp_path: Path, beside: dict[str, Any], expected: dict[str, Any]
) -> None:
    (c,), _ = read(tmp_path, data={"messages": OPENAI, **beside})
    assert outcomes(c) == expected


def test_an_explanation_stays_with_its_score(tmp_path: Path) -> None:
    (c,), _ = read(tmp_path, data={"messages": OPENAI, "scores": [{"name": "a", "value": "1", "comment": "well done"}]})
    assert c.outcomes == [{"name": "a", "score": 1.0, "label": None, "explanation": "well done"}]


@pytest.mark.parametrize(
    "record",
    [
        {"input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
         "preferred_output": [DONE], "non_preferred_output": [{"role": "assistant", "content": "No."}]},
        {"prompt": [USER], "chosen": [DONE], "rejected": [{"role": "assistant", "content": "No."}]},
        {"chosen": [USER, DONE], "rejected": [USER, {"role": "assistant", "content": "No."}]},
        {"chosen": "\n\nHuman: where is 7\n\nAssistant: Here.", "rejected": "\n\nHuman: where is 7\n\nAssistant: No."},
        {"prompt": USER["content"], "chosen": "Here.", "rejected": "No."},
    ],
    ids=["openai", "prompt", "whole", "transcripts", "texts"],
)  # fmt: skip
def test_both_answers_of_a_preference_are_conversations(tmp_path: Path, record: dict[str, Any]) -> None:
    found, problems = read(tmp_path, data=record)
    assert not problems
    assert {told(c)[-1][1]: outcomes(c) for c in found} == {"Here.": {"preferred": 1.0}, "No.": {"preferred": 0.0}}
    assert all(told(c)[0] == ("user", "where is 7") for c in found)


def test_two_choices_are_two_conversations(tmp_path: Path) -> None:
    choices = [{"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": c}}
               for n, c in enumerate(("Here.", "No."))]  # fmt: skip
    record = {"request": {"model": "m", "n": 2, "messages": [USER]}, "response": {"id": "c", "choices": choices}}
    found, _ = read(tmp_path, data=record)
    assert sorted(told(c)[1:] for c in found) == [[("assistant", "Here.")], [("assistant", "No.")]]


def response(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"id": f"chatcmpl-{content}", "object": "chat.completion", "created": 1764000000, "model": "m-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip


def batch(custom_id: str, content: str) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {content}"}], "tools": [TOOL]}
    asked = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    answered = {"id": "batch_req_1", "custom_id": custom_id, "error": None,
                "response": {"status_code": 200, "request_id": "r", "body": response(content)}}  # fmt: skip
    return asked, answered


@pytest.mark.parametrize("names", [("a_input", "b_output"), ("z_input", "b_output")])
def test_batch_results_are_joined_with_their_requests(tmp_path: Path, names: tuple[str, str]) -> None:
    (one, one_answered), (two, two_answered) = batch("r-1", "one"), batch("r-2", "two")
    found, problems = read(tmp_path, **{names[0]: [one, two], names[1]: [two_answered, one_answered]})
    assert not problems
    assert {c.conversation_id: told(c) for c in found} == {
        "r-1": [("user", "say one"), ("assistant", "one")],
        "r-2": [("user", "say two"), ("assistant", "two")],
    }
    assert all(c.tools for c in found)


def test_an_id_used_in_two_batches_joins_nothing(tmp_path: Path) -> None:
    (one, answered), (other, _) = batch("r-1", "one"), batch("r-1", "other")
    found, _ = read(tmp_path, input1=[one], input2=[other], output=[answered])
    assert [("assistant", "one")] in [told(c) for c in found]


def test_a_failed_request_of_a_batch_is_no_answer(tmp_path: Path) -> None:
    asked, _ = batch("r-1", "one")
    failed = {"id": "b", "custom_id": "r-1", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}}
    (c,), problems = read(tmp_path, input=[asked], output=[failed])
    assert not problems and told(c) == [("user", "say one")]
    spans = Lake.open(tmp_path / "lake").query("SELECT status_message m FROM spans ORDER BY m").to_pylist()
    assert [s["m"] for s in spans] == ["", "no"]


def test_an_anthropic_batch_is_read(tmp_path: Path) -> None:
    asked = {"custom_id": "r", "params": {"model": "m", "system": "Be kind.", "messages": [USER]}}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
               "content": [{"type": "text", "text": "Here."}]}  # fmt: skip
    answered = {"custom_id": "r", "result": {"type": "succeeded", "message": message}}
    (c,), problems = read(tmp_path, input=[asked], output=[answered])
    assert not problems
    assert told(c) == [("system", "Be kind."), ("user", "where is 7"), ("assistant", "Here.")]


# ----- ATIF


def atif(name: str, prompt: str, **more: Any) -> dict[str, Any]:
    steps = [
        {"step_id": 1, "source": "user", "message": [{"type": "text", "text": prompt}]},
        {"step_id": 2, "source": "agent", "message": "",
         "tool_calls": [{"tool_call_id": "t", "function_name": "find", "arguments": {"q": prompt}}],
         "observation": {"results": [{"source_call_id": "t", "content": [{"type": "text", "text": "shelf 3"}]}]}},
        {"step_id": 3, "source": "agent", "message": f"{name} is done"},
    ]  # fmt: skip
    return {"schema_version": "ATIF-v1.7", "session_id": "run", "agent": {"name": name}, "steps": steps, **more}


def test_sub_agents_of_a_trajectory_are_conversations_of_their_own(tmp_path: Path) -> None:
    inner = atif("reader", "read", trajectory_id="run-sub", subagent_trajectories=[atif("digger", "dig")])
    outer = atif("planner", "plan", trajectory_id="run-root", subagent_trajectories=[inner], extra={"reward": 1.0})
    found, problems = read(tmp_path, data=outer)
    assert not problems and {c.agent for c in found} == {"planner", "reader", "digger"}
    for c in found:
        assert told(c)[-1] == ("assistant", f"{c.agent} is done") and told(c)[-2] == ("tool", "shelf 3", "find", False)
    assert {c.agent: outcomes(c) for c in found} == {"planner": {"reward": 1.0}, "reader": {}, "digger": {}}
    spans = Lake.open(tmp_path / "lake").query("SELECT span_id, links FROM spans").to_pylist()
    assert sum(bool(json.loads(s["links"])) for s in spans) == 2


def test_trajectories_of_one_run_keep_their_own_rewards(tmp_path: Path) -> None:
    both = [atif("a", "x", trajectory_id="run-1", extra={"reward": 1.0}),
            atif("b", "y", trajectory_id="run-2", extra={"reward": 0.0})]  # fmt: skip
    found, _ = read(tmp_path, data=both)
    assert {c.conversation_id: outcomes(c) for c in found} == {"run-1": {"reward": 1.0}, "run-2": {"reward": 0.0}}


def test_samples_of_one_task_keep_their_own_rewards(tmp_path: Path) -> None:
    lines = [{"id": "task-1", "messages": [USER, {"role": "assistant", "content": c}], "reward": r}
             for c, r in (("a", 1), ("b", "0"), ("c", 0.5))]  # fmt: skip
    found, _ = read(tmp_path, data=lines)
    assert {told(c)[-1][1]: outcomes(c)["reward"] for c in found} == {"a": 1.0, "b": 0.0, "c": 0.5}


def test_a_preference_with_an_id_keeps_both_outcomes(tmp_path: Path) -> None:
    chosen, rejected = [DONE], [{"role": "assistant", "content": "No."}]
    found, _ = read(tmp_path, data={"id": "p", "prompt": [USER], "chosen": chosen, "rejected": rejected})
    assert {told(c)[-1][1]: outcomes(c)["preferred"] for c in found} == {"Here.": 1.0, "No.": 0.0}


def test_an_inspect_eval_log_gives_each_answer_once(tmp_path: Path, lake: Lake) -> None:
    """A sample's ``output`` is the last of its ``messages``."""
    said = {"role": "assistant", "content": "4", "source": "generate", "model": "m"}
    sample = {
        "id": "s-1",
        "epoch": 1,
        "input": "2 + 2?",
        "target": "4",
        "messages": [{"role": "user", "content": "2 + 2?", "source": "input"}, said],
        "output": {"choices": [{"message": {"role": "assistant", "content": "4"}, "stop_reason": "stop"}]},
        "scores": {"match": {"value": 1.0, "answer": "4"}},
    }
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"version": 2, "status": "success", "eval": {"task": "sums"}, "samples": [sample]}))
    lake.ingest([path])
    (c,) = lake.conversations()
    assert [m["content"] for m in c.messages] == ["2 + 2?", "4"]
    assert [(o["name"], o["score"]) for o in c.outcomes] == [("match", 1.0)]


def test_calls_named_by_their_kind_and_grades_beside_answers(tmp_path: Path, lake: Lake) -> None:
    """Inspect AI writes a call's tool as ``function``, a failure as ``error``, and grades as letters."""
    call = {"id": "call_12ab34cd", "function": "cancel", "arguments": {"id": "W1"}, "type": "function"}
    failure = {"type": "timeout", "message": "no answer in 9 s"}
    messages = [
        {"role": "user", "content": "cancel W1"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "call_12ab34cd", "function": "cancel", "error": failure},
        {"role": "assistant", "content": "It failed."},
    ]
    graded = [{"value": grade, "answer": "It failed."} for grade in ("C", "P", "I", "N")]
    scores = {**{f"s{n}": told for n, told in enumerate(graded)}, "school": {"value": "C"}}
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"id": "s-1", "messages": messages, "scores": scores}) + "\n")
    lake.ingest([path])
    (c,) = lake.conversations()
    assert [(x["name"], x["arguments"]) for m in c.messages for x in m.get("tool_calls", ())] == [
        ("cancel", {"id": "W1"})
    ]
    (result,) = [m for m in c.messages if m["role"] == "tool"]
    assert (result["name"], result["content"], result["is_error"]) == ("cancel", "no answer in 9 s", True)
    found = {o["name"]: (o["score"], o["label"]) for o in c.outcomes}
    assert found == {"s0": (1.0, "C"), "s1": (0.5, "P"), "s2": (0.0, "I"), "s3": (0.0, "N"), "school": (None, "C")}
