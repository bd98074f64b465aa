"""The report shows the figures, loads nothing, and shows hostile text as text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from loop_samples import FACTS, finish, measured, practised_home, save_adapter

from dagster_project.cli.graph import clocked
from dagster_project.loop import memory
from dagster_project.loop.passes import Loop
from dagster_project.loop.stages import MANIFEST
from dagster_project.report import charts, show
from dagster_project.report import page as report
from dagster_project.report.contents import gather, slices, whole
from dagster_project.report.page import Contents, Reality, Slice
from dagster_project.report.terminal import print_report

CONTRACT = ("success_before", "success_after", "success_ci", "episodes", "minutes", "judge_agreement", "world")
HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>"


CARD = FACTS["card"]


def row(name: str, n: int = 250) -> Slice:
    before, after = {"rate": 0.4, "low": 0.3, "high": 0.5}, {"rate": 0.6, "low": 0.5, "high": 0.7}
    return {"name": name, "n": n, "before": before, "after": after}  # type: ignore[typeddict-item]


REALITY: Reality = {
    "episodes": 500,
    "before": {"rate": 0.42, "low": 0.38, "high": 0.46},
    "after": {"rate": 0.61, "low": 0.57, "high": 0.65},
    "difference": {"rate": 0.19, "low": 0.14, "high": 0.24},
    "slices": [row("cancel"), row("return")],
    "start": 0.55,
    "practised": {"rate": 0.06, "low": 0.02, "high": 0.1},
}


def contents(**changes: Any) -> Contents:
    made = Contents(
        seed=0,
        base="rehearsal-tiny",
        agent="support-desk",
        minutes=14.2,
        peak_gib=3.5,
        traffic={"conversations": 4000, "tool_calls": 15000, "error_rate": 0.21, "evaluated": 2400},
        stages=[{"name": "World", "seconds": 300.0, "says": "learned"}, {"name": "Gate", "seconds": 0.0, "says": ""}],
        card=CARD,
        history=[{"step": k, "reward": 0.3 + 0.05 * k, "alarms": []} for k in range(8)],
        reality=REALITY,
        judge={"agreement": 0.83, "interval": [0.8, 0.86], "n": 900},
        gate={"promoted": True, "why": "judged gain +0.1", "n": 128},
        real=[{"who": "user", "text": "where is my order?"}],
        simulated=[{"who": "tool", "text": "{}", "error": True, "provenance": "generated"}],
    )
    return replace(made, **changes)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style and charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def loads_nothing(text: str) -> Page:
    """The parsed page; asserts that no tag in it loads or runs anything."""
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value is not None and value.startswith("#"), f"{tag} {name}={value}"
    assert not re.search(r"@import|url\(\s*[\"']?(?!#)", text)
    return page


# ----- the two files


def test_report_json_has_the_stable_keys(tmp_path: Path) -> None:
    page = report.write(contents(), tmp_path / "new")
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json"]
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert tuple(found)[: len(CONTRACT)] == CONTRACT
    assert {name: found[name] for name in CONTRACT} == {
        "success_before": 0.42, "success_after": 0.61, "success_ci": [0.14, 0.24], "episodes": 500,
        "minutes": 14.2, "judge_agreement": 0.83, "world": CARD,
    }  # fmt: skip
    assert found["slices"] == [row("cancel"), row("return")] and found["gate"]["promoted"]


def test_the_page_shows_the_figures() -> None:
    page = loads_nothing(report.render(contents()))
    text = " ".join(page.text.split())
    for shown in ("From 42 % to 61 %", "42.0 %", "61.0 %", "+19.0", "14.2 min", "83.0 %", "4 000 conv", "promoted"):
        assert shown in text
    assert "where is my order?" in text and "generated" in text
    better = [attributes for tag, attributes in page.tags if tag == "td" and attributes.get("class") == "better"]
    assert len(better) == 2  # the tool and the whole, both above both baselines


def test_a_loss_is_shown_as_one() -> None:
    lost: Reality = {**REALITY, "difference": {"rate": -0.05, "low": -0.1, "high": -0.01}}
    text = report.render(contents(reality=lost, gate={"promoted": False, "why": "no"}))
    assert "−5.0" in text and 'class="tile bad"' in text and "not promoted" in text


@pytest.mark.parametrize("provenance", ["derived", "replayed", "generated", "abstained"])
def test_every_provenance_has_a_badge_of_its_own_style(provenance: str) -> None:
    turns = report.turns([{"role": "tool", "content": "{}", "provenance": provenance}])
    text = report.render(contents(simulated=turns))
    assert f'class="badge {provenance}"' in text and re.search(rf"\.{provenance}[,\s][^}}]*{{[^}}]*background", text)


def test_metadata_shows_four_decimals() -> None:
    assert show.rounded({"f1": 0.9333333333333332, "calls": 8, "why": "no"}) == {"f1": 0.9333, "calls": 8, "why": "no"}


def test_a_tool_name_is_escaped_and_can_break_after_an_underscore() -> None:
    text = report.render(contents(card={"tools": {"get_order<b>": measured(1, 0.5)}, "overall": measured(1, 0.5)}))
    assert ">get_<wbr>order&lt;b&gt;</td>" in text


def test_hostile_text_is_shown_and_not_run() -> None:
    turns = report.turns(
        [
            {"role": "user", "content": HOSTILE},
            {"role": "assistant", "tool_calls": [{"id": "1", "name": HOSTILE, "arguments": {"a": HOSTILE}}]},
            {"role": "tool", "content": HOSTILE, "is_error": True, "provenance": f'"{HOSTILE}'},
            {"role": "assistant", "content": HOSTILE},
        ]
    )
    page = loads_nothing(
        report.render(
            contents(
                real=turns, simulated=turns, agent=HOSTILE, base=HOSTILE, notes=[HOSTILE],
                gate={"promoted": False, "why": HOSTILE}, stages=[{"name": HOSTILE, "seconds": 1.0, "says": HOSTILE}],
                card={"tools": {HOSTILE: measured(1, 0.5, status=f'"{HOSTILE}', why=[f'"{HOSTILE}'])}, "overall": {}},
                reality={**REALITY, "slices": [row(HOSTILE)]},
            )
        )
    )  # fmt: skip
    assert page.text.count(HOSTILE) > 10  # all of it is there to be read


@pytest.mark.parametrize("name", ["refund of $5 and $6", "$\\frac{$", "a -- b", "&<>"])
def test_any_slice_name_is_drawn(name: str) -> None:
    ElementTree.fromstring(charts.svg(charts.before_and_after([row(name)])))


# ----- empty sections


def test_an_empty_history_and_an_empty_card_are_rendered(tmp_path: Path) -> None:
    empty = contents(
        history=[], reality={**REALITY, "slices": []}, stages=[], card={}, real=(), simulated=(),
        judge={"agreement": None},
        traffic={"conversations": 0, "tool_calls": 0, "error_rate": None, "evaluated": 0},
    )  # fmt: skip
    loads_nothing(report.write(empty, tmp_path).read_text())
    assert json.loads((tmp_path / "report.json").read_text())["judge_agreement"] is None


def test_one_step_and_steps_without_a_value_are_drawn() -> None:
    one, unscored, other = {"step": 1, "reward": 0.5}, {"step": 2, "reward": None}, {"step": 3}
    for history in ([one], [one, unscored], [unscored], [other]):
        loads_nothing(report.render(contents(history=history)))


def test_the_curve_ends_with_the_mean_of_the_last_points() -> None:
    points = [{"step": k, "reward": value} for k, value in enumerate([9.0, 9.0, 1.0, 2.0, 3.0])]
    figure = charts.curve(points, "reward", "reward", window=3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["2.00"]
    assert charts.markdown(figure, "reward").startswith("![reward](data:image/png;base64,iVBOR")


def test_the_report_says_what_practice_added_to_its_start() -> None:
    page = " ".join(report.render(contents(head_start=True)).split())
    assert "learned the recorded successes once more (the head start)" in page
    assert "succeeded in 55.0" in page and "practice itself changed success by +6.0 points" in page
    assert "learned the recorded successes once more" not in " ".join(report.render(contents()).split())
    figures = contents().figures()
    assert figures["success_start"] == 0.55 and figures["practised"]["low"] == 0.02
    assert "Practice started from a policy with 55.0" in show.summary(contents())


# ----- contents from a loop


KINDS = {"cancel": {"episodes": 12, **{k: {"rate": 0.5, "interval": [0.2, 0.8]} for k in ("before", "after")}}}
EVALUATION: dict[str, Any] = {
    "before": 0.4, "after": 0.6, "gain": 0.2, "low": -0.1, "high": 0.5, "episodes": 12, "kinds": KINDS,
    "intervals": {"before": [0.2, 0.6], "after": [0.4, 0.8]},
}  # fmt: skip


@pytest.fixture
def told(tmp_path: Path) -> Loop:
    """A loop whose stages are finished; only its lake is real."""
    home = tmp_path / "home"
    loop = Loop(practised_home(home, seed=4, environment="any:Thing"))
    save_adapter(home / "adapter", 1.0)
    loop.registry.promote(loop.registry.add(home / "adapter", {}).name, "the first")
    verdict = {"promoted": False, "why": "the judged gain is not above zero", "n": 8, "version": "policy-other"}
    candidate = loop.read("candidate").fingerprint
    gate = finish(home, "gate", verdict, {"candidate": candidate})
    example = {"conversation": "talk-3", "messages": [{"role": "tool", "content": "{}", "provenance": "replayed"}]}
    (gate.directory / "example.json").write_text(json.dumps(example))
    finish(home, "evaluation", EVALUATION, {"after": candidate})
    return loop


def test_the_report_of_a_finished_loop(told: Loop) -> None:
    found = gather(told)
    assert found.reality is not None
    assert (found.seed, found.agent, found.reality["episodes"], found.minutes) == (4, "desk", 12, 3.5)
    assert found.traffic == {"conversations": 12, "tool_calls": 12, "error_rate": 0.0, "evaluated": 0}
    assert found.reality["difference"] == {"rate": 0.2, "low": -0.1, "high": 0.5}
    assert [stage["name"] for stage in found.stages][:2] == ["World and users", "Fidelity card"]
    assert [turn["who"] for turn in found.real] == ["user", "call", "tool", "agent"]
    assert found.simulated == [{"who": "tool", "text": "{}", "error": False, "provenance": "replayed"}]
    assert slices(EVALUATION) == found.reality["slices"] and whole(EVALUATION)["n"] == 12
    assert found.reality["start"] is None and "Practice started from" not in show.summary(found)
    loads_nothing(report.render(found))


def test_the_minutes_include_all_runs(
    told: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, now = told.settings.home, time.time()
    monkeypatch.setenv("REHEARSAL_INSTALL_SECONDS", "120")
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(KeyboardInterrupt), clocked(home):
        now += 360
        raise KeyboardInterrupt
    assert gather(told).minutes == 8.0
    now += 86_400  # nothing ran that day
    with clocked(home):
        now += 600
        assert gather(told).minutes == 18.0
        now += 60
    now += 86_400
    assert gather(told).minutes == 19.0


def test_peak_memory_includes_child_processes(
    told: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gather(told).peak_gib is None
    monkeypatch.setattr(memory, "EVERY_SECONDS", 0.05)
    hold = "import time; held = bytearray(300 << 20); print(flush=True); time.sleep(60)"
    with memory.watched(told.settings.home):
        with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline()
            until = time.monotonic() + 20
            while memory.peak_bytes(told.settings.home) < 300 << 20 and time.monotonic() < until:
                time.sleep(0.05)
            child.kill()
    peak = memory.peak_bytes(told.settings.home)
    assert 300 << 20 < peak < (300 << 20) + 2 * memory.resident()
    with memory.watched(told.settings.home):
        time.sleep(0.2)
    assert memory.peak_bytes(told.settings.home) == peak
    assert gather(told).peak_gib == round(peak / 2**30, 2)


# ----- without a real environment, and after a person's decision


def test_without_a_real_environment_the_page_says_so(told: Loop, tmp_path: Path) -> None:
    found = gather(Loop(told.settings.model_copy(update={"environment": ""})))
    assert found.reality is None
    page = loads_nothing(report.write(found, tmp_path / "out").read_text())
    text = " ".join(page.text.split())
    assert "not measured: no real environment is configured" in text and "The candidate was not promoted" in text
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (figures["success_before"], figures["success_ci"], figures["episodes"]) == (None, None, 0)
    assert tuple(figures)[: len(CONTRACT)] == CONTRACT
    assert "not measured: no real environment" in show.summary(found)


def test_a_measurement_of_another_candidate_is_not_shown(told: Loop) -> None:
    finish(told.settings.home, "evaluation", EVALUATION, {"after": "another"})
    found = gather(Loop(told.settings))
    assert found.reality is None and "another candidate" in found.reality_note


def test_the_terminal_shows_a_report_without_a_real_environment(
    told: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(gather(Loop(told.settings.model_copy(update={"environment": ""}))), told.settings.home)
    print_report(told.settings.home)
    said = capsys.readouterr().out
    assert "not promoted" in said and "not measured: no real environment" in said and "report.html" in said


def test_a_candidate_that_was_rolled_back_is_not_shown_as_promoted(told: Loop) -> None:
    home, registry = told.settings.home, told.registry
    save_adapter(home / "adapter", 2.0)
    version = registry.add(home / "adapter", {}).name
    registry.promote(version, "better")
    gate = told.read("gate")
    manifest = json.loads((gate.directory / MANIFEST).read_text())
    manifest["facts"].update(promoted=True, why="judged gain +0.1", version=version)
    (gate.directory / MANIFEST).write_text(json.dumps(manifest))
    text = " ".join(loads_nothing(report.render(gather(Loop(told.settings)))).text.split())
    assert "promoted and later replaced" not in text and f"Now: {version} serves." in text
    registry.rollback("customers complained")
    found = gather(Loop(told.settings))
    text = " ".join(loads_nothing(report.render(found)).text.split())
    assert found.gate["state"] == "rolled back" and "promoted and later replaced" in text
    assert "customers complained" in text
