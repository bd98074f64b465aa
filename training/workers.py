"""Worker processes: each opens its objects once, then runs the jobs that it is given.

A tiny model gains little from a second thread, so two processes with one thread each do more work than one with two.
Processes are spawned (torch and its threads do not survive a fork), hold nothing that must be saved, and end with their
parent, even after SIGKILL. A script that starts them needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil
import torch

T = TypeVar("T")

MOST = 4
"""Maximum number of processes by default."""
OWN_BYTES = 600 * 2**20
"""Memory of a worker without the model: Python, torch, stored prefixes."""
SAMPLERS = 64
"""Compiled primitives that a sampling worker caches (see training/__init__.py); sampling uses many shapes."""
COPIES = 3
"""Copies of the model's weights in a worker while it opens."""
SHARE = 0.5
"""Maximum share of the machine's memory for all workers."""
Tell = Callable[[Any], None]
"""Progress callback of a job: for `map`, the number of finished parts."""
Job = Callable[[Any, Any, Tell], Any]
"""A module-level function of (the worker's objects, its share of the work, a progress callback), async or not."""


class WorkerDied(RuntimeError):
    """A worker process ended unexpectedly."""


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection


class Workers:
    """`count` processes, each with the objects that `opener` (picklable) created in it. Use it in a `with` statement.

    `compiled` is the number of oneDNN primitives that each caches. Raises what `opener` raised, or WorkerDied.
    """

    def __init__(self, opener: Callable[[], Any], count: int, compiled: int = SAMPLERS) -> None:
        self._workers: list[_Worker] = []
        self._broken: WorkerDied | None = None
        threads = max(1, min(cores() // count, int(os.environ.get("OMP_NUM_THREADS") or cores())))
        context = multiprocessing.get_context("spawn")
        try:
            with _beginning(threads, compiled):
                for number in range(count):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_serve, args=(theirs, opener, threads), name=f"rehearsal worker {number}", daemon=True
                    )
                    process.start()
                    theirs.close()  # so that the pipe is closed when the worker ends
                    self._workers.append(_Worker(process, ours))
            _all([self._last(worker) for worker in self._workers])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._workers)

    def each(self, job: Job, share: Any) -> list[Any]:
        """Run the same job in every worker, and wait."""
        for worker in self._workers:
            self._send(worker, job, share)
        return _all([self._last(worker) for worker in self._workers])

    def do(self, job: Job, share: Any, on_told: Tell) -> Any:
        """Run `job` on `share` in the first worker, and wait. `on_told` is called with the job's progress reports."""
        worker = self._workers[0]
        self._send(worker, job, share)
        while (message := self._receive(worker))[0] == "done":
            on_told(message[1])
        return _all([message[1]])[0]

    async def map(self, job: Job, shares: Sequence[Any], on_done: Tell = lambda count: None) -> list[Any]:
        """Worker k runs `job` on `shares[k]`; returns the results in order. `on_done` is called with the total.

        Raises what a job raised, with the worker's traceback as a note, after all workers are done.
        """
        counts = [0] * len(self._workers)

        async def one(number: int, share: Any) -> Any:
            worker = self._workers[number]
            self._send(worker, job, share)
            while True:
                await _readable(worker.pipe)
                kind, value = self._receive(worker)
                if kind != "done":
                    return value
                counts[number] = value
                on_done(sum(counts))

        return _all(await asyncio.gather(*(one(number, share) for number, share in enumerate(shares))))

    def close(self) -> None:
        """Terminate the processes."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []

    # ----- messages: ("done", count), and finally ("answer", value) or ("failed", _Failed)

    def _send(self, worker: _Worker, job: Job, share: Any) -> None:
        try:
            worker.pipe.send((job, share))
        except OSError:
            raise self._died(worker) from None

    def _receive(self, worker: _Worker) -> tuple[str, Any]:
        try:
            return worker.pipe.recv()
        except (EOFError, OSError):
            raise self._died(worker) from None

    def _last(self, worker: _Worker) -> Any:
        """The final message: the result of a job, or that the worker is open."""
        while (message := self._receive(worker))[0] == "done":
            pass
        return message[1]

    def _died(self, worker: _Worker) -> WorkerDied:
        """The error for a dead worker. The other workers are terminated, since their shares are useless alone."""
        if self._broken is None:
            worker.process.join(5)
            code = worker.process.exitcode
            why = f"was killed by signal {-code}" if code is not None and code < 0 else "ended"
            memory = "; was there too little memory?" if code == -signal.SIGKILL else ""
            self._broken = WorkerDied(f"{worker.process.name} {why} (exit code {code}){memory}")
            for other in self._workers:
                other.process.terminate()
        return self._broken


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _all(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, _Failed):
            raise answer.error
    return answers


async def _readable(pipe: Connection) -> None:
    loop, number, ready = asyncio.get_running_loop(), pipe.fileno(), asyncio.Event()
    loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(number)


@contextmanager
def _beginning(threads: int, compiled: int) -> Iterator[None]:
    """Processes started in the body inherit the number of threads (read when torch is imported, possibly before our
    code) and of compiled primitives. They ignore Ctrl-C, which the parent handles.
    """
    theirs = {
        "OMP_NUM_THREADS": str(threads), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(compiled),
        "LRU_CACHE_CAPACITY": str(compiled),
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in theirs}
    os.environ.update(theirs)
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dealt_back(hands: Sequence[Sequence[T]]) -> list[T]:
    """Items in their original order, from shares that were dealt in turn."""
    found: list[Any] = [None] * sum(map(len, hands))
    for k, hand in enumerate(hands):
        found[k :: len(hands)] = hand
    return found


# ----- how many


def cores() -> int:
    """The number of cores that this process can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_count(asked: int, engine: str, load: Callable[[], torch.nn.Module]) -> int:
    """The number of processes that sample: `asked`, or with 0 one per core within the memory limit; 1: this process
    only.

    An engine that batches itself (vLLM), or that has its own GPU, stays in one process. `load` returns the model, if
    its size is needed. The limit uses the machine's total memory and not the free memory, because the distribution of
    work changes the last digits, which must not depend on other programs.
    """
    if engine != "transformers":
        return 1
    if asked or cores() == 1:
        return asked or 1
    parameters = list(load().parameters())
    if any(p.device.type != "cpu" for p in parameters):
        return 1
    need = OWN_BYTES + COPIES * sum(p.numel() * p.element_size() for p in parameters)
    return max(1, min(cores(), MOST, int(SHARE * psutil.virtual_memory().total / need)))


# ----- in the worker


def _serve(pipe: Connection, opener: Callable[[], Any], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # under Dagster the parent can ignore it, and children inherit that
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        tools = opener()
    except Exception as error:  # noqa: BLE001 - sent to the parent, which raises it
        pipe.send(("failed", _Failed(portable(error))))
        return
    pipe.send(("answer", None))
    with asyncio.Runner() as runner:
        while True:
            try:
                job, share = pipe.recv()
                answer = job(tools, share, lambda told: pipe.send(("done", told)))
                if asyncio.iscoroutine(answer):
                    answer = runner.run(answer)
                pipe.send(("answer", answer))
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001 - sent to the parent, which raises it
                pipe.send(("failed", _Failed(portable(error))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # the parent holds a pipe, which is closed when it ends, even by SIGKILL
    os._exit(1)


def portable(error: Exception) -> Exception:
    """A picklable exception: the same one if possible, with its traceback as a note."""
    note = f"in worker process {os.getpid()}:\n{''.join(traceback.format_exception(error)).rstrip()}"
    try:
        error.add_note(note)
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - its constructor or its attributes can refuse
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(note)
        return plain
