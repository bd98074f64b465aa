"""Records that hold a conversation: training datasets, files of batch and fine-tuning APIs, logged requests and
responses, exports. ``message_lists`` reads the messages.

A record is recognised by its keys. Other forms are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ingest.formats.records import message_lists
from ingest.formats.records.outcomes import KEYS, Outcome, outcomes_of
from ingest.formats.records.tagged import untagged
from ingest.formats.records.trajectory import Trajectory, time_of

BatchRequests = Callable[[str], dict[str, Any] | None]
# Where the messages of a conversation lie; ``input`` is the Responses API's and may be a text.
MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "traj", "trajectory",
            "history", "chat_history", "chat_messages", "contents", "messages_and_choices", "prompt",
            "input")  # fmt: skip
IDS = ("conversation_id", "trajectory_id", "thread_id", "session_id", "sessionId", "chat_id", "id", "custom_id", "uuid")
_AGENTS, _MODELS = ("agent", "agent_name"), ("model", "model_name")
_SYSTEM = ("system", "system_prompt", "instructions", "systemInstruction", "system_instruction")
_TOOLS = ("tools", "functions", "tool_definitions", "toolConfig", "available_tools")
_ANSWERS = ("completion", "completions", "response", "output", "responses")
_PAIRS = (("request", "response"), ("request_body", "response_body"), ("input", "output"), ("body", "response"),
          ("prompt", "response"), ("prompt", "completion"))  # fmt: skip
_BODIES = ("inputBodyJson", "outputBodyJson")  # of Bedrock's invocation logs
_TEXT_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("question", "answer"))
_OWN = {*MESSAGES, *IDS, *_AGENTS, *_MODELS, *_SYSTEM, *_TOOLS, *_ANSWERS, *KEYS} - {"feedback", "reward_info"}


def trajectories_of(value: Any, batch_requests: BatchRequests | None = None) -> list[Trajectory] | None:
    """The conversations of a record, or of a bare list of messages; None for what is neither."""
    if isinstance(value, list):
        return [_listed(value)] if message_lists.is_conversation(value) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("mapping"), dict):
        value = _on_its_path(value)
    return _batch(value, batch_requests) or _preference(value) or _plain(value)


def without_time(message: Any) -> Any:
    """A message without its timestamp, which is the span's."""
    return {k: v for k, v in message.items() if k != "timestamp"} if isinstance(message, dict) else message


def _listed(items: list[Any]) -> Trajectory:
    return _split(message_lists.read(message_lists.listed(items) or []), None)


def _split(messages: list[Any], tools: Any) -> Trajectory:
    """Splits a conversation: if the last message is the model's, it is the output."""
    messages, tools = untagged(messages, tools)
    answered = bool(messages) and message_lists.role_of(messages[-1]) == "assistant"
    return Trajectory(messages[:-1] if answered else messages, messages[-1:] if answered else [], tools=tools)


def _on_its_path(record: dict[str, Any]) -> dict[str, Any]:
    """The displayed path of a conversation in ChatGPT's export, which is a tree of messages."""
    nodes, at = record["mapping"], record.get("current_node")
    path: list[Any] = []
    while isinstance(node := nodes.get(at), dict) and len(path) <= len(nodes):
        path.append(node.get("message"))
        at = node.get("parent")
    messages = [m for m in map(_of_a_node, reversed(path)) if m]
    return {**{k: v for k, v in record.items() if k not in ("mapping", "current_node")}, "messages": messages}


def _of_a_node(message: Any) -> dict[str, Any] | None:
    if not isinstance(message, dict) or not isinstance(message.get("author"), dict):
        return None
    content = message.get("content") or {}
    parts = [p for p in content.get("parts") or () if isinstance(p, str) and p] if isinstance(content, dict) else []
    text = "\n".join(parts) or (content.get("text") if isinstance(content, dict) else None)
    if not text:
        return None
    name = {"name": message["author"]["name"]} if isinstance(message["author"].get("name"), str) else {}
    return {"role": message["author"].get("role"), "content": text, "timestamp": message.get("create_time"), **name}


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((record[k] for k in keys if record.get(k) not in (None, "", [], {})), None)


# ------------------------------------------------------------------------------------------- one conversation


def _plain(record: dict[str, Any]) -> list[Trajectory] | None:
    """A conversation with its answer, a logged request with its response, a response alone, or two texts."""
    for asked, answered in _PAIRS:
        request, response = _object(record.get(asked)), _object(record.get(answered))
        if request is not None and answered in record and (told := _prompt(request)) is not None:
            answer = _answer(response if response is not None else record[answered], is_text=True)
            return [_with_facts(answer, told, {**(response or {}), **request, **record})] if answer else None
    told = _prompt(record)
    if told is not None:
        answer = next((a for k in _ANSWERS if (a := _answer(record.get(k), is_text=not told.said)) is not None), None)
        if answer is not None and told.said and _repeats(answer.said, told.said):
            answer = replace(answer, said=told.said)  # Inspect AI's output is the last of its messages
            told = replace(told, said=[])
        if answer is None and not told.said and not {"choices", "candidates"}.isdisjoint(record):
            answer = _answer(record)
        return [_with_facts(answer, told, record)]
    if (answer := _answer(record)) is not None:
        return [_with_facts(answer, Trajectory([], []), record)]
    return _texts(record)


