"""Replacing a directory: a SIGKILL before any of its file operations leaves the old directory or the new one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training import directories
from training.directories import replace_directory, restore_directory

CHANGES = {"os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def killed_before(change: int, work: Callable[[], None]) -> bool:
    """Run `work` in a forked process that kills itself before its n-th change of a directory; False if it has fewer."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: object) -> None:
            nonlocal seen
            if event in CHANGES:
                seen += 1
                if seen == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def directory(path: Path, version: int) -> Path:
    path.mkdir()
    (path / "version").write_text(str(version))
    return path


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_kill_leaves_the_old_directory_or_the_new_one(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(directories, "_exchanged", lambda new, path: False)
    for change in range(1, 20):
        home = tmp_path / str(change)
        home.mkdir()
        path, new = directory(home / "adapter", 0), directory(home / "new", 1)
        killed = killed_before(change, lambda new=new, path=path: replace_directory(new, path))  # type: ignore[misc]
        if exchange:
            assert path.is_dir()
        restore_directory(path)
        assert (path / "version").read_text() in ("0", "1")
        if not killed:
            break
    assert change >= 4 and (path / "version").read_text() == "1" and list(home.iterdir()) == [path]


def test_restore_changes_nothing_if_the_directory_exists(tmp_path: Path) -> None:
    directory(tmp_path / "adapter", 1)
    directory(tmp_path / ".adapter.old", 0)
    restore_directory(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "version").read_text() == "1"
