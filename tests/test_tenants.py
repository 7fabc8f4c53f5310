"""Tenants that have a schema each in one database: their runs, beside each other's and beside the
database's own.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psycopg
import pytest

from lib import runner
from lib.errors import (
    ConfigError,
    DatabaseUnsuitable,
    HistoryConflict,
    LockBusy,
    MigrationFailed,
    NotEmpty,
    SchemaDrift,
    UntrustedHistory,
)
from lib.events import RunResult
from lib.postgres.lock import RUN_LOCK_KEY, TURN_KEY, RunLock
from lib.settings.config import Config
from tests.conftest import Database, Here, Server
from tests.kit import (
    HEAD,
    OLD_SHAPE,
    ONE,
    TWO,
    Write,
    config_of,
    history,
    login,
    nothing_is_left_running,
    role,
    run,
    run_fails,
    tables,
    until,
)
from tests.proxy import Action, Proxy, cut_after, cut_before

SHARED = {"001-plans.sql": "CREATE TABLE plans (id int PRIMARY KEY); INSERT INTO plans VALUES (1)"}
TENANTS = {
    "001-users.sql": "CREATE TABLE users (plan int REFERENCES plans)",
    "002-index.sql": f"{HEAD}CREATE INDEX CONCURRENTLY IF NOT EXISTS users_plan ON users (plan)",
    "003-first.sql": "INSERT INTO users SELECT id FROM plans",
}


def make(database: Database, *schemas: str) -> None:
    for schema in schemas:
        database.execute(f'CREATE SCHEMA "{schema}"')


def tenant(database: Database, directory: Path, schema: str, **environ: str) -> Config:
    """The settings of a run for a tenant."""
    strict = {"MIGRATION_ALLOW_NONEMPTY": "", **environ}
    return config_of(database, directory, **strict).for_tenant(schema)


def migrate(config: Config) -> list[str]:
    """Run; the versions that it applied."""
    return [one.version for one in runner.run(config, lambda _: None).applied]


def recorded(database: Database, schema: str) -> list[str]:
    query = f'SELECT version FROM "{schema}".schema_migrations ORDER BY id'
    return [version for (version,) in database.execute(query)]


def found(database: Database) -> list[tuple[str, str]]:
    """The tables and indexes of the team's, with their schemas."""
    return database.execute(
        "SELECT relnamespace::regnamespace::text, relname FROM pg_class "
        "WHERE relkind IN ('r', 'i') AND relnamespace >= 16384 "
        "AND relname !~ '^schema_migrations' ORDER BY 1, 2"
    )


# One after the other.


@pytest.mark.slow
def test_each_tenant_has_tables_and_history_in_its_schema_beside_the_shared_ones(
    database: Database, tmp_path: Path
) -> None:
    shared, own = written(tmp_path / "shared", SHARED), written(tmp_path / "own", TENANTS)
    run(database, shared)
    make(database, "acme", "beta")
    for schema in ("acme", "beta"):
        assert migrate(tenant(database, own, schema)) == ["001-users", "002-index", "003-first"]
        assert migrate(tenant(database, own, schema)) == []
        assert recorded(database, schema) == ["001-users", "002-index", "003-first"]
    assert found(database) == [
        (schema, name) for schema in ("acme", "beta") for name in ("users", "users_plan")
    ]
    assert (tables(database)[-1], history(database)) == ("plans", ["001-plans"])
    assert database.execute("SELECT * FROM acme.users UNION ALL SELECT * FROM beta.users") == [
        (1,),
        (1,),
    ]


