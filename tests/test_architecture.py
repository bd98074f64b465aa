"""The rooms (CONTRIBUTING.md): which rooms there are, and which may import which."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections import Counter
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
# Which sub-rooms a sub-room may import; files that lie in the room itself are open to all of its sub-rooms.
# A name with a dot is a folder in a sub-room that has arrows of its own.
SUBROOMS: dict[str, dict[str, set[str]]] = {
    "ingest": {
        "receiver": {"journal", "formats"},
        "journal": set(),
        "formats": {"journal"},
        "storage": {"formats", "journal", "privacy"},
        "dialects": {"formats", "messages"},
        "messages": set(),
        "conversations": {"messages"},
        "privacy": {"conversations", "messages"},
        "tables": {"conversations", "dialects", "formats", "messages", "privacy", "storage"},
        "upkeep": {"journal", "storage", "tables"},
    },
    "training": {
        "models": set(),
        "tiny.passes": {"models"},
        "engines": {"models", "tiny.passes"},
        "learning": {"models", "tiny.passes"},
        "judging": {"engines", "learning", "models"},
        "policy": {"engines", "judging", "learning", "models"},
        "tiny.pretraining": {"learning", "models", "tiny.passes"},
    },
    "worldmodel": {
        "derive": set(),
        "learn": {"derive"},
        "generate": {"derive"},
        "users": {"derive", "generate"},
        "card": {"derive", "generate", "users"},
    },
    "dagster_project": {
        "loop": set(),
        "report": {"loop"},
        "defs": {"loop", "report"},
        "cli": {"defs", "loop", "report"},
    },
}
MAX_LINES = 500
MAX_FILES = 14
# Import names that differ from the distribution that brings them.
DISTRIBUTION = {
    "opentelemetry": "opentelemetry-sdk",
    "google": "protobuf",
    "grpc": "grpcio",
    "upath": "universal-pathlib",
    "stdnum": "python-stdnum",
    "yaml": "pyyaml",
}


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path, submodules: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that a file names in an import, inside functions too, with the line.

    With `submodules`, `from a import b` counts as `a.b` as well, which may be a module."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                module = ".".join(filter(None, [*package, module]))
            yield module, node.lineno
            if submodules:
                for alias in node.names:
                    yield f"{module}.{alias.name}", node.lineno


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


def subroom(room: str, module: str) -> str:
    """The sub-room that a module or a file's dotted name lies in; empty for files of the room itself."""
    parts = module.split(".")[1:]
    names = [name for name in SUBROOMS[room] if parts[: name.count(".") + 1] == name.split(".")]
    return max(names, key=len, default="")


@pytest.mark.parametrize("room", SUBROOMS)
def test_a_subroom_imports_only_what_it_may(room: str) -> None:
    allowed, wrong = SUBROOMS[room], []
    for path in python_files(room):
        here = subroom(room, ".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module, line in imports(path):
            there = subroom(room, module) if module.split(".")[0] == room else ""
            if here and there and there != here and there not in allowed[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", SUBROOMS)
def test_the_arrows_between_subrooms_go_one_way(room: str) -> None:
    graphlib.TopologicalSorter(SUBROOMS[room]).prepare()  # raises CycleError


@pytest.mark.parametrize("room", SUBROOMS)
def test_all_subrooms_are_listed(room: str) -> None:
    listed = {name.split(".")[0] for name in SUBROOMS[room]}
    assert listed == {path.name for path in (ROOT / room).iterdir() if any(path.glob("**/*.py"))}


@pytest.mark.parametrize("room", sorted({*MAY_IMPORT, *SUBROOMS, "tests"}))
def test_no_two_modules_import_each_other(room: str) -> None:
    """Also not through a third one, and not inside a function."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in python_files(room)}
    graph = {name: {m for m, _ in imports(path, submodules=True) if m in names} for name, path in names.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) | PLACES))
def test_no_folder_is_too_full(room: str) -> None:
    counts = Counter(path.parent for path in python_files(room) if path.name != "__init__.py")
    assert not {path.relative_to(ROOT): n for path, n in counts.items() if n > MAX_FILES}


def test_the_example_sees_only_public_apis() -> None:
    """The example knows of training only the environment protocol, as anybody's own environment would."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("examples")
        for module, line in imports(path)
        if module.startswith("training") and module != "training.environment"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_tiny_base_keeps_to_itself() -> None:
    """Its pre-training is imported by nothing but tests, its fused passes only by what runs or trains a model, and what
    its prompts repeat only by its chat format."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for room in (set(MAY_IMPORT) | PLACES) - {"tests"}
        for path in python_files(room)
        for module, line in imports(path)
        if module.startswith("training.tiny") and "training/tiny" not in path.as_posix()
        if not (module.startswith("training.tiny.passes") and path.parent.name in ("engines", "learning"))
        if not (module.startswith("training.tiny.focus") and path.name == "chat.py")
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
    assert not {path: n for path, n in lengths.items() if n > MAX_LINES}


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
