"""Spans per second and peak memory from the journal to `transitions`. Conversations are written through the real
journal and read by `rehearsal ingest` in a subprocess.

    python -m benchmarks.bench_ingest                  # 5 KB spans
    python -m benchmarks.bench_ingest --million 1 3 10 # so many million 1 KB spans: time and memory should be linear
    python -m benchmarks.bench_ingest --storage        # bytes on disk of conversations of 20 turns, without padding

A conversation is one trace: an agent span; for each turn a chat span, which repeats the history, and a tool span; and a
last chat span. Texts are random words, different in every conversation. An attribute pads each span to its size. The
journal is written before the measurement starts and removed afterwards.

The speed of a shared machine varies, so each rate is given with the rate of the libraries alone, measured immediately
before (``libraries``).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.peers.libraries import libraries
from dagster_project.loop import memory
from ingest import processes
from ingest.journal import segments as journal
from ingest.lake import Lake

TURNS = 5  # per conversation: an agent span, a chat span and a tool span per turn, and a last chat span
SPANS = 2 * TURNS + 2
REQUEST = 64  # spans
SAMPLE = 20_000  # spans
BASE_NS = 1_750_000_000_000_000_000
SECOND = 1_000_000_000


def conversation(rng: random.Random, number: int, span_bytes: int, turns: int = TURNS) -> Iterator[Span]:
    """The spans of one conversation, each of about `span_bytes` bytes; 0: not padded."""
    trace, start = rng.randbytes(16), BASE_NS + number * SECOND
    text = prose()

    def words(size: int) -> str:
        at = rng.randrange(len(text) - size)
        return text[at : at + size]

    said = max(16, span_bytes // 40) if span_bytes else 150  # words; the history of the last turn must fit
    root = rng.randbytes(8)
    history: list[dict[str, object]] = [_text("user", f"please look at {words(said)}")]

    def make(name: str, at: int, parent: bytes, attributes: dict[str, str]) -> Span:
        span = Span(name=name, kind=Span.SPAN_KIND_CLIENT, trace_id=trace, parent_span_id=parent)
        span.span_id = rng.randbytes(8)
        span.start_time_unix_nano, span.end_time_unix_nano = start + at * SECOND, start + (at + 1) * SECOND
        for key, value in {**attributes, "gen_ai.conversation.id": f"c-{number}"}.items():
            span.attributes.add(key=key).value.string_value = value
        if span_bytes and (room := span_bytes - span.ByteSize() - 20) > 0:
            span.attributes.add(key="app.payload").value.string_value = words(room)
        return span

    agent = make("invoke_agent desk", 0, b"", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"})
    agent.span_id = root
    yield agent
    for turn in range(turns + 1):
        call_id, arguments = f"call-{number}-{turn}", {"id": rng.randbytes(4).hex()}
        made = _part("tool_call", id=call_id, name="look", arguments=arguments)
        call: dict[str, object] = {"role": "assistant", "parts": [made]}
        last = turn == turns
        out = _text("assistant", f"done: {words(said)}") if last else call
        yield make("chat m", 2 * turn + 1, root, {
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
            "gen_ai.input.messages": json.dumps(history), "gen_ai.output.messages": json.dumps([out]),
        })  # fmt: skip
        if last:
            return
        result = json.dumps({"id": arguments["id"], "state": words(said)})
        yield make("execute_tool look", 2 * turn + 2, root, {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look", "gen_ai.tool.call.id": call_id,
            "gen_ai.tool.call.arguments": json.dumps(arguments), "gen_ai.tool.call.result": result,
        })  # fmt: skip
        history += [call, {"role": "tool", "parts": [_part("tool_call_response", id=call_id, response=result)]}]


@cache
def prose() -> str:
    """The text that conversations are cut from, much longer than one conversation."""
    words = sorted(set(re.findall(r"[a-z]{2,}", Path(argparse.__file__).read_text())))
    return " ".join(random.Random(0).choices(words, k=6_000_000))


def _text(role: str, content: str) -> dict[str, object]:
    return {"role": role, "parts": [_part("text", content=content)]}


def _part(kind: str, **more: object) -> dict[str, object]:
    return {"type": kind, **more}


def requests(spans: int, span_bytes: int, turns: int = TURNS) -> Iterator[tuple[bytes, int]]:
    """Requests of whole conversations with at least `spans` spans in all, each with its number of spans."""
    rng, made = random.Random(0), 0
    found: list[Span] = []
    for number in count():
        for span in conversation(rng, number, span_bytes, turns):
            found.append(span)
            made += 1
            if len(found) == REQUEST:
                yield _request(found), REQUEST
                found = []
        if made >= spans:
            break
    if found:
        yield _request(found), len(found)


def fill(directory: Path, spans: int, span_bytes: int, turns: int = TURNS) -> tuple[int, int]:
    """Writes at least `spans` spans (whole conversations) into a journal; returns spans and bytes."""
    writer, made, size = journal.JournalWriter(directory), 0, 0
    source = requests(spans, span_bytes, turns)
    while group := list(islice(source, 16)):
        writer.append([journal.record("traces_proto", time.time_ns(), payload) for payload, _ in group])
        made += sum(n for _, n in group)
        size += sum(len(payload) for payload, _ in group)
    writer.close()
    return made, size


def _request(spans: list[Span]) -> bytes:
    request = ExportTraceServiceRequest()
    part = request.resource_spans.add()
    part.resource.attributes.add(key="service.name").value.string_value = "bench"
    inner = part.scope_spans.add()
    inner.scope.name = "bench"
    inner.spans.extend(spans)
    return request.SerializeToString()


# ------------------------------------------------------------------------------------------ measurement


def ingest(lake: Path) -> None:
    """The measured process: ingests and builds the tables. Prints the seconds of both, the counts, and peak memory and
    CPU time including subprocesses."""
    started = time.perf_counter()
    home = Lake.open(lake)
    with memory.watched(lake.parent), processes.kept():
        summary = home.ingest()
        landed = time.perf_counter()
        rows = home.build_tables()
    built = time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {"spans": summary.spans, "landing_s": landed - started, "tables_s": built - landed,
            "peak_bytes": memory.peak_bytes(lake.parent),  # ru_maxrss would be the parent's: exec does not reset it
            "cpu_s": sum(u.ru_utime + u.ru_stime for u in used)}  # fmt: skip
    print(json.dumps(told | {"transitions": rows["transitions"], "conversations": rows["conversations"]}))


def measure(directory: Path, spans: int, span_bytes: int) -> dict[str, float]:
    """Measures one new lake up to `transitions`. Raises ``AssertionError`` if a span or a transition is missing."""
    lake = Lake.create(directory / "lake")
    try:
        made, size = fill(lake.journal_path, spans, span_bytes)
        alone = libraries([payload for payload, _ in requests(SAMPLE, span_bytes)])
        command = [sys.executable, "-m", "benchmarks.bench_ingest", "--ingest", str(lake.path)]
        told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert told["spans"] == made, f"{made} spans in the journal, {told['spans']} in the lake"
        assert told["transitions"] == TURNS * (made // SPANS), told
        seconds = told["landing_s"] + told["tables_s"]
        stored = sum(p.stat().st_size for p in lake.path.rglob("*.parquet"))
        rate = {"spans_per_s": made / seconds, "libraries_spans_per_s": alone, "of_libraries": made / seconds / alone}
        return {**told, **rate, "bytes_per_span": size / made, "stored_of_raw": stored / size}
    finally:
        shutil.rmtree(lake.path)


KINDS = ("raw", "normalised", "tables")


def storage(directory: Path, conversations: int = 400, turns: int = 20) -> dict[str, float]:
    """Bytes of conversations of random words: as OTLP, and on disk after compaction."""
    lake = Lake.create(directory / "lake")
    spans, size = fill(lake.journal_path, conversations * (2 * turns + 2), 0, turns)
    lake.ingest()
    lake.compact()
    lake.build_tables()
    on_disk = {name: sum(p.stat().st_size for p in (lake.path / name).rglob("*.parquet")) for name in KINDS}
    shares = {f"{name}_of_otlp": on_disk[name] / size for name in KINDS}
    return {"spans": spans, "otlp_bytes_per_span": size / spans, "raw_bytes_per_span": on_disk["raw"] / spans, **shares}


def told(m: dict[str, float]) -> str:
    """One line."""
    return (
        f"{m['spans']:,.0f} spans of {m['bytes_per_span']:,.0f} bytes: {m['spans_per_s']:,.0f} spans/s,"
        f" {m['of_libraries']:.2f} of the {m['libraries_spans_per_s']:,.0f} of the libraries alone"
        f" (landing {m['landing_s']:.1f} s, tables {m['tables_s']:.1f} s; {m['cpu_s']:.1f} s of CPU),"
        f" peak {m['peak_bytes'] / 2**30:.2f} GiB, stored {m['stored_of_raw']:.0%} of the raw bytes"
    )


def main() -> None:
    """Prints one line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--dir", type=Path, help="where to write")
    parser.add_argument("--spans", type=int, default=50_000, help="number of 5 KB spans")
    parser.add_argument("--million", type=float, nargs="+", help="millions of 1 KB spans, instead of 5 KB spans")
    parser.add_argument("--storage", action="store_true", help="measure bytes on disk of conversations of 20 turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ingest", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ingest:
        ingest(options.ingest)
        return
    if options.storage:
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            print(json.dumps(storage(Path(name)), indent=1))
        return
    sizes = [(round(m * 1e6), 1_000) for m in options.million or ()] or [(options.spans, 5_000)]
    for spans, span_bytes in sizes:
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            found = measure(Path(name), spans, span_bytes)
        print(json.dumps(found) if options.json else told(found), flush=True)


if __name__ == "__main__":
    main()
