"""A real environment is checked before it is used, and what it raises in one episode is counted."""

from __future__ import annotations

import asyncio
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from training_samples import tiny_base

from ingest.errors import UserError
from training.engines import Sample, Sampling
from training.environment import Observation, Start, ToolCall
from training.policy.evaluate import (
    Player,
    Run,
    check_environment,
    difference,
    environment_code,
    load_environment,
    summary,
)
from training.policy.pool import play
from training.policy.rollout import Limits
from training.workers import Workers

HERE = Path(__file__).parent
TOOLS: tuple[dict[str, Any], ...] = ({"type": "function", "function": {"name": "look", "parameters": {}}},)


class Door:
    """An episode that breaks where its kind says."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        if kind == "open":
            raise ConnectionError("nobody\nthere")

    async def observe(self, call: ToolCall) -> Observation:
        return Observation("{}")

    async def respond(self, text: str) -> str | None:
        if self.kind == "respond":
            raise KeyError("user")
        return 7 if self.kind == "number" else None  # type: ignore[return-value]

    def success(self) -> bool:
        if self.kind == "success":
            raise RuntimeError("no verdict")
        return True

    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Doors:
    """One start a kind, which is fewer than the player asks for."""

    kinds: tuple[str, ...] = ("well", "open", "well", "respond", "success", "number", "well")

    def starts(self, n: int, seed: int) -> list[Start]:
        return [Start(f"{seed}:{k}", "", TOOLS, "Hello?", {"kind": kind}) for k, kind in enumerate(self.kinds[:n])]

    def episode(self, start: Start, seed: int) -> Door:
        return Door(start.tags["kind"])


class Greets:
    """An engine whose agent says the same in every turn, in the base's tokens."""

    def __init__(self, broken: bool = False) -> None:
        chat = tiny_base().format
        self.ids, self.broken = (*chat.encode("done"), chat.stop_ids[0]), broken

    async def sample(self, ids: Any, *, adapter: str | None, sampling: Sampling) -> Sample:
        if self.broken:
            raise ZeroDivisionError("the engine")
        return Sample(self.ids, (0.0,) * len(self.ids), True, adapter)


def player(episodes: int = 50, broken: bool = False) -> Player:
    chat = tiny_base().format
    return Player(cast(Any, Greets(broken)), chat, Doors(), episodes, 3, limits=Limits(turns=4, turn_tokens=4))


def test_an_error_in_one_episode_is_counted_and_the_others_are_played() -> None:
    done: list[int] = []
    run = asyncio.run(player().play("policy", on_done=done.append))
    assert done == list(range(1, 8))
    assert run.faults == (
        "", "ConnectionError: nobody there", "", "KeyError: 'user'", "RuntimeError: no verdict",
        "TypeError: respond() returned a int, expected a text or None", "",
    )  # fmt: skip
    assert run.success == (True, False, True, False, False, False, True)
    assert run.kinds == Doors.kinds and len(run.trajectories) == 7 and run.rate == 1.0


def test_an_error_of_the_engine_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="the engine"):
        asyncio.run(player(broken=True).play("policy"))


def test_fewer_starts_than_asked_for_are_all_played_by_one_process_and_by_two() -> None:
    whole = asyncio.run(player().play("policy"))
    with Workers(player, 2) as workers:
        spread = asyncio.run(play(workers, "policy", 50))
    assert (spread.success, spread.kinds, spread.faults) == (whole.success, whole.kinds, whole.faults)
    assert [t.start for t in spread.trajectories] == [t.start for t in whole.trajectories]


def run_of(name: str, success: list[bool], faults: list[str]) -> Run:
    return Run(name, tuple(success), ("a", "b") * (len(success) // 2), (), tuple(faults))


def test_a_start_that_failed_for_one_policy_is_excluded_for_both() -> None:
    before = run_of("before", [True, False, False, False], ["", "", "down", ""])
    after = run_of("after", [True, True, True, False], ["", "", "", "gone"])
    found = summary(before, after)
    assert (found["before"], found["after"], found["episodes"]) == (0.5, 1.0, 2)
    assert found["faults"] == {"before": 1, "after": 1, "first": "down"}
    assert {kind: row["episodes"] for kind, row in found["kinds"].items()} == {"a": 1, "b": 1}
    assert difference(before, after).episodes == 2


def test_an_environment_that_fails_every_episode_is_an_error() -> None:
    broken = run_of("before", [False, False], ["down", "down"])
    with pytest.raises(UserError, match="every episode; the first: down"):
        summary(broken, run_of("after", [True, True], ["", ""]))


# ----- before anything is learned


MODULE = """
from training.environment import Observation, Start
class Base:
    def starts(self, n, seed): return [Start("1", "", (), "Hello?")]
    def episode(self, start, seed): return self
    async def observe(self, call): return Observation("{}")
    async def respond(self, text): return None
    def success(self): return True
    def facts(self): return {}
class Good(Base): pass
class NoSuccess(Base): success = None
class Waits(Base):
    async def success(self): return True
class Sync(Base):
    def observe(self, call): return Observation("{}")
class NoStarts(Base):
    def starts(self, n, seed): return []
class OddStarts(Base):
    def starts(self, n, seed): return [{"id": 1}]
class Shut(Base):
    def episode(self, start, seed): raise ConnectionError("refused\\nby the host")
class Unmade(Base):
    def __init__(self): raise OSError("no licence")
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, as a user has it; its name."""
    name = f"shop_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    return name


def test_a_module_in_the_current_directory_is_found(shop: str) -> None:
    check_environment(f"{shop}:Good")
    assert type(load_environment(f"{shop}:Good")).__name__ == "Good"


def test_a_corrected_environment_is_measured_again(shop: str, tmp_path: Path) -> None:
    before = environment_code(f"{shop}:Good")
    assert before == environment_code(f"{shop}:Waits") and len(before) == 16
    (tmp_path / f"{shop}.py").write_text(MODULE + "# corrected")
    linecache.checkcache()
    del sys.modules[shop]
    assert environment_code(f"{shop}:Good") != before


@pytest.mark.parametrize(
    "name, told",
    [
        ("NoSuccess", "no method success"),
        ("Waits", r"success\(\) of its episodes must not be `async def`"),
        ("Sync", r"observe\(\) of its episodes must be `async def`"),
        ("NoStarts", r"starts\(1, 0\) returned \[\]"),
        ("OddStarts", "returned a dict"),
        ("Shut", "ConnectionError: refused by the host"),
        ("Unmade", "OSError: no licence"),
        ("Missing", "expected 'package.module:Class'"),
    ],
)
def test_an_incomplete_environment_is_refused_with_the_reason(shop: str, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as found:
        check_environment(f"{shop}:{name}")
    assert repr(f"{shop}:{name}") in str(found.value) and "\n" not in str(found.value)


def test_the_desk_passes() -> None:
    check_environment("examples.support_desk.environment:SupportDesk")


def test_the_installed_command_finds_the_module_too(shop: str, tmp_path: Path) -> None:
    """A console script has its own folder in the search path, not the current directory."""
    check = f"from training.policy.evaluate import check_environment; check_environment('{shop}:Good')"
    program = f"import sys; sys.path.pop(0); {check}"
    root = HERE.parents[2]
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
