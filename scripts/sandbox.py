"""A Postgres on this machine with `migrations/` applied, and both routes, to try things out:
`scripts/sandbox --help`.

Its data is in `.sandbox/` and stays between runs. Nothing here reaches another database but the one
of `--url`.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until `main` deals with it: Ctrl-C shows no traceback

import argparse
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.settings.environ import URL_VARIABLES
from scripts.dev.embedded import Embedded, EmbeddedError, reachable

DATABASE = "onward"
DESCRIPTION = """\
Start a Postgres on this machine, apply migrations/ to it, print the status,
serve both routes, and stay until Ctrl-C.
"""
EXAMPLES = """\
examples:
  scripts/sandbox                 the same data as the last time, with new migrations applied
  scripts/sandbox --reset         start from an empty database
  scripts/sandbox --once          leave after the status; the exit code is that of scripts/migrate.py
  scripts/sandbox --url "$MINE"   use a Postgres of yours (applied as environment "development")

POSTGRES_BIN=/usr/lib/postgresql/16/bin scripts/sandbox runs another Postgres than the one in .venv.
"""


@dataclass(frozen=True)
class Target:
    """A database to migrate, and how its URL may be shown."""

    url: str = field(repr=False)
    shown: str
    embedded: bool

    def environment(self) -> dict[str, str]:
        """What scripts/migrate.py gets: this database and no other, whatever this shell has set for
        deploying.
        """
        dropped = {*URL_VARIABLES, "MIGRATION_ENV", "CI"}
        libpq = (
            "PG" if self.embedded else "VERCEL"
        )  # PGSSLMODE and its like are about a database of yours
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in dropped and not name.startswith(("VERCEL", libpq))
        }
        # Said outright, so that a pulled .env.local cannot say otherwise; about a database of yours
        # we claim nothing.
        return (
            kept
            | {"POSTGRES_URL": self.url}
            | ({"MIGRATION_ENV": "development"} if self.embedded else {})
        )

    def migrate(self, *arguments: str) -> int:
        """Run scripts/migrate.py on it; its exit code."""
        command = [sys.executable, str(ROOT / "scripts" / "migrate.py"), *arguments]
        return subprocess.run(command, env=self.environment(), check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run the sandbox; the exit code is 0 after Ctrl-C, and with --once that of scripts/migrate.py."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url:
            return _use(
                Target(options.url, _without_password(options.url), embedded=False),
                options.once,
                signal.pause,
            )
        return _run_embedded(reset=options.reset, once=options.once)
    except (EmbeddedError, OSError) as error:
        print(
            f"sandbox: {error}\nscripts/sandbox --reset starts afresh, without its data.",
            file=sys.stderr,
        )
        return 5
    except KeyboardInterrupt:
        print("sandbox: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/sandbox", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=formatter
    )
    parser.add_argument("--once", action="store_true", help="leave after the status")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--reset", action="store_true", help="delete the sandbox's data first")
    group.add_argument("--url", help="use this database instead of an embedded one")
    return parser.parse_args(arguments)


def _run_embedded(*, reset: bool, once: bool) -> int:
    if reset:
        Embedded(_data_directory()).drop()
    with Embedded(_data_directory()) as server:
        server.create_database(DATABASE)
        url = server.url(DATABASE)
        return _use(Target(url, url, embedded=True), once, server.wait)


def _data_directory() -> Path:
    """`.sandbox/postgres`; a link to /var/tmp where the server's user cannot get there, as below
    root's home.
    """
    place = ROOT / ".sandbox" / "postgres"
    if place.exists():
        return place.resolve()
    place.parent.mkdir(exist_ok=True)
    (place.parent / ".gitignore").write_text("*\n")
    if reachable(place.parent):
        return place
    place.unlink(missing_ok=True)  # a link whose target is gone: reset, or cleaned away
    elsewhere = Path(tempfile.mkdtemp(prefix="onward-sandbox-", dir="/var/tmp"))
    place.symlink_to(elsewhere)
    return elsewhere


def _use(target: Target, once: bool, wait: Callable[[], object]) -> int:
    """Migrate, show the status, and unless `once` keep the database there until `wait` returns or
    Ctrl-C.
    """
    code = target.migrate()
    if code == 0:
        print(flush=True)
        code = target.migrate("status")
    if once:
        return code
    print(f"\nURL: {target.shown}")
    if code:
        script = os.path.relpath(ROOT / "scripts" / "migrate.py")
        command = (
            f"POSTGRES_URL={shlex.quote(target.shown)} {os.path.relpath(sys.executable)} {script}"
        )
        print(
            f"The migration failed (exit code {code}). Mend the file and run, in another "
            f"terminal:\n  {command}"
        )
    try:
        _serve(target, wait)
    except KeyboardInterrupt:
        print("\nStopped; the data is kept." if target.embedded else "")
        return 0
    print("sandbox: Postgres has ended", file=sys.stderr)
    return 5


def _serve(target: Target, wait: Callable[[], object]) -> None:
    secret = secrets.token_urlsafe(32)
    with _serving(target, secret) as address:
        print(f"\n  curl {address}/api/migration-status")
        print(f"  curl -X POST -H 'Authorization: Bearer {secret}' {address}/api/migrate\n")
        print("Ctrl-C stops the sandbox.", flush=True)
        wait()


@contextmanager
def _serving(target: Target, secret: str) -> Iterator[str]:
    """Serve both routes in a process that ends with this one, `kill -9` included; the address,
    which works at once.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
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
        _end(server)


def serve(descriptor: int) -> None:
    """Be the server, until the other end of stdin, which the sandbox alone holds, is closed."""
    import uvicorn  # noqa: PLC0415 - installed for development only

    def leave() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=leave, daemon=True).start()
    uvicorn.run("lib.vercel:app", fd=descriptor, log_level="warning", timeout_graceful_shutdown=1)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Let go of its pipe, which ends it; a migration that it is in the middle of is not waited for."""
    try:
        server.communicate(timeout=3)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _without_password(url: str) -> str:
    url = re.sub(r"://([^:@/]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&\s]*", r"\1***", url)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
