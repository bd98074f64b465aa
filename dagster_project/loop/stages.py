"""A stage of the loop: work that is done once for the same inputs, and found again by whoever asks next.

A stage owns one directory. Its manifest is written last and carries the fingerprint of all that went in, so
a directory is either finished for exactly these inputs or it is not; what a killed run left behind is handed
back to the work (which may go on from it) if the inputs are still the same, and swept away if they are not.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = ".last"
MANIFEST = "stage.json"
BEGUN = "stage.begun.json"


@dataclass(frozen=True)
class Done:
    """A finished stage. `facts` is what its work returned; `reused` says that it had been done before."""

    directory: Path
    fingerprint: str
    facts: dict[str, Any]
    seconds: float
    reused: bool


def fingerprint(value: Any) -> str:
    """A short name for a JSON value (paths and models as text); equal values have equal names."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(directory: Path) -> Done | None:
    """What a stage left in a directory, if it was finished there, whatever its inputs were."""
    manifest = read_json(directory / MANIFEST)
    if manifest is None:
        return None
    return Done(directory, manifest["fingerprint"], manifest["facts"], manifest["seconds"], reused=True)


def last_version(directory: Path) -> Path | None:
    """Where `run_stage(..., keep_last=True)` put the version that was finished before this one."""
    last = directory.with_name(directory.name + LAST)
    return last if finished(last) else None


def run_stage(
    directory: Path,
    inputs: Mapping[str, Any],
    work: Callable[[Path], Mapping[str, Any]],
    keep_last: bool = False,
) -> Done:
    """Have `work` fill `directory`, unless it was filled from the same `inputs` before.

    `work` is given the directory, which holds what a killed run with the same inputs left there and is
    otherwise empty, and returns facts (JSON) for the manifest. Facts with a `partial` say that the work was stopped
    before its end: the stage counts as another one than the whole, and is gone on with when it is asked for again.
    With `keep_last` the version that was finished for other inputs is put aside, for the work to go on from.
    """
    key = fingerprint(inputs)
    before = finished(directory)
    if before is not None and before.fingerprint == key:
        return before
    begun, earlier = read_json(directory / BEGUN), 0.0
    if begun is not None and begun["fingerprint"] == key:
        earlier = begun["seconds"] + _unrecorded(directory)
    else:
        if keep_last and before is not None:
            _sweep(directory.with_name(directory.name + LAST))
            directory.rename(directory.with_name(directory.name + LAST))
        _sweep(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    started = time.monotonic()
    write_json(directory / BEGUN, {"fingerprint": key, "seconds": earlier, "inputs": dict(inputs)})
    try:
        facts = dict(work(directory))
    except BaseException:
        spent = earlier + time.monotonic() - started
        write_json(directory / BEGUN, {"fingerprint": key, "seconds": spent, "inputs": dict(inputs)})
        raise
    seconds = round(earlier + time.monotonic() - started, 1)
    if facts.get("partial"):
        key = f"{key}-partial-{fingerprint(facts)}"
        write_json(directory / BEGUN, {"fingerprint": fingerprint(inputs), "seconds": seconds, "inputs": dict(inputs)})
    manifest = {"fingerprint": key, "seconds": seconds, "facts": facts, "inputs": dict(inputs)}
    write_json(directory / MANIFEST, manifest)
    if not facts.get("partial"):
        (directory / BEGUN).unlink()
    give_back_memory()
    return Done(directory, key, json.loads(json.dumps(facts, default=str)), seconds, reused=False)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no file or it holds none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write through a temporary name and fsync: a reader sees all of it or none."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def give_back_memory() -> None:
    """Return to the system what finished work held: a stage must not pay for the ones before it (glibc keeps it)."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _sweep(directory: Path) -> None:
    """Remove a stage's directory, first what would let a sweep that is killed look like a stage."""
    for name in (MANIFEST, BEGUN):
        (directory / name).unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)


def _unrecorded(directory: Path) -> float:
    """How long a run lived that could not say so itself (SIGKILL): from its beginning to the last that it wrote."""
    files = [path.stat().st_mtime for path in directory.rglob("*") if path.is_file()]
    return max(files) - (directory / BEGUN).stat().st_mtime
