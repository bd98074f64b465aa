"""An event loop in its own thread, for engines whose connections outlive the event loops of their callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """Starts coroutines in the order of submission.

    Callers can be on any event loop or on none, and can call `asyncio.run` repeatedly.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; block this thread."""
        self._check(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; the caller's loop keeps running. Cancelling the caller cancels the work."""
        self._check(work)
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except asyncio.CancelledError:
            if self._closed:
                raise RuntimeError("the engine was closed") from None
            raise

    def close(self, last: Callable[[], None] | None = None) -> None:
        """Cancel all work, call `last` on the loop, and end the thread. Waiting callers get a RuntimeError."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(_end(last), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _check(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._closed:
            work.close()
            raise RuntimeError("the engine was closed")


async def _end(last: Callable[[], None] | None) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if last is not None:
        last()
