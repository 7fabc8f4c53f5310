"""What `status` sees of a run under way, and of what interrupted statements left."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from lib.activity import Activity, Asked, PendingDetach
from lib.postgres.executor import Executor
from tests.conftest import Cli, Database
from tests.kit import Write, config_of, holding, run, until


def activity(database: Database, directory: Path) -> Activity:
    with Executor(config_of(database, directory)) as executor:
        found = executor.read(activity=Asked.ALL).activity
    assert found
    return found


def test_an_idle_database_has_nothing_to_show(database: Database, migrations: Write) -> None:
    found = activity(database, migrations({"001-one.sql": "SELECT 1"}))
    assert found._replace(as_of=None) == Activity()


@pytest.mark.parametrize("head", ["", "-- migrate: no-transaction\n"])
@pytest.mark.parametrize("first", ["000-first", "002-first"])
def test_a_run_shows_the_file_that_it_runs_with_its_pid(
    database: Database, migrations: Write, head: str, first: str
) -> None:
    database.execute("CREATE TABLE busy (i int)")
    directory = migrations(
        {
            f"{first}.sql": "SELECT 1",
            "003-alter.sql": f"{head}ALTER TABLE busy ADD IF NOT EXISTS j int",
        }
    )
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        running = pool.submit(run, database, directory, MIGRATION_LOCK_TIMEOUT="0")
        found = until(
            lambda: (
                (now := activity(database, directory).running)
                and now.version == "003-alter"
                and now
            )
        )
        pids = database.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        other.rollback()
        running.result()
    assert (found.pid,) in pids
    assert found.since is not None
    assert activity(database, directory).running is None


def test_what_interrupted_statements_left_is_named(database: Database, migrations: Write) -> None:
    database.execute("CREATE TABLE t AS SELECT 1 AS i UNION ALL SELECT 1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute("CREATE UNIQUE INDEX CONCURRENTLY t_i ON t (i)")
    database.execute("CREATE TABLE parted (i int) PARTITION BY RANGE (i)")
    database.execute("CREATE TABLE part PARTITION OF parted FOR VALUES FROM (1) TO (9)")
    with (
        holding(database, "LOCK TABLE part IN ACCESS SHARE MODE"),
        psycopg.connect(database.url, autocommit=True) as session,
        pytest.raises(psycopg.errors.LockNotAvailable),
    ):
        session.execute("SET lock_timeout = '50ms'")
        session.execute("ALTER TABLE parted DETACH PARTITION part CONCURRENTLY")
    found = activity(database, migrations({"001-one.sql": "SELECT 1"}))
    assert found.invalid_indexes == ("public.t_i",)
    assert found.pending_detaches == (PendingDetach("public.parted", "public.part"),)


def test_the_command_shows_both_and_its_document_too(
    cli: Cli, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "SELECT 1"})
    database.execute("CREATE TABLE t AS SELECT 1 AS i UNION ALL SELECT 1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute("CREATE UNIQUE INDEX CONCURRENTLY t_i ON t (i)")
    result = cli("status", "--json", url=database.url, env={"MIGRATION_DIR": str(directory)})
    assert "DROP INDEX CONCURRENTLY public.t_i;" in result.err
    document = json.loads(result.out)
    assert (document["invalidIndexes"], document["running"]) == (["public.t_i"], None)
