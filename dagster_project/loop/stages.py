"""Storage of stages: a stage runs once for the same inputs, and later runs reuse its result.

```
home/world                          link to the current version; replaced when a new version is finished
home/stages/world/<fingerprint>/    one version, named by the fingerprint of its inputs; its manifest is written last
home/stages/world/.lock             held by the process that runs the stage
```

A version is finished if its manifest exists. If a killed run left an unfinished version, a run with the same inputs
continues it, and a run with other inputs removes it. The previous version stays current until the new one is finished.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.atomic import write_json as write_json
from ingest.errors import UserError

MANIFEST = "stage.json"
BEGUN = "stage.begun.json"
PARTIAL = "-partial-"
"""Separator in the fingerprint of a version whose work was stopped before its end."""
VERSIONS = "stages"
LOCK = ".lock"


@dataclass(frozen=True)
class Done:
    """A finished version of a stage, in `directory`. `facts` is the result of its work, `inputs` are its inputs;
    `reused`: the version existed before this call."""

    directory: Path
    fingerprint: str
    facts: dict[str, Any]
    seconds: float
    reused: bool
    inputs: dict[str, Any] = field(default_factory=dict)


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value (paths and models as text)."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(directory: Path) -> Done | None:
    """The current version of the stage `directory`, whatever its inputs; None if there is none."""
    return read_version(directory.resolve())


def version_path(directory: Path, key: str) -> Path:
    """The directory of the version of the stage `directory` whose inputs have the fingerprint `key`."""
    return directory.parent / VERSIONS / directory.name / key


def read_version(version: Path) -> Done | None:
    """The finished version in a directory; None if there is none."""
    manifest = read_json(version / MANIFEST)
    if manifest is None:
        return None
    found = {name: manifest[name] for name in ("fingerprint", "facts", "seconds", "inputs")}
    return Done(directory=version.resolve(), reused=True, **found)


def run_stage(
    directory: Path,
    inputs: Mapping[str, Any],
    work: Callable[[Path], Mapping[str, Any]],
    on_wait: Callable[[str], None] = lambda line: None,
) -> Done:
    """Run `work` to create a version of the stage `directory`, unless a version with the same `inputs` exists; make the
    version current.

    `work` gets the version's directory and returns facts (JSON) for the manifest. The directory is empty, or holds what
    a killed run with the same inputs wrote. One process at a time runs a stage. Another process calls `on_wait` with a
    message and waits; with the same inputs it then reuses the result.

    Facts with the key `partial` mean that the work was stopped before its end. A partial version has its own
    fingerprint, so later stages are not mistaken for those of a complete one. The next call continues it.
    """
    key = fingerprint(inputs)
    before = finished(directory)
    if before is not None and before.fingerprint == key:
        return before
    version = version_path(directory, key)
    version.parent.mkdir(parents=True, exist_ok=True)
    with _locked(version.parent / LOCK, directory, on_wait):
        _convert_directory(directory)
        done = read_version(version)
        if done is None or done.fingerprint != key:
            _remove_unfinished(version)
            done = _work(version, key, inputs, work)
        _make_current(directory, version)
    return done


def _work(version: Path, key: str, inputs: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Done:
    begun, earlier = read_json(version / BEGUN), 0.0
    if begun is not None:
        earlier = begun["seconds"] + _unrecorded(version)
    version.mkdir(parents=True, exist_ok=True)
    (version / MANIFEST).unlink(missing_ok=True)  # of a partial version
    started = time.monotonic()
    write_json(version / BEGUN, {"fingerprint": key, "seconds": earlier, "inputs": dict(inputs)})
    try:
        facts = dict(work(version.resolve()))
    except BaseException:
        spent = earlier + time.monotonic() - started
        write_json(version / BEGUN, {"fingerprint": key, "seconds": spent, "inputs": dict(inputs)})
        raise
    seconds = round(earlier + time.monotonic() - started, 1)
    if facts.get("partial"):
        write_json(version / BEGUN, {"fingerprint": key, "seconds": seconds, "inputs": dict(inputs)})
        key = f"{key}{PARTIAL}{fingerprint(facts)}"
    manifest = {"fingerprint": key, "seconds": seconds, "facts": facts, "inputs": dict(inputs)}
    write_json(version / MANIFEST, manifest)
    if not facts.get("partial"):
        (version / BEGUN).unlink()
    release_memory()
    told = json.loads(json.dumps(manifest, default=str))
    return Done(version.resolve(), key, told["facts"], seconds, False, told["inputs"])


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if the file is missing or invalid."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def release_memory() -> None:
    """Return freed memory to the operating system (glibc keeps it), so that later stages have it."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def remove_version(version: Path) -> None:
    """Remove a version. The manifests go first, so that a killed removal leaves no seemingly finished version."""
    for name in (MANIFEST, BEGUN):
        (version / name).unlink(missing_ok=True)
    shutil.rmtree(version, ignore_errors=True)


@contextmanager
def _locked(path: Path, directory: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the stage's lock. The kernel releases it when the process ends."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            on_wait(f"waiting: process {holder} runs the stage {directory.name} in {directory.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _make_current(directory: Path, version: Path) -> None:
    """Point the stage's link at a version. The link is relative, so that a home can be moved."""
    target = version.relative_to(directory.parent)
    if directory.is_symlink() and directory.readlink() == target:
        return
    link = directory.with_name(f".{directory.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    link.replace(directory)


def _convert_directory(directory: Path) -> None:
    """Convert a stage directory of an earlier release to a version. Raises UserError if it holds something else."""
    other = UserError(f"{directory} is where a stage of the loop goes, and it holds something else; move it away")
    if directory.is_symlink():
        if directory.readlink().parent != Path(VERSIONS) / directory.name:
            raise other
        return
    if not directory.is_dir():
        return
    told = read_json(directory / MANIFEST) or read_json(directory / BEGUN)
    if told is None and any(directory.iterdir()):
        raise other
    if told is None:
        directory.rmdir()
        return
    version = version_path(directory, told["fingerprint"])
    if version.exists():
        remove_version(version)
    directory.rename(version)
    if (version / MANIFEST).exists():
        _make_current(directory, version)


def _remove_unfinished(but: Path) -> None:
    """Remove unfinished versions of other inputs. The caller holds the stage's lock."""
    for version in but.parent.iterdir():
        if version != but and version.is_dir() and not (version / MANIFEST).exists():
            remove_version(version)
    if but.exists() and read_json(but / BEGUN) is None:
        remove_version(but)


def _unrecorded(directory: Path) -> float:
    """Seconds between the start of a run that was killed (SIGKILL) and its last write."""
    files = [path.stat().st_mtime for path in directory.rglob("*") if path.is_file()]
    return max(files) - (directory / BEGUN).stat().st_mtime
