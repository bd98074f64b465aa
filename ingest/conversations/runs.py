"""Runs whose model calls do not tell what happened: rebuilt from what the spans did.

Some libraries export no model calls at all, some repeat only the first request as every call's input, and some
agents speak with their model in a text protocol. Their histories show no tool calls, though tools ran. Such a
run is rebuilt: what the agent was asked, the calls that the model made or the tools that ran, in their order,
and what the agent answered. Conversations made so carry the flag ``rebuilt``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ingest.conversations.executions import Scopes, name_by_calls
from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed, SpanKey
from ingest.messages.parts import call_part, result_part
from ingest.messages.shapes import NormalMessage

FLAG = "rebuilt"
# Tools by which agents in a text protocol say their answer (smolagents, DSPy); they are no tools of the user's.
ANSWERS = {"final_answer", "finish"}


@dataclass(slots=True)
class Run:
    """One run of one agent: its span, if there is one, the tools that it ran and the model calls it made."""

    root: Observed | None
    executions: list[Observed] = field(default_factory=list)
    inferences: list[Observed] = field(default_factory=list)


def rebuild(members: list[Observed], scopes: Scopes) -> tuple[list[Observed], list[Observed]]:
    """The model calls of a conversation, those of unspoken runs replaced by one that tells the whole run; and
    the tool executions, without those that only said the answer."""
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
    """Whether each execution has a model call beside it, under the same parent, whose history shows calls: then no run
    is untold. This is the usual case, and cheaper to find than the runs."""
    told: set[SpanKey] = set()
    for c in reversed(calls):  # the last has the longest history
        parent = c.trace_id, c.parent_span_id
        if parent not in told and _shows_calls(c):
            told.add(parent)
    return all((e.trace_id, e.parent_span_id) in told for e in executions)


def _shows_calls(c: Observed) -> bool:
    """Whether a model call's history tells a tool call, or an answer to one by its id."""
    parts = (p for m in c.input for p in m["parts"])
    return any(p["type"] == "tool_call" or (p["type"] == "tool_call_response" and p.get("id")) for p in parts)


def _turns_of_agents(members: list[Observed], scopes: Scopes) -> list[Observed]:
    """Where no model call was exported: the spans of agents that tell single turns of their models (AG2), with the
    history before each. The ones around those tell the same run in other words."""
    told = [o for o in members if o.kind == "agent" and _tells_turn(o)]
    if not any(p["type"] == "tool_call" for o in told for m in o.output for p in m["parts"]):
        return []
    around = {id(a) for o in told for a in scopes.around(o)}
    return [o for o in told if id(o) not in around]


def _tells_turn(o: Observed) -> bool:
    """Whether a span's input is a history that waits for an answer, and its output is that of a model."""
    asked = bool(o.input) and o.input[-1]["role"] in ("user", "tool")
    return asked and bool(o.output) and all(m["role"] == "assistant" for m in o.output)


def _runs(calls: list[Observed], executions: list[Observed], scopes: Scopes) -> list[Run]:
    runs: dict[tuple[str, str], Run] = {}
    for e in sorted(executions, key=lambda o: o.start_ns):
        around = scopes.around(e)
        if any(a.kind == "execution" for a in around):
            continue  # a tool's own affair
        root = _root(around)
        key = (e.trace_id, root.span_id if root else "")
        runs.setdefault(key, Run(root)).executions.append(e)
    for c in sorted(calls, key=lambda o: o.start_ns):
        # The nearest run alone: a call that two runs told would be in two conversations.
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
    """Whether tools ran between model calls and no history shows a call; without model calls of its own,
    whether any other of the conversation tells what this run did."""
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
    """The calls that the model made, and those of tools that ran without one, in the order of time."""
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
        elif e.arguments is None and e.result is None and not e.call_id:  # nothing is known but that it ran
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
    """What the agent said in the end: its span's output, else the last model call's text."""
    said = run.root.output if run.root else []
    for messages in (said, run.inferences[-1].output if run.inferences else []):
        spoken = [m for m in messages if m["role"] == "assistant" and any(p["type"] == "text" for p in m["parts"])]
        if spoken:
            text = [p for p in spoken[-1]["parts"] if p["type"] in ("text", "reasoning")]
            return [{**spoken[-1], "parts": text}]
    return []
