"""`checkpoint` as a user runs it: without a database of one's own."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scripts.embedded import find_programs
from tests.conftest import Cli, Database, Here, Server
from tests.kit import (
    ONE,
    TWO,
    Write,
    checkpoint_of,
    commit,
    environment,
    fill,
    git,
    history,
    login,
    run,
    until,
)

pytestmark = pytest.mark.slow


def programs() -> dict[str, str]:
    """Where the pg_dump of the run's server is."""
    return {"POSTGRES_BIN": str(find_programs())}


def test_it_needs_no_server_and_no_url(cli: Cli, database: Database, migrations: Write) -> None:
    directory = migrations(TWO)
    result = cli("checkpoint", env=programs())
    assert result.code == 0, result.err
    assert result.out == (
        "Applying 2 files to scratch databases\n"
        "✅ Wrote migrations/003-checkpoint.sql: it makes what 001 to 002 make\n"
        "   2 objects and 0 rows, compared on PostgreSQL 18\n"
    ).replace("18", database.execute("SHOW server_version")[0][0].split(".")[0])
    assert cli("validate").code == 0
    for name in TWO:
        (directory / name).unlink()
    assert cli(url=database.url).code == 0
    assert history(database) == ["001-one", "002-two", "003-checkpoint"]


def test_with_a_server_of_ones_own_its_password_is_not_shown(
    cli: Cli, server: Server, migrations: Write
) -> None:
    migrations(ONE)
    before = server.admin.execute("SELECT oid FROM pg_database WHERE datname = 'postgres'")
    result = cli("checkpoint", "version two", "--scratch", server.url, "--json", env=programs())
    assert result.code == 0, result.err
    assert str(urlsplit(server.url).password) not in result.out + result.err
    document = json.loads(result.out)
    assert document | {"pgMajor": 0} == {
        "success": True,
        "version": "002-version-two",
        "file": "migrations/002-version-two.sql",
        "standsFor": ["001-one"],
        "objects": 1,
        "rows": 0,
        "pgMajor": 0,
        "frozenColumns": [],
        "takenBy": None,
        "notFollowed": [],
    }
    assert server.admin.execute("SELECT oid FROM pg_database WHERE datname = 'postgres'") == before


def test_what_is_made_each_time_is_told(cli: Cli, server: Server, migrations: Write) -> None:
    migrations({"001-a.sql": "CREATE TABLE a AS SELECT now() AS at, 1 AS n;\n"})
    result = cli("checkpoint", "--scratch", server.url, env=programs())
    assert result.code == 0
    assert "⚠️  These columns have values that were made just now" in result.out
    assert result.out.endswith("database: public.a.at\n")


def test_a_role_that_may_create_no_database_is_told_so(
    cli: Cli, server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    with login(server, database) as plain:
        result = cli("checkpoint", "--scratch", plain.url, env=programs())
    assert result.code == 5
    assert "cannot create a scratch database: permission denied" in result.err
    assert str(urlsplit(plain.url).password) not in result.out + result.err
    assert [path.name for path in directory.iterdir()] == ["001-one.sql"]


def test_what_is_not_proved_ends_with_its_exit_code_and_page(
    cli: Cli, server: Server, migrations: Write
) -> None:
    sql = "CREATE TABLE a (x int); CREATE TABLE b (own int) INHERITS (a); ALTER TABLE a ADD y int;"
    directory = migrations({"001-a.sql": sql})
    result = cli("checkpoint", "--scratch", server.url, env=programs())
    assert result.code == 1
    assert "  columns of public.b: x, own, y became x, y, own\n" in result.err
    assert "Nothing was changed." in result.err
    assert result.err.endswith("(exit 1, docs/checkpoints.md#if-it-is-not-proved)\n")
    assert [path.name for path in directory.iterdir()] == ["001-a.sql"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_database_and_no_file(
    cli: Cli, server: Server, migrations: Write, number: signal.Signals
) -> None:
    directory = migrations({"001-slow.sql": "SELECT 'of checkpoint', pg_sleep(1000);\n"})
    process = subprocess.Popen(
        [sys.executable, cli.script, "checkpoint", "--scratch", server.url],
        env=environment(cli, server.url, **programs()),
        cwd=cli.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = (
        "SELECT datname FROM pg_stat_activity WHERE datname LIKE 'onward\\_scratch%%' "
        "AND query LIKE '%%of checkpoint%%'"
    )
    ((name,),) = until(lambda: server.admin.execute(running, []))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert server.admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]) == []
    assert [path.name for path in directory.iterdir()] == ["001-slow.sql"]


@pytest.fixture
def deleted(here: Here, tmp_path: Path) -> dict[str, str]:
    """A branch in whose checkpoint's commit the files are deleted that it stands for."""
    commit(tmp_path, "main", TWO)
    checkpoint = {"003-all.sql": checkpoint_of(TWO, "".join(TWO.values()))}
    commit(tmp_path, "topic", checkpoint)
    git(tmp_path, "rm", "-q", *(f"migrations/{name}" for name in TWO))
    git(tmp_path, "commit", "-q", "--amend", "-m", "Checkpoint")
    return checkpoint


@pytest.mark.usefixtures("deleted")
def test_a_pull_request_may_delete_what_its_checkpoint_stands_for(
    here: Here, tmp_path: Path
) -> None:
    result = here("check", "--base", "main")
    assert result.code == 0, result.err
    assert result.out.startswith("✅ 1 new file")
    git(tmp_path, "switch", "-q", "main")
    git(tmp_path, "merge", "-q", "topic")
    commit(tmp_path, "next", {"004-next.sql": "CREATE TABLE next ();\n"})
    assert here("check", "--base", "main").code == 0
    (tmp_path / "migrations" / "003-all.sql").unlink()
    assert here("check", "--base", "main").code == 3


@pytest.mark.usefixtures("deleted")
def test_the_commands_of_the_conflict_restore_the_files(
    here: Here, tmp_path: Path, database: Database
) -> None:
    behind = tmp_path / "behind"
    behind.mkdir()
    run(database, fill(behind, ONE))
    result = here(url=database.url)
    assert result.code == 3
    commands = [line.strip() for line in result.err.splitlines() if "git restore" in line]
    assert len(commands) == 1
    subprocess.run(["bash", "-euc", commands[0]], cwd=tmp_path, check=True)
    assert (tmp_path / "migrations" / "002-two.sql").read_text() == TWO["002-two.sql"]
    assert here(url=database.url).code == 0
    (tmp_path / "migrations" / "002-two.sql").unlink()
    assert here("status", "--check", url=database.url).code == 0
    assert history(database) == ["001-one", "002-two", "003-all"]
