"""The lake's key. The surrogates and the encryption of raw parts each use a key that is derived from it."""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b
from pathlib import Path

from ingest.errors import UserError

FILE = "privacy.key"
VARIABLE = "REHEARSAL_PRIVACY_KEY"
SHORTEST = 16  # characters of a key in the environment


def load_key(lake: Path) -> bytes:
    """Return 32 bytes from the environment, or from the lake's key file, which is created (0600) at first use."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        if len(given) < SHORTEST:
            raise UserError(f"{VARIABLE} has {len(given)} characters; give at least {SHORTEST}, better 64 random ones")
        return blake2b(given.encode(), digest_size=32, person=b"rehearsal-key").digest()
    path = lake / FILE
    try:
        key = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        return _made(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or set {VARIABLE}") from None
    if len(key) != 32:
        raise UserError(f"{path} holds {len(key)} bytes, expected 32 in hexadecimal; restore it from a backup")
    return key


def _made(path: Path) -> bytes:
    """Create a key file that is complete when it appears under its name. Of two processes that create one, both use the
    first."""
    key = secrets.token_bytes(32)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return load_key(path.parent)
        finally:
            aside.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; set {VARIABLE} instead") from None
    return key


def derived(key: bytes, purpose: str) -> bytes:
    """Return 32 bytes for one purpose. They reveal neither the key nor another purpose's bytes."""
    return blake2b(b"", key=key, digest_size=32, person=purpose.encode()[:16]).digest()


def name_of(key: bytes) -> str:
    """Return a public name of a key. Equal keys have equal names; the name reveals nothing else about the key."""
    return derived(key, "key-name").hex()[:12]
