"""Practice and evaluation in several processes: the same as in one, and nothing of it outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from training_samples import Wall, Walls, scenario, stir, tiny_base

from examples.support_desk.environment import SupportDesk
from ingest.errors import UserError
from ingest.records import Scenario
from training.engines.local import LocalEngine
from training.judging.judge import LocalJudge, in_process_client
from training.judging.ruler import Ruler, RulerSettings
from training.learning.learner import Learner, LearnerSettings
from training.learning.trajectory import Trajectory
from training.models.lora import LoraSettings, save_weights
from training.policy.evaluate import Player
from training.policy.pool import PracticePool, play
from training.policy.practice import Practice
from training.policy.rollout import Limits
from training.workers import WorkerDied, Workers, choose_count, dealt_back

SCENARIOS = [scenario(k) for k in range(5)]
SEEDS = [11, 12, 13, 14, 15]


class Custom(Exception):
    """Cannot be pickled back: its constructor wants two things."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Shaky(Walls):
    """The walls of one scenario fall, so that the trajectories of others can be told from what broke."""

    def world(self, scenario: Scenario, *, seed: int) -> Any:
        if scenario.scenario_id == "s8":
            raise LookupError("there is no such world")
        return Shaky("broken") if scenario.scenario_id == "s3" else self

    def episode(self) -> Wall:
        if self.provenance == "broken":
            raise Custom("the wall", "fell down")
        return Wall(self.provenance)


def open_practice() -> Practice:
    base = tiny_base()
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    ruler = Ruler(RulerSettings(), in_process_client(LocalJudge(engine, base.format, None)))
    return Practice(engine, base.format, Shaky(), ruler, Limits(turns=3, turn_tokens=12))


