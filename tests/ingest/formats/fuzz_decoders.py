"""Coverage-guided fuzzing of what reads bytes from outside, with atheris (libFuzzer).

    python tests/ingest/formats/fuzz_decoders.py CORPUS -max_total_time=60 -rss_limit_mb=2048 -timeout=5

The first byte of an input chooses the decoder. Whatever is decoded goes all the way to conversations: the dialects
must stomach it. Any exception that is not a refusal, a hang or too much memory is a finding. `test_ingest_fuzz.py`
runs it for a bounded time.
"""

from __future__ import annotations

import io
import sys

import atheris

with atheris.instrument_imports(include=["ingest"]):
    from ingest.conversations.assembly import assemble
    from ingest.formats import framed, otlp
    from ingest.receiver.intake import decompressed
    from ingest.refusals import Refused
    from ingest.tables.normalise import read, rows_of

LIMIT = 1 << 20
CODINGS = ("gzip", "deflate", "zstd")


def decode(choice: int, body: bytes, rows: otlp.Rows) -> None:
    """Bytes as rows, by one of the ways in."""
    way = choice % 7
    if way == 0:
        otlp.read_json(body, rows, 1, "fuzz")
    elif way <= 2:
        otlp.read_protobuf("traces" if way == 1 else "logs", body, rows, 1, "fuzz")
    elif way == 3:
        for message in framed.frames(io.BytesIO(body)):
            framed.read_message(message, rows, 1, "fuzz")
    else:
        otlp.read_protobuf("traces", decompressed(body, CODINGS[way - 4], LIMIT), rows, 1, "fuzz")


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    if not data:
        return
    rows = otlp.Rows()
    try:
        decode(data[0], data[1:], rows)
    except (otlp.NotOtlp, Refused, framed.Torn):
        pass
    tables = {name: otlp.to_table(getattr(rows, name), schema) for name, schema in otlp.SCHEMAS.items()}
    spans, records = (rows_of(table.to_batches(), name) for name, table in tables.items())
    observed, _ = read(spans, records, {})
    assemble(observed)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
