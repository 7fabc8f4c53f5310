"""A Postgres on this machine with `migrations/` applied, and both routes: `scripts/sandbox --help`.

Its data is in `.sandbox/` and is kept between runs. The sandbox connects to no other database,
except the one of `--url`.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C must not show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import pwd
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.cli.output import write
from lib.settings.environ import URL_VARIABLES
from scripts.demo import MOST, Past, past
from scripts.embedded import (
    DataUnusable,
    DirectoryInUse,
    Embedded,
    EmbeddedError,
    reachable,
)

DATABASE = "onward"
DEMO = "demo"
"""The database of `--demo`, and the directory of its files in `.sandbox/`."""
STATUS = "/api/migration-status"
DESCRIPTION = """\
Start a Postgres on this machine, apply migrations/ to it, print the status,
serve both routes, and run until Ctrl-C.
"""
EXAMPLES = """\
examples:
  scripts/sandbox                 keep the data of the last run, apply new migrations
  scripts/sandbox --reset         start from an empty database
  scripts/sandbox --once          exit after printing the status, with the exit
                                  code of scripts/migrate.py; beside a sandbox
                                  that runs already, apply to that one
  scripts/sandbox --demo 300      show the status page of a database with 300
                                  past migrations, made up; migrations/ and
                                  the sandbox's own data stay as they are
  scripts/sandbox --url "$MINE"   use your own Postgres (environment: development)

To run another Postgres than the one in .venv:
  POSTGRES_BIN=/usr/lib/postgresql/16/bin scripts/sandbox
