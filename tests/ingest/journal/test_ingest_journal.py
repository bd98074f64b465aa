"""The journal keeps whole records and nothing else, whatever happens to its tail."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.journal import blocks
from ingest.journal import segments as journal
from ingest.journal.blocks import BLOCK, Bodies, Stage, aligned


def payloads(directory: Path) -> list[bytes]:
    return [e.payload for s in journal.segments(directory) for e in journal.read_entries(s)]


def test_records_come_back_and_segments_seal_by_size(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path, seal_bytes=3 * BLOCK)
    sent = [os.urandom(n) for n in (0, 1, 90, 500)]
    for number, p in enumerate(sent):
        writer.append([journal.record("traces_proto", number, p)])
    writer.close()
    assert payloads(tmp_path) == sent
    assert len(journal.segments(tmp_path, sealed_only=True)) == 2 and not list(tmp_path.glob("*.open"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.data())
def test_a_damaged_tail_loses_no_earlier_record(
    tmp_path_factory: pytest.TempPathFactory, sent: list[bytes], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    records = [journal.record("logs_json", 7, p) for p in sent]
    stage = Stage()
    for record in records:
        last = BLOCK + stage.size
        record.put(stage)
    whole = journal.MAGIC.ljust(BLOCK, b"\0") + b"".join(stage.pieces())
    cut = data.draw(st.integers(last, last + records[-1].size - 1))
    damaged = bytearray(whole[:cut])
    if data.draw(st.booleans()) and cut >= last + 8:
        damaged = bytearray(whole)
        damaged[cut] ^= 0xFF
    (directory / "segment-1.open").write_bytes(damaged)
    journal.recover(directory)
    assert payloads(directory) == sent[:-1]
    assert not list(directory.glob("*.open"))


def test_an_open_segment_is_readable_and_not_sealed(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.record("traces_json", 1, b"{}")])
    assert journal.recover(tmp_path) == [] and payloads(tmp_path) == [b"{}"]
    writer.close()


class Faulty:
    """Stands in for the calls that reach the disk: fails them while ``broken``, after a partial write. Where
    ``fdatasync`` is to fail, writing does not sync, as on a file system that cannot do both at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, failing: str) -> None:
        self.broken, self.code = False, code
        self.real = {name: getattr(os, name) for name in ("pwritev", "fdatasync", "ftruncate", "fsync")}
        monkeypatch.setattr(os, "pwritev", self.pwritev)
        self.syncs = "fdatasync" not in failing
        for name in failing.split():
            if name != "pwritev":
                monkeypatch.setattr(os, name, lambda *a, name=name: self.call(name, *a))
        self.write_fails = "pwritev" in failing

    def pwritev(self, fd: int, views: list[memoryview], at: int, flags: int) -> int:
        if flags and not self.syncs:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if self.broken and self.write_fails:
            os.pwrite(fd, bytes(views[0])[:5], at)
            raise OSError(self.code, os.strerror(self.code))
        return self.real["pwritev"](fd, [views[0][: max(1, len(views[0]) // 2)]], at, flags)

    def call(self, name: str, *arguments: int) -> None:
        if self.broken:
            raise OSError(self.code, os.strerror(self.code))
        self.real[name](*arguments)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("failing", ["pwritev", "fdatasync", "pwritev ftruncate fsync", "fdatasync ftruncate fsync"])
def test_a_failing_disk_loses_nothing_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, failing: str
) -> None:
    monkeypatch.setattr(blocks, "_SYNCS", blocks._SYNCS)  # a file system that does not know it changes it
    disk = Faulty(monkeypatch, code, failing)
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.record("traces_proto", 1, b"first"), journal.record("logs_json", 1, b"also first")])
    disk.broken = True
    for _ in range(3):
        with pytest.raises(OSError, match=os.strerror(code)):
            writer.append([journal.record("traces_proto", 2, b"refused")])
    disk.broken = False
    writer.append([journal.record("traces_proto", 3, b"after")])
    writer.close()
    found = payloads(tmp_path)
    assert [p for p in found if p != b"refused"] == [b"first", b"also first", b"after"]
    assert "ftruncate" in failing or b"refused" not in found
    assert len(list(tmp_path.iterdir())) <= 3, "a failing disk must not collect files"
    journal.recover(tmp_path)
    assert [p for p in payloads(tmp_path) if p != b"refused"] == [b"first", b"also first", b"after"]


def test_a_file_size_limit_refuses_one_request(tmp_path: Path) -> None:
    """A real one, by the kernel: RLIMIT_FSIZE in a process of its own."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from ingest.journal import segments as journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
writer, acknowledged = journal.JournalWriter(Path({str(tmp_path)!r})), 0
for number in range(200):
    try:
        writer.append([journal.record("traces_proto", number, bytes(3000))])
        acknowledged += 1
    except OSError:
        pass
print(acknowledged)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert 150 < int(done.stdout) == len(payloads(tmp_path))


def test_sigkill_in_a_loop_keeps_every_acknowledged_record(tmp_path: Path) -> None:
    program = f"""
import os
import subprocess
import sys
import time
from pathlib import Path
from ingest.journal import segments as journal
writer = journal.JournalWriter(Path({str(tmp_path)!r}), seal_bytes=200_000)
while True:
    number = int.from_bytes(os.urandom(7), "big")
    writer.append([journal.record("logs_proto", 1, b"%d " % number + bytes(20_000))])
    os.write(1, b"%d\\n" % number)
"""
    acknowledged: set[bytes] = set()
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout
        acknowledged.add(process.stdout.readline().strip())
        time.sleep(0.05)
        process.kill()
        acknowledged |= {line.strip() for line in process.stdout.read().splitlines(True) if line.endswith(b"\n")}
        process.wait()
    journal.recover(tmp_path)
    stored = [p.split(b" ")[0] for p in payloads(tmp_path)]
    assert acknowledged - set(stored) == set() and len(stored) == len(set(stored))
    assert not list(tmp_path.glob("*.open"))


def test_a_segment_sealed_during_reading_is_found_and_a_foreign_file_is_reported(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.record("traces_json", 1, b"{}")])
    (listed,) = journal.segments(tmp_path)
    writer.close()
    assert [e.payload for e in journal.read_entries(listed)] == [b"{}"]
    (tmp_path / "segment-0.rjl").write_bytes(b"RJL1 or something else")
    with pytest.raises(journal.NoSegment):
        list(journal.read_entries(tmp_path / "segment-0.rjl"))


def test_large_payloads_are_written_without_a_copy(tmp_path: Path) -> None:
    """At a block's boundary, between small ones, and larger than the memory for those."""
    large = aligned(300_001)
    large[:] = os.urandom(300_001)
    assert blocks.begins_at_block(large)
    sent = [b"small", large, b"", os.urandom(90_000), bytes(7), os.urandom(9_000_000), bytearray(b"last")]
    writer = journal.JournalWriter(tmp_path)
    writer.append([journal.record("traces_proto", n, p) for n, p in enumerate(sent)])
    writer.append([journal.record("traces_proto", 7, large)])
    (segment,) = journal.segments(tmp_path)
    found = segment.read_bytes().find(bytes(large))
    assert found % BLOCK == 0 and segment.stat().st_size % BLOCK == 0
    assert payloads(tmp_path) == [*sent, large]
    entries = list(journal.read_entries(segment))
    assert [e.arrived_at_ns for e in entries] == list(range(8)) and entries[-1].end == segment.stat().st_size
    for entry, after in zip(entries, entries[1:], strict=False):
        assert next(journal.read_entries(segment, entry.end)) == after
    assert journal.newest_arrival(segment) == 7
    writer.close()


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_a_segment_is_split_at_record_boundaries(tmp_path: Path, parts: int) -> None:
    writer = journal.JournalWriter(tmp_path)
    for n in range(20):
        writer.append([journal.record("traces_proto", n, os.urandom(70_000 + n))])
    writer.close()
    (segment,) = journal.segments(tmp_path)
    entries = list(journal.read_entries(segment))
    for offset in (0, entries[4].end):
        ends = [e.end for e in entries if e.end > offset]
        cuts = journal.cuts(segment, offset, parts)
        assert set(cuts) < set(ends[:-1]) | {-1} and cuts == sorted(cuts)
        assert len(cuts) == min(parts, len(ends)) - 1
        sizes = [b - a for a, b in pairwise([max(offset, BLOCK), *cuts, ends[-1]])]
        assert max(sizes) - min(sizes) < 2 * 80_000


@given(st.lists(st.integers(65_536, 1 << 20), min_size=2, max_size=20), st.data())
@settings(max_examples=30, deadline=None)
def test_reused_buffers_keep_length_and_position(lengths: list[int], data: st.DataObject) -> None:
    bodies, used, views = Bodies(), [], []
    for number, length in enumerate(lengths):
        body = bodies.take(length)
        assert len(body) == length and blocks.begins_at_block(body)
        assert all(body is not other for other in used) and all(view.obj is not body for view in views)
        body[:], body[-1:] = bytes([number % 256]) * length, b"\0"
        used.append(body)
        if data.draw(st.booleans()):
            if data.draw(st.booleans()):
                views.append(memoryview(body))  # somebody looks at it still: its length must stay
            bodies.give_back(used.pop())


def test_buffers_are_reused() -> None:
    bodies = Bodies()
    first = bodies.take(300_000)
    bodies.give_back(first)
    assert bodies.take(310_000) is first and bodies.take(310_000) is not first
    seen = memoryview(first)
    bodies.give_back(first)
    assert bodies.take(310_000) is not first and len(seen) == 310_000
    many = [bodies.take(1 << 20) for _ in range(20)]
    for body in many:
        bodies.give_back(body)
    again = [bodies.take(1 << 20) for _ in range(20)]  # 16 MiB are kept, so the last four, when all were dropped
    assert sum(any(body is old for old in many) for body in again) == 4


def test_a_withdrawn_record_is_removed_and_its_space_reused(tmp_path: Path) -> None:
    writer = journal.JournalWriter(tmp_path)
    for payload in (b"one", b"taken back", b"two"):
        stage = Stage()
        journal.record("traces_proto", 1, payload).put(stage)
        writer.write(stage)
        if payload == b"taken back":
            writer.take_back(stage.size)
    writer.close()
    assert payloads(tmp_path) == [b"one", b"two"]


def test_segments_of_the_previous_version_are_read(tmp_path: Path) -> None:
    """``RJL2`` as it was written until November 2026: records without gaps, the kind before the time."""
    sent = [b"first", b"", b"third" * 1000]
    out = b"RJL2\n\0\0\0"
    for number, payload in enumerate(sent):
        check = xxhash.xxh3_64_intdigest(payload, number + 2) & 0xFFFFFFFF
        out += struct.pack("<IIBQ", 9 + len(payload), check, 2, number) + payload
    torn = b"".join(journal.record("traces_json", 255, b"which a later version would read"))
    (tmp_path / "segment-1.open").write_bytes(out + torn)
    assert journal.newest_arrival(tmp_path / "segment-1.open") == 2
    (sealed,) = journal.recover(tmp_path)
    entries = list(journal.read_entries(sealed))
    assert [(e.kind, e.arrived_at_ns, e.payload) for e in entries] == [
        ("traces_json", number, payload) for number, payload in enumerate(sent)
    ]
    assert entries[-1].end == len(out) == sealed.stat().st_size and journal.newest_arrival(sealed) == 2


def test_a_file_system_without_direct_io_is_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_DIRECT", 1 << 30)  # no flag that fcntl lets anybody set: it stays as it is
    real = os.pwritev

    def pwritev(fd: int, views: list[memoryview], at: int, flags: int) -> int:
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        return real(fd, views, at, flags)

    monkeypatch.setattr(os, "pwritev", pwritev)
    writer = journal.JournalWriter(tmp_path)
    for payload in (b"one", b"two"):
        writer.append([journal.record("logs_json", 1, payload)])
    writer.close()
    assert payloads(tmp_path) == [b"one", b"two"]