def _repeats(answer: list[Any], said: list[Any]) -> bool:
    """Whether an answer repeats the last message of the conversation."""
    facts = [
        [(m.get("content"), [c.get("function") for c in m.get("tool_calls") or () if isinstance(c, dict)])
         for m in (item.get("message", item) for item in items if isinstance(item, dict)) if isinstance(m, dict)]
        for items in (answer, said)
    ]  # fmt: skip
    return bool(facts[0]) and facts[0] == facts[1]


def _object(value: Any) -> dict[str, Any] | None:
    value = message_lists.from_text(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        return None
    return next((value[k] for k in _BODIES if isinstance(value.get(k), dict)), value)


def _prompt(record: dict[str, Any]) -> Trajectory | None:
    """The messages of a record or a request, with its system prompt and tools."""
    tools = _first(record, _TOOLS)
    for key in MESSAGES:
        items = message_lists.listed(record.get(key))
        if items is not None:
            return replace(_split(message_lists.read(items), tools), system=_first(record, _SYSTEM))
    text = next((record[k] for k in ("input", "prompt") if isinstance(record.get(k), str)), None)
    if text is not None and "model" in record and not any(k in record for k in ("completion", "response")):
        asked = [{"role": "user", "content": text}]  # Responses API, and text completions
        return Trajectory(asked, [], system=_first(record, _SYSTEM), tools=tools)
    return None


def _answer(value: Any, is_text: bool = False) -> Trajectory | None:
    """The answer of a model: a response of OpenAI's chat or Responses API, of Anthropic's, Gemini's or Bedrock's, or
    messages; with ``is_text`` also a text."""
    if isinstance(value, str | list):
        items = message_lists.listed(value)
        if items is None and is_text and isinstance(value, str) and value:
            items = [{"role": "assistant", "content": value}]
        return Trajectory([], message_lists.read(items)) if items else None
    if not isinstance(value, dict):
        return None
    said = next((found for k in ("choices", "candidates", "output") if (found := _said(value.get(k)))), None)
    is_message = value.get("role") == "assistant" and ("content" in value or "tool_calls" in value)
    if said is None and is_message:
        said = [{k: value[k] for k in ("role", "content", "tool_calls", "refusal") if k in value}]
    if said is None and isinstance(value.get("output"), dict) and message_lists.is_message(value["output"]):
        said = [value["output"]["message"]]
    if said is None:
        return None
    response_id = value.get("id", value.get("responseId"))
    model = _first(value, ("model", "modelVersion"))
    return Trajectory(
        [], said, model=str(model) if model else None,
        response_id=response_id if isinstance(response_id, str) else None,
        at_ns=time_of({"created": value.get("created") or value.get("created_at")}),
    )  # fmt: skip


def _said(items: Any) -> list[Any] | None:
    """Choices, candidates or output items; the texts of a text completion's choices."""
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        return None
    if all(isinstance(item.get("text"), str) and "message" not in item for item in items):
        return [{"role": "assistant", "content": item["text"]} for item in items]
    if all(isinstance(item.get("content"), dict) and "parts" in item["content"] for item in items):
        return items
    return items if all(map(message_lists.is_message, items)) else None


def _texts(record: dict[str, Any]) -> list[Trajectory] | None:
    """A prompt and its completion, or an instruction and its output, as texts."""
    for asked, answered in _TEXT_PAIRS:
        if isinstance(record.get(asked), str) and isinstance(record.get(answered), str) and record[asked]:
            more = record.get("input") if asked == "instruction" else None
            text = f"{record[asked]}\n\n{more}" if isinstance(more, str) and more else record[asked]
            said = Trajectory([], [{"role": "assistant", "content": record[answered]}])
            asks = Trajectory([{"role": "user", "content": text}], [], system=_first(record, _SYSTEM))
            found = _with_facts(said, asks, record)
            used = {asked, answered, "input"} if asked == "instruction" else {asked, answered}
            return [replace(found, kept={k: v for k, v in (found.kept or {}).items() if k not in used})]
    return None


def _with_facts(answer: Trajectory | None, told: Trajectory, record: dict[str, Any]) -> Trajectory:
    """A conversation with the ids, outcomes and other facts of its record."""
    if answer is not None:
        told = replace(told, asked=[*told.asked, *told.said], said=answer.said)
    ids = {k: record[k] for k in IDS if isinstance(record.get(k), str | int) and not isinstance(record.get(k), bool)}
    response_id = answer.response_id if answer else None
    conversation_id = next((str(v) for v in ids.values() if v != "" and v != response_id), None)
    agent, model = _first(record, _AGENTS), (answer.model if answer else None) or _first(record, _MODELS)
    name = agent.get("name") if isinstance(agent, dict) else agent
    return replace(
        told, agent=str(name) if isinstance(name, str) else None, model=model if isinstance(model, str) else None,
        conversation_id=conversation_id, response_id=response_id, outcomes=outcomes_of(record),
        at_ns=(answer.at_ns if answer else 0) or time_of(record),
        kept={k: v for k, v in record.items() if k not in _OWN or (k in _ANSWERS and answer is None)},
    )  # fmt: skip


# -------------------------------------------------------------------------------------- files of the batch APIs


def _batch(record: dict[str, Any], requests: BatchRequests | None) -> list[Trajectory] | None:
    """A line of a batch: a request (OpenAI's ``body``, Anthropic's ``params``), or a result, which tells of its request
    only the ``custom_id``."""
    custom_id = record.get("custom_id")
    if not isinstance(custom_id, str | int):
        return None
    key = str(custom_id)
    body = _object(record.get("body") or record.get("params"))
    if body is not None:
        told = _prompt(body)
        return [_with_facts(None, told, {**body, "custom_id": key})] if told else None
    result = _object(record.get("response")) or _object(record.get("result"))
    if result is None and not record.get("error"):
        return None
    asked = requests(key) if requests else None
    told = (_prompt(asked) if asked else None) or Trajectory([], [])
    answer = _answer(next((result[k] for k in ("body", "message") if k in result), None)) if result else None
    if answer is None and not _has_failed(record, result):
        return None
    facts = _with_facts(answer, told, {**(asked or {}), "custom_id": key})
    return [replace(facts, error=None if answer else _problem(record, result))]


def _has_failed(record: dict[str, Any], result: dict[str, Any] | None) -> bool:
    """Whether a request of a batch was not answered. An answer of another kind (embeddings) is no failure."""
    status = (result or {}).get("status_code")
    return (
        bool(record.get("error"))
        or (result or {}).get("type") in ("errored", "canceled", "expired")
        or (isinstance(status, int) and status >= 400)
    )


def _problem(record: dict[str, Any], result: dict[str, Any] | None) -> str:
    """The API's message why a request of a batch has no answer."""
    for told in (record.get("error"), result, (result or {}).get("error"), (result or {}).get("body")):
        inner = told.get("error", told) if isinstance(told, dict) else told
        if isinstance(inner, dict) and isinstance(inner.get("error"), dict):
            inner = inner["error"]
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return str(inner["message"])
        if isinstance(inner, str) and inner:
            return inner
    return str((result or {}).get("type") or "the batch has no answer to this request")


# --------------------------------------------------------------------------------------------- preferences


def _preference(record: dict[str, Any]) -> list[Trajectory] | None:
    """Two answers to one prompt, one of them preferred. Both become conversations with the outcome ``preferred``."""
    for better, worse in (("preferred_output", "non_preferred_output"), ("chosen", "rejected")):
        if better in record and worse in record:
            break
    else:
        return None
    inner = _object(record.get("input"))
    told = _prompt(inner if inner is not None else {k: v for k, v in record.items() if k not in (better, worse)})
    if told is None and isinstance(record.get("prompt"), str):
        told = Trajectory([{"role": "user", "content": record["prompt"]}], [], system=_first(record, _SYSTEM))
    both = [_alternative(told, record[key]) for key in (better, worse)]
    facts = {k: v for k, v in {**(inner or {}), **record}.items() if k not in (better, worse, "input")}
    found = [_with_facts(t, base, facts) for alternative in both if alternative for base, t in [alternative]]
    if len(found) < 2:
        return None
    first, second = found
    return [
        replace(first, outcomes=[*first.outcomes, Outcome("preferred", 1.0)]),
        replace(second, outcomes=[*second.outcomes, Outcome("preferred", 0.0)]),
    ]


def _alternative(told: Trajectory | None, value: Any) -> tuple[Trajectory, Trajectory] | None:
    """A prompt and one answer. Messages in the answer may repeat the prompt, or be the whole conversation."""
    if isinstance(value, str) and message_lists.listed(value) is None:
        return (told, Trajectory([], [{"role": "assistant", "content": value}])) if told else None
    answer = _answer(value)
    if answer is None:
        return None
    if message_lists.role_of(answer.said[0]) == "assistant" and told:
        return told, answer
    whole = _split(answer.said, told.tools if told else None)
    return replace(whole, said=[], system=told.system if told else None), Trajectory([], whole.said)
