"""Work that blocks, done by threads and awaited by event loops: made once for all who ask, or by so
many at a time.

A platform may run each request on an event loop of its own, and freeze the process between two of
them. So nothing here belongs to a loop, who waits holds no thread, and who leaves ends nothing for
the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """What `make` returns: made by one thread at a time, for all who ask meanwhile and for
    `seconds` after its end.

    What it raises reaches those who wait, and is not kept.
    """

    def __init__(self, make: Callable[[], T], *, seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._asking, self._making = Lock(), Lock()
        self._latest: Future[tuple[float, T]] | None = None

    async def get(self) -> T:
        """Wait for it on this event loop."""
        _, made = await asyncio.wrap_future(self._future())
        return made

    def result(self) -> T:
        """Wait for it in this thread."""
        _, made = self._future().result()
        return made

    def forget(self) -> None:
        """Who asks from now on gets what is begun from now on."""
        with self._asking:
            self._latest = None

    def _future(self) -> Future[tuple[float, T]]:
        with self._asking:
            if self._latest is None or self._is_over(self._latest):
                self._latest = self._begin()
            return self._latest

    def _is_over(self, future: Future[tuple[float, T]]) -> bool:
        if not future.done():
            return False
        # The wall clock, since a frozen process's monotonic one may stand still; one that is set
        # only costs a call.
        return (
            future.exception() is not None
            or not 0 <= time.time() - future.result()[0] <= self._seconds
        )

    def _begin(self) -> Future[tuple[float, T]]:
        future: Future[tuple[float, T]] = Future()
        future.set_running_or_notify_cancel()  # from here on a waiter that is cancelled cannot cancel it
        Thread(target=copy_context().run, args=(self._work, future), daemon=True).start()
        return future

    def _work(self, future: Future[tuple[float, T]]) -> None:
        with self._making:
            try:
                made = self._make()
            except BaseException as error:  # it is raised where it is waited for
                future.set_exception(error)
            else:
                future.set_result((time.time(), made))


class AllBusy(Exception):
    """All threads are at work, and none has become free in time."""


class Workers:
    """So many threads for work that is not shared. Work that has begun goes on to its end, whoever
    waits for it.
    """

    def __init__(self, count: int, *, patience: float) -> None:
        self._threads = ThreadPoolExecutor(count)
        self._patience = patience

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises. Raises AllBusy if no thread has begun it within the
        patience, in seconds.
        """
        future = self._threads.submit(copy_context().run, work)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=self._patience)
            if future.cancel():
                raise AllBusy
            return await waiting
        finally:
            waiting.cancel()  # work that has not begun when its caller is cancelled never begins
