"""A lake fed through a journal, and a kill at any step that changes the disk."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from ingest_samples import answer, call, chat, conversation, request, text
from typer.testing import CliRunner

from ingest import commands
from ingest.journal import segments as journal
from ingest.lake import Lake
from ingest.storage import catalog, encrypted, kept
from ingest.tables import build as lake_tables
from ingest.tables.runners import LocalRunner, Runner

HOUR = 3_600_000_000_000
ARRIVED = 1_748_736_000_000_000_000
DAY = 24 * HOUR
NOW = ARRIVED + 100 * DAY


def send(lake: Lake, *requests: dict[str, Any], at: int = ARRIVED) -> None:
    """Writes requests into one sealed segment, as arrived at that time (ns)."""
    writer = journal.JournalWriter(lake.journal_path)
    writer.append([journal.record("traces_json", at, json.dumps(r).encode()) for r in requests])
    writer.close()


def talks(*numbers: int) -> list[dict[str, Any]]:
    """One whole conversation a number."""
    return [conversation(n, f"c-{n}") for n in numbers]


def row_hashes(lake: Lake, name: str = "spans") -> Counter[bytes]:
    """The rows of a raw table as a reader sees them now."""
    found = catalog.parts(lake.path, name)
    return Counter(h for part in found for h in pq.read_table(part, columns=["row_hash"])["row_hash"].to_pylist())


def ever_came(lake: Lake, name: str = "spans") -> set[bytes]:
    """The rows of a raw table as the lake knows them, encrypted and dropped ones among them."""
    columns = kept.hashes(lake.path, name)
    parts = catalog.parts(lake.path, name)
    columns += [encrypted.open_part(lake.path, part).read(["row_hash"])["row_hash"] for part in parts]
    return {h for column in columns for h in column.to_pylist()}


def tables(lake: Lake) -> list[Any]:
    """What the other rooms read."""
    return [lake.conversations(), lake.transitions(), lake.scenarios(), lake.tool_profiles()]


def assert_same_in_parts(lake: Lake, aside: Path, shards: int = 3, runner: Runner | None = None) -> None:
    """What is made of a lake's raw rows in parts is what is made of them in one piece."""
    made = [aside / "whole", aside / "parts"]
    lake_tables.build(lake.path, made[0], 1)
    lake_tables.build(lake.path, made[1], shards, runner or LocalRunner(0))
    for whole in sorted(made[0].glob("*/*")):
        other = made[1] / whole.relative_to(made[0])
        assert contents(whole) == contents(other), whole.stem
    assert not (lake.path / "normalising").exists()


def contents(path: Path) -> Any:
    """A file of a lake's tables, the order of rows aside where the rows are not a table of ``sql/``."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    rows = [json.dumps(row, default=str, sort_keys=True) for row in pq.read_table(path).to_pylist()]
    return rows if path.parent.name == "tables" else sorted(rows)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Lake],
    work: Callable[[Lake], object],
    steps: Iterable[int] = range(1, 200),
) -> Iterator[Lake]:
    """Lakes in which the work was killed before its first, second, ... replacement or removal of a file; the
    last one is a lake in which it ran to its end."""
    for step in steps:
        lake = make()
        left = [step]
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name), left))
            try:
                work(lake)
            except Killed:
                pass
        yield lake
        if left[0] > 0:
            return


def dying(real: Callable[..., None], left: list[int]) -> Callable[..., None]:
    """A call that kills when the steps that are left are used up, and from then on."""

    def call(*arguments: Any, **named: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed
        real(*arguments, **named)

    return call


def loose_files(lake: Lake) -> set[str]:
    """Files under ``raw`` that no catalog lists: what a kill left behind."""
    listed: Iterable[Path] = [p for name in catalog.RAW for p in catalog.parts(lake.path, name)]
    found = {p for p in (lake.path / "raw").rglob("*") if p.suffix in (".parquet", ".tmp")}
    return {str(p) for p in found - set(listed)}


def run(*arguments: str) -> str:
    app = typer.Typer()
    commands.register(app)
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def halves(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    spans = conversation(number, f"c-{number}")["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return request(*spans[:3]), request(*spans[3:])


def sample(path: Path) -> Lake:
    """c-1 and c-2 are old, c-3 straddles the cut, c-4 is young."""
    lake = Lake.create(path)
    early, late = halves(3)
    send(lake, *talks(1, 2), early, at=NOW - 40 * DAY)
    send(lake, late, at=NOW - 20 * DAY)
    send(lake, *talks(4), at=NOW - DAY)
    return lake


def ids(lake: Lake) -> list[str]:
    return sorted(c.conversation_id for c in lake.conversations())


def lake_of(tmp_path: Path, requests: list[dict[str, Any]]) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    random.Random(1).shuffle(requests)
    send(lake, *requests)
    lake.ingest()
    return lake


def turns_in_traces_of_their_own(first_trace: int, turns: int) -> list[dict[str, Any]]:
    """A conversation that only its repeated history holds together: a trace a turn, no conversation id."""
    history: list[dict[str, Any]] = []
    out = []
    for turn in range(turns):
        history = [*history, text("user", f"question {first_trace} {turn}")]
        said = text("assistant", f"answer {first_trace} {turn}")
        out.append(request(chat(first_trace + turn, 1, 1, history, [said], None, False)))
        history = [*history, said]
    return out


def results_in_traces_of_their_own(first_trace: int) -> list[dict[str, Any]]:
    """A call in one trace, its answer in the next one's input: only the call's id ties them."""
    name = f"call-{first_trace}"
    asked, made = text("user", f"look for {first_trace}"), call(name, "look", {"n": first_trace})
    told = {"role": "tool", "parts": [answer(name, {"found": first_trace})["parts"][0]]}
    return [
        request(chat(first_trace, 1, 1, [asked], [made], None, False)),
        request(chat(first_trace + 1, 1, 1, [told], [text("assistant", "found it")], None, False)),
    ]
