"""Session files that command-line agents keep: Claude Code, Codex CLI, Gemini CLI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import UserError
from ingest.formats import files
from ingest.lake import Lake
from ingest.records import Conversation

Read = Callable[..., list[Conversation]]
TIME = "2026-05-01T10:00:{:02d}.000Z"


@pytest.fixture
def read(tmp_path: Path, lake: Lake) -> Read:
    """The conversations that a lake makes of the lines of one file."""

    def conversations(*lines: Any, name: str = "session.jsonl") -> list[Conversation]:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        lake.ingest([path])
        return lake.conversations()

    return conversations


def told(c: Conversation) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for m in c.messages:
        if m["role"] == "tool":
            out.append(("result", m.get("name"), m.get("content"), m["is_error"]))
            continue
        if m.get("content"):
            out.append((m["role"], m["content"]))
        out += [("call", x["name"], x["arguments"]) for x in m.get("tool_calls", ())]
    return out


# ------------------------------------------------------------------------------------------------ Claude Code


def claude(number: int, kind: str, content: Any, parent: int | None, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": kind, "content": content}
    if kind == "assistant":
        message |= {"id": more.pop("answer", f"msg_{number}"), "model": "claude-x", "type": "message"}
    return {
        "type": kind, "uuid": f"u{number}", "parentUuid": None if parent is None else f"u{parent}",
        "sessionId": "s-1", "timestamp": TIME.format(number), "isSidechain": False, "message": message, **more,
    }  # fmt: skip


def use(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def gave(call_id: str, content: str, failed: bool = False) -> list[dict[str, Any]]:
    return [{"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": failed}]


CLAUDE = [
    {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
    claude(1, "user", "Fix the test.", None),
    claude(2, "user", "Caveat: generated", 1, isMeta=True),
    claude(3, "assistant", [{"type": "thinking", "thinking": "Hm."}], 2, answer="m1"),
    claude(4, "assistant", [{"type": "text", "text": "I look."}], 3, answer="m1"),
    claude(5, "assistant", [use("a", "Read", {"path": "a.py"})], 4, answer="m1"),
    claude(6, "user", gave("a", "x = 1"), 5, toolUseResult={"file": {}}),
    claude(7, "assistant", [use("b", "Bash", {"command": "make"})], 5, answer="m1"),
    claude(8, "user", gave("b", "Exit code 2", True), 7),
    claude(9, "assistant", [{"type": "text", "text": "It is fixed."}], 8),
    {"type": "system", "subtype": "turn_duration", "uuid": "u10", "parentUuid": "u9", "sessionId": "s-1"},
    claude(11, "user", "Thanks.", 10),
    claude(12, "assistant", [{"type": "text", "text": "Gladly."}], 11),
]
CLAUDE_TOLD = [
    ("user", "Fix the test."),
    ("assistant", "I look."),
    ("call", "Read", {"path": "a.py"}),
    ("call", "Bash", {"command": "make"}),
    ("result", "Read", "x = 1", False),
    ("result", "Bash", "Exit code 2", True),
    ("assistant", "It is fixed."),
    ("user", "Thanks."),
    ("assistant", "Gladly."),
]


def test_a_session_of_claude_code_is_one_conversation(read: Read) -> None:
    """Lines of one answer are one message, also where a result came between them."""
    (c,) = read(*CLAUDE)
    assert (c.conversation_id, c.agent) == ("s-1", "claude-code")
    assert told(c) == CLAUDE_TOLD and "call_without_result" not in c.flags


def test_reading_a_longer_session_again_adds_only_the_new_part(read: Read) -> None:
    read(*CLAUDE[:-2])
    (c,) = read(*CLAUDE)
    assert told(c) == CLAUDE_TOLD
    (c,) = read(*CLAUDE)
    assert told(c) == CLAUDE_TOLD


def test_a_prompt_after_a_rewind_begins_a_branch(read: Read) -> None:
    again = [claude(13, "user", "No, undo it.", 9), claude(14, "assistant", [{"type": "text", "text": "Undone."}], 13)]
    found = read(*CLAUDE, *again)
    assert [told(c)[-2:] for c in found] == [CLAUDE_TOLD[-2:], [("user", "No, undo it."), ("assistant", "Undone.")]]
    assert told(found[1])[:-2] == CLAUDE_TOLD[:-2] and "branch" in found[1].flags


def test_a_sub_agent_of_claude_code_is_a_conversation_of_its_own(read: Read) -> None:
    side = [
        claude(20, "user", "Search for x.", None, isSidechain=True),
        claude(21, "assistant", [{"type": "text", "text": "Found it."}], 20, isSidechain=True),
    ]
    main, sub = read(*CLAUDE[:6], *side, *CLAUDE[6:])
    assert told(main) == CLAUDE_TOLD
    assert told(sub) == [("user", "Search for x."), ("assistant", "Found it.")]
    (again,) = [c for c in read(*side, name="agent-7.jsonl") if c.conversation_id.startswith("s-1/u20")]
    assert told(again) == told(sub)


def test_claude_stream_json_output_is_read(read: Read) -> None:
    def line(kind: str, content: Any, **message: Any) -> dict[str, Any]:
        return {"type": kind, "session_id": "s-2", "uuid": str(content), "parent_tool_use_id": None,
                "message": {"role": kind, "content": content, **message}}  # fmt: skip

    (c,) = read(
        {"type": "system", "subtype": "init", "session_id": "s-2", "tools": ["Bash", "Read"], "model": "claude-x"},
        line("assistant", [use("a", "Bash", {"command": "ls"})], id="m1"),
        line("user", gave("a", "a.py")),
        line("assistant", [{"type": "text", "text": "One file."}], id="m2"),
        {"type": "result", "subtype": "success", "is_error": False, "result": "One file.", "session_id": "s-2"},
    )
    assert told(c) == [("call", "Bash", {"command": "ls"}), ("result", "Bash", "a.py", False),
                       ("assistant", "One file.")]  # fmt: skip
    assert [t["name"] for t in c.tools] == ["Bash", "Read"]


# -------------------------------------------------------------------------------------------------- Codex CLI


def codex(number: int, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"timestamp": TIME.format(number), "type": kind, "payload": payload}


def said(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def ran(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "call_id": call_id}


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


ENVIRONMENT = "<environment_context>\n  <cwd>/home/me</cwd>\n</environment_context>"
ITEMS = [
    said("user", ENVIRONMENT),
    said("user", "Run the tests."),
    {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAAA"},
    ran("c1", "shell", {"command": ["make"]}),
    output("c1", "no rule"),
    ran("c2", "shell", {"command": ["pytest"]}),
    output("c2", "3 passed"),
    said("assistant", "They pass."),
]
CODEX = [
    codex(0, "session_meta", {"id": "r-1", "cwd": "/home/me", "base_instructions": {"text": "Be terse."}}),
    codex(1, "response_item", ITEMS[0]),
    codex(2, "turn_context", {"model": "gpt-x", "cwd": "/home/me"}),
    codex(3, "event_msg", {"type": "user_message", "message": "Run the tests."}),
    *(codex(4 + n, "response_item", item) for n, item in enumerate(ITEMS[1:])),
    codex(20, "event_msg", {"type": "exec_command_end", "call_id": "c1", "exit_code": 2}),
    codex(21, "event_msg", {"type": "token_count", "info": None}),
]
CODEX_TOLD = [
    ("system", f"Be terse.\n\n{ENVIRONMENT}"),
    ("user", "Run the tests."),
    ("call", "shell", {"command": ["make"]}),
    ("result", "shell", "no rule", True),
    ("call", "shell", {"command": ["pytest"]}),
    ("result", "shell", "3 passed", False),
    ("assistant", "They pass."),
]


def test_a_rollout_of_codex_is_one_conversation(read: Read) -> None:
    """What the program wrote into the user's role is no prompt; the event of a command's end says that it failed."""
    (c,) = read(*CODEX)
    assert (c.conversation_id, c.agent) == ("r-1", "codex")
    assert told(c) == CODEX_TOLD


def test_the_older_codex_format_is_read(read: Read) -> None:
    meta = {"id": "r-0", "timestamp": TIME.format(0), "instructions": None, "git": {}}
    (c,) = read(meta, {"record_type": "state"}, *ITEMS[1:2], {"record_type": "state"}, *ITEMS[3:])
    assert c.conversation_id == "r-0"
    assert [f[:3] for f in told(c)] == [f[:3] for f in CODEX_TOLD[1:]]


def test_a_compaction_of_codex_begins_a_history_of_its_own(read: Read) -> None:
    after = [
        codex(30, "compacted", {"message": "The tests pass."}),
        codex(31, "event_msg", {"type": "user_message", "message": "Go on."}),
        codex(32, "response_item", said("user", "Go on.")),
        codex(33, "response_item", said("assistant", "Done.")),
    ]
    before, then = read(*CODEX, *after)
    assert told(before) == CODEX_TOLD
    assert told(then)[-3:] == [("user", "The tests pass."), ("user", "Go on."), ("assistant", "Done.")]


def test_codex_turns_that_were_undone_are_a_branch(read: Read) -> None:
    again = [
        codex(30, "event_msg", {"type": "thread_rolled_back", "num_turns": 1}),
        codex(31, "event_msg", {"type": "user_message", "message": "List the tests."}),
        codex(32, "response_item", said("user", "List the tests.")),
        codex(33, "response_item", said("assistant", "There are 3.")),
    ]
    found = read(*CODEX, *again)
    assert [told(c)[1:][-1] for c in found] == [("assistant", "They pass."), ("assistant", "There are 3.")]
    assert ("user", "Run the tests.") not in told(found[1])


# ------------------------------------------------------------------------------------------------- Gemini CLI

CALLS = [
    {
        "id": "g1", "name": "read_file", "args": {"path": "a"}, "status": "error",
        "result": [{"functionResponse": {"id": "g1", "name": "read_file", "response": {"error": "no such file"}}}],
    },
    {
        "id": "g2", "name": "list", "args": {}, "status": "success",
        "result": [{"functionResponse": {"id": "g2", "name": "list", "response": {"output": "b"}}}],
    },
]  # fmt: skip
GEMINI = [
    {"id": "1", "timestamp": TIME.format(1), "type": "user", "content": "Read a."},
    {"id": "2", "timestamp": TIME.format(2), "type": "info", "content": "Update available"},
    {
        "id": "3", "timestamp": TIME.format(3), "type": "gemini", "content": "", "model": "gemini-x",
        "thoughts": [{"subject": "Plan", "description": "Read it."}], "toolCalls": CALLS,
    },
    {"id": "4", "timestamp": TIME.format(4), "type": "gemini", "content": "Only b is there.", "model": "gemini-x"},
]  # fmt: skip
GEMINI_META = {"sessionId": "g-1", "projectHash": "ab", "startTime": TIME.format(0), "lastUpdated": TIME.format(9)}
GEMINI_TOLD = [
    ("user", "Read a."),
    ("call", "read_file", {"path": "a"}),
    ("call", "list", {}),
    ("result", "read_file", "no such file", True),
    ("result", "list", "b", False),
    ("assistant", "Only b is there."),
]


def test_a_chat_of_gemini_cli_is_one_conversation(read: Read, tmp_path: Path, lake: Lake) -> None:
    (c,) = read({**GEMINI_META, "messages": GEMINI})
    assert (c.conversation_id, c.agent) == ("g-1", "gemini-cli")
    assert told(c) == GEMINI_TOLD
    path = tmp_path / "session-pretty.json"
    path.write_text(json.dumps({**GEMINI_META, "messages": GEMINI}, indent=2))
    lake.ingest([path])
    assert [told(c) for c in lake.conversations()] == [GEMINI_TOLD]


def test_the_lines_of_newer_gemini_sessions_are_read(read: Read) -> None:
    early = {**GEMINI[2], "toolCalls": []}
    (c,) = read(GEMINI_META, *GEMINI[:2], early, GEMINI[2], {"$set": {"lastUpdated": TIME.format(9)}}, GEMINI[3])
    assert told(c) == GEMINI_TOLD


def test_gemini_turns_that_were_undone_are_a_branch(read: Read) -> None:
    again = {"id": "5", "timestamp": TIME.format(5), "type": "gemini", "content": "See b."}
    found = read(GEMINI_META, *GEMINI, {"$rewindTo": "4"}, again)
    assert [told(c)[-1] for c in found] == [("assistant", "Only b is there."), ("assistant", "See b.")]


# ------------------------------------------------------------------------------------------------------ files


def test_a_session_in_one_list_is_read(read: Read) -> None:
    (c,) = read(CLAUDE, name="list.json")
    assert told(c) == CLAUDE_TOLD


def test_a_session_without_messages_is_refused_with_what_it_is(tmp_path: Path, lake: Lake) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(json.dumps({"type": "summary", "summary": "x", "leafUuid": "y"}) + "\n")
    summary = lake.ingest([path])
    (problem,) = summary.problems
    assert "a session of Claude Code without messages" in problem and '{"messages"' in problem


def test_a_truncated_session_keeps_its_complete_part(tmp_path: Path, lake: Lake) -> None:
    path = tmp_path / "cut.jsonl"
    whole = "".join(json.dumps(line) + "\n" for line in CLAUDE[:5])
    path.write_text(whole + json.dumps(CLAUDE[5])[:40])
    summary = lake.ingest([path])
    assert "truncated after 5 whole lines" in summary.problems[0]
    (c,) = lake.conversations()
    assert told(c) == CLAUDE_TOLD[:2]


def test_a_line_that_is_not_json_loses_no_other(tmp_path: Path, lake: Lake) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in CLAUDE[:4]) + "oops\n" + json.dumps(CLAUDE[4]) + "\n")
    with pytest.raises(UserError, match="line 5"):
        list(files.read(path, 1))
    lake.ingest([path])
    (c,) = lake.conversations()
    assert told(c) == CLAUDE_TOLD[:2]
