"""Control of a world: error rates, one scheduled error, and implicit faults in answers.

`Control` holds the settings, given as fields or as one line of text (`Control.parse`). `Steering` applies them in one
episode. The store always holds the true answer; only the answer that the agent reads is changed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.errors import UserError
from training.models.edits import dumps
from worldmodel.derive.engine import Derivation, Session, uniform
from worldmodel.derive.trees import leaf_of
from worldmodel.steps import OK, Step, call_key

KINDS = ("truncated", "missing", "null", "stale")
"""Implicit faults: a list without its last items, an object without a field or with a null in it, an old answer."""
SYNONYMS: dict[int, tuple[str, ...]] = {
    400: ("bad_request", "invalid", "validation"),
    401: ("unauthorized", "unauthenticated"),
    403: ("forbidden", "permission", "denied"),
    404: ("not_found", "missing", "unknown"),
    408: ("timeout",),
    409: ("conflict",),
    412: ("precondition",),
    422: ("unprocessable", "invalid", "validation"),
    429: ("rate_limit", "too_many", "throttl", "quota"),
    500: ("internal", "server_error"),
    503: ("unavailable", "overload", "busy"),
    504: ("timeout", "timed_out", "deadline"),
}
HELP = (
    "'the next write fails with 409' (or read, call, or a tool's name; a status or an outcome class), "
    "'faults times 3', 'no faults', '10% truncated lists', '5% missing fields', '5% null fields', '5% stale answers'"
)


class Failure(BaseModel):
    """One scheduled failure: of the next `write`, `read`, `call`, or call of a named tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field("call", description="write, read, call, or the name of a tool.")
    outcome: str = Field(description="An HTTP status or an outcome class.")


class Control(BaseModel):
    """Settings of a world's faults. A rate of None is the measured rate times `faults`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    faults: float = Field(1.0, ge=0, description="Passing errors and implicit faults, as a multiple of measured rates.")
    failures: tuple[Failure, ...] = Field((), description="Calls that are to fail, each once in an episode, in order.")
    truncated: float | None = Field(None, ge=0, le=1, description="Share of lists shown without their last items.")
    missing: float | None = Field(None, ge=0, le=1, description="Share of objects shown without one of their fields.")
    null: float | None = Field(None, ge=0, le=1, description="Share of objects shown with a null for a field.")
    stale: float | None = Field(None, ge=0, le=1, description="Share of changed answers shown as they were before.")

    @classmethod
    def parse(cls, text: str) -> Control:
        """Parse one line of text. Raises UserError for an unknown clause."""
        values: dict[str, Any] = {}
        failures = []
        for clause in filter(None, (part.strip() for part in re.split(r"[;,\n]|\band\b|\.\s", text.rstrip(".")))):
            low = clause.lower()
            if match := re.fullmatch(r"(?:the )?next (\S+)(?: call)? (?:fails|is answered) with (\S+)", clause, re.I):
                failures.append(Failure(of=match[1], outcome=match[2]))
            elif match := re.fullmatch(r"faults? (?:times|x) ?(\d+(?:\.\d+)?)", low):
                values["faults"] = float(match[1])
            elif low in ("no faults", "without faults"):
                values["faults"] = 0.0
            elif match := re.fullmatch(r"(\d+(?:\.\d+)?) ?% .*?(truncated|missing|null|stale)\b.*", low):
                values[match[2]] = float(match[1]) / 100
            else:
                raise UserError(f"cannot read the control {clause!r}; it understands {HELP}")
        return cls(failures=tuple(failures), **values)


NO_CONTROL = Control()


class Steering:
    """Applies a control in one episode."""

    def __init__(self, control: Control, measured: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.control, self.measured = control, measured or {}
        self.waiting = list(control.failures)

    def fork(self) -> Steering:
        copy = Steering(self.control, self.measured)
        copy.waiting = list(self.waiting)
        return copy

    # ----- errors

    def due(self, session: Session, tool: str) -> Failure | None:
        """Return the scheduled failure for this call, if any."""
        kind = "write" if tool in session.engine.writes else "read"
        return next((f for f in self.waiting if f.of in ("call", kind, tool)), None)

    def met(self, session: Session, tool: str) -> None:
        """Remove the scheduled failure of a call that was answered."""
        failure = self.due(session, tool)
        if failure is not None:
            self.waiting.remove(failure)

    def decide(self, session: Session, tool: str, arguments: Mapping[str, Any], seed: object) -> Derivation | None:
        """Return the decision of the rules, with scheduled failures and scaled error rates applied."""
        failure = self.due(session, tool)
        if failure is not None:
            return fail(session, tool, arguments, failure.outcome)
        decided = session.derive(tool, arguments, seed)
        if decided is None or self.control.faults == 1:
            return decided
        key, history = call_key(tool, arguments), session.history
        u = uniform(seed, "steered", key, history.written, history.calls[key])
        if decided.accident:
            return decided if u < self.control.faults else session.derive(tool, arguments, seed, accidents=False)
        return self._more(session, tool, arguments, u) or decided

    def _more(self, session: Session, tool: str, arguments: Mapping[str, Any], u: float) -> Derivation | None:
        """Return an additional transient error or None, so that the error rate is the measured one times `faults`."""
        rules = session.engine.rules.tools[tool]
        if rules.accidents is None:
            return None
        leaf, path = leaf_of(rules.accidents, rules.sources(session.situation(tool, arguments).row))
        labels = {name: n for name, n in leaf.counts.items() if name != "none"}
        share = sum(labels.values()) / max(1, leaf.n)
        wanted = min(1.0, share * self.control.faults)
        more = (wanted - share) / (1 - share) if share < 1 else 0.0
        if not labels or u >= more:
            return None
        label = leaf.draw(u / more, list(labels)) or next(iter(labels))
        form = rules.forms[label]
        first = Derivation(form.outcome, None, label, f"{tool}/{label}", share, path=tuple(path), accident=True)
        return session.again(tool, arguments, first)

    # ----- answers that are quietly wrong

    def shown(self, session: Session | None, steps: Sequence[Step], step: Step, seed: object) -> str:
        """Return the answer of the last step as the agent reads it."""
        if session is None or step.outcome != OK or step.tool in session.engine.writes:
            return step.content
        rates = {kind: self._rate(kind, step.tool) for kind in KINDS}
        if not any(rates.values()):
            return step.content
        again = sum(s.key == step.key for s in steps)
        for kind, rate in rates.items():
            u = uniform(seed, kind, step.key, again)
            if u < rate:
                before = [s.content for s in steps[:-1] if s.key == step.key and s.content != step.content]
                return spoilt(kind, step.content, before, u / rate)
        return step.content

    def _rate(self, kind: str, tool: str) -> float:
        wanted: float | None = getattr(self.control, kind)
        if wanted is not None:
            return wanted
        return min(1.0, self.control.faults * self.measured.get(tool, {}).get(kind, 0.0))


def fail(session: Session, tool: str, arguments: Mapping[str, Any], wanted: str) -> Derivation:
    """Return a failure of a tool with a status or an outcome class: with the tool's own error text, or else another
    tool's, or else the text of HTTP."""
    rules = session.engine.rules.tools
    for name in (tool, *rules):
        if name not in rules:
            continue
        for label, form in rules[name].forms.items():
            if form.outcome == OK or not means(wanted, form.outcome):
                continue
            decided = Derivation(form.outcome, None, label, f"control: {wanted}", 1.0, accident=True)
            if name == tool:
                decided = session.again(tool, arguments, decided)
            if decided.content is None and (name != tool or not form.complete):
                decided = Derivation(form.outcome, form.example, label, f"control: {wanted}", 1.0, accident=True)
            if decided.content is not None and not (name != tool and form.slots):
                return decided
    number = int(wanted) if wanted.isdigit() and 100 <= int(wanted) < 600 else 0
    phrase = HTTPStatus(number).phrase if number in set(HTTPStatus) else wanted.replace("_", " ")
    outcome = re.sub(r"\W+", "_", phrase.lower())
    body = {"error": outcome, **({"status": number} if number else {}), "message": phrase}
    return Derivation(outcome, dumps(body), outcome, f"control: {wanted}", 1.0, accident=True)


