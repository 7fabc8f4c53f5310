"""The history's table: where it is found, whose it is, what is read and written, and
by whom.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from lib import runner
from lib.errors import DatabaseUnsuitable, HistoryConflict
from lib.history import AUDIT_COLUMNS
from lib.postgres.executor import Executor
from tests.conftest import Database, Here, Server
from tests.kit import (
    OLD_SHAPE,
    Write,
    config_of,
    history,
    holding,
    login,
    places,
    role,
    run,
    run_fails,
    tables,
)

ONE = {"001-one.sql": "CREATE TABLE public.one ()"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE public.two ()"}
# A table that has all columns of ours, by another name.
REAL = f"CREATE TABLE real {OLD_SHAPE}; ALTER TABLE real " + ", ".join(
    f"ADD {name} text" for name in AUDIT_COLUMNS
)


# Where the table is found.


def test_the_table_is_found_after_the_databases_search_path_has_changed(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute("CREATE SCHEMA app")
    for path in ("app", "pg_catalog", "nowhere", ""):
        database.execute(f"ALTER DATABASE \"{database.name}\" SET search_path = '{path}'")
        assert run(database, directory).applied == []
    migrations(TWO)
    run(database, directory)
    assert history(database) == ["001-one", "002-two"]
    assert places(database) == ["public"]


def test_it_is_made_in_the_first_schema_of_the_search_path_that_exists(
    database: Database, migrations: Write
) -> None:
    database.execute(
        f'CREATE SCHEMA "My {{App}}"; ALTER DATABASE "{database.name}"'
        f' SET search_path = x, "My {{App}}"'
    )
    run(database, migrations(TWO))
    assert history(database, '"My {App}".schema_migrations') == ["001-one", "002-two"]
    assert places(database) == ['"My {App}"']


def test_a_schema_whose_name_differs_by_its_case_has_a_history_of_its_own(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE IF NOT EXISTS one ()"})
    database.execute('CREATE SCHEMA app; CREATE SCHEMA "App"')
    for schema in ("app", "App"):
        assert run(database, directory, MIGRATION_SCHEMA=schema).applied == ["001-one"]
        config = config_of(database, directory, MIGRATION_SCHEMA=schema)
        found, _ = runner.connect_and_read_plan(config)
        oid = f"""SELECT '"{schema}".schema_migrations'::regclass::oid::bigint"""
        assert [(found.table_id or (0, 0))[:1]] == database.execute(oid)
    assert history(database, "app.schema_migrations") == ["001-one"]
    assert history(database, '"App".schema_migrations') == ["001-one"]


def test_a_users_table_of_that_name_in_another_schema_does_not_matter(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE SCHEMA crm; CREATE TABLE crm.schema_migrations (customer text, moved date)"
    )
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = crm, public')
    migrations(TWO)
    assert run(database, directory).applied == ["002-two"]
    assert history(database) == ["001-one", "002-two"]
    assert database.execute("SELECT * FROM crm.schema_migrations") == []


def test_migration_schema_says_which_schema_counts(database: Database, migrations: Write) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE IF NOT EXISTS one ()"})
    run(database, directory)
    database.execute("CREATE SCHEMA audit")
    assert run(database, directory, MIGRATION_SCHEMA="audit").applied == ["001-one"]
    assert run(database, directory, MIGRATION_SCHEMA="audit").applied == []
    assert run(database, directory, MIGRATION_SCHEMA="public").applied == []
    assert history(database) == history(database, "audit.schema_migrations") == ["001-one"]


def test_of_several_histories_only_one_on_the_search_path_is_touched(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE SCHEMA copy; CREATE TABLE copy.schema_migrations AS TABLE schema_migrations"
    )
    migrations(TWO)
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere')
    with pytest.raises(
        HistoryConflict, match=r"several histories: .* copy, public, none on the"
    ) as caught:
        run(database, directory)
    assert (caught.value.exit_code, "MIGRATION_SCHEMA" in caught.value.next_step) == (3, True)
    assert tables(database) == ["one"]
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere, public, copy')
    assert run(database, directory).applied == ["002-two"]
    assert history(database) == ["001-one", "002-two"]
    assert history(database, "copy.schema_migrations") == ["001-one"]


def test_the_first_history_on_the_path_counts_for_another_role_too(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    database.execute("CREATE SCHEMA app")
    for schema in ("app", "public"):
        run(database, migrations({"001-one.sql": "SELECT 1"}), MIGRATION_SCHEMA=schema)
    with login(server, database) as plain:
        database.execute(
            f"GRANT USAGE ON SCHEMA app TO {role(plain)};"
            f"GRANT SELECT ON app.schema_migrations, schema_migrations TO {role(plain)}"
        )
        for path, first in (("nowhere, app, public", "app"), ("public, app", "public")):
            database.execute(f'ALTER DATABASE "{database.name}" SET search_path = {path}')
            found, _ = runner.connect_and_read_plan(config_of(plain, directory))
            assert (found.schema, found.trusted) == (first, True)
        assert history(database) == history(database, "app.schema_migrations") == ["001-one"]


def test_a_temporary_table_of_another_session_is_no_history(
    database: Database, migrations: Write
) -> None:
    with holding(database, f"CREATE TEMPORARY TABLE schema_migrations {OLD_SHAPE}; COMMIT"):
        assert run(database, migrations(ONE)).applied == ["001-one"]
    assert (history(database), places(database)) == (["001-one"], ["public"])


# What is not ours, and what an older runner left.


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, inserted_at timestamp)",
        "CREATE TABLE schema_migrations (id int, version bigint, name text, applied_at date, "
        "checksum text)",
        "CREATE TABLE schema_migrations (id text, version text, name text, applied_at timestamp,"
        " execution_time_ms int, checksum text)",
        "CREATE TABLE schema_migrations (id numeric, version text, name text, applied_at timestamp,"
        " execution_time_ms int, checksum text)",
        f"CREATE TABLE real {OLD_SHAPE}; CREATE VIEW schema_migrations AS TABLE real",
        f"CREATE TABLE real {OLD_SHAPE}; CREATE MATERIALIZED VIEW schema_migrations AS TABLE real",
        f"{REAL}; CREATE VIEW schema_migrations AS TABLE real",
    ],
    ids=[
        "other columns",
        "a column too few",
        "other types",
        "fractions",
        "view",
        "materialized view",
        "view of all our columns",
    ],
)
def test_a_table_or_view_of_another_shape_is_refused_and_untouched(
    database: Database, migrations: Write, foreign: str
) -> None:
    database.execute(foreign)
    shape = (
        "SELECT xmin, * FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass"
        " ORDER BY attnum"
    )
    before = database.execute(shape)
    with pytest.raises(
        HistoryConflict, match=r"public\.schema_migrations was created by another tool"
    ) as caught:
        run(database, migrations(ONE))
    assert (caught.value.exit_code, "MIGRATION_SCHEMA" in caught.value.next_step) == (3, True)
    assert database.execute(shape) == before
    assert database.execute("SELECT * FROM schema_migrations") == []
    assert "one" not in tables(database)


def test_of_several_tables_in_the_way_the_first_on_the_path_is_named(
    database: Database, migrations: Write
) -> None:
    database.execute(
        "CREATE SCHEMA app; CREATE TABLE app.schema_migrations (version int);"
        "CREATE TABLE schema_migrations (version int);"
        f'ALTER DATABASE "{database.name}" SET search_path = app, public'
    )
    with pytest.raises(HistoryConflict, match=r"app\.schema_migrations was created by another"):
        run(database, migrations(ONE))
    assert places(database) == ["app", "public"]


@pytest.mark.parametrize(
    ("ids", "partitions"),
    [
        ("bigint GENERATED BY DEFAULT AS IDENTITY", ""),
        ("numbering DEFAULT nextval('numbers')", ""),
        (
            "int DEFAULT nextval('numbers')",
            "PARTITION BY HASH (id); CREATE TABLE part PARTITION OF schema_migrations"
            " FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        ),
    ],
    ids=["identity", "domain", "partitions"],
)
def test_a_history_that_was_made_in_another_way_is_ours_too(
    server: Server, database: Database, migrations: Write, ids: str, partitions: str
) -> None:
    """For a role that may insert into it; an identity needs no right to its sequence."""
    added = ", ".join(f"{name} text" for name in AUDIT_COLUMNS)
    with login(server, database) as plain:
        database.execute(
            "CREATE SEQUENCE numbers; CREATE DOMAIN numbering AS int;"
            f"CREATE TABLE schema_migrations (id {ids}, version text, name text, applied_at "
            f"timestamptz, execution_time_ms int, checksum text, {added}) {partitions};"
            f"GRANT SELECT, INSERT ON schema_migrations TO {role(plain)};"
            f"GRANT USAGE ON SEQUENCE numbers TO {role(plain)};"
            f"GRANT CREATE ON SCHEMA public TO {role(plain)}"
        )
        directory = migrations(ONE)
        assert run(plain, directory, MIGRATION_DRIFT="off").applied == ["001-one"]
        assert run(plain, directory, MIGRATION_DRIFT="off").applied == []
        assert history(database) == ["001-one"]


@pytest.mark.parametrize(
    "other", ["CREATE SEQUENCE schema_migrations", "CREATE TYPE schema_migrations AS (i int)"]
)
def test_something_else_of_that_name_is_in_the_way_and_stays(
    database: Database, migrations: Write, other: str
) -> None:
    database.execute(other)
    with pytest.raises(
        HistoryConflict, match=r"public\.schema_migrations was created by another tool"
    ):
        run(database, migrations(ONE))
    assert tables(database) == []
    assert database.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'schema_migrations%'"
    ) == [(1,)]


def test_columns_that_a_team_has_added_stay_as_they_are(
    database: Database, migrations: Write
) -> None:
    database.execute(
        f"CREATE TABLE schema_migrations {OLD_SHAPE}; ALTER TABLE schema_migrations ADD note text "
        "DEFAULT '-'"
    )
    database.execute(
        "INSERT INTO schema_migrations (version, name, note) VALUES ('001-one', 'One', 'by hand')"
    )
    run(database, migrations(TWO), MIGRATION_ENV="development")
    assert database.execute(
        "SELECT version, note, applied_by FROM schema_migrations ORDER BY id"
    ) == [
        ("001-one", "by hand", None),
        ("002-two", "-", "cli"),
    ]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
def test_a_time_that_is_no_date_of_ours_is_not_known_and_stays(
    database: Database, migrations: Write, here: Here, moment: str
) -> None:
    database.execute(f"CREATE TABLE schema_migrations {OLD_SHAPE}")
    database.execute(
        "INSERT INTO schema_migrations (version, name, applied_at) VALUES ('001-one', 'One', %s)",
        [moment],
    )
    migrations(TWO)
    env = {"MIGRATION_ENV": "development"}
    assert (
        "001-one                             (time unknown)"
        in here("status", url=database.url, env=env).out
    )
    assert here(url=database.url, env=env).code == 0
    assert database.execute(
        "SELECT version, applied_at = %s FROM schema_migrations WHERE id = 1", [moment]
    ) == [("001-one", True)]
    assert (tables(database), history(database)) == (["two"], ["001-one", "002-two"])


def test_what_is_read_is_what_is_there(database: Database, migrations: Write) -> None:
    database.execute(f"CREATE TABLE schema_migrations {OLD_SHAPE}")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET timezone = 'America/New_York'")
    database.execute(
        "INSERT INTO schema_migrations (id, version, name, applied_at, checksum) VALUES"
        " (9, 'b', '\"🐘'' \\', '2026-01-02 03:04:05.678', 'x'), (7, 'a', '', NULL, NULL)"
    )
    with Executor(config_of(database, migrations(ONE))) as session:
        found = session.read()
    first, second = found.rows
    assert (first.id, first.version, first.applied_at, first.checksum, first.identity) == (
        7,
        "a",
        None,
        None,
        None,
    )
    assert (second.name, second.applied_at) == (
        "\"🐘' \\",
        datetime(2026, 1, 2, 8, 4, 5, 678000, UTC),
    )
    assert (found.schema, found.table_id is None, found.obstacle, found.direct) == (
        "public",
        False,
        "",
        True,
    )
    assert found.fingerprint == (2, 9)
    ((system, version),) = database.execute(
        "SELECT system_identifier, version() FROM pg_control_system()"
    )
    assert found.identity == f"{system}/{database.name}"
    assert found.version in version
    assert len(history(database)) == 2


# Who may read and write it.


@contextmanager
def public_role(server: Server, database: Database) -> Iterator[Database]:
    """A role like a host's `anon`, which every new table and sequence is handed to."""
    with login(server, database) as anon:
        database.execute(
            f"GRANT USAGE ON SCHEMA public TO {role(anon)};"
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role(anon)}, PUBLIC;"
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {role(anon)}, PUBLIC"
        )
        yield anon


