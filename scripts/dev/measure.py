"""What scripts/dev/bench.py measures with: servers, databases, delays, files, timed processes."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import psycopg

from scripts.embedded import Embedded

ROOT = Path(__file__).resolve().parents[2]
MEMORY = Path("/dev/shm")  # noqa: S108
MIN_MEMORY_BYTES = 8 << 30
SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "max_wal_size=4GB",
)
# On Linux a child's peak memory is never less than its parent's, so a small process starts what is
# measured.
LAUNCH = """
import os, sys, time
started = time.perf_counter()
actions = [(os.POSIX_SPAWN_DUP2, 2, 1)]
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - started, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""
# Each file creates one of these: a table, a column or a function.
MADE = """
SELECT (SELECT count(*) FROM pg_class WHERE relname ~ '^item_[0-9]+$')
     + (SELECT count(*) FROM pg_attribute
        WHERE attname = 'note' AND attrelid::regclass::text ~ '^item_[0-9]+$')
     + (SELECT count(*) FROM pg_proc WHERE proname ~ '^f_[0-9]+$')
"""

Route = Callable[[str], str]


class Failed(Exception):
    """What was measured failed, or did not do what it should; the message says how."""


class Sample(NamedTuple):
    """Time and peak memory of one process."""

    seconds: float
    peak_mb: float


def run(command: Sequence[str], url: str, directory: Path) -> Sample:
    """Run a command in a directory of migrations, with a minimal environment. Raises Failed."""
    kept = ("PATH", "HOME", "MIGRATION_AHEAD")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    environ |= {
        "DATABASE_URL": url,
        "MIGRATION_DIR": str(directory),
        "MIGRATION_ENV": "development",
    }
    process = subprocess.Popen(
        [sys.executable, "-ISc", LAUNCH, *command],
        env=environ | {"PROJECT": str(ROOT)},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        measured, errors = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seconds, peak, code = measured.split() or ("0", "0", "127")
    if code != "0":
        last = (errors.strip() or "no output").splitlines()[-1][:200]
        password = unquote(urlsplit(url).password or "")
        raise Failed(f"exit {code}, {last.replace(password, '***') if password else last}")
    return Sample(float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6)


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """A superuser's URL: of the given server, or of an embedded one that ends with the block."""
    if url:
        yield url
        return
    # In memory if it is large enough: else the disk is what is measured.
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MIN_MEMORY_BYTES
    place = tempfile.mkdtemp(prefix="onward-bench-", dir=MEMORY if in_memory else None)
    embedded = Embedded(Path(place), settings=SETTINGS)
    try:
        with embedded:
            # To request TLS would cost some of the tools a round trip.
            yield embedded.url() + "?sslmode=disable"
    finally:
        embedded.drop()


@contextmanager
def delayed(url: str, milliseconds: int) -> Iterator[Route]:
    """A function from server URL to proxy URL; the proxy delays each direction by half of it."""
    if not milliseconds:
        yield str
        return
    parts = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = parts.hostname or "127.0.0.1", parts.port or 5432
        Thread(target=_accept, args=(listener, target, milliseconds / 2000), daemon=True).start()
        user, port = parts.netloc.rpartition("@")[0], listener.getsockname()[1]
        yield lambda url: urlsplit(url)._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: tuple[str, int], delay: float) -> None:
    with suppress(OSError):  # the listener is shut down
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection(target)
            for source, sink in ((client, upstream), (upstream, client)):
                late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Thread(target=_read, args=(source, late, delay), daemon=True).start()
                Thread(target=_write, args=(sink, late), daemon=True).start()


def _read(source: socket.socket, late: SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    data = b"?"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        late.put((time.monotonic() + delay, data))


def _write(sink: socket.socket, late: SimpleQueue[tuple[float, bytes]]) -> None:
    with suppress(OSError):  # the receiver has closed its socket
        data = b"?"
        while data:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def query(url: str, sql: str) -> Any:
    """Run a statement in autocommit, and return the first value of its result, if there is one."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall()[0][0] if cursor.description else None


@contextmanager
def database(url: str) -> Iterator[str]:
    """The URL of a new database on the server of a URL; it is dropped at the end of the block."""
    name = f"onward_bench_{os.getpid()}_{secrets.token_hex(4)}"
    try:
        query(url, f"CREATE DATABASE {name} TEMPLATE template0")
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    except BaseException as error:
        # The traceback may keep a half-made connection open, and DROP would wait for it.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        query(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def small_files(count: int) -> list[str]:
    """Files that create a table with an index, then a column and two rows, then a function, etc."""
    kinds = (
        "CREATE TABLE item_{n} (id bigserial PRIMARY KEY, name text NOT NULL);\n"
        "CREATE INDEX ON item_{n} (name);\n",
        "ALTER TABLE item_{before} ADD COLUMN note text;\n"
        "INSERT INTO item_{before} (name) VALUES ('a; b'), ('c');\n",
        "CREATE FUNCTION f_{n}() RETURNS int LANGUAGE plpgsql AS $$\n"
        "BEGIN\n  RETURN {n};\nEND;\n$$;\n",
    )
    return [kinds[(n - 1) % 3].format(n=n, before=n - 1) for n in range(1, count + 1)]


def large_file(megabytes: int) -> str:
    """A file with a table and rows of data, a hundred in each statement."""
    statements, size = ["CREATE TABLE item_1 (id bigint, name text, words text);\n"], 0
    while size < megabytes * 1_000_000:
        first = len(statements) * 100
        rows = ",\n".join(
            f"({row}, 'name {row}', '{'text; ' * 10}')" for row in range(first, first + 100)
        )
        statements.append(f"INSERT INTO item_1 VALUES\n{rows};\n")
        size += len(statements[-1])
    return "".join(statements)
