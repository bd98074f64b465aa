"""Runs an example's production agent and exports its telemetry to a collector.

    python -m examples.support_desk.production --endpoint http://127.0.0.1:4318 --conversations 3000 --seed 1

Each example has a module `production` that names its `ProductionAgent`; everything else is here.

Conversations are exported in chunks. Each chunk must be acknowledged before the next begins, so nothing is dropped.
With `--progress-file`, a run after a kill continues with the first unfinished chunk. A repeated run sends the same
span ids.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingest.errors import UserError
from training.environment import Environment, Episode, ScoredEpisode, Start

from .telemetry import Instrumentation, Names, Recorded, SeededIds, make_provider

FIRST_CONVERSATION_NS = 1_772_438_400 * 10**9
"""2026-03-02T08:00:00Z. Times are simulated: equal seeds give equal spans, times included."""

GAP_NS = 45 * 10**9
EVALUATED_SHARE = 0.6
CHUNK = 100
"""Conversations between two acknowledged flushes. A conversation has at most 78 spans, so a chunk fits the queue."""

QUEUE_SIZE = 8192


@dataclass(frozen=True)
class Production:
    """The result of a run. `spans` counts acknowledged spans, including those of an earlier, killed run."""

    seed: int
    conversations: int = 0
    successes: int = 0
    evaluated: int = 0
    spans: int = 0


class CountingExporter(SpanExporter):
    """The SDK's OTLP exporter, with counts of acknowledged and failed spans."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.confirmed = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # After one failure the run is repeated anyway, so later batches are not retried.
        result = SpanExportResult.FAILURE if self.failed else self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.confirmed += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


@dataclass(frozen=True)
class ProductionAgent:
    """An example's agent and the environment that it works in."""

    names: Names
    environment: Callable[[str], Environment]
    """The environment of a split; its episodes decide their success."""
    run: Callable[[Episode, Start, random.Random], Awaitable[list[dict[str, Any]]]]
    """Runs the agent to the end of an episode; returns the messages."""

    def run_production(
        self,
        endpoint: str,
        conversations: int,
        seed: int,
        on_progress: Callable[[int, int], None] | None = None,
        progress_file: Path | None = None,
    ) -> Production:
        """Run the agent and export every span over OTLP/HTTP to `endpoint` (a base URL).

        `on_progress(done, total)` is called after each acknowledged chunk. With `progress_file`, chunks that an earlier
        run with the same seed finished are skipped. Raises UserError if the endpoint does not accept the spans.
        """
        if conversations < 0:
            raise UserError(f"--conversations is {conversations}; give a number of 0 or more")
        if not endpoint.startswith(("http://", "https://")):
            raise UserError(f"--endpoint is {endpoint!r}; give a base URL such as http://127.0.0.1:4318")
        done = _read_progress(progress_file, seed)
        starts = self.environment("production").starts(conversations, seed)[done.conversations :]
        with _exporting(self.names, endpoint) as (instrumentation, flush):
            for first in range(0, len(starts), CHUNK):
                chunk = starts[first : first + CHUNK]
                played = asyncio.run(self._play_all(chunk, seed, done.conversations))
                for conversation, _ in played:
                    instrumentation.emit(conversation)
                confirmed = flush()
                done = Production(
                    seed,
                    done.conversations + len(chunk),
                    done.successes + sum(success for _, success in played),
                    done.evaluated + sum(c.score is not None for c, _ in played),
                    done.spans + confirmed,
                )
                _write_progress(progress_file, done)
                if on_progress is not None:
                    on_progress(done.conversations, conversations)
        return done

    async def _play_all(self, starts: Sequence[Start], seed: int, first: int) -> list[tuple[Recorded, bool]]:
        return [await self.play(start, seed, first + k) for k, start in enumerate(starts)]

    async def play(self, start: Start, seed: int, number: int) -> tuple[Recorded, bool]:
        """Play one production conversation; returns its record, and whether it succeeded."""
        rng = random.Random(f"production {start.episode_id}")
        episode = self.environment("production").episode(start, seed)
        assert isinstance(episode, ScoredEpisode)
        messages = await self.run(episode, start, rng)
        success = episode.success()
        evaluated = rng.random() < EVALUATED_SHARE
        recorded = Recorded(
            conversation_id=str(
                uuid.UUID(int=random.Random(f"id {start.episode_id}").getrandbits(128), version=4)
            ),
            messages=messages,
            tools=start.tools,
            started_at_ns=FIRST_CONVERSATION_NS + number * GAP_NS + rng.randrange(GAP_NS),
            score=float(success) if evaluated else None,
        )
        return recorded, success

    def main(
        self,
        endpoint: Annotated[
            str, typer.Option(help="base URL of an OTLP/HTTP receiver")
        ] = "http://127.0.0.1:4318",
        conversations: Annotated[int, typer.Option(help="number of conversations")] = 3000,
        seed: Annotated[int, typer.Option(help="random seed")] = 1,
        progress_file: Annotated[
            Path | None, typer.Option(help="file with the progress; a run after a kill continues from it")
        ] = None,
    ) -> None:
        """Run the production agent and export its telemetry."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns) as progress:
                task = progress.add_task("conversations", total=conversations)
                done = self.run_production(
                    endpoint, conversations, seed, lambda k, n: progress.update(task, completed=k), progress_file
                )
        except UserError as error:
            print(f"rehearsal: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        share = done.successes / done.conversations if done.conversations else 0.0
        print(
            f"{done.conversations} conversations, {done.spans} spans acknowledged, {done.evaluated} evaluated, "
            f"{share:.1%} successful"
        )


@contextmanager
def _exporting(names: Names, endpoint: str) -> Iterator[tuple[Instrumentation, Callable[[], int]]]:
    """A tracer that exports to `endpoint`, and a flush that returns the number of acknowledged spans."""
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(
        logging.CRITICAL
    )  # failures are reported below
    url = endpoint.rstrip("/") + "/v1/traces"
    exporter = CountingExporter(OTLPSpanExporter(endpoint=url, timeout=10))
    ids = SeededIds()
    provider = make_provider(names, ids)
    processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE_SIZE, max_export_batch_size=512)
    provider.add_span_processor(processor)
    instrumentation = Instrumentation(names, provider, ids)
    flushed = 0

    def flush() -> int:
        nonlocal flushed
        processor.force_flush()
        ended = instrumentation.spans
        if exporter.failed or exporter.confirmed != ended:
            raise UserError(
                f"{url} acknowledged {exporter.confirmed} of {ended} spans; is the receiver running there? "
                "Start it (rehearsal receive) and run this again; the same seed sends the same span ids"
            )
        new, flushed = ended - flushed, ended
        return new

    try:
        yield instrumentation, flush
    finally:
        provider.shutdown()


def _read_progress(path: Path | None, seed: int) -> Production:
    """The progress of an earlier run with this seed; empty if there is none."""
    if path is None or not path.exists():
        return Production(seed)
    try:
        done = Production(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no progress file of this command; delete it and run again") from error
    return done if done.seed == seed else Production(seed)


def _write_progress(path: Path | None, done: Production) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(done)))
    os.replace(partial, path)
