"""Nothing of the raw rows is lost, whatever comes in whatever order; and a loss is seen."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from dialect_samples import SAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_samples import call, conversation, request, span, text
from lake_samples import contents, send
from typer.testing import CliRunner

from ingest.commands import register
from ingest.conversations import assembly
from ingest.lake import Lake
from ingest.tables import build as lake_tables
from ingest.tables.runners import LocalRunner

app = typer.Typer()
register(app)

DATA = Path(__file__).parents[4] / "shared" / "data"  # beside the repository, where it is at hand
CONTENTS = ("message", "prompt", "completion", "input", "output", "argument", "result", "content", "event", "response")
Values = dict[str, Any]


def at_hand() -> dict[str, list[Values]]:
    """Everything that there is to mix: requests by name."""
    found = {name: [sample()] for name, sample in SAMPLES.items()} | {"conversation": [conversation(1, None)]}
    for corpus in (*(DATA / "dialects").glob("*"), *(DATA / "reported").glob("*")):
        files = [path for name in ("traces", "logs") if (path := corpus / f"{name}.jsonl").exists()]
        requests = [json.loads(line) for path in files for line in path.read_text().splitlines() if line.strip()]
        if all("resourceSpans" in r or "resourceLogs" in r for r in requests):
            found[corpus.name] = requests
    return found


CORPORA = at_hand()


def pieces(requests: list[Values], number: int) -> list[Values]:
    """A request for each span and log record; traces of different numbers are different ones."""
    out = []
    for r in requests:
        for kind, scopes, rows in (
            ("resourceSpans", "scopeSpans", "spans"),
            ("resourceLogs", "scopeLogs", "logRecords"),
        ):
            for resource in r.get(kind, ()):
                for scope in resource[scopes]:
                    for row in scope[rows]:
                        trace = row.get("traceId") and f"{number:04x}{row['traceId'][4:]}"
                        one = {**scope, rows: [{**row, **({"traceId": trace} if trace else {})}]}
                        out.append({kind: [{**resource, scopes: [one]}]})
    return out


def rows_of(piece: Values) -> list[Values]:
    if "resourceSpans" in piece:
        return piece["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return piece["resourceLogs"][0]["scopeLogs"][0]["logRecords"]


def stripped(piece: Values) -> Values:
    """Without contents: what a library exports that may not tell any."""
    made = json.loads(json.dumps(piece))
    for row in rows_of(made):
        row["attributes"] = [
            a for a in row.get("attributes", ()) if not any(word in a["key"].lower() for word in CONTENTS)
        ]
        row.pop("body", None)
    return made


def wordless(piece: Values) -> Values:
    """With the forms of messages, but no words in them."""
    made = json.loads(json.dumps(piece))
    for row in rows_of(made):
        for a in row.get("attributes", ()):
            text = a["value"].get("stringValue")
            if text and text[:1] in "[{":
                try:
                    a["value"]["stringValue"] = json.dumps(_silenced(json.loads(text)))
                except ValueError:
                    continue
    return made


def _silenced(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _silenced(v) for k, v in value.items() if k not in ("content", "text", "arguments", "response", "result")
        }
    return [_silenced(v) for v in value] if isinstance(value, list) else value


def begun(piece: Values) -> Values:
    """What is exported of a span when it begins."""
    made = stripped(piece)
    for row in rows_of(made):
        row.pop("events", None)
        if "startTimeUnixNano" in row:
            row["endTimeUnixNano"] = row["startTimeUnixNano"]
    return made


def counted(piece: Values) -> Values:
    """With one id for all calls, as models make that count them anew for each message."""
    return json.loads(re.sub(r"\b(call|toolu|fc|chatcmpl-tool)_\w+", "call_0", json.dumps(piece)))


def in_one_session(piece: Values) -> Values:
    """Under a conversation id that everything else has, too."""
    made = json.loads(json.dumps(piece))
    for row in rows_of(made):
        row["attributes"] = [*row.get("attributes", ()), {"key": "session.id", "value": {"stringValue": "s-1"}}]
    return made


CHANGES: dict[str, Callable[[Values], list[Values]]] = {
    "kept": lambda piece: [piece],
    "dropped": lambda piece: [],
    "doubled": lambda piece: [piece, begun(piece)],
    "stripped": lambda piece: [stripped(piece)],
    "wordless": lambda piece: [wordless(piece)],
    "counted": lambda piece: [counted(piece)],
    "in one session": lambda piece: [in_one_session(piece)],
}


def lake_of(path: Path, *ingests: list[Values]) -> Lake:
    lake = Lake.create(path / "lake")
    for number, found in enumerate(ingests):
        (path / f"{number}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
        lake.ingest([path / f"{number}.jsonl"])
    return lake


Mixture = tuple[list[Values], list[Values] | None]


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Rows of some corpora, each kept or changed, and the same in another order; None to compare with parts instead."""
    names = draw(st.lists(st.sampled_from(sorted(CORPORA)), min_size=1, max_size=3))
    kinds = draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3)) + ["kept"]
    found = []
    for number, name in enumerate(names, 1):
        for piece in pieces(CORPORA[name], number):
            found += CHANGES[draw(st.sampled_from(kinds))](piece)
    return found, draw(st.none() | st.permutations(found))


