"""Replaces a directory by a new one, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from ingest.atomic import sync

_CURRENT_DIRECTORY = -100
_EXCHANGE = 2
"""AT_FDCWD, and renameat2's RENAME_EXCHANGE (Linux, man 2 renameat2)."""


def replace_directory(new: Path, path: Path) -> None:
    """Put the directory `new` at `path` and remove the old one. Both must be on one file system.

    On Linux the two directories are exchanged in one system call. Where that is not supported, the old directory is
    renamed to `.<name>.old` first; `restore_directory` puts it back after a kill between the two renames.
    """
    for file in new.iterdir():
        sync(file)
    if not path.exists():
        new.rename(path)
    elif _exchanged(new, path):
        shutil.rmtree(new)
    else:
        old = _aside(path)
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        new.rename(path)
        shutil.rmtree(old)
    sync(path.parent)


def restore_directory(path: Path) -> None:
    """Undo a replacement that was killed between its two renames; does nothing if `path` exists."""
    old = _aside(path)
    if not path.exists() and old.is_dir():
        old.rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _exchanged(new: Path, path: Path) -> bool:
    """Exchange two directories atomically; False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_CURRENT_DIRECTORY, os.fsencode(new), _CURRENT_DIRECTORY, os.fsencode(path), _EXCHANGE) == 0
