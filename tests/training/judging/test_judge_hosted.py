"""A hosted judge: load costs time and not scores, answers are paid for once, what is refused for good says so."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from training_samples import start

from ingest.errors import UserError
from training.judging.hosted import Costs, HostedSettings, PatientTransport, read_costs, read_rubric, retry_after
from training.judging.ruler import RUBRIC, Judgement, Ruler, RulerSettings
from training.learning.trajectory import Trajectory

LABEL = re.compile(r'<trajectory id="([^"]+)">\n(.*?)</trajectory>', re.DOTALL)
Scripted = Callable[[httpx.Request, int], httpx.Response | Exception | None]


class Endpoint(httpx.AsyncBaseTransport):
    """Scores a trajectory by its last number, unless the script says otherwise. Counts what it is asked."""

    def __init__(self, script: Scripted = lambda request, number: None) -> None:
        self.script, self.asked, self.at_once, self.most_at_once = script, 0, 0, 0
        self.prompts: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            scripted = self.script(request, self.asked)
            if isinstance(scripted, Exception):
                raise scripted
            return scripted or self.scores(json.loads(request.content))
        finally:
            self.at_once -= 1

    def scores(self, body: Any) -> httpx.Response:
        self.prompts.append(body["messages"][0]["content"])
        shown = LABEL.findall(body["messages"][1]["content"])
        scores = [{"trajectory_id": k, "score": int(re.findall(r"\d+", text)[-1]) / 100} for k, text in shown]
        message = {"content": json.dumps({"scores": scores})}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return httpx.Response(200, json={"choices": [{"message": message}], "usage": usage})


class Waits:
    """In place of sleeping: how long was asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def told(number: int) -> Trajectory:
    return Trajectory(start(), 0, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"{number}"}])


def judged(
    endpoint: Endpoint, groups: int = 6, waits: Waits | None = None, **settings: Any
) -> tuple[list[Judgement], PatientTransport]:
    transport = PatientTransport(endpoint, HostedSettings(**settings), waits or Waits())
    ruler = Ruler(RulerSettings(retries=0), httpx.AsyncClient(transport=transport, base_url="https://judge.test/v1/"))

    async def ask() -> list[Judgement]:
        return await asyncio.gather(*(ruler.judge([told(10 * k + m) for m in range(3)], k) for k in range(groups)))

    return asyncio.run(ask()), transport


def busy(status: int = 429, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, text="slow down")


def test_an_endpoint_that_fails_half_of_the_requests_loses_no_score() -> None:
    draw = random.Random(3)
    endpoint, waits = Endpoint(lambda r, n: busy() if draw.random() < 0.5 else None), Waits()
    found, transport = judged(endpoint, 10, waits)
    plain, _ = judged(Endpoint(), 10)
    assert [j.scores for j in found] == [j.scores for j in plain]
    assert all(j.scores == pytest.approx([(10 * k + m) / 100 for m in range(3)]) for k, j in enumerate(found))
    assert sum(j.failed_calls for j in found) == 0
    assert transport.costs.refusals == len(waits.seconds) == endpoint.asked - 20 > 5


def test_outages_are_retried() -> None:
    script: Any = [httpx.ConnectError("down"), busy(503), httpx.ReadTimeout("slow"), busy(500), None]
    found, transport = judged(Endpoint(lambda r, n: script[min(n - 1, 4)]), 1)
    assert found[0].scores == [0.0, 0.01, 0.02] and transport.costs.refusals == 4


def test_waits_double_and_respect_retry_after() -> None:
    waits = Waits()
    script: Any = [busy(), busy(), busy(), busy(**{"retry-after": "30"}), *[busy()] * 5, None]
    judged(Endpoint(lambda r, n: script[min(n - 1, 9)]), 1, waits, first_wait_seconds=1, max_wait_seconds=20, at_once=1)
    assert len(waits.seconds) == 9 and waits.seconds[3] == 30
    for k, seconds in enumerate(waits.seconds):
        assert k == 3 or min(20, 2**k) / 2 <= seconds <= min(20, 2**k)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("7", 0) == 7 and retry_after("", 0) == 0 == retry_after("soon", 0)
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40.0) == 60
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 400.0) == 0


def test_concurrent_calls_are_limited() -> None:
    endpoint = Endpoint()
    judged(endpoint, 12, at_once=3)
    assert endpoint.most_at_once == 3


def test_answers_are_cached_and_counted(tmp_path: Path) -> None:
    settings = {"cache_dir": tmp_path / "judge", "input_price": 2.0, "output_price": 8.0}
    first, second = Endpoint(), Endpoint()
    one, transport = judged(first, 4, **settings)
    assert first.asked == 8 and transport.costs == Costs(8, 0, 0, 800, 80, pytest.approx(8 * 280 / 1e6))
    other, again = judged(second, 5, **settings)
    assert [j.scores for j in other[:4]] == [j.scores for j in one] and second.asked == 2
    assert (again.costs.calls, again.costs.cached) == (2, 8)
    whole = read_costs(tmp_path / "judge")
    assert (whole.calls, whole.cached, whole.prompt_tokens) == (10, 8, 1000)
    assert read_costs(tmp_path / "nothing") == Costs()


def test_failed_answers_are_not_cached(tmp_path: Path) -> None:
    endpoint = Endpoint(lambda r, n: httpx.Response(400, text="too long") if n <= 2 else None)
    lost, _ = judged(endpoint, 1, cache_dir=tmp_path)
    assert lost[0].scores == [None] * 3 and lost[0].failed_calls == 2
    assert judged(endpoint, 1, cache_dir=tmp_path)[0][0].scores == [0.0, 0.01, 0.02]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_permanent_error_ends_the_run(status: int) -> None:
    endpoint = Endpoint(lambda r, n: httpx.Response(status, text="no such key"))
    with pytest.raises(UserError, match=f"judge.test refuses: HTTP {status} no such key"):
        judged(endpoint, 1)
    assert endpoint.asked <= 2


def test_exhausted_retries_end_the_run_and_leave_no_member_unscored() -> None:
    with pytest.raises(UserError, match=r"did not answer in 5 tries .*HTTP 429 slow down.*continues"):
        judged(Endpoint(lambda r, n: busy()), 1, max_tries=5)


# ----- rubrics


def test_each_agent_has_its_rubric_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rubrics.yaml"
    path.write_text("default: be brief\nagents:\n  desk: |\n    - polite\n    - right\n")
    assert read_rubric(path, "desk") == "- polite\n- right\n" and read_rubric(path, "other") == "be brief"
    settings = RulerSettings(rubrics=path).of_agent("desk")
    endpoint = Endpoint()
    ruler = Ruler(settings, httpx.AsyncClient(transport=endpoint, base_url="https://judge.test/v1/"))
    asyncio.run(ruler.judge([told(1), told(2)]))
    assert "- polite\n- right" in endpoint.prompts[0] and "higher than one that wanders" not in endpoint.prompts[0]
    path.write_text("agents: {}\n")
    assert RulerSettings(rubrics=path).of_agent("desk").rubric == RUBRIC == RulerSettings().of_agent("desk").rubric


@pytest.mark.parametrize("text", ["rubric: x\n", "agents: [desk]\n", "a: [\n", "agents: {desk: 3}\n"])
def test_a_file_that_holds_no_rubrics_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rubrics.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="not a rubrics file"):
        read_rubric(path, "desk")
    with pytest.raises(UserError, match="cannot be read"):
        read_rubric(tmp_path / "absent.yaml", "desk")
