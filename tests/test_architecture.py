"""The house of DESIGN.md: which rooms there are, and which may import which."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "ingest": set(),
    "sql": set(),
    "training": {"ingest"},
    "worldmodel": {"training", "ingest"},
    "examples": {"ingest", "training"},
    "dagster_project": {"ingest", "sql", "training", "worldmodel", "examples"},
}
PLACES = {"tests", "benchmarks", "docs"}
LONGEST_FILE = 500
# Import names that differ from the distribution that brings them.
DISTRIBUTION = {
    "opentelemetry": "opentelemetry-sdk",
    "google": "protobuf",
    "grpc": "grpcio",
    "upath": "universal-pathlib",
    "stdnum": "python-stdnum",
}


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file names in an import, inside functions too, with the line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", node.lineno


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[room] - {room} | PLACES
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(room)
        for module, line in imports(path)
        if module.split(".")[0] in forbidden
    ]
    assert not wrong, "\n".join(wrong)


def test_the_example_sees_only_public_apis() -> None:
    """The example knows of training only the environment protocol, as anybody's own environment would."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("examples")
        for module, line in imports(path)
        if module.startswith("training") and module != "training.environment"
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_other_rooms() -> None:
    """Folders that hold Python or SQL at the top level are the rooms, and all of them are there."""
    ignored = {line.strip().strip("/*") for line in (ROOT / ".gitignore").read_text().splitlines()}
    found = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir()
        and not path.name.startswith((".", "__"))
        and path.name not in ignored
        and not path.name.endswith(".egg-info")
        and any(path.rglob("*.*"))
    }
    assert found - PLACES == set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) | PLACES))
def test_no_file_is_too_long(room: str) -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in python_files(room)}
    assert not {path: n for path, n in lengths.items() if n > LONGEST_FILE}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_what_a_room_imports_is_declared(room: str) -> None:
    """A module that only happens to be installed would be missing on somebody else's machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["spark"], *extras["vllm"]]
    declared = {re.split(r"[<>=\[; ]", requirement)[0].lower().replace("-", "_") for requirement in listed}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files(room)
        for module, line in imports(path)
        if (top := module.split(".")[0]) not in {*sys.stdlib_module_names, *MAY_IMPORT}
        and DISTRIBUTION.get(top, top).lower().replace("-", "_") not in declared
    ]
    assert not wrong, "\n".join(wrong)
