"""What a run reads: the same version of every stage from its first look to its end, whatever other runs finish.

```
home/runs/<run>.json    stage -> fingerprint of the version that this run reads
home/runs/<run>.lock    held by the process of the run while it lives
```

A version that is current, that a live run reads, or that one of these was made of, is kept; `collect` removes the rest.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dagster_project.loop.stages import (
    PARTIAL,
    VERSIONS,
    Done,
    finished,
    read_json,
    read_version,
    remove_version,
    version_path,
)
from ingest.atomic import write_json

RUNS = "runs"
KEPT_SECONDS = 30 * 86_400
"""How long the lock of a run that is over stays: until it is known to Dagster that the run is over (defs/runs.py)."""

_held: dict[Path, IO[str]] = {}


class Pins:
    """The versions that one run reads. Nothing is written before the first of them is known."""

    def __init__(self, home: Path, run: str) -> None:
        self.home, self.path = home, home / RUNS / f"{run}.json"

    def hold(self) -> None:
        """Say that the run is alive, until this process ends."""
        with _locked(self.home):
            self._hold()

    def choose(self, stage: str, key: str) -> None:
        """Read this version of a stage from now on."""
        with _locked(self.home):
            self._put(stage, key)

    def read(self, stage: str) -> Done | None:
        """The version that this run reads: at the first look the current one. None where none is finished."""
        with _locked(self.home):
            key = (read_json(self.path) or {}).get(stage)
            if key is not None:
                return read_version(version_path(self.home / stage, key))
            done = finished(self.home / stage)
            if done is not None:
                self._put(stage, done.directory.name)
            return done

    def _put(self, stage: str, key: str) -> None:
        self._hold()
        write_json(self.path, {**(read_json(self.path) or {}), stage: key})

    def _hold(self) -> None:
        lock = self.path.with_suffix(".lock").absolute()
        if lock not in _held:
            file = lock.open("w")
            fcntl.flock(file, fcntl.LOCK_SH)
            _held[lock] = file


def is_alive(home: Path, run: str) -> bool | None:
    """Whether the process of a run lives; None for a run that this home has not heard of."""
    lock = home / RUNS / f"{run}.lock"
    if not lock.exists():
        return None
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def collect(home: Path) -> None:
    """Remove the versions that nobody reads any more, and what runs left that are over."""
    with _locked(home):
        known = {
            version.name: version
            for version in (home / VERSIONS).glob("*/*")
            if version.is_dir() and read_version(version) is not None
        }
        used: set[str] = set()
        new = _roots(home)
        while new:
            used |= new
            found = [read_version(known[key]) for key in new if key in known]
            inputs = [value for done in found if done for value in done.inputs.values()]
            made_of = {name_of(value) for value in inputs if isinstance(value, str)}
            new = (made_of & known.keys()) - used
        for key in known.keys() - used:
            remove_version(known[key])


def name_of(fingerprint: str) -> str:
    """The name of the version that has a fingerprint."""
    return fingerprint.split(PARTIAL)[0]


def _roots(home: Path) -> set[str]:
    """The fingerprints of current versions and of those that live runs read."""
    current = [finished(home / stage.name) for stage in (home / VERSIONS).iterdir()]
    roots = {done.directory.name for done in current if done is not None}
    for lock in (home / RUNS).glob("*.lock"):
        pins = lock.with_suffix(".json")
        if is_alive(home, lock.stem):
            roots |= {str(key) for key in (read_json(pins) or {}).values()}
        else:
            pins.unlink(missing_ok=True)
            if time.time() - lock.stat().st_mtime > KEPT_SECONDS:
                lock.unlink()
    return roots


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Whoever chooses, holds or removes a version holds this."""
    (home / RUNS).mkdir(parents=True, exist_ok=True)
    with (home / RUNS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
