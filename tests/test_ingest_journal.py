"""The journal keeps whole records and nothing else, whatever happens to its tail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import journal


def payloads(directory: Path) -> list[bytes]:
    return [e.payload for s in journal.segments(directory) for e in journal.read_entries(s)]


def test_records_come_back_and_segments_seal_by_size(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path, seal_bytes=100)
    sent = [os.urandom(n) for n in (0, 1, 90, 500)]
    for number, p in enumerate(sent):
        writer.append([journal.encode("traces_proto", number, p)])
    writer.close()
    assert payloads(tmp_path) == sent
    assert len(journal.segments(tmp_path, sealed_only=True)) == 2 and not list(tmp_path.glob("*.open"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.data())
def test_a_torn_or_flipped_tail_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, sent: list[bytes], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    records = [journal.encode("logs_json", 7, p) for p in sent]
    whole = journal.MAGIC + b"".join(records)
    cut = data.draw(st.integers(len(whole) - len(records[-1]), len(whole) - 1))
    damaged = bytearray(whole[:cut])
    if data.draw(st.booleans()) and cut > len(whole) - len(records[-1]) + 8:
        damaged = bytearray(whole)
        damaged[cut] ^= 0xFF
    (directory / "segment-1.open").write_bytes(damaged)
    journal.recover(directory)
    assert payloads(directory) == sent[:-1]
    assert not list(directory.glob("*.open"))


def test_a_living_writer_is_left_alone_and_its_records_are_readable(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.encode("traces_json", 1, b"{}")])
    assert journal.recover(tmp_path) == [] and payloads(tmp_path) == [b"{}"]
    writer.close()


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.encode("traces_proto", 1, b"first")])
    real = os.write

    def full(fd: int, data: bytes) -> int:
        real(fd, bytes(data)[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        writer.append([journal.encode("traces_proto", 2, b"refused")])
    monkeypatch.setattr(os, "write", real)
    writer.append([journal.encode("traces_proto", 3, b"after")])
    writer.close()
    assert payloads(tmp_path) == [b"first", b"after"]
