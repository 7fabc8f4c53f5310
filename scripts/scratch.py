#!/usr/bin/env python3
"""A Postgres on this machine for as long as its stdin is open; then everything of it is deleted.

Its first line on stdout is a JSON document: the superuser's `url`, and the directory of the
server's `programs`. `lib/cli/scratch.py` starts it, and holds the other end of its stdin.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles them, a signal must not show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.in_venv import require

require("psycopg")

from scripts.embedded import Embedded, EmbeddedError, find_programs

EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130
_PREFIX = "onward-scratch-"
# Nothing here outlives the process.
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def main() -> int:
    """Serve until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _delete_leftovers()
        with _temporary_server() as server:
            # The server has no TLS; PGSSLMODE may be set for another one.
            url = f"{server.url()}?sslmode=disable"
            print(json.dumps({"url": url, "programs": str(find_programs())}), flush=True)
            sys.stdin.read()
    except (EmbeddedError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


@contextmanager
def _temporary_server() -> Iterator[Embedded]:
    server = Embedded(Path(tempfile.mkdtemp(prefix=_PREFIX)), settings=_SETTINGS)
    try:
        with server:
            yield server
    finally:
        server.drop()


def _delete_leftovers() -> None:
    """Delete what a killed process of this program has left; one that runs holds its lock."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with suppress(EmbeddedError, OSError):
            Embedded(lock.parent).drop(patience=0)


if __name__ == "__main__":
    sys.exit(main())
