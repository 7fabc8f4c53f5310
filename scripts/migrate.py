#!/usr/bin/env python3
"""The command line, and the build step of a deploy."""

from __future__ import (
    annotations,
)  # without it an older Python would not get as far as the message below

import os
import signal
import sys

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _leave(number: int, _: object) -> None:
    words = f"interrupted by {signal.Signals(number).name}: nothing was begun"
    os.write(2, f"❌ {words}\n".encode())
    if "--json" in sys.argv:
        document = f'{{"success": false, "error": {{"code": "interrupted", "message": "{words}", "nextStep": ""}}}}\n'
        os.write(1, document.encode())
    os._exit(128 + number)


if (
    __name__ == "__main__"
):  # now, since what follows takes a moment, and there is nothing to clean up in it
    for _number in _SIGNALS:
        signal.signal(_number, _leave)

import gc
import json
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
gc.disable()  # looking for garbage among what is imported takes a sixth of the start, and finds none

try:
    if sys.version_info < (3, 11):  # noqa: UP036 - `python3` is older than that on many machines
        raise ImportError("it is too old")
    from lib.cli.process import run_process
except ImportError as missing:  # most often the system's Python instead of the project's
    words = f"{' '.join(str(missing).split())} (Python {sys.version.split()[0]}, {sys.executable})"
    remedy = "Use Python 3.11 or newer with what requirements.txt names: scripts/setup makes such a one in .venv."
    print(f"❌ this Python cannot run it: {words}\nNext: {remedy}", file=sys.stderr)
    if "--json" in sys.argv:
        print(
            json.dumps(
                {
                    "success": False,
                    "error": {"code": "internal", "message": words, "nextStep": remedy},
                }
            )
        )
    sys.exit(2)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(run_process())