"""
_BACKDATE = """\
UPDATE public.schema_migrations SET applied_at = %s, execution_time_ms = %s WHERE version = %s"""
RESET = """\
To reset the sandbox (this deletes its data):
  scripts/sandbox --reset"""
EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Target:
    """A database to migrate; `label` is its URL as it may be shown."""

    url: str = field(repr=False)
    label: str
    routes: Path | None = None
    """Where a sandbox writes down its process and the routes' address; None for `--url`."""
    directory: Path | None = None
    """Where its files are, if not in `migrations/`."""

    @property
    def embedded(self) -> bool:
        """Whether it is the sandbox's own."""
        return self.routes is not None

    def environment(self) -> dict[str, str]:
        """The environment of scripts/migrate.py: this database, and none that this shell names."""
        dropped = {*URL_VARIABLES, "MIGRATION_ENV", "CI"}
        # With --url, PGSSLMODE and the like are about the user's own database, so they stay.
        prefixes = ("VERCEL", "PG") if self.embedded else ("VERCEL",)
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in dropped and not name.startswith(prefixes)
        }
        environ = kept | {"POSTGRES_URL": self.url}
        if self.embedded:
            # Set, so that a pulled .env.local cannot name another. What the user's own database is,
            # the sandbox does not know.
            environ["MIGRATION_ENV"] = "development"
        if self.directory:
            environ["MIGRATION_DIR"] = str(self.directory)
        return environ

    def migrate(self, *arguments: str, quiet: bool = False) -> int:
        """Run scripts/migrate.py on it and return the exit code; `quiet` shows errors alone."""
        command = [sys.executable, str(ROOT / "scripts" / "migrate.py"), *arguments]
        out = subprocess.DEVNULL if quiet else None
        return subprocess.run(command, env=self.environment(), stdout=out, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run the sandbox; return 0 after Ctrl-C, and with --once the code of scripts/migrate.py."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url:
            target = Target(options.url, _without_password(options.url))
            return _use(target, options.once, signal.pause)
        return _run_embedded(reset=options.reset, once=options.once, demo=options.demo)
    except (EmbeddedError, OSError) as error:
        print("\n".join([f"sandbox: {error}", *_advice(error)]), file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        print("sandbox: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/sandbox", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=formatter
    )
    parser.add_argument("--once", action="store_true", help="exit after printing the status")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--reset", action="store_true", help="delete the sandbox's data first")
    group.add_argument("--url", help="use this database, not an embedded one")
    group.add_argument("--demo", type=_demo_count, metavar="N", help="show N made-up migrations")
    return parser.parse_args(arguments)


def _demo_count(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MOST:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST}")


def _advice(error: Exception) -> Iterator[str]:
    if isinstance(error, DataUnusable):
        yield RESET
    elif isinstance(error, DirectoryInUse):
        yield "Nothing was changed. Try again when it has ended, or has printed its URL."


def _run_embedded(*, reset: bool, once: bool, demo: int | None) -> int:
    server = Embedded(_data_directory())
    if running := _running(server):
        return _beside(server, running, reset=reset, once=once and not demo)
    if reset:
        server.drop()
        server = Embedded(_data_directory())
    with server:
        if demo:
            return _use(_demo_target(server, demo), once, server.wait)
        server.create_database(DATABASE)
        return _use(_target(server), once, server.wait)


def _target(server: Embedded, database: str = DATABASE, directory: Path | None = None) -> Target:
    url = server.url(database)
    return Target(url, url, server.directory / "routes", directory)


def _demo_target(server: Embedded, count: int) -> Target:
    """A new database to which made-up files were applied, long ago by what its history says."""
    import psycopg  # noqa: PLC0415 - only a demo needs it here

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DEMO} WITH (FORCE)")
    server.create_database(DEMO)
    found = past(count, datetime.now(UTC))
    target = _target(server, DEMO, _write_demo(found))
    if target.migrate(quiet=True) == 0:
        rows = [(one.applied_at, one.milliseconds, one.version) for one in found]
        with psycopg.connect(target.url) as connection, connection.cursor() as cursor:
            cursor.executemany(_BACKDATE, rows)
    return target


def _write_demo(found: Sequence[Past]) -> Path:
    directory = ROOT / ".sandbox" / DEMO
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for one in found:
        (directory / f"{one.version}.sql").write_text(one.sql)
    return directory


class Running(NamedTuple):
    """A sandbox that serves the routes until it is stopped."""

    process: int
    address: str


def _running(server: Embedded) -> Running | None:
    """The sandbox that runs on the server's directory. One with --once is none: it ends by itself.

    What a sandbox has left behind when it was killed names another process than holds the lock.
    """
    holder, routes = server.holder(), server.directory / "routes"
    written = routes.read_text().split() if holder and routes.exists() else []
    if len(written) == 2 and written[0] == str(holder) and _is_alive(int(written[0])):
        return Running(int(written[0]), written[1])
    return None


def _is_alive(process: int) -> bool:
    # While its server stops, the lock still names a sandbox that was killed.
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _beside(server: Embedded, running: Running, *, reset: bool, once: bool) -> int:
    """What this call can do while another sandbox runs: with --once, use its database."""
    known = f"process {running.process} runs this sandbox already"
    stop = f"To stop it: Ctrl-C in its terminal, or\n  kill {running.process}"
    if once and not reset:
        show(f"sandbox: {known}; this one uses its database, and leaves it running\n")
        return _use(_target(server), once, server.wait)
    lines = [f"sandbox: {known}"]
    if reset:
        lines += ["No data was deleted: stop it first, then reset.", stop]
    else:
        lines += [f"URL: {server.url(DATABASE)}", f"Status page: {running.address}/"]
        lines += [f"\n  curl {running.address}{STATUS}\n"]
        lines += ["To apply new migrations to it:\n  scripts/sandbox --once", stop]
    print("\n".join(lines), file=sys.stderr)
    return EXIT_UNAVAILABLE


def _data_directory() -> Path:
    """`.sandbox/postgres`, or where that links to. Raises EmbeddedError if it is another user's.

    It is a link to /var/tmp if the server's user cannot access the project, as in root's home.
    """
    place = ROOT / ".sandbox" / "postgres"
    place.parent.mkdir(exist_ok=True)
    _require_own(place.parent)
    if place.exists():
        return place.resolve()
    (place.parent / ".gitignore").write_text("*\n")
    if reachable(place.parent):
        return place
    place.unlink(missing_ok=True)  # a link whose target was deleted, by --reset or a clean-up
    target = Path(tempfile.mkdtemp(prefix="onward-sandbox-", dir="/var/tmp"))
    place.symlink_to(target)
    return target


def _require_own(directory: Path) -> None:
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedError(
            f"{directory} belongs to {_name_of(owner)}, and you are {_name_of(os.geteuid())}\n"
            f"Use a checkout of your own, or let {_name_of(owner)} delete the sandbox:\n"
            f"  rm -r {shlex.quote(str(directory))}"
        )


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"the user {user}"


def _use(target: Target, once: bool, wait: Callable[[], object]) -> int:
    """Migrate and print the status. Unless `once`, serve until `wait` returns or Ctrl-C."""
    exit_code = target.migrate()
    if exit_code == 0:
        show()
        exit_code = target.migrate("status")
    if once:
        return exit_code
    show(f"\nURL: {target.label}")
    if exit_code:
        show(f"The migration failed (exit code {exit_code}).")
        show(f"Fix the file and run in another terminal:\n  {_migrate_command(target)}")
    try:
        _serve(target, wait)
    except KeyboardInterrupt:
        show("\nStopped; the data is kept." if target.embedded else "")
        return 0
    print("sandbox: Postgres exited", file=sys.stderr)
    return EXIT_UNAVAILABLE


def _migrate_command(target: Target) -> str:
    python = os.path.relpath(sys.executable)
    script = os.path.relpath(ROOT / "scripts" / "migrate.py")
    return f"POSTGRES_URL={shlex.quote(target.label)} {python} {script}"


def _serve(target: Target, wait: Callable[[], object]) -> None:
    secret = secrets.token_urlsafe(32)
    with _serving(target, secret) as address:
        if target.routes:
            target.routes.write_text(f"{os.getpid()} {address}\n")
        show(f"Status page: {address}/")
        show(f"\n  curl {address}{STATUS}")
        show(f"  curl -X POST -H 'Authorization: Bearer {secret}' {address}/api/migrate\n")
        also = "; so does `scripts/sandbox --once` in another terminal" if target.embedded else ""
        show(f"The second line applies new migrations{also}.")
        show("Ctrl-C stops the sandbox.")
        wait()


@contextmanager
def _serving(target: Target, secret: str) -> Iterator[str]:
    """Serve both routes, and yield their address, which works at once.

    The server is a process that ends with this one, even after `kill -9`.
    """
    with _listening(target.routes) as listening:
        descriptor, port = listening.fileno(), listening.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-c", f"from scripts.sandbox import serve; serve({descriptor})"],
            cwd=ROOT,
            env=target.environment() | {"MIGRATION_SECRET": secret},
            pass_fds=(descriptor,),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(server)


def _listening(routes: Path | None) -> socket.socket:
    """A socket on the last port if it is free, so that an address in a .env.local stays valid."""
    written = routes.read_text() if routes and routes.exists() else ""
    if last := re.search(r":(\d+)$", written.strip()):
        with suppress(OSError):  # another program uses it
            return socket.create_server(("127.0.0.1", int(last[1])))
    return socket.create_server(("127.0.0.1", 0))


def serve(descriptor: int) -> None:
    """Run the server until stdin ends: only the sandbox holds the other end."""
    import uvicorn  # noqa: PLC0415 - installed for development only

    def stop_with_stdin() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_stdin, daemon=True).start()
    uvicorn.run("lib.vercel:app", fd=descriptor, log_level="warning", timeout_graceful_shutdown=1)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Close the server's stdin, which ends it. A migration that it is running is not waited for."""
    try:
        server.communicate(timeout=3)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def show(text: str = "") -> None:
    """Print to stdout; a reader that has left does not end the sandbox."""
    write(sys.stdout, f"{text}\n")


def _without_password(url: str) -> str:
    url = re.sub(r"://([^:@/]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&\s]*", r"\1***", url)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
