"""The commands `rehearsal receive`, `ingest`, `sql`, `conversations` and `privacy`. They call functions of the lake."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from ingest import lake_commands, processes
from ingest.errors import UserError
from ingest.formats import files
from ingest.journal import segments as journal
from ingest.lake import IngestSummary, Lake
from ingest.tables.conservation import KINDS

LakeOption = Annotated[Path, typer.Option("--lake", help="Directory of the lake.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the application."""
    app.command("receive")(receive)
    app.command("ingest")(ingest)
    app.command("sql")(sql)
    app.command("conversations")(conversations)
    app.command("privacy")(privacy)
    lake_commands.register(app)


def receive(
    lake: LakeOption,
    http: Annotated[int, typer.Option("--http", help="Port for OTLP/HTTP; 0 picks a free one.")] = 4318,
    grpc: Annotated[
        int | None,
        typer.Option("--grpc", help="Port for OTLP/gRPC; 0 picks a free one. Default: 4317, if it is free."),
    ] = None,
    grpc_processes: Annotated[
        int | None,
        typer.Option("--grpc-processes", min=1, help="Number of processes for OTLP/gRPC. Default: 2, or 1 on one CPU."),
    ] = None,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="OTLP/HTTP only.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File of accepted bearer tokens, one per line.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate, PEM.")] = None,
) -> None:
    """Receive OTLP (traces and logs). A request is acknowledged only after fsync."""
    from ingest.receiver.service import GRPC_PORT, Options, grpc_processes_here, serve

    serve(
        Options(
            Lake.create(lake).journal_path, host=host, http_port=http,
            grpc_port=None if no_grpc else GRPC_PORT if grpc is None else grpc, grpc_must=grpc is not None,
            grpc_processes=1 if no_grpc else grpc_processes_here(grpc_processes),
            token_file=token_file, tls_certificate=tls_cert, tls_key=tls_key,
        )
    )  # fmt: skip


