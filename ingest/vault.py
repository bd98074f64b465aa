"""What becomes of the originals once tables are made: raw parts and journal segments kept, encrypted or dropped.

Encrypted, a part is one file ``part-*.parquet.enc``: 12 bytes nonce, then AES-256-GCM over the Parquet file, with
its path in the lake as associated data, so that parts cannot be exchanged. Tables are made again from encrypted
parts like from plain ones, with the key. Dropped, the rows' hashes stay (a repeat still adds nothing) and the
normalised rows are kept (``ingest.kept``). In both cases sealed journal segments that were read to their end go:
the raw parts have all that they had.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ingest import kept
from ingest.errors import UserError
from ingest.privacy.keys import derived, load_key

ENCRYPTED = ".enc"
READ = "journal-read.json"
_NONCE = 12


def parts(root: Path, name: str) -> list[Path]:
    """The raw parts of one table, in the order of their names, encrypted or not."""
    found = (root / "raw" / name).rglob("part-*")
    return sorted(p for p in found if p.name.endswith((".parquet", ".parquet" + ENCRYPTED)))


def part_names(root: Path) -> list[str]:
    """The names of all raw parts, and of what was dropped; encrypting changes no name."""
    names = [str(p.relative_to(root)).removesuffix(ENCRYPTED) for p in _all_parts(root)]
    return sorted([*names, *kept.names(root)])


def is_encrypted(root: Path) -> bool:
    """Whether some raw part is."""
    return any(p.suffix == ENCRYPTED for p in _all_parts(root))


def _all_parts(root: Path) -> list[Path]:
    return [p for name in kept.RAW for p in parts(root, name)]


def open_part(root: Path, part: Path) -> pq.ParquetFile:
    """A raw part, decrypted in memory if need be. Raises UserError where the key is another."""
    if part.suffix != ENCRYPTED:
        return pq.ParquetFile(part)
    data = part.read_bytes()
    try:
        plain = _cipher(root).decrypt(data[:_NONCE], data[_NONCE:], _label(root, part))
    except InvalidTag:
        raise UserError(
            f"{part} does not open with this lake's key; restore the key that it was encrypted with "
            "(privacy.key, or REHEARSAL_PRIVACY_KEY)"
        ) from None
    return pq.ParquetFile(pa.BufferReader(plain))


def read_hashes(root: Path, name: str) -> set[bytes]:
    """The hashes of all rows that ever came."""
    known: set[bytes] = set(kept.hashes(root, name))
    for part in parts(root, name):
        known.update(open_part(root, part).read(columns=["row_hash"])["row_hash"].to_pylist())
    return known


def read_table(root: Path, name: str, schema: pa.Schema) -> pa.Table:
    """A whole raw table with the hour of its partition, as DuckDB reads the plain ones."""
    tables = []
    for part in parts(root, name):
        table = open_part(root, part).read()
        hour = pa.array([part.parent.name.removeprefix("hour=")] * table.num_rows, pa.string())
        tables.append(table.append_column("hour", hour))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def put_away(root: Path, mode: str) -> None:
    """Does with the originals what the lake's settings say, after tables were made of all of them."""
    if mode == "keep":
        return
    if mode == "encrypt":
        for part in _all_parts(root):
            if part.suffix != ENCRYPTED:
                _encrypt(root, part)
    else:
        kept.freeze(root, {name: read_hashes(root, name) for name in kept.RAW if parts(root, name)})
        for part in _all_parts(root):
            part.unlink()
    _drop_segments(root)


def _encrypt(root: Path, part: Path) -> None:
    nonce = secrets.token_bytes(_NONCE)
    target = part.with_name(part.name + ENCRYPTED)
    data = nonce + _cipher(root).encrypt(nonce, part.read_bytes(), _label(root, target))
    aside = part.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, target)
    part.unlink()


def _cipher(root: Path) -> AESGCM:
    return AESGCM(derived(load_key(root), "raw-parts"))


def _label(root: Path, part: Path) -> bytes:
    return str(part.relative_to(root)).encode()


def note_segments(root: Path, read: Iterable[Path]) -> None:
    """Remembers which sealed journal segments are in the raw tables, whole."""
    names = sorted(p.name for p in read if p.suffix == ".rjl")
    path = root / "raw" / READ
    if path.parent.exists():
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(names))
        os.replace(aside, path)


def _drop_segments(root: Path) -> None:
    try:
        names: list[Any] = json.loads((root / "raw" / READ).read_text())
    except (OSError, ValueError):
        return
    for name in names:
        (root / "journal" / str(name)).unlink(missing_ok=True)