def means(wanted: str, outcome: str) -> bool:
    """Whether a status or a name means an outcome class."""
    names = (wanted.lower(), *SYNONYMS.get(int(wanted), ())) if wanted.isdigit() else (wanted.lower(),)
    return any(name in outcome.lower() for name in names)


def spoilt(kind: str, content: str, before: Sequence[str], u: float) -> str:
    """Return the answer with one implicit fault, if it has a place for it."""
    if kind == "stale":
        return before[-1] if before else content
    try:
        body = json.loads(content)
    except ValueError:
        return content
    places = [p for p in _places(body) if (isinstance(p, list) and len(p) > 1) == (kind == "truncated")]
    places = [p for p in places if p]
    if not places:
        return content
    place = places[min(int(u * len(places)), len(places) - 1)]
    if isinstance(place, list):
        del place[max(1, len(place) // 2) :]
    else:
        name = list(place)[min(int(u * len(place) * 7919) % len(place), len(place) - 1)]
        if kind == "null":
            place[name] = None
        else:
            del place[name]
    return dumps(body)


def _places(value: Any) -> list[Any]:
    """All objects and lists in a value, outermost first."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    own = [value] if isinstance(value, dict | list) else []
    return own + [place for one in inner for place in _places(one)]


def measure_implicit(
    conversations: Mapping[str, Sequence[Step]], writes: frozenset[str], fewest: int = 20
) -> dict[str, dict[str, float]]:
    """Per reading tool, the rates at which a repeated read, without a write in between, lacks items or fields, or has
    nulls where the other read has values. Stale answers after a write are separate rules (`lag`)."""
    pairs: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for steps in conversations.values():
        last: dict[str, Step] = {}
        for step in steps:
            if step.outcome != OK:
                continue
            if step.tool in writes:
                last.clear()
                continue
            before = last.get(step.key)
            last[step.key] = step
            if before is not None:
                pairs[step.tool] += 2  # two answers, either of which may be the faulty one
                kind = difference(before.content, step.content)
                found[(step.tool, kind)] += bool(kind)
    return {
        tool: {kind: found[(tool, kind)] / n for kind in KINDS if found[(tool, kind)] >= 2}
        for tool, n in sorted(pairs.items())
        if n >= fewest and any(found[(tool, kind)] >= 2 for kind in KINDS)
    }


def difference(left: str, right: str) -> str:
    """Return the implicit fault by which two answers differ; empty for any other difference."""
    if left == right:
        return ""
    try:
        kinds = {kind for kind in _differences(json.loads(left), json.loads(right))}
    except ValueError:
        return ""
    return kinds.pop() if len(kinds) == 1 and kinds <= set(KINDS) else ""


def _differences(left: Any, right: Any) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        out = ["missing"] * bool(left.keys() ^ right.keys())
        return out + [k for name in left.keys() & right.keys() for k in _differences(left[name], right[name])]
    if isinstance(left, list) and isinstance(right, list):
        short, long = sorted((left, right), key=len)
        if len(short) < len(long):
            return ["truncated"] if short == long[: len(short)] else ["other"]
        return [k for a, b in zip(left, right, strict=True) for k in _differences(a, b)]
    if left == right:
        return []
    return ["null"] if left is None or right is None else ["other"]
