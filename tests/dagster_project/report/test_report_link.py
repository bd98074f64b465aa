"""The report link in Dagster opens the page over HTTP; the server answers for no other file of the home."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import dagster as dg
import httpx
import pytest
from loop_samples import finish, practised_home, save_adapter

from dagster_project.defs.report.assets import evaluation, page
from dagster_project.defs.report.serving import is_code_server
from dagster_project.defs.resources import LoopResource
from dagster_project.loop.passes import Loop
from dagster_project.report import server


def test_the_page_of_a_home_without_a_real_environment_opens_from_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    loop = Loop(practised_home(home))
    save_adapter(home / "adapter", 1.0)
    loop.registry.promote(loop.registry.add(home / "adapter", {}).name, "the first")
    verdict = {"promoted": False, "why": "no gain", "n": 8, "version": "policy-other"}
    gate = finish(home, "gate", verdict, {"candidate": loop.read("candidate").fingerprint})
    (gate.directory / "example.json").write_text(json.dumps({"conversation": "talk-3", "messages": []}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("REHEARSAL_REPORT_PORT", str(port))
    done = dg.materialize([evaluation, page], resources={"rehearsal": LoopResource(home=str(home))})
    (skipped,) = done.asset_materializations_for_node("report__evaluation")
    assert "no real environment" in str(skipped.metadata["skipped"].value)
    (made,) = done.asset_materializations_for_node("report__page")
    assert "not measured" in str(made.metadata["summary"].value)
    link = str(made.metadata["open"].value)
    opened = server.open_server(home, port)
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    found = httpx.get(link)
    assert found.status_code == 200 and "The candidate was not promoted" in found.text
    assert found.headers["content-type"].startswith("text/html") and "content-disposition" not in found.headers
    assert httpx.get(link.replace("report.html", "report.json")).json()["success_before"] is None
    for other in ("settings.json", "../settings.json", "%2e%2e/lake/lake.json", ""):
        assert httpx.get(link.replace("report.html", other)).status_code == 404, other
    assert httpx.post(link).status_code == 501
    opened.shutdown()


def test_a_server_serves_its_own_home_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text(name)
    opened = server.open_server(tmp_path / "a", 0)
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{opened.server_address[1]}"
    paths = {name: str(server.url(tmp_path / name)).split("/", 3)[3] for name in ("a", "b")}
    assert httpx.get(f"{base}/{paths['a']}").text == "a"
    assert httpx.get(f"{base}/{paths['b']}").status_code == 404
    opened.shutdown()


def test_only_the_code_server_opens_the_port() -> None:
    assert is_code_server(["/venv/dagster", "api", "grpc", "--socket", "x"])
    for other in (["dg", "check", "defs"], ["dagster", "api", "execute_run"], ["pytest"], ["rehearsal", "demo"]):
        assert not is_code_server(other)