def open_player(adapter: Path) -> Player:
    base = tiny_base()
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    engine.load_adapter("policy", adapter)
    return Player(engine, base.format, SupportDesk(), 5, seed=1, limits=Limits(turns=3, turn_tokens=12))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights."""
    learner = Learner(tiny_base(), LearnerSettings(lora=LoraSettings(rank=4, alpha=8), bf16=False), seed=3)
    stir(learner)
    path = tmp_path_factory.mktemp("adapter") / "adapter"
    save_weights(*learner.weights(), path, {"role": "policy"})
    return path


@pytest.fixture(scope="module")
def pool(adapter: Path) -> Iterator[PracticePool]:
    with PracticePool.open(open_practice, 2) as opened:
        opened.load_adapter("policy", adapter)
        yield opened


@pytest.fixture(scope="module")
def alone(adapter: Path) -> Practice:
    practice = open_practice()
    practice.load_adapter("policy", adapter)
    return practice


# ----- the same as in one process


def test_two_processes_give_the_same_episodes_as_one(pool: PracticePool, alone: Practice) -> None:
    done: list[int] = []
    spread = asyncio.run(pool.groups(SCENARIOS, SEEDS, 3, "policy", done.append))
    whole = asyncio.run(alone.groups(SCENARIOS, SEEDS, 3, "policy"))
    assert done == list(range(1, 16))
    assert [[type(t) for t in g] for g in spread] == [[Trajectory] * 3] * 3 + [[RuntimeError] * 3] + [[Trajectory] * 3]
    for k in (0, 1, 2, 4):
        for one, other in zip(whole[k], spread[k], strict=True):
            assert isinstance(one, Trajectory) and isinstance(other, Trajectory)
            assert (other.ids, other.messages, other.trained) == (one.ids, one.messages, one.trained)
            assert (other.start, other.seed, other.ended) == (one.start, one.seed, one.ended)
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
    assert len({tuple(t.ids) for g in spread for t in g if isinstance(t, Trajectory)}) > 6


def test_groups_are_judged_alike_and_in_order(pool: PracticePool, alone: Practice) -> None:
    scenarios, seeds = SCENARIOS[:3], SEEDS[:3]
    groups: Any = asyncio.run(alone.groups(scenarios, seeds, 3, "policy"))
    whole, spread = asyncio.run(alone.judge(groups, seeds)), asyncio.run(pool.judge(groups, seeds))
    assert len(spread) == 3 and all(None not in j.scores for j in spread)
    for one, other in zip(whole, spread, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-4)
        assert (other.calls, other.tokens) == (one.calls, one.tokens)


def test_planted_copies_are_judged_alike_and_in_order(pool: PracticePool, alone: Practice) -> None:
    groups: Any = asyncio.run(alone.groups(SCENARIOS[:3], SEEDS[:3], 1, "policy"))
    chosen = [group[0] for group in groups]
    whole, spread = (asyncio.run(p.plant(chosen, SEEDS[:3], 4)) for p in (alone, pool))
    for one, other in zip(whole, spread, strict=True):
        assert len(one.scores) == 4 and other.scores == pytest.approx(one.scores, abs=1e-4)
        assert len(set(one.scores)) == 1  # a judge that reads each by itself has no noise
        assert len(one.positions) == len(other.positions) == 8


def test_fewer_scenarios_than_workers_are_supported(pool: PracticePool, alone: Practice) -> None:
    (spread,) = asyncio.run(pool.singles(SCENARIOS[:1], SEEDS[:1], "policy"))
    (whole,) = asyncio.run(alone.singles(SCENARIOS[:1], SEEDS[:1], "policy"))
    assert isinstance(spread, Trajectory) and isinstance(whole, Trajectory) and spread.ids == whole.ids
    assert asyncio.run(pool.judge([], [])) == []


def test_adapters_are_loaded_and_unloaded_in_every_worker(pool: PracticePool, adapter: Path) -> None:
    pool.load_adapter("policy@1", adapter)
    named, known = (asyncio.run(pool.groups(SCENARIOS[:2], SEEDS[:2], 1, name)) for name in ("policy@1", "policy"))
    assert [g[0].ids for g in named] == [g[0].ids for g in known]  # type: ignore[union-attr]
    pool.unload_adapter("policy@1")
    gone = asyncio.run(pool.groups(SCENARIOS[:2], SEEDS[:2], 1, "policy@1"))
    assert all(isinstance(g[0], UserError) and "policy@1" in str(g[0]) for g in gone)


def test_two_processes_give_the_same_real_episodes_as_one(adapter: Path) -> None:
    done: list[int] = []
    with Workers(partial(open_player, adapter), 2) as workers:
        spread = asyncio.run(play(workers, "policy", 5, done.append))
    whole = asyncio.run(open_player(adapter).play("policy"))
    assert done == [1, 2, 3, 4, 5] and len(spread.trajectories) == 5
    assert [t.ids for t in spread.trajectories] == [t.ids for t in whole.trajectories]
    assert [t.messages for t in spread.trajectories] == [t.messages for t in whole.trajectories]
    assert (spread.name, spread.success, spread.kinds) == (whole.name, whole.success, whole.kinds)


def test_results_keep_the_order_of_the_items() -> None:
    for n in range(8):
        for count in (1, 2, 3, 5):
            items = list(range(n))
            assert dealt_back([items[k::count] for k in range(count)]) == items


# ----- what breaks


def test_an_error_in_an_episode_has_its_traceback(pool: PracticePool) -> None:
    ((broken,),) = asyncio.run(pool.groups(SCENARIOS[3:4], SEEDS[3:4], 1, "policy"))
    assert str(broken) == "Custom: the wall fell down" and "in episode" in "".join(broken.__notes__)  # type: ignore
    singles = asyncio.run(pool.singles(SCENARIOS, SEEDS, "policy"))
    assert [k for k, single in enumerate(singles) if isinstance(single, Exception)] == [3]


def test_a_failed_job_raises_its_error_and_the_workers_continue(pool: PracticePool, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="there is no such world") as found:
        asyncio.run(pool.groups([scenario(0), scenario(8)], [1, 2], 1, "policy"))
    assert "in worker process" in found.value.__notes__[0] and "in world" in found.value.__notes__[0]
    with pytest.raises(UserError):
        pool.load_adapter("none", tmp_path / "none")
    assert len(asyncio.run(pool.singles(SCENARIOS[:2], SEEDS[:2], "policy"))) == 2


def leave_or_wait(_: None, leave: bool, __: Any) -> None:
    os._exit(7) if leave else time.sleep(600)


def test_a_dead_worker_is_an_error_at_once() -> None:
    with Workers(nothing, 2) as workers:
        processes = [w.process for w in workers._workers]
        with pytest.raises(WorkerDied, match=r"worker 1 ended \(exit code 7\)"):
            asyncio.run(workers.map(leave_or_wait, [False, True]))
        with pytest.raises(WorkerDied, match="exit code 7"):
            workers.each(look, None)
        processes[0].join(60)  # it is told to end; a busy machine takes its time
        assert [p.exitcode for p in processes] == [-signal.SIGTERM, 7]


def refuse() -> None:
    raise UserError("no base here; bring one")


def test_an_opener_that_fails_raises_its_error() -> None:
    with pytest.raises(UserError, match="^no base here; bring one"):
        Workers(refuse, 1)


# ----- processes and their parent


def look(_: None, __: None, ___: Any) -> tuple[int, str | None, bool]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), ignored


def nothing() -> None:
    return None


@pytest.mark.slow
def test_workers_share_the_cores_and_leave_the_parent_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr("training.workers.cores", lambda: 6)
    threads = torch.get_num_threads()
    with Workers(nothing, 2) as workers:
        processes = [w.process for w in workers._workers]
        assert workers.each(look, None) == [(3, "3", True)] * 2
    assert os.environ["OMP_NUM_THREADS"] == "5" and torch.get_num_threads() == threads
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert all(p.exitcode is not None for p in processes)


def spin(_: None, path: Path, ___: Any) -> None:
    (path / str(os.getpid())).touch()
    while True:
        pass


PARENT = """
import asyncio, sys
from pathlib import Path
from test_training_pool import nothing, spin
from training.workers import Workers
if __name__ == "__main__":
    with Workers(nothing, 2) as workers:
        asyncio.run(workers.map(spin, [Path(sys.argv[1])] * 2))
