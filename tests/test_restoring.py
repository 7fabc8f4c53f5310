"""The point that a database is restored to, to be as it was before a run; and a restore to it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lib import runner
from lib.errors import MigrationFailed, MigrationResult, PartlyApplied
from lib.events import Event, Notice, Started
from lib.history import RESTORE_COLUMNS
from lib.report.text import error_text
from lib.restore_point import RestorePoint
from lib.restoring import way_back
from lib.runner import connect_and_read_plan
from scripts.embedded import Embedded, server_user
from tests.conftest import Cli, Database, Server
from tests.kit import HEAD, Write, config_of, login, role, run, run_fails, tables
from tests.stage import embedded, stop

TIME = datetime(2026, 11, 26, 21, 0, 3, 999_999, tzinfo=UTC)
POINTS = "SELECT version, restore_time, restore_lsn::pg_lsn FROM schema_migrations ORDER BY id"
ONE: dict[str, str | bytes] = {"001-one.sql": "CREATE TABLE one (i int);"}
TWO: dict[str, str | bytes] = {"002-two.sql": "CREATE TABLE two (i int);"}
THREE: dict[str, str | bytes] = {"003-three.sql": "CREATE TABLE three (i int);"}


@pytest.fixture(scope="module")
def archiving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that archives its log, a copy of its data, and the archive."""
    with embedded("archive_mode=on", "wal_level=replica") as server:
        place = server.directory
        (place / "archive").mkdir()
        server.create_database("app")
        _owned_by_the_server(place / "archive")
        stop(server)
        shutil.copytree(place / "data", place / "copy")
        server.settings = [*server.settings, f"archive_command=cp %p {place}/archive/%f"]
        server.start()
        yield server


def _owned_by_the_server(directory: Path) -> None:
    if user := server_user():
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", directory], check=True)


def _restored(server: Embedded, target: str) -> list[Any]:
    """The tables and rows of a restore of the copy, up to a target."""
    place, restored = server.directory, server.directory / "restored"
    restored.mkdir(mode=0o700)
    shutil.copytree(place / "copy", restored / "data")
    (restored / "data" / "recovery.signal").touch()
    shutil.copy(place / "password", restored)
    _owned_by_the_server(restored / "data")
    settings = [
        *(one for one in server.settings if not one.startswith("archive")),
        f"restore_command=cp {place}/archive/%f %p",
        "recovery_target_action=promote",
        "hot_standby=off",  # no connection before the target is reached
        target,
    ]
    with Embedded(restored, settings=settings) as other:
        database = Database("app", other.url("app"))
        found = [tables(database), database.execute("SELECT i FROM one")]
    shutil.rmtree(restored)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESTORE_COLUMNS)
def test_a_restore_to_the_point_has_all_that_was_before_the_run_and_nothing_of_it(
    archiving: Embedded, migrations: Write, kind: str
) -> None:
    database = Database("app", archiving.url("app"))
    database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    run(database, migrations(ONE))
    database.execute("INSERT INTO one VALUES (1)")
    directory = migrations(TWO | {"003-fill.sql": "INSERT INTO one VALUES (2)"})
    run(database, directory)
    database.execute("INSERT INTO one VALUES (3)")
    ((point,),) = database.execute(f"SELECT DISTINCT {kind} FROM schema_migrations WHERE id > 1")
    database.execute("SELECT pg_switch_wal()")
    stop(archiving)
    target = "recovery_target_lsn" if kind == "restore_lsn" else "recovery_target_time"
    assert _restored(archiving, f"{target}={point}") == [["one"], [(1,)]]
    archiving.start()
    assert database.execute("SELECT i FROM one ORDER BY i") == [(1,), (2,), (3,)]