def test_a_role_that_is_handed_every_new_table_is_not_handed_the_history(
    server: Server, database: Database, migrations: Write
) -> None:
    with public_role(server, database) as anon:
        run(database, migrations({"001-open.sql": "CREATE TABLE open (i int)"}))
        anon.execute("INSERT INTO open VALUES (1)")
        for sql in (
            "TABLE schema_migrations",
            "DELETE FROM schema_migrations",
            "INSERT INTO schema_migrations (version, name) VALUES ('x', 'X')",
            "SELECT nextval('schema_migrations_id_seq')",
            "SELECT setval('schema_migrations_id_seq', 99)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                anon.execute(sql)
        query = (
            "SELECT relacl FROM pg_class WHERE relname IN ('schema_migrations', "
            "'schema_migrations_id_seq')"
        )
        for (privileges,) in database.execute(query):
            assert len(privileges) == 1, "the owner's own"
        assert history(database) == ["001-open"]


def test_a_role_without_a_place_for_the_table_is_told_which_grant_it_lacks(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with login(server, database) as plain:
        directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
        with run_fails(DatabaseUnsuitable) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
        grant = caught.value.message.partition("its owner can run:")[2]
        assert grant.strip() == f'GRANT USAGE, CREATE ON SCHEMA "public" TO {role(plain)};'
        assert (tables(database), places(database)) == ([], [])

        database.execute(grant)
        run(plain, directory)
        assert history(database) == ["001-one"]


@pytest.mark.parametrize("granted", ["SELECT", "SELECT, INSERT"])
def test_who_may_not_write_the_history_is_told_the_grant_before_a_file(
    server: Server, database: Database, migrations: Write, granted: str
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    run(database, directory)
    with login(server, database) as plain:
        database.execute(
            f"GRANT {granted} ON schema_migrations TO {role(plain)};"
            f"GRANT SELECT ON SEQUENCE schema_migrations_id_seq TO {role(plain)}"
        )
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(plain)}")
        migrations({"002-two.sql": "CREATE TABLE two ()"})
        with run_fails(DatabaseUnsuitable) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
        assert (tables(database), history(database)) == (["one"], ["001-one"])

        database.execute(caught.value.message.partition("its owner can run:")[2])
        run(plain, directory)
        assert history(database) == ["001-one", "002-two"]


@pytest.mark.parametrize(
    "lost",
    ["INSERT ON schema_migrations", "USAGE, UPDATE ON SEQUENCE schema_migrations_id_seq"],
    ids=["table", "sequence"],
)
def test_an_owner_that_may_not_write_its_history_is_told_so_before_a_file(
    server: Server, database: Database, migrations: Write, lost: str
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    with login(server, database) as owner:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(owner)}")
        run(owner, directory)
        database.execute(f"REVOKE {lost} FROM {role(owner)}")
        migrations({"002-two.sql": "CREATE TABLE two ()"})
        with run_fails(DatabaseUnsuitable, match="may not insert into public.schema_migrations"):
            run(owner, directory)
        assert (tables(database), history(database)) == (["one"], ["001-one"])


def test_a_role_that_may_not_read_the_history_is_refused(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    with login(server, database) as plain:
        with pytest.raises(
            DatabaseUnsuitable, match="permission denied for table schema_migrations"
        ) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
    assert "Grant" in caught.value.next_step


def test_a_session_that_is_read_only_is_refused_before_it_writes(
    database: Database, migrations: Write
) -> None:
    database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    with run_fails(DatabaseUnsuitable, match="read-only") as caught:
        run(database, migrations(ONE))
    assert caught.value.exit_code == 5
    assert (tables(database), places(database)) == ([], [])


def test_a_search_path_without_a_schema_is_named(database: Database, migrations: Write) -> None:
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere')
    with run_fails(DatabaseUnsuitable, match="no schema of the search path exists") as caught:
        run(database, migrations(ONE))
    assert caught.value.exit_code == 5
    assert (tables(database), places(database)) == ([], [])


SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1"


def test_migration_schema_is_created_with_the_history_and_said(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    events = run(database, directory, MIGRATION_SCHEMA='on "ward')
    assert events.notices == ['created the schema on "ward for the history']
    assert run(database, directory, MIGRATION_SCHEMA='on "ward').applied == []
    assert history(database, '"on ""ward".schema_migrations') == ["001-one"]
    assert database.execute(SCHEMAS) == [('on "ward',), ("public",)]


def test_many_first_runs_create_the_schema_once(database: Database, migrations: Write) -> None:
    directory = migrations(ONE)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run, database, directory, MIGRATION_SCHEMA="onward") for _ in range(4)]
        applied = [one.result().applied for one in runs]
    assert sorted(applied) == [[], [], [], ["001-one"]]
    assert history(database, "onward.schema_migrations") == ["001-one"]


def test_reading_creates_no_schema(database: Database, migrations: Write) -> None:
    config = config_of(database, migrations(ONE), MIGRATION_SCHEMA="onward")
    found, plan = runner.connect_and_read_plan(config)
    assert (found.schema, found.table_id, len(plan.pending)) == ("onward", None, 1)
    assert database.execute(SCHEMAS) == [("public",)]


def test_another_tools_table_does_not_hinder_a_schema_of_our_own(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE schema_migrations (version text)")
    directory = migrations(ONE)
    run(database, directory, MIGRATION_SCHEMA="onward", MIGRATION_ALLOW_NONEMPTY="1")
    assert history(database, "onward.schema_migrations") == ["001-one"]
    assert database.execute("SELECT * FROM schema_migrations") == []


def test_a_mistyped_schema_is_refused_where_there_is_a_history(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    migrations(TWO)
    config = config_of(database, directory, MIGRATION_SCHEMA="pubic")
    for attempt in (runner.connect_and_read_plan, lambda config: runner.run(config, print)):
        with pytest.raises(HistoryConflict, match=r"pubic.*; its history is in public") as caught:
            attempt(config)
        assert caught.value.exit_code == 3
        assert "Set MIGRATION_SCHEMA to public" in caught.value.next_step
    assert database.execute(SCHEMAS) == [("public",)]
    assert history(database) == ["001-one"]


def test_a_role_that_may_create_no_schema_is_told_what_its_owner_can_run(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "SELECT 1"})
    with login(server, database) as plain:
        with run_fails(DatabaseUnsuitable, match="there is no schema onward") as caught:
            run(plain, directory, MIGRATION_SCHEMA="onward")
        commands = re.findall(r"^  (.*;)$", str(caught.value), re.MULTILINE)
        assert [command.split()[0] for command in commands] == ["CREATE", "GRANT"]
        assert database.execute(SCHEMAS) == [("public",)]
        database.execute(commands[1])
        assert run(plain, directory, MIGRATION_SCHEMA="onward").applied == ["001-one"]
        assert history(database, "onward.schema_migrations") == ["001-one"]
