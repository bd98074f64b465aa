"""The registry of adapters: champion, candidates, and rollback.

A version is a peft directory named by a hash of its weights. One small file records the champion and the earlier
champions. It is replaced atomically.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ingest.atomic import sync, write_json
from ingest.errors import UserError
from training.manifests import manifest_of

POINTER = "serving.json"


@dataclass(frozen=True)
class Version:
    """A stored adapter. `note` was given when it was added (for example the gate's verdict)."""

    name: str
    path: Path
    manifest: dict[str, Any]
    note: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """The state of a version: serving, replaced (it served before) or stored. `says` is a sentence about it; `serving`
    is the current champion's name."""

    state: Literal["serving", "replaced", "stored"]
    says: str
    serving: str


class Registry:
    """The adapters of one policy, in one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, adapter: Path, note: Mapping[str, Any]) -> Version:
        """Store a copy of a peft directory; equal weights are stored once. Raises UserError if there is no adapter."""
        manifest = manifest_of(adapter)
        if manifest is None:
            raise UserError(f"{adapter} holds no finished adapter; train one first")
        home = self.path / "versions" / self.name_of(adapter)
        if not home.is_dir():
            partial = home.with_name(f".{home.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(adapter, partial)
            for copied in partial.iterdir():
                sync(copied)
            partial.rename(home)
        write_json(home / "note.json", dict(note))
        return self.get(home.name)

    @staticmethod
    def name_of(adapter: Path) -> str:
        """The name of a peft directory's weights, the same in every registry."""
        weights = (adapter / "adapter_model.safetensors").read_bytes()
        return f"policy-{hashlib.blake2b(weights, digest_size=6).hexdigest()}"

    def get(self, name: str) -> Version:
        """A stored version. Raises UserError for an unknown one."""
        home = self.path / "versions" / name
        manifest = manifest_of(home) if Path(name).name == name else None  # a path could lead out of the registry
        if manifest is None:
            known = ", ".join(v.name for v in self.versions()) or "none"
            raise UserError(f"there is no version {name!r} in {self.path}; it has: {known}")
        return Version(name, home, manifest, _read(home / "note.json") or {})

    def versions(self) -> list[Version]:
        """All stored versions, oldest weights first."""
        found = [p for p in (self.path / "versions").glob("policy-*") if manifest_of(p) is not None]
        found.sort(key=lambda p: (p / "adapter_model.safetensors").stat().st_mtime_ns)
        return [self.get(p.name) for p in found]

    def champion(self) -> Version | None:
        """The champion; None before the first promotion."""
        pointer = _read(self.path / POINTER)
        return self.get(pointer["version"]) if pointer else None

    def before(self, name: str) -> Version | None:
        """The champion before the champion `name`; None if it was the first, or never a champion."""
        trail = (_read(self.path / POINTER) or {}).get("trail", [])
        earlier = [other for other, later in zip(trail, trail[1:], strict=False) if later == name]
        return self.get(earlier[-1]) if earlier else None

    def standing(self, name: str) -> Standing:
        """The state of a version."""
        champion, history = self.champion(), self.history()
        serving = champion.name if champion else "none"
        if serving == name:
            return Standing("serving", f"{name} serves", serving)
        if name in {change["version"] for change in history}:
            last = history[-1]
            return Standing("replaced", f"{serving} serves since {last['at']}: {last['why']}", serving)
        return Standing("stored", f"{serving} serves", serving)

    def promote(self, name: str, why: str) -> Version:
        """Make a stored version the champion. Promoting the champion again changes nothing."""
        version = self.get(name)
        pointer = _read(self.path / POINTER)
        if pointer is None or pointer["version"] != name:
            trail = [*(pointer["trail"] if pointer else []), name]
            self._point(trail, why)
        return version

    def rollback(self, why: str = "rolled back by hand") -> Version:
        """Make the previous champion the champion again. Raises UserError if there is none."""
        pointer = _read(self.path / POINTER)
        if pointer is None or len(pointer["trail"]) < 2:
            raise UserError(f"{self.path} has no earlier champion to roll back to")
        earlier = self.get(pointer["trail"][-2])
        self._point(pointer["trail"][:-1], why)
        return earlier

    def history(self) -> list[dict[str, Any]]:
        """Every change of champion: time, version, reason."""
        return (_read(self.path / POINTER) or {}).get("history", [])

    def _point(self, trail: list[str], why: str) -> None:
        entry = {"version": trail[-1], "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "why": why}
        write_json(self.path / POINTER, {**entry, "trail": trail, "history": [*self.history(), entry]})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except OSError:
        return None
