"""PgBouncer in transaction mode, in front of a server of the tests."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from tests.running import until

# The shell becomes the pooler. What it leaves behind reads a pipe of ours, and ends the pooler when we are gone.
_LAUNCH = 'exec 3<&0 </dev/null; ( (cat <&3; kill -TERM $$) >/dev/null 2>&1 & ); exec "$@" 3<&-'
_CONFIG = """
[databases]
* = host={host} port={port}{connect_query}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
admin_users = {user}
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 200
; 15 s by default, for which it refuses everybody after a restart of the server
server_login_retry = 1
logfile = {directory}/log
"""


class Pooler:
    """One PgBouncer on a port that stays the same; a context manager, and it can be ended and started in between."""

    def __init__(self, url: str, *, pool: int, connect_query: str = "") -> None:
        """Skips the test where PgBouncer is not installed."""
        self._program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if not self._program:
            pytest.skip("pgbouncer is not installed: apt-get install pgbouncer, for instance")
        self._upstream, self._pool, self._connect_query = urlsplit(url), pool, connect_query
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="onward-pooler-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._configure()
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end()
        shutil.rmtree(self._directory)

    def url(self, url: str) -> str:
        """A URL of the server's, by way of the pooler."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        command = ["/bin/sh", "-c", _LAUNCH, "sh", str(self._program), "-q", str(self._directory / "ini")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, **_unprivileged())
        until(self._answers)
        return self

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal: SIGTERM and SIGKILL drop its clients at once."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait()
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process = None

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, (self._directory / "log").read_text()
        try:
            psycopg.connect(self.url(self._upstream._replace(path="/pgbouncer").geturl()), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _configure(self) -> None:
        parts, query = self._upstream, self._connect_query.replace("'", "''")
        user, password = (unquote(part or "") for part in (parts.username, parts.password))
        config = _CONFIG.format(
            host=parts.hostname,
            port=parts.port or 5432,
            listen_port=self.port,
            directory=self._directory,
            user=user,
            pool=self._pool,
            connect_query=f" connect_query='{query}'" if query else "",
        )
        (self._directory / "ini").write_text(config)
        (self._directory / "users").write_text(f'"{user}" "{password}"\n')
        if "user" in (identity := _unprivileged()):
            for path in (self._directory, *self._directory.iterdir()):
                os.chown(path, identity["user"], identity["group"])


def _unprivileged() -> dict[str, Any]:
    """Whom it runs as when we are root: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