def test_the_rows_of_a_run_have_the_point_before_its_first_statement(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE | TWO))
    ((before, lsn),) = database.execute("SELECT clock_timestamp(), pg_current_wal_insert_lsn()")
    run(database, migrations(THREE))
    ((first, *point), (_, *same), (_, time, position)) = database.execute(POINTS)
    assert (first, point) == ("001-one", same)
    ((applied,),) = database.execute("SELECT min(applied_at) FROM schema_migrations WHERE id = 3")
    assert point[0] < before < time < applied
    assert position >= lsn
    assert tables(database) == ["one", "three", "two"]


def test_a_run_that_plans_again_keeps_the_point_before_its_first_file(
    database: Database, migrations: Write
) -> None:
    # Without a transaction, the second file does not begin with the COMMIT of the first one.
    later = {"002-two.sql": f"{HEAD}CREATE TABLE IF NOT EXISTS two ()"}
    config = config_of(
        database, migrations(ONE | later), MIGRATION_ALLOW_OUT_OF_ORDER="1", MIGRATION_DRIFT="off"
    )
    started = []

    def emit(event: Event) -> None:
        if isinstance(event, Started):
            started.append(event)
        elif isinstance(event, MigrationResult) and event.version == "001-one":
            database.execute("INSERT INTO schema_migrations (version, name) VALUES ('009-x', 'X')")

    runner.run(config, emit)
    assert len(started) == 2
    points = {version: rest for version, *rest in database.execute(POINTS)}
    assert points["001-one"] == points["002-two"] != [None, None]
    assert points["009-x"] == [None, None]
    assert tables(database) == ["one", "two"]