def check(mixture: Mixture) -> None:
    """The balance holds; and either what is normalised in three parts, or what arrives in another order and in two
    ingests, makes equal tables. One of the two for each example, because each needs a build of its own."""
    found, shuffled = mixture
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        lake = lake_of(Path(one), found)
        if lake.is_empty():
            return
        balance = lake.conservation()
        assert balance.holds, "\n".join(balance.lines())
        again = Path(other) / "lake"
        if shuffled is None:
            lake_tables.build(lake.path, again, 3, LocalRunner(0))
        else:
            half = len(shuffled) // 2
            lake_of(Path(other), shuffled[:half], shuffled[half:]).build_tables()
        for path in sorted((lake.path / "tables").glob("*.parquet")):
            assert contents(path) == contents(again / "tables" / path.name), path.stem


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(deadline=None, max_examples=12, suppress_health_check=QUIET)
@given(mixtures())
def test_nothing_is_lost_and_order_changes_nothing(mixture: Mixture) -> None:
    check(mixture)


@pytest.mark.slow
@settings(deadline=None, max_examples=25, suppress_health_check=QUIET)
@given(mixtures())
def test_many_random_lakes_are_conserved(mixture: Mixture) -> None:
    check(mixture)


def test_all_development_data_is_conserved(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [p for n, name in enumerate(sorted(CORPORA), 1) for p in pieces(CORPORA[name], n)])
    balance = lake.conservation()
    assert balance.holds and balance.inference.placed > 20, "\n".join(balance.lines())


# ----------------------------------------------------------------------------------------- losses are seen


