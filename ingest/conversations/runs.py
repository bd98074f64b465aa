"""Rebuild agent runs whose model calls do not show the tool calls.

Some libraries export no model calls, some export the first request as the input of every call, and some agents use a
text protocol. Then no history has tool calls although tools ran. Such a run is rebuilt from its spans: the agent's
input, the calls of the model or the executions in their order, and the agent's answer. The conversation gets the flag
``rebuilt``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ingest.conversations.executions import Scopes, name_by_calls
from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed, SpanKey
from ingest.messages.parts import call_part, result_part
from ingest.messages.shapes import NormalMessage

FLAG = "rebuilt"
# Tools by which agents with a text protocol return their answer (smolagents, DSPy). They are no tools of the user.
ANSWERS = {"final_answer", "finish"}


@dataclass(slots=True)
class Run:
    """One run of one agent: its span, if there is one, its executions and its model calls."""

    root: Observed | None
    executions: list[Observed] = field(default_factory=list)
    inferences: list[Observed] = field(default_factory=list)


def rebuild(members: list[Observed], scopes: Scopes) -> tuple[list[Observed], list[Observed]]:
    """Return the model calls and the executions of a conversation. The calls of a run that must be rebuilt are replaced
    by one call with the whole run. Executions that only return the answer are left out."""
    calls = [o for o in members if o.kind == "inference" and (o.input or o.output)] or _turns_of_agents(members, scopes)
    executions = [o for o in members if o.kind == "execution"]
    if not executions:
        return calls, executions
    name_by_calls(executions, calls)
    if _are_told(executions, calls):
        return calls, executions
    replaced: set[int] = set()
    for run in _runs(calls, executions, scopes):
        if _is_untold(run, calls):
            replaced |= {id(o) for o in (*run.inferences, *_answering(run))}
            calls.append(_told(run))
    return [c for c in calls if id(c) not in replaced], [e for e in executions if id(e) not in replaced]


def _are_told(executions: list[Observed], calls: list[Observed]) -> bool:
    """Whether each execution has a sibling model call whose history has tool calls. Then no run must be rebuilt. This
    is the usual case, and cheaper to find than the runs."""
    told: set[SpanKey] = set()
    for c in reversed(calls):  # the last has the longest history
        parent = c.trace_id, c.parent_span_id
        if parent not in told and _shows_calls(c):
            told.add(parent)
    return all((e.trace_id, e.parent_span_id) in told for e in executions)


def _shows_calls(c: Observed) -> bool:
    """Whether the history of a model call has a tool call, or a result with a call id."""
    parts = (p for m in c.input for p in m["parts"])
    return any(p["type"] == "tool_call" or (p["type"] == "tool_call_response" and p.get("id")) for p in parts)


def _turns_of_agents(members: list[Observed], scopes: Scopes) -> list[Observed]:
    """Return agent spans that record single model turns with their history (AG2), for conversations without model
    calls. Spans around them record the same run again and are left out."""
    told = [o for o in members if o.kind == "agent" and _tells_turn(o)]
    if not any(p["type"] == "tool_call" for o in told for m in o.output for p in m["parts"]):
        return []
    around = {id(a) for o in told for a in scopes.around(o)}
    return [o for o in told if id(o) not in around]


def _tells_turn(o: Observed) -> bool:
    """Whether a span's input ends with a user or tool message, and its output has assistant messages only."""
    asked = bool(o.input) and o.input[-1]["role"] in ("user", "tool")
    return asked and bool(o.output) and all(m["role"] == "assistant" for m in o.output)


def _runs(calls: list[Observed], executions: list[Observed], scopes: Scopes) -> list[Run]:
    runs: dict[tuple[str, str], Run] = {}
    for e in sorted(executions, key=lambda o: o.start_ns):
        around = scopes.around(e)
        if any(a.kind == "execution" for a in around):
            continue  # it is part of another execution
        root = _root(around)
        key = (e.trace_id, root.span_id if root else "")
        runs.setdefault(key, Run(root)).executions.append(e)
    for c in sorted(calls, key=lambda o: o.start_ns):
        # Only the nearest run: a call in two rebuilt runs would be in two conversations.
        around_ids = (*(a.span_id for a in scopes.around(c)), "")
        nearest = next((runs[k] for k in ((c.trace_id, s) for s in around_ids) if k in runs), None)
        if nearest is not None:
            nearest.inferences.append(c)
    return list(runs.values())


def _root(around: list[Observed]) -> Observed | None:
    agents = [a for a in around if a.kind == "agent"]
    speaking = [a for a in agents if a.input or a.output]
    found = speaking or agents
    return found[-1] if found else None


