"""What threads do for event loops: how many of them, for whom, and what becomes of those who
leave.
"""

import asyncio
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from lib.web.threads import AllBusy, Shared, Workers
from tests.conftest import ROOT


class Held:
    """Work that goes on until it is released; returns how often it was begun before."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.release = threading.Event()
        self._running = 0

    def __call__(self) -> int:
        self.begun += 1
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        number = self.begun
        self.release.wait()
        self._running -= 1
        return number


async def begun(held: Held, times: int = 1) -> None:
    while held.begun < times:
        await asyncio.sleep(0.01)


def test_all_who_ask_meanwhile_get_what_one_thread_makes() -> None:
    held = Held()

    async def ask() -> list[int]:
        shared = Shared(held, seconds=0)
        asking = [asyncio.create_task(shared.get()) for _ in range(200)]
        await begun(held)
        threads = threading.active_count()
        asking += [asyncio.create_task(shared.get()) for _ in range(200)]
        await asyncio.sleep(0)
        assert threading.active_count() <= threads  # one of another test may end meanwhile
        held.release.set()
        return await asyncio.gather(*asking)

    assert asyncio.run(ask()) == [1] * 400
    assert held.begun == 1


def test_it_is_shared_for_its_seconds_from_the_end_of_its_making(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    begun = []

    def slow() -> int:
        begun.append(now[0])
        now[0] += 60
        return len(begun)

    shared = Shared(slow, seconds=2)
    answers = []
    for pause in (0, 1.5, 0.4, 0.2, 1.9, -100):  # at last somebody sets the clock back
        now[0] += pause
        answers.append(shared.result())
    assert answers == [1, 1, 1, 2, 2, 3]


def test_what_its_making_raises_reaches_all_who_wait_and_is_not_kept() -> None:
    held = Held()

    def broken() -> None:
        raise LookupError(str(held()))

    async def ask() -> list[Any]:
        shared = Shared(broken, seconds=60)
        asking = [asyncio.create_task(shared.get()) for _ in range(2)]
        await begun(held)
        held.release.set()
        first = await asyncio.gather(*asking, return_exceptions=True)
        return [*first, *await asyncio.gather(shared.get(), return_exceptions=True)]

    assert [repr(error) for error in asyncio.run(ask())] == [
        "LookupError('1')",
        "LookupError('1')",
        "LookupError('2')",
    ]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_even_what_would_end_a_thread_reaches_who_waits(kind: type[BaseException]) -> None:
    answers: list[Any] = [kind("x"), 1]

    def make() -> int:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return int(answer)

    shared = Shared(make, seconds=60)
    with pytest.raises(kind):
        shared.result()
    assert shared.result() == 1


def test_what_is_never_made_does_not_keep_the_process_alive() -> None:
    code = (
        "import asyncio, threading; from lib.web.threads import Shared; begun = threading.Event()\n"
        "shared = Shared(lambda: begun.set() or threading.Event().wait(), seconds=0)\n"
        "async def leave():\n"
        "    asking = asyncio.create_task(shared.get())\n"
        "    while not begun.is_set(): await asyncio.sleep(0.01)\n"
        "    asking.cancel()\n"
        "asyncio.run(leave()); print('left')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")


def test_who_leaves_does_not_end_it_for_the_others() -> None:
    held = Held()

    async def ask() -> int:
        shared = Shared(held, seconds=0)
        leaving, staying = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
        await begun(held)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert leaving.cancelled()
        held.release.set()
        return await staying

    assert asyncio.run(ask()) == 1
    assert held.begun == 1


def test_an_event_loop_that_is_gone_harms_nobody_on_the_next_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    held = Held()
    shared = Shared(held, seconds=60)
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(shared.get())
    loop.run_until_complete(begun(held))
    abandoned.cancel()
    loop.run_until_complete(asyncio.wait({abandoned}))
    loop.close()

    async def ask() -> list[int]:
        asking = [asyncio.create_task(shared.get()) for _ in range(2)]
        await asyncio.sleep(0)
        held.release.set()
        return await asyncio.gather(*asking)

    assert asyncio.run(ask()) == [1, 1]
    assert asyncio.run(shared.get()) == shared.result() == 1
    assert capfd.readouterr().err == ""


def test_who_asks_after_it_was_forgotten_gets_what_is_begun_from_then_on() -> None:
    held = Held()

    async def ask() -> list[int]:
        shared = Shared(held, seconds=60)
        before = asyncio.create_task(shared.get())
        await begun(held)
        shared.forget()
        after = [asyncio.create_task(shared.get()) for _ in range(3)]
        await asyncio.sleep(0)
        held.release.set()
        return [await before, *await asyncio.gather(*after)]

    assert asyncio.run(ask()) == [1, 2, 2, 2]
    assert held.at_once == 1


def test_a_thread_knows_for_whom_it_works() -> None:
    """Vercel's runtime attributes a line of the log to a request by a context variable."""
    request: ContextVar[str] = ContextVar("request")

    async def ask() -> list[str]:
        request.set("mine")
        return [
            await Shared(request.get, seconds=0).get(),
            await Workers(1, queue_seconds=60).run(request.get),
        ]

    assert asyncio.run(ask()) == ["mine", "mine"]


def test_work_that_no_thread_begins_in_time_is_told_so_and_never_begins() -> None:
    held = Held()
    late: list[int] = []

    async def ask() -> list[int]:
        workers = Workers(2, queue_seconds=0)
        working = [asyncio.create_task(workers.run(held)) for _ in range(2)]
        await begun(held, 2)
        with pytest.raises(AllBusy):
            await workers.run(lambda: late.append(1))
        held.release.set()
        return sorted(await asyncio.gather(*working))

    assert asyncio.run(ask()) == [1, 2]
    assert late == []


@pytest.mark.parametrize("error", [LookupError("x"), None])
def test_work_that_has_begun_goes_on_when_its_caller_leaves(
    error: Exception | None, capfd: pytest.CaptureFixture[str]
) -> None:
    held = Held()
    finished: list[int] = []

    def work() -> None:
        finished.append(held())
        if error:
            raise error

    async def ask(workers: Workers) -> None:
        leaving = asyncio.create_task(workers.run(work))
        await begun(held)
        waiting = asyncio.create_task(workers.run(work))
        await asyncio.sleep(0)
        for task in (leaving, waiting):
            task.cancel()
        await asyncio.wait({leaving, waiting})
        held.release.set()
        await workers.run(lambda: None)

    asyncio.run(ask(Workers(1, queue_seconds=60)))
    assert finished == [1]
    assert capfd.readouterr().err == ""
