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
from scripts.embedded import Embedded, EmbeddedError, reachable

DATABASE = "onward"
DESCRIPTION = """\
Start a Postgres on this machine, apply migrations/ to it, print the status,
serve both routes, and run until Ctrl-C.
"""
EXAMPLES = """\
examples:
  scripts/sandbox                 keep the data of the last run, apply new migrations
  scripts/sandbox --reset         start from an empty database
  scripts/sandbox --once          exit after printing the status, with the exit
                                  code of scripts/migrate.py
  scripts/sandbox --url "$MINE"   use your own Postgres (environment: development)

To run another Postgres than the one in .venv:
  POSTGRES_BIN=/usr/lib/postgresql/16/bin scripts/sandbox
"""
EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Target:
    """A database to migrate; `label` is its URL as it may be shown."""

    url: str = field(repr=False)
    label: str
    embedded: bool

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
        return environ

    def migrate(self, *arguments: str) -> int:
        """Run scripts/migrate.py on it and return the exit code."""
        command = [sys.executable, str(ROOT / "scripts" / "migrate.py"), *arguments]
        return subprocess.run(command, env=self.environment(), check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run the sandbox; return 0 after Ctrl-C, and with --once the code of scripts/migrate.py."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url:
            target = Target(options.url, _without_password(options.url), embedded=False)
            return _use(target, options.once, signal.pause)
        return _run_embedded(reset=options.reset, once=options.once)
    except (EmbeddedError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        print("To reset the sandbox (this deletes its data):", file=sys.stderr)
        print("  scripts/sandbox --reset", file=sys.stderr)
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
    return parser.parse_args(arguments)


def _run_embedded(*, reset: bool, once: bool) -> int:
    if reset:
        Embedded(_data_directory()).drop()
    with Embedded(_data_directory()) as server:
        server.create_database(DATABASE)
        url = server.url(DATABASE)
        return _use(Target(url, url, embedded=True), once, server.wait)


def _data_directory() -> Path:
    """`.sandbox/postgres`, or where that links to.

    It is a link to /var/tmp if the server's user cannot access the project, as in root's home.
    """
    place = ROOT / ".sandbox" / "postgres"
    if place.exists():
        return place.resolve()
    place.parent.mkdir(exist_ok=True)
    (place.parent / ".gitignore").write_text("*\n")
    if reachable(place.parent):
        return place
    place.unlink(missing_ok=True)  # a link whose target was deleted, by --reset or a clean-up
    target = Path(tempfile.mkdtemp(prefix="onward-sandbox-", dir="/var/tmp"))
    place.symlink_to(target)
    return target


def _use(target: Target, once: bool, wait: Callable[[], object]) -> int:
    """Migrate and print the status. Unless `once`, serve until `wait` returns or Ctrl-C."""
    exit_code = target.migrate()
    if exit_code == 0:
        print(flush=True)
        exit_code = target.migrate("status")
    if once:
        return exit_code
    print(f"\nURL: {target.label}")
    if exit_code:
        print(f"The migration failed (exit code {exit_code}).")
        print(f"Fix the file and run in another terminal:\n  {_migrate_command(target)}")
    try:
        _serve(target, wait)
    except KeyboardInterrupt:
        print("\nStopped; the data is kept." if target.embedded else "")
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
        print(f"\n  curl {address}/api/migration-status")
        print(f"  curl -X POST -H 'Authorization: Bearer {secret}' {address}/api/migrate\n")
        print("Ctrl-C stops the sandbox.", flush=True)
        wait()


@contextmanager
def _serving(target: Target, secret: str) -> Iterator[str]:
    """Serve both routes, and yield their address, which works at once.

    The server is a process that ends with this one, even after `kill -9`.
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
        _stop(server)


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


def _without_password(url: str) -> str:
    url = re.sub(r"://([^:@/]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&\s]*", r"\1***", url)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
