"""Poolers in transaction mode, in front of a server of the tests."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from tests.kit import until
from tests.platform import forky

T = TypeVar("T")

# The shell becomes the pooler. What it leaves behind reads a pipe of ours, and ends the pooler when
# we are gone.
_LAUNCH = 'exec 3<&0 </dev/null; ( (cat <&3; kill -KILL $$) >/dev/null 2>&1 & ); exec "$@" 3<&-'


class Pooler(ABC):
    """One pooler on a port that stays the same; a context manager, and it can be ended and started
    in between.
    """

    name: str
    """The program's."""
    console: str
    """The database that is the pooler itself."""
    quits = signal.SIGTERM
    """What ends it without waiting for its clients to leave."""

    def __init__(self, url: str, *, pool: int, patience: int = 120) -> None:
        """For `patience` seconds a client waits for a session. Skips the test where the program is
        not to be had.
        """
        self.upstream, self.pool, self.patience = urlsplit(url), pool, patience
        self.user, self.password = (
            unquote(part or "") for part in (self.upstream.username, self.upstream.password)
        )
        self.program, self._root = self.find()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory = Path(
            tempfile.mkdtemp(prefix="onward-pooler-", dir=self._root and self._root / "tmp")
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._configure()
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end()
        shutil.rmtree(self._directory)

    @property
    def directory(self) -> Path:
        """Where its files are, as it sees them."""
        return (
            Path("/") / self._directory.relative_to(self._root) if self._root else self._directory
        )

    @property
    def said(self) -> str:
        """What it has written so far."""
        files = (self._directory / name for name in ("output", "log"))
        return "".join(file.read_text() for file in files if file.exists())

    def url(self, url: str) -> str:
        """A URL of the server's, by way of the pooler."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        # It refuses to be root, or should not be.
        as_nobody = (
            ["chroot", "--userspec=nobody", str(self._root or "/")] if os.geteuid() == 0 else []
        )
        command = ["/bin/sh", "-c", _LAUNCH, "sh", *as_nobody, *self.command()]
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        until(self._answers)
        return self

    def end(self, *, kill: bool = False) -> None:
        """End it: either way it drops its clients at once."""
        if self._process:
            self._process.send_signal(signal.SIGKILL if kill else self.quits)
            self._process.wait()
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process = None

    def find(self) -> tuple[str, Path | None]:
        """The program, and the root of its file system if that is not this machine's own."""
        program = shutil.which(self.name) or shutil.which(self.name, path="/usr/sbin")
        return program or pytest.skip(
            f"{self.name} is not installed: apt-get install {self.name}, for instance"
        ), None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """What that needs, in its directory."""

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, self.said
        try:
            psycopg.connect(
                self.url(self.upstream._replace(path=f"/{self.console}").geturl()),
                connect_timeout=2,
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def _configure(self) -> None:
        for name, text in self.files().items():
            (self._directory / name).write_text(text)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self._directory, *self._directory.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)


class _Later(Pooler):
    """From the later release of Debian."""

    def find(self) -> tuple[str, Path | None]:
        try:
            return self.name, forky.install()
        except OSError as error:
            pytest.skip(str(error))


class PgBouncer(Pooler):
    """The one that this machine has."""

    name = console = "pgbouncer"
    connect_query = ""
    """What it runs on each new session with the server."""

    def command(self) -> list[str]:
        return [self.program, "-q", f"{self.directory}/ini"]

    def files(self) -> dict[str, str]:
        query = self.connect_query.replace("'", "''")
        connect = query and f"connect_query='{query}'"
        ini = f"""
[databases]
* = host={self.upstream.hostname} port={self.upstream.port or 5432} {connect}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.directory}/users
admin_users = {self.user}
pool_mode = transaction
default_pool_size = {self.pool}
query_wait_timeout = {self.patience}
max_client_conn = 200
; 15 s by default, for which it refuses everybody after a restart of the server
server_login_retry = 1
logfile = {self.directory}/log
"""
        return {"ini": ini, "users": f'"{self.user}" "{self.password}"\n'}


class LaterPgBouncer(_Later, PgBouncer):
    """It keeps its clients' prepared statements, under names of its own."""

    quits = signal.SIGQUIT


class Odyssey(_Later):
    """Between two clients of a session it resets that, but for prepared statements."""

    name, console = "odyssey", "console"

    def command(self) -> list[str]:
        return [self.program, f"{self.directory}/conf"]

    def files(self) -> dict[str, str]:
        login = f'user "{self.user}" {{ password "{self.password}"'
        conf = f"""
daemonize no
log_to_stdout no
log_file "{self.directory}/log"
log_format "%t %l [%i %s] (%c) %m\\n"
log_stats no
# It would wait for its clients to leave.
max_sigterms_to_die 1
listen {{ host "127.0.0.1" port {self.port} }}
storage "server" {{
    type "remote" host "{self.upstream.hostname}" port {self.upstream.port or 5432} }}
storage "console" {{ type "local" }}
database default {{
    {login} authentication "scram-sha-256" storage "server" pool "transaction"
        pool_size {self.pool} pool_timeout {self.patience * 1000} }}
}}
database "console" {{
    {login} authentication "scram-sha-256" role "admin" storage "console" pool "session" }} }}
"""
        return {"conf": conf}


POOLERS: dict[str, type[Pooler]] = {
    "PgBouncer": PgBouncer,
    "PgBouncer 1.26": LaterPgBouncer,
    "Odyssey 1.5": Odyssey,
}
TURN = os.environ.get("ONWARD_TURN")


def in_turn(choices: Iterable[T]) -> list[T]:
    """All of them; with ONWARD_TURN, a number, only the one whose turn it is."""
    every = list(choices)
    return [every[int(TURN) % len(every)]] if TURN else every
