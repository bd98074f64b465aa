"""The tables that Spark makes are, row for row, those of DuckDB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from development_data import CORPORA, need_corpora
from ingest_samples import conversation
from lake_samples import (
    assert_same_in_parts,
    contents,
    lake_of,
    results_in_traces_of_their_own,
    send,
    turns_in_traces_of_their_own,
)

from ingest.lake import Lake
from ingest.tables import spark

pytest.importorskip("pyspark")
pytestmark = pytest.mark.skipif(
    not (shutil.which("java") or os.environ.get("JAVA_HOME")), reason="Spark needs Java 17 or later"
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> spark.SparkRunner:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    directory = tmp_path_factory.mktemp("spark")
    builder = SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", "4")
    builder.config("spark.ui.enabled", "false").config("spark.sql.warehouse.dir", str(directory)).getOrCreate()
    return spark.SparkRunner(spark.session())


@pytest.mark.slow
def test_conversations_across_parts_are_joined_on_spark(tmp_path: Path, runner: spark.SparkRunner) -> None:
    requests = [conversation(n, f"c-{n % 9}") for n in range(1, 30)]
    for n in range(6):
        requests += turns_in_traces_of_their_own(1000 + 10 * n, 1 + n % 5)
        requests += results_in_traces_of_their_own(2000 + 10 * n)
    assert_same_in_parts(lake_of(tmp_path, requests), tmp_path / "made", 4, runner)


@pytest.mark.slow
def test_spark_gives_equal_tables_for_all_development_data(tmp_path: Path, runner: spark.SparkRunner) -> None:
    """All captures of instrumentation libraries in one lake, where they are at hand, and the airline's traces."""
    need_corpora()
    files = [p for name in ("traces", "logs") for p in sorted(CORPORA.glob(f"*/{name}.jsonl"))]
    files += sorted((CORPORA.parent / "airline").glob("*.otlp.jsonl.gz"))
    lake = Lake.create(tmp_path / "lake")
    lake.ingest(files)
    assert_same_in_parts(lake, tmp_path / "made", 5, runner)


@pytest.mark.slow
def test_the_command_makes_the_same_tables(tmp_path: Path) -> None:
    made = []
    for engine in ("duckdb", "spark"):
        lake = Lake.create(tmp_path / engine)
        send(lake, *[conversation(n, f"c-{n}") for n in range(1, 9)])
        command = [sys.executable, "-m", "dagster_project.cli", "ingest", "--lake", str(lake.path), "--engine", engine]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["conversations"] == 8
        made.append({path.name: contents(path) for path in (lake.path / "tables").glob("*.parquet")})
    assert made[0] == made[1] and len(made[0]) == 7
