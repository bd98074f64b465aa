"""The report says what happened, loads nothing, and shows hostile text as text."""

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

from dagster_project.cli.graph import clocked
from dagster_project.loop import memory
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import Done
from dagster_project.report import page as report
from dagster_project.report import pictures
from dagster_project.report.page import Slice, Story
from dagster_project.report.story import slices, tell, whole

CONTRACT = ("success_before", "success_after", "success_ci", "episodes", "minutes", "judge_agreement", "world")
HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>"


def measured(n: int, exact: float, **more: Any) -> dict[str, Any]:
    return {
        "n": n, "exact_match": exact, "field_f1": 0.9, "outcome_f1": 0.8, "schema_validity": None, "coverage": 1.0,
        "errors": {"simulated": 0.1, "real": 0.12}, "read_after_write": {"n": 3, "exact_match": None},
        "baselines": {"nearest_copy": {"exact_match": 0.5}, "replay_cache": {"exact_match": 0.4}}, **more,
    }  # fmt: skip


CARD = {
    "overall": measured(60, 0.7),
    "tools": {"get_order": measured(60, 0.7, status="warn", why=["only 60 <held-out> calls"])},
    "held_out": {"calls": 60},
}


def row(name: str, n: int = 250) -> Slice:
    before, after = {"rate": 0.4, "low": 0.3, "high": 0.5}, {"rate": 0.6, "low": 0.5, "high": 0.7}
    return {"name": name, "n": n, "before": before, "after": after}  # type: ignore[typeddict-item]