def test_a_dropped_thread_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where assembly loses a thread, neither the counts nor the audit balance."""
    real = assembly.conversations_of
    monkeypatch.setattr(assembly, "conversations_of", lambda *a: real(*a)[1:])
    lake = lake_of(tmp_path, [conversation(n, f"c-{n}") for n in (1, 2)])
    balance = lake.conservation()
    assert not balance.holds and balance.inference.missing == 3 and balance.execution.missing == 2
    assert balance.judgement.missing == 1
    done = CliRunner().invoke(app, ["conservation", "--lake", str(lake.path)])
    assert done.exit_code == 1 and "missing 3" in done.output and "the balance does not hold" in done.output


TABLES = {
    "messages": "tables/messages.parquet",
    "evaluations": "normalised/evaluations.parquet",
    "placements": "normalised/placements.parquet",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_row_is_detected(tmp_path: Path, table: str) -> None:
    lake = lake_of(tmp_path, [conversation(n, f"c-{n}") for n in (1, 2)])
    assert lake.conservation().holds
    path = lake.path / TABLES[table]
    rows = pq.read_table(path)
    pq.write_table(rows.slice(0, rows.num_rows - 1), path)
    assert not lake.conservation().holds


def test_lost_calls_are_detected(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [conversation(1, "c-1")])
    lake.build_tables()
    path = lake.path / "tables" / "messages.parquet"
    rows = pq.read_table(path)
    silent = pa.array([None] * rows.num_rows, pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("tool_calls"), "tool_calls", silent), path)
    assert lake.conservation().inference.wrong == 2


def test_a_judgement_in_another_conversation_is_detected(tmp_path: Path) -> None:
    requests = [conversation(n, f"c-{n}") for n in (1, 2)]
    for r in requests:  # on a model call, which is in a conversation itself
        spans = r["resourceSpans"][0]["scopeSpans"][0]["spans"]
        spans[-1]["events"], spans[0]["events"] = spans[0]["events"], []
    lake = lake_of(tmp_path, requests)
    assert lake.conservation().holds
    path = lake.path / "normalised" / "evaluations.parquet"
    rows = pq.read_table(path)
    swapped = pc.if_else(pc.equal(rows["conversation_id"], "c-1"), "c-2", rows["conversation_id"])
    pq.write_table(rows.set_column(0, "conversation_id", swapped), path)
    assert lake.conservation().judgement.wrong == 1


def test_the_summary_has_the_balance(tmp_path: Path) -> None:
    made = conversation(1, "c-1")
    made["resourceSpans"][0]["scopeSpans"][0]["spans"].append(
        rows_of(stripped(pieces([conversation(7, None)], 7)[1]))[0]
    )
    (tmp_path / "in.jsonl").write_text(json.dumps(made))
    done = CliRunner().invoke(app, ["ingest", "--lake", str(tmp_path / "lake"), str(tmp_path / "in.jsonl")])
    assert "model outputs: 3 of 4 are in one conversation; not: no_content 1" in done.output
    assert "judgements: 1 of 1 are in one conversation" in done.output
    done = CliRunner().invoke(app, ["conservation", "--lake", str(tmp_path / "lake"), "--json"])
    told = {"raw": 4, "placed": 3, "left": {"no_content": 1}, "missing": 0, "twice": 0, "wrong": 0, "examples": []}
    assert json.loads(done.output)["inference"] == told


def test_a_model_call_is_in_one_of_two_runs_that_are_rebuilt(tmp_path: Path) -> None:
    """One trace: an agent whose calls no history shows, and a tool whose parents are missing."""
    asked = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps([text("user", "look for 7")])}
    ran = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look", "gen_ai.tool.call.result": "found"}
    made = {"gen_ai.output.messages": json.dumps([call("c-1", "look", {"n": 7})])}
    said = {"gen_ai.output.messages": json.dumps([text("assistant", "it is there")])}
    rows = request(
        span(1, 1, "agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"}, took=9),
        span(1, 2, "chat", asked | made, at=1),
        span(1, 3, "tool", ran | {"gen_ai.tool.call.arguments": '{"n": 7}'}, at=2),
        span(1, 4, "tool", ran | {"gen_ai.tool.call.arguments": '{"n": 8}'}, at=3, parent=99),
        span(1, 5, "chat", asked | said, at=4),
    )
    balance = lake_of(tmp_path, [rows]).conservation()
    assert balance.holds and balance.inference.raw == 2, "\n".join(balance.lines())


def test_a_log_record_that_comes_again_without_its_body_adds_no_message(tmp_path: Path) -> None:
    whole = pieces([SAMPLES["otel-genai log events"]()], 1)
    emptied = [stripped(piece) for piece in whole]
    found = []
    for name, rows in (("whole", whole), ("twice", emptied + whole)):
        (tmp_path / name).mkdir()
        found.append(lake_of(tmp_path / name, rows).conversations())
    assert found[0] == found[1] and found[0]


def test_without_a_build_the_tables_stay_as_they_are(lake: Lake) -> None:
    """A check looks at what there is; new raw rows wait for the next build."""
    send(lake, conversation(1, "c-1"))
    lake.ingest()
    lake.build_tables()
    state = (lake.path / "tables" / "state.json").read_bytes()
    send(lake, conversation(2, "c-2"))
    lake.ingest()
    assert lake.conservation(build=False).holds
    assert (lake.path / "tables" / "state.json").read_bytes() == state
    assert lake.conservation().holds
    assert (lake.path / "tables" / "state.json").read_bytes() != state
