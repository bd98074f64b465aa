"""Pins stage versions for a run: it reads the same version of every stage, even if another run finishes a new one.

```
home/runs/<run>.json    stage -> fingerprint of the version that this run reads
home/runs/<run>.lock    held by the process of the run while it lives
```

The current version, versions that a live run reads, and the inputs of these are kept. `collect` removes the rest.
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
"""How long the lock file of a finished run is kept, so that defs/runs.py can still report it to Dagster."""

_held: dict[Path, IO[str]] = {}


class Pins:
    """The pinned versions of one run. The file is written when the first version is known."""

    def __init__(self, home: Path, run: str) -> None:
        self.home, self.path = home, home / RUNS / f"{run}.json"

    def hold(self) -> None:
        """Mark the run as alive until this process ends."""
        with _locked(self.home):
            self._hold()

    def choose(self, stage: str, key: str) -> None:
        """Pin a version of a stage."""
        with _locked(self.home):
            self._put(stage, key)

    def read(self, stage: str) -> Done | None:
        """The pinned version of a stage; the first call pins the current one. None if the stage is not finished."""
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
    """Whether the process of a run is alive; None for a run that is unknown in this home."""
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
    """Remove versions that nothing needs any more, and the files of finished runs."""
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
    """The fingerprints of current versions and of versions that live runs read."""
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
    """Lock the home's versions. Held while a version is chosen or removed."""
    (home / RUNS).mkdir(parents=True, exist_ok=True)
    with (home / RUNS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
