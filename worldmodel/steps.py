"""One answered call, the identifiers in it, and the class of its outcome: the unit of the other modules of this room.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ingest.messages.error_class import classify_error, says_error
from ingest.records import Conversation, Transition
from training.models.edits import canonical, dumps

OK = "ok"
OTHER = "other_error"
MAX_CLASSES = 10
"""An outcome class is one digit."""


@dataclass(frozen=True)
class Step:
    """A call and its answer. `outcome` is `ok` or the error's class."""

    tool: str
    arguments: Mapping[str, Any]
    content: str
    outcome: str = OK
    latency_ms: float | None = None

    @cached_property
    def key(self) -> str:
        return call_key(self.tool, self.arguments)

    @cached_property
    def mentions(self) -> frozenset[str]:
        """The marks of every value in the call and its answer."""
        pairs = [*leaves(dict(self.arguments)), *content_leaves(self.content)]
        pairs += [("", word) for _, text in pairs if " " in text for word in text[:400].split()]
        found = {m for key, text in pairs for m in marks(key, text)}
        return frozenset(
            found | {m for key, value in self.arguments.items() for m in entity_marks(key, value)}
        )


def call_key(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return the key of a call: calls with equal JSON arguments have equal keys."""
    return f"{tool} {canonical(dumps(dict(arguments)))}"


# ----- outcome classes


def outcome_of(content: str, is_error: bool | None, error_class: str) -> str:
    """Return `ok`, or the error's class as in ingest. If nothing declares an error, the text of the answer decides."""
    if error_class:
        return error_class
    failed = says_error(content) if is_error is None else is_error
    return classify_error(None, content) if failed else OK


def _object(content: str) -> dict[str, Any]:
    if not content.lstrip().startswith("{"):
        return {}
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def outcome_classes(steps: Iterable[Step]) -> dict[str, tuple[str, ...]]:
    """Per tool, its classes as the prompt numbers them: `ok`, then errors by falling frequency, at most ten."""
    counts: dict[str, dict[str, int]] = {}
    for step in steps:
        of_tool = counts.setdefault(step.tool, {})
        of_tool[step.outcome] = of_tool.get(step.outcome, 0) + 1
    return {tool: _numbered(of_tool) for tool, of_tool in sorted(counts.items())}


def _numbered(counts: Mapping[str, int]) -> tuple[str, ...]:
    errors = sorted((name for name in counts if name != OK), key=lambda name: (-counts[name], name))
    if len(errors) > MAX_CLASSES - 1:
        errors = [*errors[: MAX_CLASSES - 2], OTHER]
    return (OK, *errors)


# ----- from records and messages


def step_of(transition: Transition) -> Step:
    outcome = outcome_of(transition.content, transition.is_error, transition.error_class)
    return Step(transition.tool, transition.arguments, transition.content, outcome, transition.latency_ms)


def group_steps(transitions: Sequence[Transition]) -> dict[str, list[Step]]:
    """Group steps by conversation: conversations by their first call, calls in order."""
    found: dict[str, list[Transition]] = defaultdict(list)
    for transition in sorted(transitions, key=lambda t: (t.started_at_ns, t.conversation_id, t.index)):
        found[transition.conversation_id].append(transition)
    return {cid: [step_of(t) for t in sorted(ts, key=lambda t: t.index)] for cid, ts in found.items()}


def steps_of_messages(messages: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Return the answered calls of a conversation in chat-completions form, in the order of their answers.

    A result is matched to its call by id, or else to the oldest call without a result.
    """
    waiting: list[Mapping[str, Any]] = []
    steps: list[Step | None] = []
    for message in messages:
        if message["role"] == "assistant":
            waiting.extend(message.get("tool_calls") or ())
        elif message["role"] == "tool" and waiting:
            call = next((c for c in waiting if c.get("id") == message.get("tool_call_id")), waiting[0])
            waiting.remove(call)
            steps.append(_answered(call, message))
    return [step for step in steps if step is not None]


def _answered(call: Mapping[str, Any], message: Mapping[str, Any]) -> Step | None:
    inner = call.get("function") or call
    arguments = inner.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _object(arguments)
    content = message.get("content")
    if content is None:
        return None
    outcome = outcome_of(content, message.get("is_error"), message.get("error_class") or "")
    return Step(inner["name"], arguments, content, outcome, message.get("latency_ms"))


# ----- what was said


def utterances(messages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Return the spoken text of each message."""
    speakers = {"user": "user", "assistant": "agent"}
    for message in messages:
        if message["role"] in speakers and message.get("content") and not message.get("tool_calls"):
            yield speakers[message["role"]], message["content"]


def said_in(conversations: Iterable[Conversation]) -> dict[str, list[tuple[str, str]]]:
    """By conversation, the spoken texts, with the system prompt first."""
    found = {}
    for conversation in conversations:
        system = [("system", m["content"] or "") for m in conversation.messages if m["role"] == "system"]
        found[conversation.conversation_id] = [*system, *utterances(conversation.messages)]
    return found


# ----- values

_DATE = re.compile(r"\d{4}-\d\d(-\d\d)?([T ].*)?|\d\d:\d\d.*")


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every scalar in a JSON value. List items have their list's key; dict keys count as items."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if re.search(r"\d", name):
                yield key, name
            yield from leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    elif value is not None and not isinstance(value, bool):
        yield key, value if isinstance(value, str) else json.dumps(value)


def content_leaves(content: str) -> list[tuple[str, str]]:
    try:
        value = json.loads(content)
    except ValueError:
        return [("", word) for word in re.findall(r"[\w#@.-]*\d[\w#@.-]*", content)]
    return list(leaves(value))


def is_identifier(text: str) -> bool:
    """Whether a value looks like an identifier: it has a digit and a letter (or is long), and is not a date."""
    if _DATE.fullmatch(text) or len(text) < 3 or len(text) > 64 or " " in text:
        return False
    return bool(re.search(r"\d", text)) and (bool(re.search(r"[A-Za-z#]", text)) or len(text) >= 5)


def core(text: str) -> str:
    """Return an id without a short prefix: tools may write one order as `#W4821`, `W4821` or `4821`."""
    match = re.fullmatch(r"[^0-9]{1,4}(\d{3,})", text)
    return match[1] if match else text


def marks(key: str, text: str) -> tuple[str, ...]:
    """Return the forms by which a value is recognised elsewhere: key with bare number, and the value itself if it looks
    like an id."""
    return (f"{key}={core(text)}", text) if is_identifier(text) else (f"{key}={core(text)}",)


def entity_marks(key: str, value: Any) -> tuple[str, ...]:
    """Return the marks of an argument that names an entity, with its bare number, whatever key another tool uses for
    it."""
    text = str(value)
    bare = core(text)
    return (
        (*marks(key, text), bare)
        if isinstance(value, str) and re.fullmatch(r"\d{4,}", bare)
        else marks(key, text)
    )


_WORD = re.compile(r"[^\W\d_]{3,}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text or of a name (`birthYear`, `birth_year`), without case and plural."""
    found = _WORD.findall(_CAMEL.sub(" ", text))
    return frozenset(word.casefold().removesuffix("s") for word in found)
