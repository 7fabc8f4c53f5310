"""Blocking work that threads do and event loops await: shared by all who ask, or a few at a time.

A platform may run each request on an event loop of its own, and may freeze the process between two
of them. So nothing here belongs to an event loop, a waiting request holds no thread, and a request
that is cancelled ends nothing for the others.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """The value that `make` returns, for all who ask while it is made and `seconds` afterwards.

    One thread at a time makes it. An error reaches all who wait for that value, and is not kept.
    """

    def __init__(self, make: Callable[[], T], *, seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._choosing, self._making = Lock(), Lock()
        self._latest: Future[tuple[float, T]] | None = None

    async def get(self) -> T:
        """Wait for the value on this event loop."""
        _, value = await asyncio.wrap_future(self._future())
        return value

    def result(self) -> T:
        """Wait for the value in this thread."""
        _, value = self._future().result()
        return value

    def forget(self) -> None:
        """Who asks from now on gets a value that is made from now on."""
        with self._choosing:
            self._latest = None

    def _future(self) -> Future[tuple[float, T]]:
        with self._choosing:
            if self._latest is None or self._is_stale(self._latest):
                self._latest = self._start()
            return self._latest

    def _is_stale(self, future: Future[tuple[float, T]]) -> bool:
        if not future.done():
            return False
        if future.exception() is not None:
            return True
        # The wall clock, because the monotonic one may stand still while the process is frozen.
        # If somebody sets it back, the value is only made once more.
        made_at, _ = future.result()
        return not 0 <= time.time() - made_at <= self._seconds

    def _start(self) -> Future[tuple[float, T]]:
        future: Future[tuple[float, T]] = Future()
        future.set_running_or_notify_cancel()  # so that a cancelled waiter cannot cancel it
        Thread(target=copy_context().run, args=(self._work, future), daemon=True).start()
        return future

    def _work(self, future: Future[tuple[float, T]]) -> None:
        with self._making:
            try:
                value = self._make()
            except BaseException as error:  # raised again where the value is waited for
                future.set_exception(error)
            else:
                future.set_result((time.time(), value))


class AllBusy(Exception):
    """All workers are at work, and none was free in time."""


class Workers:
    """A number of threads for work that is not shared. Work that has begun goes on to its end, even
    if its caller is cancelled.
    """

    def __init__(self, count: int, *, queue_seconds: float) -> None:
        self._threads = ThreadPoolExecutor(count)
        self._queue_seconds = queue_seconds

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises. Raises AllBusy if no thread begins it in time."""
        future = self._threads.submit(copy_context().run, work)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=self._queue_seconds)
            if future.cancel():
                raise AllBusy
            return await waiting
        finally:
            waiting.cancel()  # work that is still queued when its caller is cancelled never begins
