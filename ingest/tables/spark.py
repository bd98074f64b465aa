"""Run the normalisation and the SQL of the tables on Apache Spark (docs/spark.md).

Spark reads and partitions the raw rows, runs the parts as Arrow functions on its executors, and runs the SQL files,
transpiled to its dialect. Executors and driver must see the lake under the same path, for example on a shared volume.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from ingest.errors import UserError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def session() -> SparkSession:
    """Return the active session of a cluster (``spark-submit``, Databricks, EMR), or a local session. Raises UserError
    if Spark is not installed."""
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("the engine spark needs PySpark and Java 17; install it with: make spark") from None
    from pyspark.errors import PySparkException

    if SparkSession.getActiveSession() is None and "SPARK_ENV_LOADED" not in os.environ:  # not on a cluster
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("rehearsal").config("spark.sql.session.timeZone", "UTC")
    try:
        return builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "1").getOrCreate()
    except PySparkException as error:
        raise UserError(f"Spark does not start ({error.getCondition()}); it needs Java 17 on the PATH") from None


class SparkRunner:
    """Runs the parts of a normalisation on a Spark session."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark

    def shuffle(self, files: Sequence[Path], columns: Sequence[str], shards: int, into: Path) -> None:
        from pyspark.sql import functions as F

        rows = self.spark.read.parquet(*map(str, files)).select(
            *columns,
            F.col("_metadata.file_path").alias("filename"),
            F.col("_metadata.row_index").alias("file_row_number"),
            F.pmod(F.xxhash64("trace_id"), F.lit(shards)).alias("shard"),
        )
        rows.repartition(shards, "shard").write.partitionBy("shard").parquet(str(into), compression="snappy")

    def each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                done = [pickle.dumps(function(*pickle.loads(task))) for task in batch["task"].to_pylist()]
                yield pa.record_batch({"number": batch["number"], "task": pa.array(done, pa.binary())})

        tasks = [(number, bytearray(pickle.dumps(a))) for number, a in enumerate(arguments)]
        schema = "number long, task binary"
        spread = self.spark.createDataFrame(tasks, schema).repartition(max(1, len(tasks)))
        found = {row["number"]: pickle.loads(row["task"]) for row in spread.mapInArrow(work, schema).collect()}
        return [found[number] for number in range(len(tasks))]

    def query(self, db: duckdb.DuckDBPyConnection, sql: str, target: Path) -> int:
        """Write the result of a query. The views of ``db`` read Parquet files; Spark reads the same files."""
        for name, files in db.execute(_VIEWS).fetchall():
            self.spark.read.parquet(files).createOrReplaceTempView(name)
        aside = target.with_name(f"{target.name}.spark")
        shutil.rmtree(aside, ignore_errors=True)
        self.spark.sql(in_spark(sql)).coalesce(1).write.parquet(str(aside), compression="zstd")
        (written,) = aside.glob("*.parquet")
        os.replace(written, target)
        shutil.rmtree(aside)
        return self.spark.read.parquet(str(target)).count()


_VIEWS = """
    SELECT view_name, regexp_extract(sql, 'read_parquet\\(''([^'']*)''', 1)
    FROM duckdb_views() WHERE NOT internal AND sql LIKE '%read_parquet(%'
"""


def in_spark(sql: str) -> str:
    """Translate a query from DuckDB's SQL to Spark's."""
    return sqlglot.parse_one(sql, read="duckdb").transform(_in_spark).sql("spark")


def _in_spark(node: exp.Expr) -> exp.Expr:
    """Translate what sqlglot does not: ordered arrays and exact quantiles."""
    if isinstance(node, exp.ArrayAgg) and isinstance(node.this, exp.Order):
        value, by = node.this.this, node.this.expressions[0].this
        pairs = f"array_sort(collect_list(struct({by.sql('spark')} AS place, {value.sql('spark')} AS value)))"
        return sqlglot.parse_one(f"transform({pairs}, pair -> pair.value)", read="spark")
    if isinstance(node, exp.PercentileDisc):
        return exp.Anonymous(this="percentile_disc", expressions=[node.this.copy()])
    return node
