"""Raw parts that only the lake's key opens: a 12-byte nonce, then AES-256-GCM over a Parquet file.

The path in the lake is associated data, so that parts cannot be exchanged. The names end in ``.parquet.enc``.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ingest.errors import UserError
from ingest.privacy.keys import derived, load_key

SUFFIX = ".enc"
_NONCE = 12


def is_encrypted(part: Path | str) -> bool:
    """Whether a part is encrypted, by its name."""
    return str(part).endswith(SUFFIX)


def is_part(path: Path) -> bool:
    """Whether a file is a raw part, encrypted or plain, by its name."""
    return path.name.endswith((".parquet", ".parquet" + SUFFIX))


def open_part(root: Path, part: Path) -> pq.ParquetFile:
    """A raw part, decrypted in memory if necessary. Raises ``UserError`` if the key is a different one."""
    if not is_encrypted(part):
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


def sealed(root: Path, target: Path, plain: bytes) -> bytes:
    """The bytes to write to ``target`` so that ``open_part`` reads this Parquet file there."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + _cipher(root).encrypt(nonce, plain, _label(root, target))


def _cipher(root: Path) -> AESGCM:
    return AESGCM(derived(load_key(root), "raw-parts"))


def _label(root: Path, part: Path) -> bytes:
    return str(part.relative_to(root)).encode()
