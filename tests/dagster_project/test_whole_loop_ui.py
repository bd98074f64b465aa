"""The whole loop from Dagster's UI in a home without a real environment, and its checks on changed data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from conftest import conversation_request
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as appears
from selenium.webdriver.support.ui import WebDriverWait

from dagster_project.cli.demo import _traffic
from dagster_project.defs.resources import LoopResource
from dagster_project.loop.passes import STAGES, Loop
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import finished
from ingest.journal import segments as journal

ROOT = Path(__file__).parents[2]
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    *("--no-default-browser-check", "--window-size=1500,1000"),
)
SMALLEST: dict[str, Any] = {
    "world": {"max_tokens": 12_000},
    "card_calls": 8,
    "clone": {"max_tokens": 8_000, "evaluations": 1},
    "head_start": {"fit": {"max_tokens": 4_000, "evaluations": 1}},
    "judge": {"fit": {"max_tokens": 8_000, "evaluations": 1}},
    "train": {"steps": 1, "groups": 2, "group_size": 2, "held_out": 2, "evaluate_every": 1, "limits": {"turns": 3}},
    "gate": {"scenarios": 8, "min_slice": 3},
    "practice_workers": 1,
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the desk's traces in its journal, the smallest budgets, and no real environment."""
    home = tmp_path_factory.mktemp("loop") / "home"
    settings = Settings(home=home, **SMALLEST)
    settings.save()
    _traffic(settings, 200)
    return home


@pytest.fixture(scope="module")
def ui(home: Path) -> Iterator[str]:
    """The UI as `make dev` starts it, and the code server that also serves the report."""
    history = home.parent / "dagster"
    history.mkdir()
    shutil.copy(ROOT / "dagster_project" / "dagster.yaml", history)
    port, report = free_port(), free_port()
    environment = os.environ | {
        "DAGSTER_HOME": str(history), "REHEARSAL_HOME": str(home), "REHEARSAL_REPORT_PORT": str(report)
    }  # fmt: skip
    command = [Path(sys.executable).with_name("dg"), "dev", "--host", "127.0.0.1", "--port", str(port)]
    log = home.parent / "ui.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/server_info"), 240, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (*QUIET, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.save_screenshot(tmp_path / "last_seen.png")  # where a failure is looked into
    driver.quit()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(happened: Any, seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"nothing after {seconds} s:\n{log.read_text()[-6000:]}"
        time.sleep(0.5)


def ask(ui: str, query: str) -> Any:
    found = httpx.post(f"{ui}/graphql", json={"query": query}, timeout=60).json()
    assert "errors" not in found, found
    return found["data"]


def last_run(ui: str) -> str:
    runs = ask(ui, "{ runsOrError(limit: 1) { ... on Runs { results { status } } } }")["runsOrError"]["results"]
    return str(runs[0]["status"]) if runs else "none"


def state(home: Path) -> dict[str, Any]:
    """Which version of each stage is current and when it was made, and who serves."""
    done = {stage: finished(home / stage) for stage in STAGES}
    manifests = {path: path.stat().st_mtime_ns for path in (home / "stages").rglob("*.json")}
    return {"current": {stage: d and d.fingerprint for stage, d in done.items()}, "manifests": manifests,
            "serving": (home / "registry" / "serving.json").read_text()}  # fmt: skip


def everything_is_materialised_and_the_report_opens(ui: str, home: Path, browser: webdriver.Chrome) -> None:
    log = home.parent / "ui.log"
    wait = WebDriverWait(browser, 120)
    browser.get(f"{ui}/asset-groups")
    button = (By.XPATH, "//button[contains(., 'Materialize')]")
    wait.until(appears.element_to_be_clickable(button)).click()
    wait_for(lambda: last_run(ui) != "none", 120, log)
    wait_for(lambda: last_run(ui) in ("SUCCESS", "FAILURE", "CANCELED"), 1200, log)
    assert last_run(ui) == "SUCCESS", log.read_text()[-6000:]

    browser.get(f"{ui}/assets/report/page")
    link = wait.until(appears.presence_of_element_located((By.XPATH, "//a[contains(@href, '/report.html')]")))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    before = set(browser.window_handles)
    browser.execute_script("arguments[0].click()", link)
    wait.until(lambda b: len(b.window_handles) > len(before) or "report.html" in b.current_url)
    browser.switch_to.window((set(browser.window_handles) - before or before).pop())
    heading = wait.until(appears.presence_of_element_located((By.TAG_NAME, "h1")))
    assert "promoted after practice" in heading.text
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "was not measured: no real environment is configured" in text
    assert json.loads((home / "report.json").read_text())["success_before"] is None
    refused = httpx.get(browser.current_url.replace("report.html", "settings.json"))
    assert refused.status_code == 404


def checks_on_changed_data_fit_nothing_and_promote_nobody(ui: str, home: Path) -> None:
    """After the test before: every check of the graph, when more traces have come and settings have changed."""
    writer = journal.JournalWriter(home / "lake" / "journal")
    bodies = [json.dumps(conversation_request(k)).encode() for k in range(12)]
    writer.append([journal.record("traces_json", time.time_ns(), body) for body in bodies])
    writer.close()
    loop = Loop(Settings(home=home))
    assert loop.ingest().new > 0
    Settings(home=home, seed=7).save()
    before = state(home)
    assert all(key for stage, key in before["current"].items() if stage != "evaluation")

    from dagster_project.definitions import defs

    definitions = defs()
    checks = definitions.resolve_asset_graph().asset_check_keys
    job = dg.define_asset_job("all_checks", selection=dg.AssetSelection.checks(*checks))
    only = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    with dg.DagsterInstance.ephemeral() as instance:
        done = only.resolve_job_def("all_checks").execute_in_process(
            instance=instance, resources={"rehearsal": LoopResource(home=str(home))}
        )
    assert done.success and {found.check_name for found in done.get_asset_check_evaluations()} == {
        key.name for key in checks
    }
    assert not done.get_asset_materialization_events()
    assert state(home) == before


def test_everything_from_the_ui_and_then_all_checks_on_changed_data(
    ui: str, home: Path, browser: webdriver.Chrome
) -> None:
    """One test, because the checks look at what was materialised."""
    everything_is_materialised_and_the_report_opens(ui, home, browser)
    checks_on_changed_data_fit_nothing_and_promote_nobody(ui, home)
