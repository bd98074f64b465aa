"""Practised episodes on disk: all that the update was made from, and nothing of it half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_samples import start

from ingest.errors import UserError
from training.environment import Observation
from training.learning.trajectory import Trajectory
from training.policy.episodes import as_text, read_episodes, write_episodes


def lived(number: int, reward: float | None) -> Trajectory:
    call = {"id": "c", "name": "paint", "arguments": {"colour": "blue"}}
    messages = [
        {"role": "user", "content": "paint"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"painted":"blue"}', "provenance": "generated"},
    ]
    found = Trajectory(start(number), 7, messages, [5, 6, 7], [False, True, True], [-0.5, -1.25], adapter="policy@3")
    found.observations.append(Observation('{"painted":"blue"}', provenance="generated", support=0.5))
    found.reward, found.ended = reward, "left"
    found.extra.update(advantage=0.25, reason="it painted what was asked for")
    return found


def test_stored_episodes_have_everything_of_their_update(tmp_path: Path) -> None:
    write_episodes(tmp_path, 4, [[lived(0, 0.75), lived(0, None)], [lived(1, 0.5)]])
    first, second, third = read_episodes(tmp_path, 4)
    assert (first["ids"], first["trained"], first["logprobs"]) == ([5, 6, 7], [0, 1, 1], [-0.5, -1.25])
    assert (first["reward"], first["advantage"], first["reason"]) == (0.75, 0.25, "it painted what was asked for")
    assert first["provenance"] == {"generated": 1} and first["observations"][0]["support"] == 0.5
    assert (first["adapter"], first["seed"], first["messages"]) == ("policy@3", 7, lived(0, 0.75).messages)
    assert second["reward"] is None and (third["group"], third["member"], third["scenario"]) == (1, 0, "s1")


def test_episodes_can_be_selected_by_step_and_scenario(tmp_path: Path) -> None:
    for step in (2, 10, 1):
        write_episodes(tmp_path, step, [[lived(step, 0.5)], [lived(0, 0.1)]])
    assert [r["step"] for r in read_episodes(tmp_path)] == [1, 1, 2, 2, 10, 10]
    assert [r["step"] for r in read_episodes(tmp_path, scenario="s0")] == [1, 2, 10]
    with pytest.raises(UserError, match="no episodes of step 7 .* stored are steps 1 to 10"):
        list(read_episodes(tmp_path, 7))
    with pytest.raises(UserError, match="no episodes of scenario 's7' in any step"):
        list(read_episodes(tmp_path, scenario="s7"))
    for step in (None, 7):
        with pytest.raises(UserError, match="^no practice episodes are stored in .*nowhere: no practice has run"):
            list(read_episodes(tmp_path / "nowhere", step))


def test_a_repeated_step_replaces_its_file(tmp_path: Path) -> None:
    write_episodes(tmp_path, 1, [[lived(0, 0.1)]])
    path = write_episodes(tmp_path, 1, [[lived(0, 0.9)]])
    assert [r["reward"] for r in read_episodes(tmp_path, 1)] == [0.9]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_episodes_can_be_printed(tmp_path: Path) -> None:
    write_episodes(tmp_path, 4, [[lived(0, 0.75)], [lived(1, None)]])
    first, second = map(as_text, read_episodes(tmp_path, 4))
    assert "scenario s0, policy@3, reward 0.750, advantage +0.250, ended: left" in first
    assert "judge: it painted what was asked for" in first and "unscored" in second
    assert f"assistant: paint({json.dumps({'colour': 'blue'})})" in first and "tool [generated]" in first
    assert "3 ids, 2 learned, mean log-probability -0.875" in first
