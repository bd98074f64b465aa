"""The environment of docs/environment.md passes the check and can be played."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from training.environment import ToolCall
from training.policy.evaluate import check_environment, load_environment

PAGE = Path(__file__).parents[2] / "docs" / "environment.md"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert all(len(line) <= 120 for line in code.splitlines())
    (tmp_path / "my_environment.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_environment", raising=False)
    (named,) = set(re.findall(r"my_environment:\w+", PAGE.read_text()))
    return named


def test_the_example_passes_the_check(path: str) -> None:
    check_environment(path)


def test_success_is_decided_by_the_database(path: str) -> None:
    environment = load_environment(path)
    starts = environment.starts(40, 1)
    assert starts == environment.starts(40, 1) and starts[:3] == environment.starts(3, 1)

    async def play(number: int, book: bool) -> tuple[str, bool]:
        start = starts[number]
        episode = environment.episode(start, number)
        seat = {"seat": start.first_user_message.removeprefix("Book seat ").rstrip(".")}
        free = json.loads((await episode.observe(ToolCall("get_seat", seat))).content)["free"]
        if book:
            seen = await episode.observe(ToolCall("book_seat", seat))
            assert seen.is_error == (not free)
        assert await episode.respond("Done.") is None
        return episode.facts()["kind"], episode.success()  # type: ignore[attr-defined]

    diligent = {asyncio.run(play(k, True)) for k in range(40)}
    idle = {asyncio.run(play(k, False)) for k in range(40)}
    assert diligent == {("free seat", True), ("taken seat", True)}
    assert idle == {("free seat", False), ("taken seat", True)}


def test_an_unknown_seat_is_an_error(path: str) -> None:
    environment = load_environment(path)
    seen = asyncio.run(environment.episode(environment.starts(1, 0)[0], 0).observe(ToolCall("get_seat", {})))
    assert seen.is_error and seen.error_class == "not_found"
