"""`rehearsal rollouts show` prints practice episodes as text or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from training_samples import start
from typer.testing import CliRunner

from dagster_project.cli.main import app
from ingest.errors import UserError
from training.learning.trajectory import Trajectory
from training.policy.episodes import write_episodes


def practised(home: Path) -> None:
    for step in (1, 2):
        group = []
        for member in range(2):
            messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"answer {member}"}]
            lived = Trajectory(start(step), member, messages, [4, 5, 6], [False, True, True], [-0.25, -0.5])
            lived.reward, lived.adapter = 0.5 + member / 4, f"policy@{step - 1}"
            lived.extra["reason"] = f"member {member} was polite"
            group.append(lived)
        write_episodes(home / "candidate" / "episodes", step, [group])


def test_episodes_are_shown_by_step_and_scenario(tmp_path: Path) -> None:
    practised(tmp_path)
    shown = CliRunner().invoke(app, ["rollouts", "show", "--home", str(tmp_path), "--step", "2"])
    assert shown.exit_code == 0 and "scenario s2, policy@1, reward 0.750" in shown.stdout
    assert "judge: member 1 was polite" in shown.stdout and "assistant: answer 0" in shown.stdout
    asked = ["rollouts", "show", "--home", str(tmp_path), "--scenario", "s1", "--json", "--most", "1"]
    (line,) = CliRunner().invoke(app, asked).stdout.splitlines()
    record = json.loads(line)
    assert (record["step"], record["ids"], record["logprobs"]) == (1, [4, 5, 6], [-0.25, -0.5])


def test_a_home_without_episodes_is_an_error(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["rollouts", "show", "--home", str(tmp_path)])
    assert isinstance(found.exception, UserError) and "no practice has run" in str(found.exception)
    assert "None" not in str(found.exception)
