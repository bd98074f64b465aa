"""Writes the report: one self-contained HTML page, and the same figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader

from dagster_project.report import charts
from ingest.atomic import write_json, write_text


class Rate(TypedDict):
    """A rate with its 95 % interval."""

    rate: float
    low: float
    high: float


class Slice(TypedDict):
    """Success of both policies for one kind of task."""

    name: str
    n: int
    before: Rate
    after: Rate


class Reality(TypedDict):
    """Success of both policies in the real environment, over `episodes` each."""

    episodes: int
    before: Rate
    after: Rate
    difference: Rate
    slices: Sequence[Slice]
    start: float | None
    """Success of the policy that practice started from, if it is not the clone."""
    practised: Rate | None
    """What practice added to it."""


class Turn(TypedDict, total=False):
    """One line of a conversation in the report. `who`: user, agent, call, tool."""

    who: str
    text: str
    provenance: str
    error: bool


@dataclass(frozen=True)
class Contents:
    """The content of the report. `reality` is None without a measurement; `reality_note` gives the reason."""

    seed: int
    base: str
    agent: str
    minutes: float
    peak_gib: float | None
    traffic: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    card: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    reality: Reality | None
    judge: Mapping[str, Any]
    gate: Mapping[str, Any]
    reality_note: str = ""
    real: Sequence[Turn] = ()
    simulated: Sequence[Turn] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    head_start: bool = False
    """Whether the clone learned the recorded successes once more before it practised."""

    def figures(self) -> dict[str, Any]:
        """The content of report.json: first the stable keys. Those of the real environment are null if not measured."""
        real = self.reality
        return {
            "success_before": real["before"]["rate"] if real else None,
            "success_after": real["after"]["rate"] if real else None,
            "success_ci": [real["difference"]["low"], real["difference"]["high"]] if real else None,
            "episodes": real["episodes"] if real else 0,
            "minutes": self.minutes,
            "judge_agreement": self.judge.get("agreement"),
            "world": self.card,
            "peak_gib": self.peak_gib,
            "seed": self.seed,
            "base": self.base,
            "gate": self.gate,
            "judge": self.judge,
            "traffic": self.traffic,
            "slices": list(real["slices"]) if real else [],
            "success_start": real["start"] if real else None,
            "practised": real["practised"] if real else None,
            "reality_note": self.reality_note,
            "stages": list(self.stages),
            "history": list(self.history),
        }


def write(contents: Contents, directory: Path) -> Path:
    """Write report.json and report.html; return the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "report.json", contents.figures())
    page = directory / "report.html"
    write_text(page, render(contents))
    return page


def render(contents: Contents) -> str:
    """The page as text. It loads nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("dagster_project.report"),
        autoescape=True,  # select_autoescape() decides by the file suffix, which is j2
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "number": number, "time": minutes_text}
    environment.filters["decimals"] = decimals
    environment.globals["tone"] = tone
    slowest = max((stage["seconds"] for stage in contents.stages), default=1.0) or 1.0
    return environment.get_template("report.html.j2").render(
        contents=contents,
        success=charts.svg(charts.before_and_after(_rows(contents.reality))) if contents.reality else "",
        reward=charts.svg(charts.curve(contents.history, "reward", "reward in the world")),
        practised=len(contents.history) > 0,
        slowest=slowest,
        rows=list(card_rows(contents.card)),
    )


def _rows(real: Reality) -> list[Slice]:
    """The row of all tasks, then one row per kind."""
    whole: Slice = {"name": "all tasks", "n": real["episodes"], "before": real["before"], "after": real["after"]}
    return [whole, *real["slices"]]


def card_rows(card: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The card as table rows; the overall row is last."""
    for tool, entry in [*card.get("tools", {}).items(), ("all tools", card.get("overall", {}))]:
        errors = entry.get("errors") or {}
        baselines = entry.get("baselines", {})
        yield {
            "tool": tool,
            "n": entry.get("n"),
            "exact": entry.get("exact_match"),
            "fields": entry.get("field_f1"),
            "outcome": entry.get("outcome_f1"),
            "errors": (errors.get("simulated"), errors.get("real")),
            "valid": entry.get("schema_validity"),
            "read_after_write": (entry.get("read_after_write") or {}).get("exact_match"),
            "coverage": entry.get("coverage"),
            "nearest": (baselines.get("nearest_copy") or {}).get("exact_match"),
            "replay": (baselines.get("replay_cache") or {}).get("exact_match"),
            "status": entry.get("status", ""),
            "why": "; ".join(entry.get("why", [])),
            "says": entry.get("says", ""),
            "rules": (baselines.get("rules_alone") or {}).get("exact_match"),
            "model": (baselines.get("model_alone") or {}).get("exact_match"),
        }


def turns(messages: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """A conversation in chat-completions form, as one line per turn. A tool message can carry its provenance."""
    shown: list[Turn] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "user":
            shown.append({"who": "user", "text": content})
        elif role == "assistant":
            for call in message.get("tool_calls") or ():
                arguments = call["arguments"]
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                shown.append({"who": "call", "text": f"{call['name']} {text}"})
            if content:
                shown.append({"who": "agent", "text": content})
        elif role == "tool":
            wrong = bool(message.get("is_error"))
            provenance = str(message.get("provenance", "real"))
            shown.append({"who": "tool", "text": content, "error": wrong, "provenance": provenance})
    return shown


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def decimals(value: float, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.2f}".replace("-", "−")


def tone(low: float, high: float) -> str:
    """The CSS class of a difference: good if its interval is above zero, bad if it is below."""
    return "good" if low > 0 else "bad" if high < 0 else ""


def number(value: float | int | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def minutes_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
