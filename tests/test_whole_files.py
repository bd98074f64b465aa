"""Files are replaced as a whole, and nothing that is loaded runs."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.atomic import replacing, write_json, write_text

ROOT = Path(__file__).parent.parent
ROOMS = ("dagster_project", "training", "worldmodel")
BESIDE = {"beside", "partial"}
"""What a file is called while it is written under a name that nobody reads."""


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_values_that_json_does_not_support_are_written_as_text(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"where": Path("x"), "ü": 1})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n "where": "x",\n "ü": 1\n}\n'


WRITER = """
import sys
from pathlib import Path
from ingest.atomic import write_json

for number in range(10**9):
    write_json(Path(sys.argv[1]), {"number": number, "filling": ["x" * 1000] * 200})
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    import json

    path = tmp_path / "a.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=environment)
        until = time.monotonic() + 60
        while not path.exists() or json.loads(path.read_text())["number"] < 5:
            assert writer.poll() is None and time.monotonic() < until
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(json.loads(path.read_text())["filling"]) == 200
        path.unlink()


def calls(room: str) -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def writes_in_place(call: ast.Call) -> bool:
    """Whether a call writes to a file under the name that readers use."""
    text = ast.unparse(call.func)
    if text.endswith((".write_text", ".write_bytes")):
        return not names(call.func) & BESIDE
    if text in ("torch.save", "save_file", "pq.write_table"):
        return not any(names(argument) & BESIDE for argument in call.args)
    if text == "open" or text.endswith(".open"):
        modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and mode in ("w", "wb", "w+", "wt") for mode in modes) and not names(call) & {
            "lock", "LOCK", "RUNS"
        }  # fmt: skip
    return False


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_written_in_place(room: str) -> None:
    """A lock's file holds nothing that anybody reads; everything else is written beside and renamed."""
    wrong = [f"{where} {ast.unparse(call)[:80]}" for where, call in calls(room) if writes_in_place(call)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", [*ROOMS, "ingest", "examples", "benchmarks", "tests"])
def test_torch_load_executes_no_code(room: str) -> None:
    """torch.load reads tensors and plain values alone."""
    for where, call in calls(room):
        if ast.unparse(call.func) in ("torch.load", "load"):
            told = {k.arg: k.value for k in call.keywords}.get("weights_only")
            assert told is None or (isinstance(told, ast.Constant) and told.value is True), where
