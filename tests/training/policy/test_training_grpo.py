"""Retraining end to end on a task whose reward is plain: blue pleases. Killed runs go on; what breaks is counted."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from training_samples import Wall, Walls, conversations, scenario, tiny_base

from ingest.errors import UserError
from ingest.records import Scenario
from training.engines import Sampling
from training.engines.local import LocalEngine
from training.environment import Observation, ToolCall
from training.judging.group_text import read_prompt
from training.judging.ruler import Ruler, RulerSettings
from training.learning.fits import FitSettings
from training.learning.learner import LearnerSettings
from training.learning.policy_losses import Cispo
from training.learning.trajectory import Trajectory
from training.models.base import Base
from training.models.lora import LoraSettings, manifest_of
from training.models.lora_layers import read_adapter
from training.policy.clone import fit_clone
from training.policy.grpo import Grpo, TrainSettings, alarms, lasting_alarms
from training.policy.practice import Practice
from training.policy.rollout import Limits

LEARNER = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=5e-4, warmup_steps=0, bf16=False)
SETTINGS = TrainSettings(
    steps=6, groups=4, group_size=6, held_out=6, evaluate_every=2, learner=LEARNER, loss=Cispo(kl_penalty=0.05)
)
ENOUGH: dict[str, Any] = {"steps": 8, "groups": 6, "group_size": 8}
"""Settings with which the task is learned in every run."""

SCENARIOS = [scenario(k) for k in range(20)]
TIMES = ("seconds", "sample_seconds", "judge_seconds")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def clone(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that paints red about as often as blue."""
    out = tmp_path_factory.mktemp("clone") / "clone"
    fit = FitSettings(
        learner=LEARNER.model_copy(update={"learning_rate": 3e-3}), max_tokens=10**9, max_epochs=14, step_tokens=400
    )
    fit_clone(base, conversations(24), out, fit, show_system=False)
    return out


def blue_pleases(messages: list[dict[str, Any]]) -> float:
    return float('{"painted":"blue"}' in [m["content"] for m in messages if m["role"] == "tool"])


def red_pleases(messages: list[dict[str, Any]]) -> float:
    return float('{"painted":"red"}' in [m["content"] for m in messages if m["role"] == "tool"])


def judge(score: Callable[[list[dict[str, Any]]], Any]) -> httpx.AsyncClient:
    """A judge that scores each transcript by code, behind RULER's HTTP form."""

    async def complete(request: Request) -> Response:
        shown = read_prompt((await request.json())["messages"][1]["content"])
        scores = [{"trajectory_id": label, "score": score(messages)} for label, messages in shown]
        return JSONResponse({"choices": [{"message": {"content": json.dumps({"scores": scores})}}]})

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://judge/v1/")


class Asked(LocalEngine):
    """The local engine, remembering which adapter each request named."""

    def __init__(self, base: Base) -> None:
        super().__init__(base.model, base.format.pad_id, dtype=torch.float32)
        self.adapters: list[str | None] = []

    async def sample(self, prompt_ids: Any, *, adapter: str | None, sampling: Sampling) -> Any:
        self.adapters.append(adapter)
        return await super().sample(prompt_ids, adapter=adapter, sampling=sampling)


def grpo(
    base: Base, clone: Path, out: Path, worlds: Any = None, score: Callable[..., Any] = blue_pleases, **changed: Any
) -> Grpo:
    practice = Practice(
        Asked(base), base.format, worlds or Walls(), Ruler(RulerSettings(retries=0), judge(score)), Limits(turns=3),
        min_p=SETTINGS.min_p,
    )  # fmt: skip
    return Grpo(base, practice, SCENARIOS, clone, out, SETTINGS.model_copy(update=changed))


