"""The speed of the libraries alone on the bytes that an ingest reads: an upper limit, measured in the same run.

The loop parses the requests, writes every span's attributes as JSON to Parquet as the raw tables are written, reads
them back and parses them. It uses protobuf, orjson and Arrow, with as little Python as possible.
"""

from __future__ import annotations

import io
import os
import time

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ingest.processes import Processes
from ingest.storage.catalog import COMPRESSION


def libraries(sample: list[bytes]) -> float:
    """Spans per second with one process per core, each processing protobuf requests."""
    count = os.cpu_count() or 1
    with Processes(count) as processes:
        for _ in range(2):  # the first round is a warm-up
            started = time.perf_counter()
            asked = [processes.submit(read_and_back, sample) for _ in range(count)]
            spans = sum(done.result() for done in asked)
            seconds = time.perf_counter() - started
    return spans / seconds


def read_and_back(sample: list[bytes]) -> int:
    """Parses, writes and reads back requests; returns the number of spans."""
    texts = []
    for payload in sample:
        for resource_part in ExportTraceServiceRequest.FromString(payload).resource_spans:
            for span in (s for scope_part in resource_part.scope_spans for s in scope_part.spans):
                texts.append(orjson.dumps({a.key: a.value.string_value for a in span.attributes}))
    told = io.BytesIO()
    pq.write_table(pa.table({"attributes": pa.array(texts, pa.string())}), told, **COMPRESSION)
    back = pq.read_table(told, use_threads=False)["attributes"].to_pylist()
    return len([orjson.loads(text) for text in back])