def ingest(
    lake: LakeOption,
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, directories or URIs. Default: the journal.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read the whole journal again, not only its new part.")
    ] = False,
    engine: Annotated[
        Literal["duckdb", "spark"], typer.Option(help="Engine that builds the tables: this machine or a Spark session.")
    ] = "duckdb",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Read files (OTLP, conversations, sessions), directories or the new part of the journal into the lake, and rebuild
    its tables."""
    runner = None
    if engine == "spark":
        from ingest.tables import spark  # imported here because it loads slowly

        runner = spark.SparkRunner(spark.session())
    home = Lake.create(lake)
    console = Console(stderr=True)
    given = [files.as_path(path) for path in paths or ()]
    total = len(files.find(given) if given else journal.segments(home.journal_path))
    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with shown as progress, processes.kept():
        task = progress.add_task("reading", total=total)
        summary = home.ingest(given, lambda path, rows: progress.update(task, advance=1), again)
        progress.add_task("building tables", total=None)
        if not home.is_empty():
            home.build_tables(runner=runner)
        home.describe(summary)
    print(json.dumps(asdict(summary)) if as_json else _told(summary))
    if summary.problems:
        more = f" (and {len(summary.problems) - 1} more files)" if len(summary.problems) > 1 else ""
        raise UserError(summary.problems[0] + more)


def _told(s: IngestSummary) -> str:
    lines = [
        f"{s.files} files: {s.rows} rows in, {s.new} new ({s.spans} spans, {s.log_records} log records),"
        f" {s.duplicates} duplicates",
        *([f"{s.read_before} segments of the journal had nothing new"] if s.read_before else []),
        f"{s.conversations} conversations; flagged: {_counts(s.flags)}",
        f"spans by dialect: {_counts(s.dialects)}",
        *_balance(s.conservation),
    ]
    refused = {"without ids": s.rejected, "unreadable": s.unreadable, "metrics": s.metrics, "expired": s.expired}
    if any(refused.values()):
        lines.append(f"left out: {_counts({k: v for k, v in refused.items() if v})}")
    lines += [why for count, why in _LEFT_OUT.items() if getattr(s, count)]
    if s.skipped:
        names = ", ".join(f"{count} {suffix}" for suffix, count in s.skipped.items())
        lines.append(f"not read: {names}; to read such a file, give it by name (docs/files.md)")
    if s.unread_log_records:
        lines.append(_unread(s.unread_log_records))
    return "\n".join(lines)


# Explanations of the counts of what was left out.
_LEFT_OUT = {
    "rejected": "  without ids: spans need a traceId and a spanId that are not zero",
    "unreadable": "  unreadable: items with fields of another type than OTLP defines",
    "metrics": "  metrics hold no conversation: export traces or logs as well",
}


def _unread(records: dict[str, int]) -> str:
    """Describe the log records that were not understood, with their most frequent names."""
    total, shown = sum(records.values()), list(records.items())[:3]
    names = ", ".join(f"{name or 'without an event name'} {count}" for name, count in shown)
    more = ", ..." if len(records) > len(shown) else ""
    were = "log record was" if total == 1 else "log records were"
    return (
        f"{total} {were} not understood ({names}{more}): they hold no conversation content, or name neither a span"
        f" that was read nor a session (docs/files.md); {_SHOW_THEM}"
    )


_SHOW_THEM = 'to see them: rehearsal sql --lake LAKE "SELECT event_name, body, attributes FROM log_records"'


def _balance(told: dict[str, Any]) -> list[str]:
    """Describe how many raw rows are in conversations and how many are not."""
    lines = []
    for kind, what in KINDS.items():
        count = told.get(kind)
        if count and count["raw"]:
            left = {**count["left"], **{k: count[k] for k in ("missing", "twice") if count[k]}}
            rest = f"; not: {_counts(left)}" if left else ""
            lines.append(f"{what}: {count['placed']} of {count['raw']} are in one conversation{rest}")
    if told and not told["holds"]:
        lines.append("data is missing: see rehearsal conservation")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(counts.items())) or "none"


def sql(
    lake: LakeOption,
    query: Annotated[str, typer.Argument(help="A query in DuckDB's SQL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Query any table of the lake: spans, log_records, conversations, messages, tool_calls, ..."""
    table = Lake.open(lake).query(query)
    if as_json:
        for row in table.to_pylist():
            print(orjson.dumps(row, default=_plain).decode())
    else:
        _print_table(table.column_names, table.slice(0, 100).to_pylist(), table.num_rows)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def _print_table(columns: list[str], rows: list[dict[str, Any]], total: int) -> None:
    cells = [columns, *([_short(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
    if total > len(rows):
        print(f"... {total - len(rows)} more rows; --json prints all")


def _short(value: Any) -> str:
    text = "" if value is None else str(_plain(value)).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def conversations(
    lake: LakeOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print every conversation, oldest first."""
    for c in Lake.open(lake).conversations():
        if as_json:
            row = {
                "conversation_id": c.conversation_id, "agent": c.agent, "messages": c.messages,
                "tools": c.tools, "outcomes": c.outcomes, "flags": c.flags,
            }  # fmt: skip
            sys.stdout.write(orjson.dumps(row).decode() + "\n")
        else:
            calls = sum(len(m.get("tool_calls") or ()) for m in c.messages)
            print(
                f"{c.conversation_id}  {c.agent}  {len(c.messages)} messages, {calls} calls ",
                " ".join(c.flags),
            )


def privacy(
    lake: LakeOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show what surrogates replaced: counts by kind and by column, never an original value."""
    report = Lake.open(lake).privacy_report()
    if as_json:
        print(json.dumps(report))
    elif not report["enabled"]:
        print("off: privacy.toml has enabled = false; the tables hold the original values")
    else:
        print(f"replaced: {_counts(report['replaced'])}, in {report['conversations']} conversations")
        print(f"different surrogates: {_counts(report['values'])}")
        for column, counts in report["columns"].items():
            print(f"  {column}: {_counts(counts)}")
        print(f"different values kept by the allow-list: {_counts(report['allowed'])}")
        print(f"raw tables: {report['raw']}")
