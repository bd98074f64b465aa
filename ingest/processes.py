"""Worker processes. Each runs ``python -m ingest.processes`` and receives its tasks through pipes.

Not ``multiprocessing``: that runs the caller's main module again in every process, so a script or a notebook that
ingests without a main guard would ingest once more in each.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from importlib.abc import MetaPathFinder
from queue import SimpleQueue
from typing import Any, BinaryIO

from ingest.errors import UserError
from ingest.garbage import not_collected

# Memory that was freed is kept for the next batch: to get pages from the kernel anew costs more than to decode what
# is put into them. glibc reads the first two; Arrow has an allocator of its own, because protobuf has glibc give all of
# its pages back now and then.
_KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "ARROW_DEFAULT_MEMORY_POOL": "mimalloc",
}


def running(module: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that runs a module from where this process finds it."""
    search = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": search}


@contextmanager
def some(count: int) -> Iterator[Processes]:
    """A context with this many processes; inside ``kept``, the processes of the previous equal request."""
    held = _held.get()
    if held is None:
        with Processes(count) as started:
            yield started
        return
    stack, known = held
    if count not in known:
        known[count] = stack.enter_context(Processes(count))
    yield known[count]


@contextmanager
def kept() -> Iterator[None]:
    """A context in which equal requests for ``some`` processes share them: starting them and their imports takes
    most of a second."""
    with ExitStack() as stack:
        token = _held.set((stack, {}))
        try:
            yield
        finally:
            _held.reset(token)


_held: ContextVar[tuple[ExitStack, dict[int, Processes]] | None] = ContextVar("held", default=None)


class Processes:
    """This many processes, as a context: they start and end with it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        command, environment = running("ingest.processes")
        environment = _KEEP_MEMORY | environment
        for _ in range(self.count):
            process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._all.append(process)
            self._free.put(process)
        self._threads = ThreadPoolExecutor(self.count, "process")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # their results are not needed
            for process in self._all:
                process.kill()
        self._threads.shutdown(cancel_futures=kind is not None)
        for process in self._all:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # unread input of a dead process
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a module-level function; the future raises its exception, and ``UserError`` if the process was killed."""
        return self._threads.submit(self._ask, pickle.dumps((function, arguments), 5))

    def _ask(self, task: bytes) -> Any:
        process = self._free.get()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(task)
            process.stdin.flush()
            done, result = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            process.kill()
            raise UserError(
                f"a process that was working for this one ended (status {process.wait()}), as one does that is killed "
                "for memory; free some and run it again: nothing is lost"
            ) from None
        finally:
            self._free.put(process)  # a dead one as well: the next task fails in the same way
        if not done:
            raise result
        return result


def _work(tasks: BinaryIO, results: BinaryIO) -> None:
    while True:
        try:
            function, arguments = pickle.load(tasks)
        except EOFError:
            return
        try:
            with not_collected():
                told = pickle.dumps((True, function(*arguments)), 5)
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            told = _failure(error)
        try:
            results.write(told)
            results.flush()
        except OSError:  # no longer awaited
            return


def _failure(error: Exception) -> bytes:
    try:
        told = pickle.dumps((False, error), 5)
        pickle.loads(told)
    except Exception:  # its constructor does not take ``args``
        return pickle.dumps((False, RuntimeError("".join(traceback.format_exception(error)))), 5)
    return told


class _Unneeded(MetaPathFinder):
    """Hides pandas. Arrow would import it, for a fifth of a second, only to test whether a list is a pandas series."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not loaded in a process that only works for another", name=fullname)


def main() -> None:
    """Run tasks until the input ends."""
    sys.meta_path.insert(0, _Unneeded())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    with os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)  # standard output carries results only
        _work(sys.stdin.buffer, results)
    sys.stderr.flush()
    os._exit(0)  # skips the teardown of caches, which would only delay the parent


if __name__ == "__main__":
    main()
