"""Rows, conversations and cards as Markdown, for Dagster's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dagster_project.report import charts
from dagster_project.report.page import Contents, minutes_text, percent, points
from ingest.frozen import FrozenTables
from ingest.records import Conversation

CELL = 80
SPANS = """
    SELECT name, count(*) AS spans, sum(CASE WHEN status_code = 2 THEN 1 ELSE 0 END) AS errors,
           round(avg(end_ns - start_ns) / 1e6, 1) AS mean_ms
    FROM spans GROUP BY name ORDER BY spans DESC LIMIT 12
"""


def table(rows: pa.Table) -> str:
    """An Arrow table as a Markdown table; long cells are cut."""
    return grid(rows.column_names, (list(row.values()) for row in rows.to_pylist()))


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """One value on one line, shortened."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def conversation(found: Conversation, most: int = 24) -> str:
    """A conversation as Markdown, one line per message."""
    lines = [f"**{found.conversation_id}** · {found.agent} · {', '.join(found.flags) or 'complete'}", ""]
    for message in found.messages[:most]:
        role, content = message["role"], message.get("content") or ""
        for call in message.get("tool_calls") or ():
            lines.append(f"- → `{call['name']} {cell(json.dumps(call['arguments']))}`")
        if role == "tool":
            mark = "✗" if message.get("is_error") else "✓"
            lines.append(f"- {mark} `{cell(content)}`")
        elif content:
            lines.append(f"- **{role}** {cell(content)}")
    if len(found.messages) > most:
        lines.append(f"- … {len(found.messages) - most} more")
    lines += [f"\n*{o['name']}*: {cell(o['score'])} {o['label'] or ''}" for o in found.outcomes]
    return "\n".join(lines)


def rounded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with its floats rounded to four decimals."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in metadata.items()}


def samples(tables: FrozenTables) -> dict[str, str]:
    """Per table, a few rows or a conversation as an example."""
    chosen = {
        "tool_calls": "tool, arguments, content, is_error, error_class, latency_ms, repairs",
        "outcomes": "conversation_id, name, score, label, explanation",
        "transitions": "tool, arguments, content, error_class",
        "scenarios": "scenario_id, first_user_message, len(goal) AS user_messages, outcome",
    }
    shown = {
        name: table(tables.query(f"SELECT {columns} FROM {name} LIMIT 8")) for name, columns in chosen.items()
    }
    shown["tool_profile"] = table(tables.query("SELECT * FROM tool_profile ORDER BY calls DESC"))
    shown["conversations"] = conversation(_typical(tables))
    return shown


def _typical(tables: FrozenTables) -> Conversation:
    """A conversation of median length, with tool calls if there is one."""
    found = sorted(tables.conversations(), key=lambda c: len(c.messages))
    with_calls = [c for c in found if any(m["role"] == "tool" for m in c.messages)] or found
    return with_calls[len(with_calls) // 2]


def summary(told: Contents) -> str:
    """The report in short: gate verdict, success in the real environment, practice, card."""
    real, gate = told.reality, told.gate
    lines = [f"**Candidate {gate.get('version', '')}: {gate.get('state', '')}.** {gate['why']}"]
    if real is None:
        lines.append(f"Success in the real environment was not measured: {told.reality_note}.")
    else:
        before, after, difference = real["before"], real["after"], real["difference"]
        lines.append(
            f"Success in the real environment: {percent(before['rate'], 1)} → **{percent(after['rate'], 1)}** "
            f"({points(difference['rate'])} points, 95 %: {points(difference['low'])} to {points(difference['high'])}; "
            f"{real['episodes']} episodes each)."
        )
        if (practised := real["practised"]) is not None and real["start"] is not None:
            lines.append(
                f"Practice started from a policy with {percent(real['start'], 1)} and changed that by "
                f"{points(practised['rate'])} points (95 %: {points(practised['low'])} to {points(practised['high'])})."
            )
    if told.history:
        lines.append(charts.markdown(charts.curve(told.history, "reward", "reward in the world"), "reward"))
    stages = [[stage["name"], stage["says"], minutes_text(stage["seconds"])] for stage in told.stages]
    return "\n\n".join([*lines, grid(["stage", "what it did", "time"], stages), card(told.card)])


def card(value: Mapping[str, Any]) -> str:
    """The fidelity card as a Markdown table."""
    head = ["tool", "n", "exact", "rules", "model", "copy", "replay"]
    head += ["field F1", "outcome F1", "errors sim/real", "status"]
    rows = []
    for tool, entry in [*value["tools"].items(), ("all", value["overall"])]:
        baselines, errors = entry["baselines"], entry["errors"]
        rows.append(
            [
                tool,
                entry["n"],
                entry["exact_match"],
                baselines.get("rules_alone", {}).get("exact_match"),
                baselines.get("model_alone", {}).get("exact_match"),
                baselines["nearest_copy"]["exact_match"],
                baselines["replay_cache"]["exact_match"],
                entry["field_f1"],
                entry["outcome_f1"],
                f"{cell(errors['simulated'])} / {cell(errors['real'])}",
                entry.get("status", ""),
            ]
        )
    said = [f"- {entry['says']}" for entry in value["tools"].values() if "says" in entry]
    said += [f"- {line}" for line in value.get("says", ())]
    return "\n\n".join([grid(head, rows), "\n".join(said)]) if said else grid(head, rows)