def _is_untold(run: Run, calls: list[Observed]) -> bool:
    """Whether tools ran between the model calls of a run and no history has a call. For a run without model calls:
    whether one of its executions has no call anywhere in the conversation."""
    if not run.inferences:
        told = [p for c in calls for m in (*c.input, *c.output) for p in m["parts"] if p["type"] == "tool_call"]
        return not all(any(_runs_call(e, p) for p in told) for e in run.executions)
    if any(map(_shows_calls, run.inferences)):
        return False
    first_end = min(e.end_ns for e in run.executions)
    return any(c.start_ns >= first_end for c in run.inferences)


def _answering(run: Run) -> list[Observed]:
    return [e for e in run.executions if e.tool_name in ANSWERS]


def _told(run: Run) -> Observed:
    like = run.root or (run.inferences or run.executions)[0]
    flags = [f for o in (like, *run.inferences) for f in o.flags]
    ends = [o.end_ns for o in (*run.executions, *run.inferences)]
    unsaid = [e for e in run.executions if e.arguments is None and e.result is None]
    told_by = [o for o in (run.root, *run.inferences, *_answering(run), *unsaid) if o]
    return replace(
        like, kind="inference", also=[other for o in told_by for other in ((*o.key, o.kind), *o.also)],
        is_error=False, error_type=None, flags=[*flags, FLAG], rebuilt=True,
        dialect=like.dialect or run.executions[0].dialect, evaluations=[],
        input=_asked(run), output=[*_called(run), *_answered(run)], end_ns=max(like.end_ns, *ends),
        tools=next((c.tools for c in run.inferences if c.tools), like.tools),
        tool_name=None, call_id=None, arguments=None, result=None,
    )  # fmt: skip


def _asked(run: Run) -> list[NormalMessage]:
    spoken = run.inferences[0].input if run.inferences else []
    asked = [m for m in run.root.input if m["parts"]] if run.root else []
    if any(m["role"] == "user" for m in asked):
        system = [m for m in spoken if m["role"] == "system" and not any(a["role"] == "system" for a in asked)]
        return [*system[:1], *asked]
    return spoken


def _called(run: Run) -> list[NormalMessage]:
    """Return messages with the model's calls, and with calls for executions that have none, in the order of time."""
    told: list[tuple[int, NormalMessage]] = []
    open_calls = []
    for c in run.inferences:
        for m in c.output:
            parts = [p for p in m["parts"] if p["type"] != "tool_call" or p["name"] not in ANSWERS]
            made = [p for p in parts if p["type"] == "tool_call"]
            open_calls += made
            if made:
                told.append((c.end_ns, {**m, "parts": parts}))
    end = 0
    for e in run.executions:
        if e.tool_name in ANSWERS or not e.tool_name:
            continue
        call = next((p for p in open_calls if _runs_call(e, p)), None)
        if call is not None:
            open_calls.remove(call)
        elif e.arguments is None and e.result is None and not e.call_id:  # only its name is known
            part = result_part(None, e.call_id, e.tool_name, e.is_error)
            told.append((e.start_ns, {"role": "tool", "parts": [part]}))
        elif told and e.start_ns < end and told[-1][1]["role"] == "assistant":  # beside the one before
            told[-1][1]["parts"].append(call_part(e.tool_name, e.arguments, e.call_id))
        else:
            part = call_part(e.tool_name, e.arguments, e.call_id)
            told.append((e.start_ns, {"role": "assistant", "parts": [part]}))
        end = max(end, e.end_ns) if call is None else 0
    return [m for _, m in sorted(told, key=lambda t: t[0])]


def _runs_call(e: Observed, part: dict[str, object]) -> bool:
    if e.call_id and part.get("id"):
        return e.call_id == part["id"]
    told_twice = e.arguments is not None and "arguments" in part
    return e.tool_name == part["name"] and (not told_twice or key_of(e.arguments) == key_of(part["arguments"]))


def _answered(run: Run) -> list[NormalMessage]:
    """Return the agent's answer: the output of its span, else the text of the last model call."""
    said = run.root.output if run.root else []
    for messages in (said, run.inferences[-1].output if run.inferences else []):
        spoken = [m for m in messages if m["role"] == "assistant" and any(p["type"] == "text" for p in m["parts"])]
        if spoken:
            text = [p for p in spoken[-1]["parts"] if p["type"] in ("text", "reasoning")]
            return [{**spoken[-1], "parts": text}]
    return []
