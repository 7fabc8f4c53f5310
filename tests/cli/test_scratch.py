"""Where scratch databases come from: a server of the command's own, or that of --scratch."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lib.cli.scratch import scratch_server
from lib.errors import ConfigError, DatabaseUnavailable, WrongEnvironment
from tests.conftest import ROOT, Server
from tests.kit import CANARY, everything, until, wait_until_gone

# Holds a server as a command does, until it is killed.
HOLDER = """
import time
from lib.cli.scratch import scratch_server
with scratch_server(None, {}) as server:
    print(server.url.parameters["port"], flush=True)
    time.sleep(1000)
"""


def test_the_server_of_a_url_is_used_as_it_is(server: Server) -> None:
    with scratch_server(server.url, {}) as found:
        assert found.programs is None
        assert found.url.label.startswith("postgres on 127.0.0.1")


def test_a_url_that_is_none_is_refused_without_being_shown() -> None:
    with (
        pytest.raises(ConfigError, match="--scratch") as caught,
        scratch_server(f"mysql://me:{CANARY}@host/db", {}),
    ):
        pass
    assert CANARY not in everything(caught.value)


def test_an_assistant_needs_consent_for_a_server_of_the_internet() -> None:
    url, assistant = f"postgresql://me:{CANARY}@db.example.com/postgres", {"CLAUDECODE": "1"}
    with pytest.raises(WrongEnvironment) as caught, scratch_server(url, assistant):
        pass
    assert "May I make databases, and drop them again, on the server of" in caught.value.next_step
    assert CANARY not in everything(caught.value)
    with scratch_server(url, {**assistant, "MIGRATION_CONSENT": "Yes, on that server."}) as found:
        assert found.url.host == "db.example.com"


def test_without_a_postgres_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_BIN", "/nowhere")
    with pytest.raises(DatabaseUnavailable) as caught, scratch_server(None, {}):
        pass
    assert caught.value.exit_code == 5
    assert caught.value.message == (
        "no Postgres for scratch databases: there is no initdb in /nowhere"
    )
    assert "--scratch postgresql://" in caught.value.next_step


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_the_command_however_that_ends(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o711)
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": place},
            stdout=subprocess.PIPE,
        )
        assert holder.stdout and int(holder.stdout.readline()) > 0
        holder.send_signal(number)
        holder.communicate()
        wait_until_gone(Path(place))
        until(lambda: not list(Path(place).iterdir()))
