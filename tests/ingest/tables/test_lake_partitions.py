"""A lake that is normalised in parts, by several processes, has the tables that it has in one piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dialect_samples import SAMPLES
from ingest_samples import attributes, call, chat, conversation, event, request, span, text, tool
from lake_samples import (
    assert_same_in_parts,
    lake_of,
    results_in_traces_of_their_own,
    turns_in_traces_of_their_own,
)

from ingest.lake import Lake
from ingest.tables import build as tables
from ingest.tables import partitioned, shards
from ingest.tables.runners import LocalRunner


@pytest.mark.parametrize("shards, processes", [(2, 0), (7, 0), (5, 2)])
def test_tables_of_parts_equal_those_of_one_piece(tmp_path: Path, shards: int, processes: int) -> None:
    requests = [conversation(n, f"c-{n % 9}") for n in range(1, 30)]
    for n in range(12):
        requests += turns_in_traces_of_their_own(1000 + 10 * n, 1 + n % 5)
        requests += results_in_traces_of_their_own(2000 + 10 * n)
    lake = lake_of(tmp_path, requests)
    with LocalRunner(processes).running() as runner:
        assert_same_in_parts(lake, tmp_path / "made", shards, runner)
    found = {c.conversation_id: c for c in lake.conversations()}
    assert len(found) == 9 + 12 + 12, "turns and results were joined across traces"


@pytest.mark.parametrize("going_on, twice", [(0, False), (2, True), (40, False)])
def test_a_part_continued_by_a_later_part_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, going_on: int, twice: bool
) -> None:
    """Buckets whose conversations seem to be whole are written at once, and again where one did go on elsewhere."""
    requests = [conversation(n, f"c-{n}") for n in range(1, 150)]
    for n in range(going_on):
        requests += turns_in_traces_of_their_own(1000 + 10 * n, 2)
    lake = lake_of(tmp_path, requests)
    assembled: list[tuple[int, bool, bool]] = []
    assemble = partitioned._assemble_bucket

    def watched(*arguments: Any) -> Any:
        written = assemble(*arguments)
        assembled.append((arguments[1], arguments[-1] is not None, written is not None))
        return written

    monkeypatch.setattr(partitioned, "_assemble_bucket", watched)
    assert_same_in_parts(lake, tmp_path / "made", 3)
    first = [at_once for _, wanted, at_once in assembled if wanted]
    assert first == [going_on < 40] * 3
    assert any(not wanted for _, wanted, _ in assembled) == twice
    assert len(lake.conversations()) == 149 + going_on


def test_samples_of_every_dialect_in_one_lake(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    for number, sample in enumerate(SAMPLES.values()):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(sample()).replace('"traceId": "00000', f'"traceId": "{number:05x}') + "\n")
        lake.ingest([path])
    assert_same_in_parts(lake, tmp_path / "made", 6)


def test_judgements_find_conversations_and_surrogates_of_other_parts(tmp_path: Path) -> None:
    requests = []
    for n in range(1, 12):
        values = {"gen_ai.evaluation.name": "quality", "gen_ai.evaluation.score.value": 1.0,
                  "gen_ai.evaluation.explanation": f"person{n}@corp.com was helped"}  # fmt: skip
        asked = [text("user", f"I am person{n}@corp.com")]
        told = chat(n, 2, 1, asked, [text("assistant", f"hello {n}")], None, False)
        told["attributes"] += attributes({"gen_ai.response.id": f"resp-{n}"})
        elsewhere = {**values, "gen_ai.response.id": f"resp-{n}", "gen_ai.evaluation.name": "by response"}
        judged = span(500 + n, 1, "judge", {}, events=[event("gen_ai.evaluation.result", elsewhere)])
        requests += [request(told, span(n, 1, "turn", {}, events=[event("gen_ai.evaluation.result", values)])),
                     request(judged)]  # fmt: skip
    lake = lake_of(tmp_path, requests)
    assert_same_in_parts(lake, tmp_path / "made", 5)
    counted = "SELECT name, count(DISTINCT conversation_id) AS n, min(explanation) AS e FROM outcomes GROUP BY name"
    outcomes = lake.query(counted).to_pylist()
    assert {(r["name"], r["n"]) for r in outcomes} == {("quality", 11), ("by response", 11)}
    assert not any("person" in r["e"] for r in outcomes)


def test_a_large_lake_is_built_in_parts_and_a_kill_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(tmp_path, [conversation(n, f"c-{n}") for n in range(1, 20)])
    before = lake.conversations()
    monkeypatch.setattr(shards, "SHARD_ROWS", 40)
    left = lake.path / partitioned.ASIDE
    left.mkdir()
    (left / "groups-0.parquet").write_text("of a killed one")
    used = []
    real = tables.normalise_in_parts
    monkeypatch.setattr(tables, "normalise_in_parts", lambda *a: used.append(a[3]) or real(*a[:4], LocalRunner(0)))
    lake.build_tables(force=True)
    assert used == [shards.FEWEST_SHARDS]
    assert lake.conversations() == before and not left.exists()


def test_tools_that_ran_in_another_process_s_trace(tmp_path: Path) -> None:
    requests = []
    for n in range(1, 9):
        made = call(f"k-{n}", "look", {"n": n})
        requests.append(request(chat(n, 1, 1, [text("user", f"q {n}")], [made], f"c-{n}", False)))
        ran = tool(100 + n, 1, 1, f"k-{n}", "look", {"n": n}, "found")
        ran["attributes"] += attributes({"gen_ai.conversation.id": f"c-{n}"})
        requests.append(request(ran))
    assert_same_in_parts(lake_of(tmp_path, requests), tmp_path / "made", 4)


def test_a_branch_continued_in_another_part_does_not_move_the_others(tmp_path: Path) -> None:
    begun = [text("user", "hello"), text("assistant", "what is it?")]
    requests = [request(chat(1, 1, 0, begun[:1], begun[1:], None))]
    for n, said in enumerate(("a refund", "an exchange"), 1):
        history = [*begun, text("user", said)]
        requests.append(request(chat(1 + n, 1, 10 * n, history, [text("assistant", f"{said}, yes")], "c-1")))
    lake = lake_of(tmp_path, requests)
    assert_same_in_parts(lake, tmp_path / "made", 4)
    seen = "SELECT DISTINCT trace_id FROM messages WHERE conversation_id = '{}' ORDER BY 1"
    traces = {c.conversation_id: lake.query(seen.format(c.conversation_id))["trace_id"].to_pylist()
              for c in lake.conversations()}  # fmt: skip
    assert traces == {"c-1": [f"{2:032x}"], f"{1:032x}": [f"{n:032x}" for n in (1, 3)]}