def written(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_text(content)
    return directory


def test_any_name_of_a_schema_is_a_tenants(database: Database, migrations: Write) -> None:
    directory = migrations({"001-one.sql": f"{HEAD}CREATE TABLE IF NOT EXISTS one ()", **TWO})
    names = ['My "App"', "SELECT", "çà; DROP"]
    for schema in names:
        quoted = schema.replace('"', '""')
        database.execute(f'CREATE SCHEMA "{quoted}"')
        assert migrate(tenant(database, directory, schema)) == ["001-one", "002-two"]
    assert tables(database) == [f"{schema}.{name}" for schema in names for name in ("one", "two")]


def test_a_tenant_never_takes_anothers_history(database: Database, migrations: Write) -> None:
    directory = migrations(ONE)
    make(database, "acme", "beta")
    assert migrate(tenant(database, directory, "acme")) == ["001-one"]
    for path in ("acme", "beta, acme", "acme, public"):
        database.execute(f'ALTER DATABASE "{database.name}" SET search_path = {path}')
        config = tenant(database, directory, "beta")
        assert runner.connect_and_read_plan(config)[0].rows == ()
    assert migrate(tenant(database, directory, "beta")) == ["001-one"]
    assert found(database) == [("acme", "one"), ("beta", "one")]


@pytest.mark.slow
def test_the_database_itself_takes_no_tenants_history(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    make(database, "acme")
    assert migrate(tenant(database, directory, "acme")) == ["001-one"]
    assert run(database, directory).applied == ["001-one"]
    assert (tables(database), history(database)) == (["acme.one", "one"], ["001-one"])
    make(database, "beta")
    assert migrate(tenant(database, directory, "beta")) == ["001-one"]
    migrations(TWO)
    assert run(database, directory).applied == ["002-two"]
    assert recorded(database, "acme") == recorded(database, "beta") == ["001-one"]


def test_a_tenants_history_counts_where_it_is_set_or_on_the_path(
    server: Server, database: Database, migrations: Write
) -> None:
    """Also for a role that does not own it."""
    directory = migrations(ONE)
    make(database, "acme", "empty")
    migrate(tenant(database, directory, "acme"))
    with login(server, database) as reader:
        database.execute(
            f"GRANT USAGE ON SCHEMA acme, empty TO {role(reader)};"
            f"GRANT SELECT ON acme.schema_migrations TO {role(reader)}"
        )
        environ = {"MIGRATION_SCHEMA": "acme"}
        set_, _ = runner.connect_and_read_plan(config_of(reader, directory, **environ))
        database.execute(f'ALTER DATABASE "{database.name}" SET search_path = empty, acme')
        on_path, _ = runner.connect_and_read_plan(config_of(reader, directory))
        for history_ in (set_, on_path):
            assert [row.version for row in history_.rows] == ["001-one"]
        assert recorded(database, "acme") == ["001-one"]


@pytest.mark.slow
def test_what_tenants_do_is_no_drift_of_the_database(database: Database, migrations: Write) -> None:
    directory = migrations(ONE)
    run(database, directory)
    make(database, "acme")
    migrate(tenant(database, directory, "acme"))
    migrations(TWO)
    assert run(database, directory, MIGRATION_DRIFT="fail").applied == ["002-two"]
    migrate(tenant(database, directory, "acme"))
    database.execute("CREATE TABLE acme.by_hand ()")
    migrations({"003-three.sql": "SELECT 3"})
    assert run(database, directory, MIGRATION_DRIFT="fail").applied == ["003-three"]
    database.execute("CREATE TABLE by_hand ()")
    migrations({"004-four.sql": "SELECT 4"})
    with run_fails(SchemaDrift, match="by_hand"):
        run(database, directory, MIGRATION_DRIFT="fail")
    assert tables(database) == ["acme.by_hand", "acme.one", "acme.two", "by_hand", "one", "two"]


def test_a_schema_with_tables_and_no_history_is_not_empty(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    make(database, "acme", "beta")
    database.execute(
        "CREATE TABLE acme.users (); CREATE TABLE beta.schema_migrations (version int)"
    )
    with run_fails(NotEmpty, match="acme.users"):
        migrate(tenant(database, directory, "acme"))
    with pytest.raises(HistoryConflict, match=r"beta\.schema_migrations was created by another"):
        migrate(tenant(database, directory, "beta"))
    assert found(database) == [("acme", "users")]


def test_a_schema_that_is_missing_is_not_made(database: Database, migrations: Write) -> None:
    """Whatever histories are elsewhere."""
    make(database, "one", "two")
    for schema in ("one", "two"):
        database.execute(f"CREATE TABLE {schema}.schema_migrations {OLD_SHAPE}")
    with run_fails(DatabaseUnsuitable, match="there is no schema acme in this database") as ended:
        migrate(tenant(database, migrations(ONE), "acme"))
    assert not ended.value.retry
    assert database.execute("SELECT to_regnamespace('acme')::text") == [(None,)]


def test_a_schema_whose_owner_could_drop_the_history_gets_none(
    server: Server, database: Database, migrations: Write
) -> None:
    owner = f"{database.name}_owner"
    with login(server, database) as limited:
        database.execute(f"CREATE SCHEMA acme; GRANT ALL ON SCHEMA acme TO {role(limited)}")
        database.execute(f"CREATE ROLE {owner}; ALTER SCHEMA acme OWNER TO {owner}")
        try:
            with run_fails(DatabaseUnsuitable, match="does not trust"):
                migrate(tenant(limited, migrations(ONE), "acme"))
            assert found(database) == []
        finally:
            database.execute(f"DROP SCHEMA acme; DROP ROLE {owner}")


def test_a_tenants_history_of_another_role_decides_nothing(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    make(database, "acme")
    migrate(tenant(database, directory, "acme"))
    owner = f"{database.name}_owner"
    with login(server, database) as limited:
        database.execute(
            f"GRANT ALL ON SCHEMA acme TO {role(limited)}; "
            f"ALTER SCHEMA acme OWNER TO {role(limited)}; ALTER TABLE acme.schema_migrations "
            f"RENAME TO theirs; CREATE ROLE {owner}; GRANT ALL ON SCHEMA acme TO {owner}; "
            f"ALTER TABLE acme.theirs OWNER TO {owner}; "
            "ALTER TABLE acme.theirs RENAME TO schema_migrations; GRANT ALL ON "
            f"acme.schema_migrations TO {role(limited)}"
        )
        try:
            with pytest.raises(UntrustedHistory):
                migrate(tenant(limited, migrations(TWO), "acme"))
            assert found(database) == [("acme", "one")]
        finally:
            database.execute(f"DROP SCHEMA acme CASCADE; DROP ROLE {owner}")


@pytest.mark.parametrize(
    "name", ["", "public", "$user", "pg_acme", "x" * 64, "postgresql://a:b@c/d"]
)
def test_a_name_that_no_tenants_schema_can_have_is_refused(
    database: Database, migrations: Write, name: str
) -> None:
    with pytest.raises(ConfigError, match="the schema is none of a tenant's own") as caught:
        tenant(database, migrations(ONE), name)
    assert "a:b" not in caught.value.message
    assert tables(database) == []


def test_a_file_that_changes_its_path_changes_it_for_itself(
    database: Database, migrations: Write
) -> None:
    files = {
        "001-a.sql": "SET search_path = other; CREATE TABLE a ()",
        "002-b.sql": f"{HEAD}SET search_path = other; CREATE TABLE IF NOT EXISTS b ()",
        "003-c.sql": "CREATE TABLE c ()",
    }
    make(database, "acme", "other")
    migrate(tenant(database, migrations(files), "acme"))
    assert found(database) == [("acme", "c"), ("other", "a"), ("other", "b")]
    assert recorded(database, "acme") == ["001-a", "002-b", "003-c"]


def test_triggers_of_a_tenants_history_run_on_the_tenants_path(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-log.sql": "CREATE TABLE log (version text)"})
    make(database, "acme")
    migrate(tenant(database, directory, "acme"))
    database.execute(
        "CREATE FUNCTION public.noted() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO log VALUES (NEW.version); RETURN NULL; END'; CREATE TRIGGER noted "
        "AFTER INSERT ON acme.schema_migrations FOR EACH ROW EXECUTE FUNCTION public.noted()"
    )
    migrate(tenant(database, migrations({"002-two.sql": "SELECT 2"}), "acme"))
    assert database.execute("SELECT * FROM acme.log") == [("002-two",)]


@pytest.mark.slow
@pytest.mark.parametrize("action", [cut_before, cut_after], ids=["before", "after"])
def test_a_tenants_commit_whose_answer_is_lost_is_looked_up_in_its_schema(
    database: Database, proxy: Proxy, migrations: Write, action: Action
) -> None:
    directory = migrations(ONE)
    make(database, "acme", "beta")
    migrate(tenant(database, directory, "beta"))
    proxy.when("RETURNING id", action)
    there = Database(database.name, proxy.url(database.url))
    if action is cut_after:
        assert migrate(tenant(there, directory, "acme")) == ["001-one"]
    else:
        with run_fails(MigrationFailed):
            migrate(tenant(there, directory, "acme"))
        assert recorded(database, "acme") == []
        assert migrate(tenant(database, directory, "acme")) == ["001-one"]
    assert (recorded(database, "acme"), tables(database)) == (["001-one"], ["acme.one", "beta.one"])


def test_a_tenants_run_costs_as_many_round_trips_as_any(
    database: Database, proxy: Proxy, migrations: Write
) -> None:
    directory = migrations({f"{number:03}-f.sql": "SELECT 1" for number in range(3)})
    make(database, "acme")
    there = Database(database.name, proxy.url(database.url))
    migrate(tenant(there, directory, "acme"))
    assert proxy.round_trips == 2 * 3 + 4
    migrate(tenant(there, directory, "acme"))
    assert proxy.round_trips == 2 * 3 + 4 + 1
    assert len(recorded(database, "acme")) == 3


# A history off the search path.


def test_a_run_and_the_status_say_that_the_history_is_off_the_search_path(
    database: Database, migrations: Write, here: Here
) -> None:
    directory = migrations(ONE)
    make(database, "acme", "beta")
    run(database, directory, MIGRATION_SCHEMA="acme")
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = beta, public')
    (notice,) = [one for one in run(database, directory).notices if "search path" in one]
    assert '"acme".schema_migrations, which is not on the search path (beta, public)' in notice
    assert "if it is not of this schema, set MIGRATION_SCHEMA" in notice
    status = here("status", url=database.url, env={"MIGRATION_DIR": str(directory)})
    assert "⚠️  This history is" in status.out
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere')
    assert not [one for one in run(database, directory).notices if "search path" in one]


# At the same time.


@pytest.fixture
def holding_shared(database: Database) -> Iterator[psycopg.Connection]:
    """Another tenant's run in the midst of a file."""
    with psycopg.connect(database.url) as connection:
        connection.execute(f"SELECT {RunLock('other').try_sql('1').removeprefix('SELECT')}")
        yield connection
        connection.rollback()


def test_tenants_run_beside_each_other_and_one_tenant_once(
    database: Database, migrations: Write, holding_shared: psycopg.Connection
) -> None:
    directory = migrations(ONE)
    make(database, "acme", "other")
    assert migrate(tenant(database, directory, "acme", MIGRATION_WAIT="0")) == ["001-one"]
    with run_fails(LockBusy, match="another run holds the lock on the schema other of"):
        migrate(tenant(database, directory, "other", MIGRATION_WAIT="0"))
    assert found(database) == [("acme", "one")]


def test_a_run_for_the_database_and_one_for_a_tenant_wait_for_each_other(
    database: Database, migrations: Write, holding_shared: psycopg.Connection
) -> None:
    directory = migrations(ONE)
    make(database, "acme")
    with run_fails(LockBusy):
        run(database, directory, MIGRATION_WAIT="0")
    holding_shared.rollback()
    holding_shared.execute(f"SELECT pg_advisory_xact_lock({RUN_LOCK_KEY})")
    with run_fails(LockBusy):
        migrate(tenant(database, directory, "acme", MIGRATION_WAIT="0"))
    assert tables(database) == []


def test_a_tenant_lets_a_run_for_the_database_that_waits_go_first(
    database: Database, migrations: Write, holding_shared: psycopg.Connection
) -> None:
    directory = migrations(ONE)
    make(database, "acme")
    waits = Event()

    def tell(event: object) -> None:
        if "waiting for it" in str(event):
            waits.set()

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(runner.run, config_of(database, directory), tell)
        assert waits.wait(30)
        is_turn = f"SELECT count(*) FROM pg_locks WHERE objid = {TURN_KEY & 0xFFFFFFFF} AND granted"
        until(lambda: database.execute(is_turn) == [(1,)])
        with run_fails(LockBusy, match="onward"):
            migrate(tenant(database, directory, "acme", MIGRATION_WAIT="0"))
        holding_shared.rollback()
        result: RunResult = waiting.result()
    assert [one.version for one in result.applied] == ["001-one"]
    assert migrate(tenant(database, directory, "acme", MIGRATION_WAIT="0")) == ["001-one"]


@pytest.mark.slow
def test_eight_tenants_in_a_loop_do_not_keep_a_run_for_the_database_waiting(
    server: Server, database: Database, tmp_path: Path
) -> None:
    files = {f"{number:03}-f.sql": "SELECT pg_sleep(0.05)" for number in range(40)}
    own = written(tmp_path / "own", files)
    shared = written(tmp_path / "shared", {**ONE, "002-two.sql": "CREATE TABLE two (id int)"})
    names = [f"tenant_{number}" for number in range(8)]
    make(database, *names)
    ended = Event()

    def loop(schema: str) -> int:
        turns = 0
        while not ended.is_set():
            migrate(tenant(database, own, schema))
            database.execute(f"DELETE FROM {schema}.schema_migrations")
            turns += 1
        return turns

    with ThreadPoolExecutor(9) as pool:
        looping = [pool.submit(loop, name) for name in names]
        try:
            until(lambda: len(found_histories(database)) == 8)
            applied = run(database, shared, MIGRATION_WAIT="60s").applied
        finally:
            ended.set()
        assert all(one.result() for one in looping)
    assert (applied, tables(database)) == (["001-one", "002-two"], ["one", "two"])
    nothing_is_left_running(server, database)


def found_histories(database: Database) -> list[tuple[str]]:
    return database.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'schema_migrations'"
    )
