"""The gate compares a candidate with the champion, also when it is repeated, killed, or after a rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import conversation_request
from loop_samples import finish, practised_home, save_adapter

from dagster_project.loop import passes
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import Done
from ingest.errors import UserError
from ingest.journal import segments as journal
from training.policy.registry import Registry, Version


class JudgedLoop(Loop):
    """A loop whose judge prefers every other policy to the champion."""

    compared: list[str]

    def _compare(self, candidate: Done, champion: Version, directory: Path) -> dict[str, Any]:
        self.compared.append(champion.name)
        other = Registry.name_of(candidate.directory / "adapter") != champion.name
        return {"promoted": other, "why": "better" if other else "it is the same", "n": 8, "gain": 0.1 * other}


class Killed(BaseException):
    """Stands for SIGKILL in a test in this process."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return practised_home(tmp_path / "home")


def judged(settings: Settings) -> JudgedLoop:
    """The loop of a new run."""
    loop = JudgedLoop(settings)
    loop.compared = []
    return loop


def candidate_name(settings: Settings) -> str:
    return Registry.name_of(settings.home / "candidate" / "adapter")


def test_a_finished_gate_is_reused_after_its_promotion(settings: Settings) -> None:
    first, again = judged(settings), judged(settings)
    done = first.gate()
    assert done.facts["promoted"] and done.inputs["champion"] == done.facts["champion"] != done.facts["version"]
    found = again.gate()
    assert (found.reused, found.fingerprint, again.compared) == (True, done.fingerprint, [])
    assert [change["version"] for change in first.registry.history()] == [done.facts["champion"], done.facts["version"]]


@pytest.mark.parametrize("moment", ["before the promotion", "after the promotion"])
def test_a_gate_that_was_killed_around_its_promotion_does_not_compare_the_candidate_with_itself(
    settings: Settings, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = Registry.promote

    def killed(self: Registry, name: str, why: str) -> Version:
        if name != candidate_name(settings):
            return promote(self, name, why)
        if moment == "after the promotion":
            promote(self, name, why)
        raise Killed

    first = judged(settings)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Registry, "promote", killed)
        first.gate()
    again = judged(settings)
    done = again.gate()
    assert done.facts["champion"] == first.compared[0] != candidate_name(settings)
    assert again.compared == []  # the verdict was kept
    assert done.facts["promoted"] and again.registry.champion() == again.registry.get(candidate_name(settings))
    assert len(again.registry.history()) == 2


def test_a_candidate_that_was_rolled_back_is_not_promoted_again(settings: Settings) -> None:
    done = judged(settings).gate()
    registry = Registry(settings.home / "registry")
    registry.rollback("it was rude")
    again = judged(settings)
    assert again.gate().reused and again.compared == []
    champion = registry.champion()
    assert champion is not None and champion.name == done.facts["champion"]
    assert registry.standing(done.facts["version"]).state == "replaced"


def test_a_verdict_on_a_replaced_champion_promotes_nothing(settings: Settings) -> None:
    class Slow(JudgedLoop):
        def _compare(self, candidate: Done, champion: Version, directory: Path) -> dict[str, Any]:
            save_adapter(settings.home / "other", 7.0)
            self.registry.promote(self.registry.add(settings.home / "other", {}).name, "by hand")
            return super()._compare(candidate, champion, directory)

    loop = Slow(settings)
    loop.compared = []
    done = loop.gate()
    other = Registry.name_of(settings.home / "other")
    champion = loop.registry.champion()
    assert champion is not None and champion.name == other
    next_run = judged(settings)
    found = next_run.gate()  # the champion is another: a comparison with it
    assert next_run.compared == [other] and found.fingerprint != done.fingerprint


def test_another_champion_needs_another_gate(settings: Settings) -> None:
    first = judged(settings).gate()
    save_adapter(settings.home / "other", 7.0)
    registry = Registry(settings.home / "registry")
    registry.promote(registry.add(settings.home / "other", {}).name, "by hand")
    loop = judged(settings)
    assert loop.gate().fingerprint != first.fingerprint and loop.compared == [Registry.name_of(settings.home / "other")]


def test_a_gate_with_more_scenarios_than_held_out_is_refused(settings: Settings) -> None:
    more = settings.model_copy(update={"gate": settings.gate.model_copy(update={"scenarios": 9})})
    with pytest.raises(UserError, match="needs 9 scenarios and practice held out 8"):
        Loop(more).gate()


# ----- stages read what comes before


def test_a_stage_runs_no_other_stage(traced_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "run_stage", lambda *given: pytest.fail("a stage was done"))
    loop = Loop(Settings(home=traced_home))
    loop.ingest()
    for stage in ("world", "card", "judge", "clone", "candidate", "gate"):
        with pytest.raises(UserError, match=r"the stage \w+ is not finished in .*; materialise \w+/\w+ first"):
            getattr(loop, stage)()


def test_a_run_keeps_its_tables(settings: Settings) -> None:


    loop = Loop(settings)
    before = loop.tables.conversations()
    writer = journal.JournalWriter(settings.lake / "journal")
    body = json.dumps(conversation_request(50)).encode()
    writer.append([journal.record("traces_json", 1_760_000_000_000_000_000, body)])
    writer.close()
    other = Loop(settings)
    other.ingest()
    other.data()
    assert len(other.tables.conversations()) == len(before) + 1
    assert loop.tables.conversations() == before
    assert len(loop.read_input(loop.read("candidate"), "data").facts["rows"]) > 0


def test_reading_finished_stages_runs_nothing(settings: Settings) -> None:
    loop = Loop(settings)
    finish(settings.home, "world", {"counts": {}}, {"stage": "a new world"})
    assert loop.read("candidate").inputs["world"] != loop.read("world").fingerprint
    assert loop.read_input(loop.read("candidate"), "world").facts["counts"] == {"rows": 12}
