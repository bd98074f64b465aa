"""Work in several processes: each opens its own tools once, then runs the jobs that it is handed.

A tiny model hardly profits from a second thread, so that two processes with one thread each do more than one with
two. Processes are spawned (torch and its threads do not survive a fork), hold nothing that has to be put away, and
end with their parent, however it ends. A script that makes them needs the usual `if __name__ == "__main__":`.
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
"""Processes at most, unless more are asked for."""
OWN_BYTES = 600 * 2**20
"""What a worker needs beside the model: Python, torch, stored prefixes."""
SAMPLERS = 64
"""Compiled products that a worker keeps (see training/__init__.py): sampling has ever new shapes."""
COPIES = 3
"""Of the model's weights, in a worker, while it opens."""
SHARE = 0.5
"""Of the machine's memory, what the workers may want together."""
Tell = Callable[[Any], None]
"""Told how far a job is: for `map`, how many of its parts are done."""
Job = Callable[[Any, Any, Tell], Any]
"""What a worker runs on its tools and its share of the work; a module's function, asynchronous or not."""


class WorkerDied(RuntimeError):
    """A worker process ended although nobody told it to."""


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection


class Workers:
    """`count` processes, each with what `opener` (picklable) made in it. Closed on leaving a `with`.

    `compiled` is how many products oneDNN keeps compiled in each. Raises what `opener` raised, or WorkerDied.
    """

    def __init__(self, opener: Callable[[], Any], count: int, compiled: int = SAMPLERS) -> None:
        self._workers: list[_Worker] = []
        self._broken: WorkerDied | None = None
        threads = max(1, cores() // count)
        context = multiprocessing.get_context("spawn")
        try:
            with _beginning(threads, compiled):
                for number in range(count):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_serve, args=(theirs, opener, threads), name=f"rehearsal worker {number}", daemon=True
                    )
                    process.start()
                    theirs.close()  # so that the pipe ends when the worker does
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
        """Have every worker do the same, and wait."""
        for worker in self._workers:
            self._send(worker, job, share)
        return _all([self._last(worker) for worker in self._workers])

    def do(self, job: Job, share: Any, on_told: Tell) -> Any:
        """Have the first worker do `job` on `share`, and wait; `on_told` hears whatever the job tells on its way."""
        worker = self._workers[0]
        self._send(worker, job, share)
        while (message := self._receive(worker))[0] == "done":
            on_told(message[1])
        return _all([message[1]])[0]

    async def map(self, job: Job, shares: Sequence[Any], on_done: Tell = lambda count: None) -> list[Any]:
        """Worker k does `job` on `shares[k]`; returns what came of them, in order. `on_done` is told the total.

        Raises what a job raised, with the worker's traceback as a note, once all workers are done.
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
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []

    # ----- messages: ("done", count), and last ("answer", value) or ("failed", _Failed)

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
        """What is answered in the end: to a job, or, before the first, that the tools are open."""
        while (message := self._receive(worker))[0] == "done":
            pass
        return message[1]

    def _died(self, worker: _Worker) -> WorkerDied:
        """The first worker that died takes the others with it, since their shares are of no use alone."""
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
    """What is started inside inherits the number of threads (read when torch is imported, which may be before any of
    our code runs) and of compiled products, and does not hear Ctrl-C, which is for the parent to answer.
    """
    theirs = {
        "OMP_NUM_THREADS": str(threads), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(compiled),
        "LRU_CACHE_CAPACITY": str(compiled),
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in theirs}
    os.environ.update(theirs)
    resource_tracker.ensure_running()  # its start would unblock the signal
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
    """Items in the order in which they were dealt round to the hands."""
    found: list[Any] = [None] * sum(map(len, hands))
    for k, hand in enumerate(hands):
        found[k :: len(hands)] = hand
    return found


# ----- how many


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_count(asked: int, engine: str, load: Callable[[], torch.nn.Module]) -> int:
    """How many processes sample: `asked`, or if that is 0, one a core as far as memory goes; 1 is this process alone.

    An engine that batches for itself (vLLM), or that has a GPU to itself, is best left in one. `load` gives the model,
    if its size matters. The memory that counts is what the machine has and not what is free at the moment: how work is
    dealt decides the last digits, and they must not depend on who else is at work.
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
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ignored by a parent under Dagster, itself started with a shell's &
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        tools = opener()
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
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
            except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
                pipe.send(("failed", _Failed(portable(error))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a pipe that the parent holds: it ends with it, by SIGKILL too
    os._exit(1)


def portable(error: Exception) -> Exception:
    """An exception that survives pickle, as itself if it does, with its traceback as a note."""
    note = f"in worker process {os.getpid()}:\n{''.join(traceback.format_exception(error)).rstrip()}"
    try:
        error.add_note(note)
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its constructor or its parts object to
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(note)
        return plain