def story(**changes: Any) -> Story:
    made = Story(
        seed=0,
        base="rehearsal-tiny",
        agent="support-desk",
        minutes=14.2,
        peak_gib=3.5,
        traffic={"conversations": 4000, "tool_calls": 15000, "error_rate": 0.21, "evaluated": 2400},
        stages=[{"name": "World", "seconds": 300.0, "says": "learned"}, {"name": "Gate", "seconds": 0.0, "says": ""}],
        card=CARD,
        history=[{"step": k, "reward": 0.3 + 0.05 * k, "alarms": []} for k in range(8)],
        episodes=500,
        before={"rate": 0.42, "low": 0.38, "high": 0.46},
        after={"rate": 0.61, "low": 0.57, "high": 0.65},
        difference={"rate": 0.19, "low": 0.14, "high": 0.24},
        slices=[row("cancel"), row("return")],
        judge={"agreement": 0.83, "interval": [0.8, 0.86], "n": 900},
        gate={"promoted": True, "why": "judged gain +0.1", "n": 128},
        real=[{"who": "user", "text": "where is my order?"}],
        simulated=[{"who": "tool", "text": "{}", "error": True, "provenance": "generated"}],
    )
    return replace(made, **changes)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style and pictures."""

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
    """The page, having asserted that no tag in it loads or runs anything."""
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


def test_the_figures_are_the_contract_s_and_more(tmp_path: Path) -> None:
    page = report.write(story(), tmp_path / "new")
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json"]
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert tuple(found)[: len(CONTRACT)] == CONTRACT
    assert {name: found[name] for name in CONTRACT} == {
        "success_before": 0.42, "success_after": 0.61, "success_ci": [0.14, 0.24], "episodes": 500,
        "minutes": 14.2, "judge_agreement": 0.83, "world": CARD,
    }  # fmt: skip
    assert found["slices"] == [row("cancel"), row("return")] and found["gate"]["promoted"]


def test_the_page_says_what_the_figures_say() -> None:
    page = loads_nothing(report.render(story()))
    text = " ".join(page.text.split())
    for shown in ("From 42 % to 61 %", "42.0 %", "61.0 %", "+19.0", "14.2 min", "83.0 %", "4 000 conv", "promoted"):
        assert shown in text
    assert "where is my order?" in text and "generated" in text
    better = [attributes for tag, attributes in page.tags if tag == "td" and attributes.get("class") == "better"]
    assert len(better) == 2  # the tool and the whole, both above both baselines


def test_a_loss_is_shown_as_one() -> None:
    lost = {"rate": -0.05, "low": -0.1, "high": 0.0}
    text = report.render(story(difference=lost, gate={"promoted": False, "why": "no"}))
    assert "−5.0" in text and 'class="tile bad"' in text and "not promoted" in text


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
            story(
                real=turns, simulated=turns, agent=HOSTILE, base=HOSTILE, notes=[HOSTILE],
                gate={"promoted": False, "why": HOSTILE}, stages=[{"name": HOSTILE, "seconds": 1.0, "says": HOSTILE}],
                card={"tools": {HOSTILE: measured(1, 0.5, status=f'"{HOSTILE}', why=[f'"{HOSTILE}'])}, "overall": {}},
                slices=[row(HOSTILE)],
            )
        )
    )  # fmt: skip
    assert page.text.count(HOSTILE) > 10  # all of it is there to be read


@pytest.mark.parametrize("name", ["refund of $5 and $6", "$\\frac{$", "a -- b", "&<>"])
def test_a_slice_may_be_called_anything(name: str) -> None:
    ElementTree.fromstring(pictures.svg(pictures.before_and_after([row(name)])))


# ----- little to tell


def test_an_empty_history_and_an_empty_card_are_told_too(tmp_path: Path) -> None:
    empty = story(
        history=[], slices=[], stages=[], card={}, real=(), simulated=(), judge={"agreement": None},
        traffic={"conversations": 0, "tool_calls": 0, "error_rate": None, "evaluated": 0},
    )  # fmt: skip
    loads_nothing(report.write(empty, tmp_path).read_text())
    assert json.loads((tmp_path / "report.json").read_text())["judge_agreement"] is None


def test_a_story_of_one_step_and_steps_without_a_value_are_drawn() -> None:
    one, unscored, other = {"step": 1, "reward": 0.5}, {"step": 2, "reward": None}, {"step": 3}
    for history in ([one], [one, unscored], [unscored], [other]):
        loads_nothing(report.render(story(history=history)))


def test_the_curve_ends_with_the_mean_of_the_last_points() -> None:
    points = [{"step": k, "reward": value} for k, value in enumerate([9.0, 9.0, 1.0, 2.0, 3.0])]
    figure = pictures.curve(points, "reward", "reward", window=3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["2.00"]
    assert pictures.markdown(figure, "reward").startswith("![reward](data:image/png;base64,iVBOR")


# ----- the story of a loop


class ToldLoop(Loop):
    """A loop whose stages are finished already; only its lake is real."""

    def _done(self, **facts: Any) -> Done:
        return Done(self.settings.home / "gate", "f", facts, 30.0, reused=True)

    def world(self) -> Done:
        return self._done(counts={"rows": 12})

    def card(self) -> Done:
        return self._done(**CARD)

    def judge(self) -> Done:
        return self._done(labelled=9, form="score", agreement=0.75, interval=[0.6, 0.9], pairs=20)

    def clone(self) -> Done:
        return self._done(rows=12)

    def candidate(self) -> Done:
        return self._done(history=[{"step": 1, "episodes": 6, "reward": 0.5}], steps=1, best_step=1)

    def gate(self) -> Done:
        return self._done(promoted=False, why="the judged gain is not surely above zero", n=8)

    def evaluation(self) -> Done:
        kinds = {"cancel": {"episodes": 12, **{k: {"rate": 0.5, "interval": [0.2, 0.8]} for k in ("before", "after")}}}
        intervals = {"before": [0.2, 0.6], "after": [0.4, 0.8]}
        return self._done(
            before=0.4, after=0.6, gain=0.2, low=-0.1, high=0.5, episodes=12, intervals=intervals, kinds=kinds
        )


@pytest.fixture
def told(traced_home: Path) -> ToldLoop:
    loop = ToldLoop(Settings(home=traced_home, seed=4))
    loop.ingest()
    (traced_home / "gate").mkdir()
    example = {"conversation": "talk-3", "messages": [{"role": "tool", "content": "{}", "provenance": "replayed"}]}
    (traced_home / "gate" / "example.json").write_text(json.dumps(example))
    return loop


def test_a_loop_tells_its_story(told: ToldLoop) -> None:
    found = tell(told)
    assert (found.seed, found.agent, found.episodes, found.minutes) == (4, "desk", 12, 3.5)
    assert found.traffic == {"conversations": 12, "tool_calls": 12, "error_rate": 0.0, "evaluated": 0}
    assert found.difference == {"rate": 0.2, "low": -0.1, "high": 0.5}
    assert [stage["name"] for stage in found.stages][:2] == ["World and users", "Fidelity card"]
    assert [turn["who"] for turn in found.real] == ["user", "call", "tool", "agent"]
    assert found.simulated == [{"who": "tool", "text": "{}", "error": False, "provenance": "replayed"}]
    assert slices(told.evaluation().facts) == found.slices and whole(told.evaluation().facts)["n"] == 12
    loads_nothing(report.render(found))


def test_the_minutes_are_the_whole_demo_s_this_run_of_it_included(
    told: ToldLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, now = told.settings.home, time.time()
    monkeypatch.setenv("REHEARSAL_INSTALL_SECONDS", "120")
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(KeyboardInterrupt), clocked(home):
        now += 360
        raise KeyboardInterrupt
    assert tell(told).minutes == 8.0
    now += 86_400  # nothing ran that day
    with clocked(home):
        now += 600
        assert tell(told).minutes == 18.0
        now += 60
    now += 86_400
    assert tell(told).minutes == 19.0


def test_the_most_memory_of_a_process_and_its_children_is_told(
    told: ToldLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tell(told).peak_gib is None
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
    assert tell(told).peak_gib == round(peak / 2**30, 2)