def rarer(base: Base, clone: Path, out: Path) -> Callable[..., Any]:
    """What pleases in the run that is looked at: the colour that the clone paints less often, so that there is
    something to learn whichever way a machine rounds."""
    practice = grpo(base, clone, out).practice
    practice.engine.load_adapter("clone", clone)
    painted = asyncio.run(practice.singles(SCENARIOS, list(range(len(SCENARIOS))), "clone"))
    blue = sum(blue_pleases(t.messages) for t in painted if isinstance(t, Trajectory))
    return red_pleases if blue > len(painted) / 2 else blue_pleases


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in step.items() if k not in TIMES} for step in history]


@pytest.fixture(scope="module")
def trained(base: Base, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One whole run, what it wrote, and the weights after each step."""
    out = tmp_path_factory.mktemp("run") / "policy"
    score = rarer(base, clone, out)
    run = grpo(base, clone, out, score=score, **ENOUGH)
    weights: dict[int, Any] = {}
    manifest = asyncio.run(run.train(lambda metrics: weights.update({metrics["step"]: run.learner.weights()[0]})))
    yield {"out": out, "run": run, "weights": weights, "manifest": manifest, "score": score}


# ----- a whole run


def test_the_reward_rises_and_the_better_adapter_is_written(trained: dict[str, Any]) -> None:
    manifest = trained["manifest"]
    rewards = [step["reward"] for step in manifest["history"]]
    assert len(rewards) == 8 and rewards[0] < 0.7
    assert sum(rewards[-2:]) / 2 > min(0.9, rewards[0] + 0.2)
    assert manifest["held_out_gain"] > 0 and manifest["held_out_difference"]["low"] > -0.2
    assert manifest_of(trained["out"]) == json.loads(json.dumps(manifest))
    assert not trained["out"].with_name("policy.state.pt").exists()


def test_the_best_step_on_held_out_scenarios_is_written(trained: dict[str, Any]) -> None:
    manifest = trained["manifest"]
    gains = {s["step"]: s["held_out_gain"] for s in manifest["history"] if "held_out_gain" in s}
    assert list(gains) == [2, 4, 6, 8] and manifest["best_step"] in gains
    assert gains[manifest["best_step"]] == max(gains.values()) == manifest["held_out_gain"]
    written, kept = read_adapter(trained["out"])[0], trained["weights"][manifest["best_step"]]
    assert all(torch.equal(written[k], kept[k]) for k in kept)


def test_every_episode_is_sampled_with_the_adapter_just_published(trained: dict[str, Any]) -> None:
    run = trained["run"]
    order = list(dict.fromkeys(run.practice.engine.adapters))
    assert order == ["policy@0", "policy@1", "start", *(f"policy@{step}" for step in range(2, 9))]
    learned = [step for step in run.history if step["rows"]]
    assert learned and all(step["engine_kl"] < 1e-6 for step in learned)  # and with the weights that the name promises
    with pytest.raises(UserError, match="policy@3"):
        asyncio.run(run.practice.engine.sample([9], adapter="policy@3", sampling=Sampling(1)))


def test_the_history_has_the_metrics_of_each_step(trained: dict[str, Any]) -> None:
    lines = trained["out"].with_name("history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert history == trained["manifest"]["history"] and [h["step"] for h in history] == [*range(1, 9)]
    for step in history:
        assert step["episodes"] == 48 and step["failed_episodes"] == 0 and step["unscored"] == 0
        assert 0 <= step["malformed"] <= 3 and step["from_real"] == 1.0 and 0 <= step["left"] <= 1
        assert step["rows"] <= 48 - 8 * step["dropped_groups"]
        assert all(math.isfinite(v) for v in step.values() if isinstance(v, float))


def test_practice_and_held_out_scenarios_are_apart(trained: dict[str, Any]) -> None:
    run = trained["run"]
    chosen = {s.scenario_id for number in range(7) for s in run._choose(number)}
    assert len(chosen) == len(run.scenarios) == 14 and not {s.scenario_id for s in run.held_out} & chosen


class Killed(BaseException):
    """Not an Exception: nothing on the way may swallow it."""


@pytest.mark.parametrize("where", ["between steps", pytest.param("within a step", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_history(
    base: Base, clone: Path, tmp_path: Path, trained: dict[str, Any], where: str
) -> None:
    out, calls = tmp_path / "policy", 0

    def kill(metrics: dict[str, Any]) -> None:
        if where == "between steps" and metrics["step"] == 3:
            raise Killed

    def dying(messages: list[dict[str, Any]]) -> float:
        nonlocal calls
        calls += 1
        if where == "within a step" and calls > 150:
            raise Killed
        return trained["score"](messages)

    with pytest.raises(Killed):
        asyncio.run(grpo(base, clone, out, score=dying, **ENOUGH).train(kill))
    assert out.with_name("policy.state.pt").is_file() and not out.exists()
    steps: list[int] = []
    resumed = grpo(base, clone, out, score=trained["score"], **ENOUGH)
    again = asyncio.run(resumed.train(lambda metrics: steps.append(metrics["step"])))
    assert 1 < steps[0] <= 5 and steps[-1] == 8
    assert untimed(trained["manifest"]["history"]) == untimed(again["history"])
    one, other = read_adapter(trained["out"])[0], read_adapter(out)[0]
    assert all(torch.equal(one[k], other[k]) for k in one)


# ----- what breaks, and what teaches nothing


class Shaky(Walls):
    """Worlds in which one scenario's walls fall down."""

    def world(self, scenario: Scenario, *, seed: int) -> Any:
        return Shaky("broken") if int(scenario.scenario_id[1:]) % 2 else self

    def episode(self) -> Any:
        return Falling() if self.provenance == "broken" else Wall()


class Falling(Wall):
    async def observe(self, call: ToolCall) -> Observation:
        raise OSError("the wall fell down")

    async def respond(self, text: str) -> str | None:
        raise OSError("nobody is there")


def one_step(run: Grpo) -> tuple[dict[str, Any], bool]:
    """The metrics of a one-step run, and whether the adapter moved."""
    before = run.learner.weights()[0]
    metrics = asyncio.run(run.train())["history"][-1]
    return metrics, any(not torch.equal(before[k], v) for k, v in run.learner.weights()[0].items())


def test_failed_episodes_are_counted_and_the_others_are_learned(base: Base, clone: Path, tmp_path: Path) -> None:
    run = grpo(base, clone, tmp_path / "p", Shaky(), steps=1, held_out=0)
    odd = sum(int(s.scenario_id[1:]) % 2 for s in run._choose(0))
    metrics, moved = one_step(run)
    assert 0 < odd < 4 and metrics["failed_episodes"] == 6 * odd and metrics["episodes"] == 24 - 6 * odd and moved
    assert "many episodes failed" in metrics["alarms"]


def test_failed_held_out_episodes_leave_their_pairs_out(base: Base, clone: Path, tmp_path: Path) -> None:
    run = grpo(base, clone, tmp_path / "p", Shaky(), steps=1, evaluate_every=1)
    odd = sum(int(s.scenario_id[1:]) % 2 for s in run.held_out)
    (step,) = asyncio.run(run.train())["history"]
    assert odd and step["held_out_scored"] == 1 - odd / 6
    assert "too few held-out pairs were scored to select this adapter" in step["alarms"]


def test_a_step_whose_episodes_all_failed_raises_their_error(base: Base, clone: Path, tmp_path: Path) -> None:
    run = grpo(base, clone, tmp_path / "p", Shaky("broken"), steps=1, held_out=0)
    with pytest.raises(OSError, match="the wall fell down|nobody is there"):
        asyncio.run(run.train())


def test_without_scores_nothing_is_learned_and_the_run_continues(base: Base, clone: Path, tmp_path: Path) -> None:
    run = grpo(base, clone, tmp_path / "p", score=lambda messages: None, steps=1, held_out=0)
    metrics, moved = one_step(run)
    assert (metrics["rows"], metrics["dropped_groups"], metrics["unscored"]) == (0, 4, 24) and not moved
    assert metrics["judge_failures"] == 8 and math.isnan(metrics["reward"])
    assert "the judge often returns no valid score" in metrics["alarms"]


def test_equal_scores_give_no_gradient(base: Base, clone: Path, tmp_path: Path) -> None:
    run = grpo(base, clone, tmp_path / "p", score=lambda messages: 0.5, steps=2, held_out=2)
    start = run.learner.weights()[0]
    manifest = asyncio.run(run.train())
    assert all(h["rows"] == 0 and h["dropped_groups"] == 4 for h in manifest["history"])
    assert manifest["best_step"] == 0 and manifest["held_out_gain"] == 0.0  # no candidate was better: the clone stays
    written = read_adapter(tmp_path / "p")[0]
    assert all(torch.equal(written[k], start[k]) for k in start)


def test_unsupported_answers_give_no_gradient(base: Base, clone: Path, tmp_path: Path) -> None:
    said = {"painted": lambda messages: float("blue" in json.dumps(messages))}  # differs between members
    run = grpo(base, clone, tmp_path / "p", Walls("abstained"), score=said["painted"], steps=1, held_out=0)
    metrics, _ = one_step(run)
    assert metrics["from_abstained"] == 1.0
    supported = grpo(base, clone, tmp_path / "q", Walls("replayed"), score=said["painted"], steps=1, held_out=0)
    other, moved = one_step(supported)
    assert metrics["rows"] < other["rows"] and moved


def test_a_stopped_run_is_partial_and_resumes_to_the_same_end(
    base: Base, clone: Path, tmp_path: Path
) -> None:
    changed = {"held_out": 2, "steps": 3, "evaluate_every": 3}
    whole = asyncio.run(grpo(base, clone, tmp_path / "whole", **changed).train())
    stopped = asyncio.run(grpo(base, clone, tmp_path / "p", **changed).train(stop=lambda: True))
    assert (stopped["steps"], stopped["partial"], whole["partial"]) == (1, "stopped after 1 of 3 steps", None)
    again = asyncio.run(grpo(base, clone, tmp_path / "p", **changed).train())
    assert again["partial"] is None and untimed(again["history"]) == untimed(whole["history"])
    one, other = read_adapter(tmp_path / "whole")[0], read_adapter(tmp_path / "p")[0]
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_practice_with_another_sampling_distribution_is_refused(
    base: Base, clone: Path, tmp_path: Path
) -> None:
    run = grpo(base, clone, tmp_path / "p", steps=1, held_out=0, temperature=0.7)
    with pytest.raises(UserError, match=r"temperature=1.0, min_p=0.05\), but the learner expects .*temperature=0.7"):
        asyncio.run(run.train())


def test_too_few_scenarios_are_refused_at_once(base: Base, clone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="20 scenarios are too few: 18 are held out and a step needs 4"):
        grpo(base, clone, tmp_path / "p", held_out=18)


# ----- alarms

CALM = {
    "episodes": 100,
    "failed_episodes": 0,
    "unscored": 0,
    "engine_kl": 1e-4,
    "invention_correlation": 0.0,
    "entropy": 0.5,
}


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        ({"engine_kl": 0.02}, "sampler and learner disagree"),
        ({"failed_episodes": 6}, "many episodes failed"),
        ({"unscored": 11}, "the judge often returns no valid score"),
        ({"invention_correlation": 0.4}, "advantages correlate with the share of invented answers"),
        ({"entropy": 0.001}, "entropy has collapsed"),
        ({"held_out_scored": 0.8}, "too few held-out pairs were scored to select this adapter"),
    ],
)
def test_each_fault_raises_its_alarm(change: dict[str, float], alarm: str) -> None:
    assert alarms(CALM) == [] and alarms({**CALM, **change}) == [alarm]
    assert alarms({**CALM, "failed_episodes": 100, "episodes": 0}) == ["many episodes failed"]


def test_lasting_alarms_are_distinguished_from_single_ones() -> None:
    history = [{"alarms": ["a"] if k in (3, 15, 17) else ["b"] if k > 12 else []} for k in range(20)]
    assert lasting_alarms(history) == [] and lasting_alarms(history, last=5) == ["b"]
    assert lasting_alarms([]) == []