"""


@pytest.mark.slow
def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parents = {}
    for how in (signal.SIGKILL, signal.SIGINT):
        (tmp_path / how.name).mkdir()
        command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / how.name)]
        parents[how] = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        for how, parent in parents.items():
            seen = partial(workers_in, tmp_path / how.name)
            wait_until(lambda seen=seen: len(seen()) == 2 and all(map(lives, seen())))
            parent.send_signal(how)  # to the parent alone
            parent.wait(300)
            wait_until(lambda seen=seen: not any(map(lives, seen())))
    finally:
        for parent in parents.values():
            parent.kill()


def workers_in(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.iterdir()]


def wait_until(seen: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_as_many_processes_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.workers.cores", lambda: 16)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64 * 2**30, "available": 2**20}))
    small, large = torch.nn.Linear(8, 8), torch.nn.Linear(2**15, 2**15, device="meta")
    assert choose_count(0, "transformers", lambda: small) == 4
    assert choose_count(6, "transformers", lambda: small) == 6
    assert choose_count(0, "transformers", lambda: large) == 1  # not on a CPU
    assert choose_count(0, "vllm", lambda: small) == choose_count(6, "vllm", lambda: small) == 1
    memory = type("Memory", (), {"total": 3 * 2**30, "available": 3 * 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert choose_count(0, "transformers", lambda: small) == 2
    monkeypatch.setattr("training.workers.cores", lambda: 1)
    assert choose_count(0, "transformers", lambda: small) == 1