def test_status_gives_the_point_before_the_last_run(
    cli: Cli, database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    directory = migrations(TWO | THREE)
    run(database, directory)
    environ = {"MIGRATION_DIR": str(directory), "MIGRATION_ENV": "production"}
    shown = cli("status", url=database.url, env=environ).out.splitlines()[-1]
    ((_, time, lsn),) = database.execute(f"{POINTS} DESC LIMIT 1")
    assert shown == (
        f"Restore point, before 002-two and 1 more: {time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        f", WAL position {lsn}"
    )
    database.execute("DELETE FROM schema_migrations WHERE id > 1")
    recorded = cli("baseline", "003", "--production", url=database.url, env=environ)
    assert recorded.code == 0
    assert "Restore point" not in cli("status", url=database.url, env=environ).out
    assert tables(database) == ["one", "three", "two"]


def test_a_run_that_failed_gives_the_point_if_it_has_left_anything(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE | {"002-two.sql": "SELECT 1/0"})
    with run_fails(MigrationFailed) as failed:
        run(database, directory, MIGRATION_ENV="staging")
    assert failed.failed
    assert "Restore point, before 001-one: " in error_text(failed.failed)
    with run_fails(MigrationFailed) as failed:
        run(database, directory, MIGRATION_ENV="staging")
    assert failed.failed
    assert failed.failed.way_back is None, "it changed nothing"
    migrations({"002-two.sql": "-- migrate: no-transaction\nCREATE TABLE two (); SELECT 1/0"})
    with run_fails(PartlyApplied) as partly:
        run(database, directory, MIGRATION_ENV="staging")
    assert partly.failed
    assert "Restore point, before 002-two: " in error_text(partly.failed)
    assert tables(database) == ["one", "two"]


def test_a_role_that_cannot_add_the_columns_migrates_and_is_told(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    dropped = ", ".join(f"DROP COLUMN {name}" for name in RESTORE_COLUMNS)
    database.execute(f"ALTER TABLE schema_migrations {dropped}")
    migrations(TWO)
    with login(server, database) as migrator:
        database.execute(
            f"GRANT ALL ON schema_migrations, schema_migrations_id_seq TO {role(migrator)};"
            f"GRANT CREATE ON SCHEMA public TO {role(migrator)}"
        )
        events = run(migrator, directory, MIGRATION_DRIFT="off")
        assert events.applied == ["002-two"]
        (told,) = (one.text for one in events.all if isinstance(one, Notice))
        assert told.startswith("must be owner of table schema_migrations")
        command = told.splitlines()[-1].strip()
        database.execute(command)
        migrations(THREE)
        run(migrator, directory, MIGRATION_DRIFT="off")
        assert [point is not None for _, point, _ in database.execute(POINTS)] == [
            False,
            False,
            True,
        ]
        assert tables(database) == ["one", "three", "two"]


# Cut at its hyphen: with the suffix, a new name has at most 63 characters.
LONG = f"{'s' * 39}-eu"
HOSTS = {
    "postgresql://u@shop.abc123.eu-west-1.rds.amazonaws.com/app": (
        "aws rds restore-db-instance-to-point-in-time --region eu-west-1 "
        "--source-db-instance-identifier shop "
        "--target-db-instance-identifier shop-before-20261126-210003 "
        "--restore-time 2026-11-26T21:00:03Z",
    ),
    "postgresql://u@shop.cluster-abc123.us-east-2.rds.amazonaws.com/app": (
        "aws rds restore-db-cluster-to-point-in-time --region us-east-2 "
        "--source-db-cluster-identifier shop --db-cluster-identifier shop-before-20261126-210003 "
        "--restore-to-time 2026-11-26T21:00:03Z",
    ),
    "postgresql://u@shop.cluster-ro-abc123.us-east-2.rds.amazonaws.com/app": (),
    "postgresql://u@shop.cluster-custom-abc123.us-east-2.rds.amazonaws.com/app": (),
    "postgresql://u@shop.proxy-abc123.us-east-2.rds.amazonaws.com/app": (),
    "postgresql://postgres@db.abcdefgh.supabase.co/postgres": (
        "supabase backups restore --project-ref abcdefgh --timestamp 1795726803",
    ),
    "postgresql://postgres.abcdefgh@aws-0-eu-west-1.pooler.supabase.com:6543/postgres": (
        "supabase backups restore --project-ref abcdefgh --timestamp 1795726803",
    ),
    f"postgresql://u@{LONG}.ABC123.eu-west-1.rds.amazonaws.com.cn./app": (
        "aws rds restore-db-instance-to-point-in-time --region eu-west-1 "
        f"--source-db-instance-identifier {LONG} "
        f"--target-db-instance-identifier {'s' * 39}-before-20261126-210003 "
        "--restore-time 2026-11-26T21:00:03Z",
    ),
    "postgresql://u@shop.abc123.eu-west-1.rds.amazonaws.com.example.org/app": (),
    "postgresql://u@db.example.com/app": (),
}


@pytest.mark.parametrize(("url", "commands"), HOSTS.items())
def test_the_commands_are_those_of_the_host(
    database: Database, migrations: Write, url: str, commands: tuple[str, ...]
) -> None:
    history, _ = connect_and_read_plan(config_of(database, migrations(ONE)))
    config = config_of(Database("app", url), migrations({}), MIGRATION_ENV="staging")
    found = way_back(config, history, RestorePoint(TIME, None), ["001-one"])
    assert found
    assert found.commands == commands
    assert way_back(config, history, None, ["001-one"]) is None
    development = config._replace(environment="development")
    assert way_back(development, history, RestorePoint(TIME, None), ["001-one"]) is None


def test_on_neon_a_new_branch_is_made_of_the_branch_at_that_time(
    database: Database, migrations: Write
) -> None:
    database.execute(
        f"ALTER DATABASE \"{database.name}\" SET neon.project_id = 'cool-rain-1';"
        f"ALTER DATABASE \"{database.name}\" SET neon.branch_id = 'br-$(id)'"
    )
    config = config_of(database, migrations(ONE), MIGRATION_ENV="staging")
    history, _ = connect_and_read_plan(config)
    found = way_back(config, history, RestorePoint(TIME, "0/1"), ["001-one"])
    assert found
    assert list(found.commands) == [
        "neon branches create --project-id cool-rain-1 --name before-20261126-210003 "
        "--parent 'br-$(id)'",
        "neon branches restore before-20261126-210003 'br-$(id)@2026-11-26T21:00:03.999999Z' "
        "--project-id cool-rain-1",
    ]
    assert tables(database) == []
