"""What a run needs is checked before its first fit; with a hosted judge no outcome is needed and nothing is fitted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest
from loop_samples import finish, practised_home, save_adapter

from dagster_project.cli.graph import materialise
from dagster_project.defs.policy.assets import judge, judge_agrees
from dagster_project.defs.resources import LoopResource
from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from dagster_project.report import page
from dagster_project.report.contents import gather
from ingest.errors import UserError

HOSTED = {"ruler": {"base_url": "https://judge.example/v1", "model": "a-judge"}}
SMALL = {"gate": {"scenarios": 8}, "train": {"held_out": 2, "groups": 2}}


@pytest.fixture(autouse=True)
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "run_in_subprocess", lambda *given: pytest.fail("a fit was started"))


def test_everything_that_is_missing_is_named_before_the_first_fit(traced_home: Path) -> None:
    loop = Loop(Settings(home=traced_home))
    loop.ingest()
    with pytest.raises(UserError) as found:
        loop.run_until("gate")
    told = str(found.value)
    assert "at least 20 conversations with an outcome, got 0 (0 successes, 0 failures)" in told and "\n" not in told
    assert "need 208 scenarios (gate.scenarios 128, train.held_out 64, train.groups 16)" in told
    assert "12 of 12 conversations can be practised" in told
    assert not (traced_home / "world").exists() and (traced_home / "data").exists()


def test_only_the_needs_of_the_selected_stages_are_checked(tmp_path: Path) -> None:
    loop = Loop(practised_home(tmp_path / "home"))
    loop.check_data(["data", "world", "card", "clone"])
    with pytest.raises(UserError, match="^the judge needs at least 20"):
        loop.check_data(["data", "judge"])
    Loop(Settings(home=tmp_path / "home", **HOSTED, **SMALL)).check_data(["data", "judge", "candidate", "gate"])  # type: ignore[arg-type]
    more = {**SMALL, "gate": {"scenarios": 9}}
    with pytest.raises(UserError, match="^practice and gate need 13 scenarios"):
        Loop(Settings(home=tmp_path / "home", **HOSTED, **more)).check_data(["candidate"])  # type: ignore[arg-type]


def test_a_run_in_dagster_stops_before_the_first_fit(traced_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"})
    settings = Settings(home=traced_home)
    materialise(settings, "data")
    with pytest.raises(UserError, match="need 208 scenarios"):
        materialise(settings, "report")
    assert not (traced_home / "world").exists()


def test_with_a_hosted_judge_nothing_is_fitted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    practised_home(home)
    Settings(home=home, **HOSTED).save()  # type: ignore[arg-type]
    loop = Loop(Settings(home=home))
    done = loop.judge()
    assert done.facts["form"] == "hosted" and loop.judge().reused
    made = dg.materialize([judge, judge_agrees], resources={"rehearsal": LoopResource(home=str(home))})
    (event,) = made.asset_materializations_for_node("policy__judge")
    assert event.metadata["model"].value == "a-judge" and event.metadata["agreement"].value == "not measured"
    assert made.get_asset_check_evaluations()[0].passed


def test_the_report_names_the_hosted_judge(tmp_path: Path) -> None:
    home = tmp_path / "home"
    loop = Loop(practised_home(home, **HOSTED))
    made = {**loop.read("candidate").inputs, "judge": loop.judge().fingerprint}
    candidate = finish(home, "candidate", dict(loop.read("candidate").facts), made, weight=2.0)
    save_adapter(home / "adapter", 1.0)
    loop = Loop(Settings(home=home, gate={"scenarios": 8}, **HOSTED))  # type: ignore[arg-type]
    loop.registry.promote(loop.registry.add(home / "adapter", {}).name, "the first")
    verdict = {"promoted": False, "why": "no gain", "n": 8, "version": "policy-other"}
    gate = finish(home, "gate", verdict, {"candidate": candidate.fingerprint})
    (gate.directory / "example.json").write_text(json.dumps({"conversation": "talk-3", "messages": []}))
    contents = gather(loop)
    assert contents.figures()["judge_agreement"] is None
    text = page.render(contents)
    assert "hosted: a-judge" in text and "trained on production outcomes" not in text
