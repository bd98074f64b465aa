"""Dagster's UI in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as appears
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--window-size=1500,1000",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="apt-get install chromium chromium-driver"),
]


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


@pytest.fixture
def ui(traced_home: Path, tmp_path: Path) -> Iterator[str]:
    """The UI as `make dev` starts it, over a home whose journal holds twelve conversations."""
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    shutil.copy(ROOT / "dagster_project" / "dagster.yaml", dagster_home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DAGSTER_HOME": str(dagster_home), "REHEARSAL_HOME": str(traced_home)}
    command = [Path(sys.executable).with_name("dg"), "dev", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, server, tmp_path / "ui.log")
            yield url
        finally:
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.poll() is None, f"dg dev stopped:\n{log.read_text()}"
        try:
            if httpx.get(f"{url}/server_info", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"no UI after {seconds} s:\n{log.read_text()}")


def test_the_graph_is_shown_and_an_asset_materialises_from_the_ui(ui: str, browser: webdriver.Chrome) -> None:
    wait = WebDriverWait(browser, 90)
    browser.get(f"{ui}/asset-groups")
    wait.until(appears.presence_of_element_located((By.XPATH, "//*[text()='traces']")))
    for group in ("landing", "traces"):
        assert browser.find_elements(By.XPATH, f"//*[text()='{group}']"), f"no group {group} in the graph"

    browser.get(f"{ui}/assets/traces/raw/spans")
    never = (By.XPATH, "//*[text()='Never materialized']")
    wait.until(appears.presence_of_element_located(never))
    button = (By.XPATH, "//button[contains(., 'Materialize')]")
    wait.until(appears.element_to_be_clickable(button)).click()
    wait.until(appears.invisibility_of_element_located(never))
    wait.until(appears.presence_of_element_located((By.XPATH, "//*[contains(text(), ' ago')]")))
    browser.refresh()  # the page follows the run's state by itself, but its metadata only when it is opened
    rows = (By.XPATH, "//*[text()='Row count']/following::*[normalize-space(text())='36'][1]")
    wait.until(appears.presence_of_element_located(rows))
    checks = (By.XPATH, "//*[text()='Latest check results']/following::*[normalize-space(text())='3'][1]")
    wait.until(appears.presence_of_element_located(checks))
