"""The commands that maintain a lake: `rehearsal conservation`, `renormalise`, `compact` and `retain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ingest.lake import Lake
from ingest.upkeep.renormalising import ASPECTS, Changes
from ingest.upkeep.retention import Retained

LakeOption = Annotated[Path, typer.Option("--lake", help="Directory of the lake.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("conservation")(conservation)
    app.command("renormalise")(renormalise)
    app.command("compact")(compact)
    app.command("retain")(retain)


def conservation(lake: LakeOption, as_json: JsonOption = False) -> None:
    """Read the raw rows again and search each model output, tool execution and judgement in the tables. Exit with
    status 1 if one is missing, duplicated or different from the raw rows."""
    balance = Lake.open(lake).conservation()
    if as_json:
        print(json.dumps(balance.as_dict()))
    else:
        print("\n".join([*balance.lines(), "nothing is lost" if balance.holds else "the balance does not hold"]))
    if not balance.holds:
        raise typer.Exit(1)


def renormalise(
    lake: LakeOption,
    apply: Annotated[bool, typer.Option("--apply", help="Replace the old tables by the new ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the raw rows with the current mapping and show how the tables would change."""
    changes = Lake.open(lake).renormalise(apply)
    print(json.dumps(asdict(changes), default=str) if as_json else _told(changes, lake))


def _told(c: Changes, lake: Path) -> str:
    lines = [
        f"mapping version {c.mapping_before} → {c.mapping_after}: {c.same} conversations as before,"
        f" {c.added} added, {c.removed} removed, {c.changed} changed"
    ]
    if c.rows_changed:
        lines.append("rows came or expired since the tables were made: not every change is the mapping's")
    if c.privacy_changed:
        lines.append("privacy's settings or key changed since the tables were made: not every change is the mapping's")
    for dialect, counts in c.by_dialect.items():
        told = ", ".join(f"{k} {counts[k]}" for k in ("same", "added", "removed", "changed") if counts[k])
        what = ", ".join(f"{a} {counts[a]}" for a in ASPECTS if counts[a])
        lines.append(f"  {dialect}: {told}" + (f" ({what})" if what else ""))
    for example in c.examples:
        lines.append(f"{example['conversation_id']} ({example['dialect']}): {example['kind']}")
        lines += [f"  {aspect} {_difference(d)}" for aspect, d in example.get("aspects", {}).items()]
    if c.applied:
        lines.append("the new tables are in place")
    elif c.added or c.removed or c.changed or c.mapping_before != c.mapping_after:
        lines.append(f"nothing was touched; to apply: rehearsal renormalise --lake {lake} --apply")
    return "\n".join(lines)


def _difference(d: dict[str, Any]) -> str:
    rows = f"{d['rows_before']} → {d['rows_now']}, " if d["rows_before"] != d["rows_now"] else ""
    return f"{rows}at {d['place']}: {_short(d['before'])} → {_short(d['now'])}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def compact(lake: LakeOption, as_json: JsonOption = False) -> None:
    """Merge the small raw files of a lake into large ones, sorted by time and trace. The content does not change."""
    done = Lake.open(lake).compact()
    if as_json:
        print(json.dumps([asdict(d) for d in done]))
        return
    for d in done:
        files = f"{d.parts_before} → {d.parts_after} files, {_size(d.bytes_before)} → {_size(d.bytes_after)}"
        left = f"; {d.encrypted} encrypted files stay as they are" if d.encrypted else ""
        print(f"{d.table}: {d.rows} rows in {files}{left}")


def retain(
    lake: LakeOption,
    days: Annotated[float, typer.Option("--days", help="Days to keep rows after their arrival.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete raw rows and journal segments that arrived more than `--days` ago. A conversation is deleted as a whole or
    not at all."""
    done = Lake.open(lake).retain(days, dry_run)
    print(json.dumps(asdict(done)) if as_json else _dropped(done))


def _dropped(r: Retained) -> str:
    rows = ", ".join(f"{count} of {r.of[name]} {name}" for name, count in r.rows.items())
    before = datetime.fromtimestamp(r.before_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [
        f"{'would drop' if r.dry_run else 'dropped'} what arrived before {before}: {rows} ({_size(r.bytes)});"
        f" {r.conversations} conversations; {r.segments} segments of the journal ({_size(r.segment_bytes)})"
    ]
    if r.kept_whole:
        lines.append(f"kept whole, though older in part: {r.kept_whole} conversations")
    if r.not_landed:
        lines.append(f"{r.not_landed} segments of the journal have something that has not landed; they are kept")
    return "\n".join(lines)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
