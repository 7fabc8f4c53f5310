"""The signals that end a command: the first one decides, and none cuts short what is said at the
end.
"""

from __future__ import annotations

import signal
from types import FrameType

from lib.errors import Interrupted
from lib.postgres.connection import postpone

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler. Raises Interrupted, and heeds no further signal."""
    heed_no_signal()
    error = Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was not committed is rolled back",
        exit_code=128 + number,
        next_step="It is safe to run again.",
    )
    if not postpone(frame, error):
        raise error


def heed_no_signal() -> None:
    """The first signal decides, and so does an end that is reached: what there is to do and to say
    is not cut short.

    Not SIG_IGN: of a signal that has come and was not dealt with yet, Python would print that it
    ignores it.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is interrupt:
            signal.signal(number, lambda *_: None)
