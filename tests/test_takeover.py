"""The takeover of another tool's history, each test ending with what the database has."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from lib import runner
from lib.events import Event, Started, TakenOver
from lib.tool_tables import HISTORY_TABLES, TABLES
from lib.web.service import Service
from tests.conftest import ROOT, Cli, Database, Here, Server
from tests.kit import (
    OLD_SHAPE,
    ONE,
    Events,
    Write,
    config_of,
    environment,
    fill,
    holding,
    login,
    nothing_is_left_running,
    role,
    run,
    tables,
    until,
)
from tests.proxy import Proxy, cut_after, cut_before

pytestmark = pytest.mark.slow

OWN = "000-create-migration-table"
NAMED = {"MIGRATION_ENV": "development"}
FILES = {
    "20240101000000_create_one.sql": "CREATE TABLE one (id int);\n",
    "20240102000000_create_two.sql": "CREATE TABLE two (id int);\n",
    "20240103000000_create_three.sql": "CREATE TABLE three (id int);\n",
}
VERSIONS = ["001-create-one", "002-create-two", "003-create-three"]


@pytest.fixture
def source(tmp_path: Path, migrations: Write, here: Here) -> Iterator[Path]:
    """dbmate's directory, imported beside our own file."""
    directory = tmp_path / "db" / "migrations"
    directory.mkdir(parents=True)
    for name, sql in FILES.items():
        down = sql.replace("CREATE", "DROP").replace(" (id int)", "")
        (directory / name).write_text(f"-- migrate:up\n{sql}\n-- migrate:down\n{down}")
    migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    assert here("import", "dbmate", str(directory)).code == 0
    yield directory


def dbmate(database: Database, *names: str) -> None:
    """Apply these files as dbmate does."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.schema_migrations (version varchar PRIMARY KEY)"
        )
        for name in sorted(FILES):
            if name.split("_", 1)[1].removesuffix(".sql") in names:
                connection.execute(FILES[name].encode())
                connection.execute(
                    "INSERT INTO public.schema_migrations VALUES (%s)", [name.partition("_")[0]]
                )


def rows_of_dbmate(database: Database) -> list[str]:
    return [row[0] for row in database.execute("SELECT version FROM public.schema_migrations")]


def versions(database: Database) -> list[str]:
    return [
        row[0]
        for row in database.execute("SELECT version FROM onward.schema_migrations ORDER BY id")
    ]


@pytest.mark.usefixtures("source")
def test_a_complete_history_is_recorded_and_nothing_is_run(here: Here, database: Database) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    result = here(url=database.url, env=NAMED)
    assert result.code == 0, result.err
    assert "3 migrations that dbmate has applied (public.schema_migrations)" in (result.out)
    assert versions(database) == [OWN, *VERSIONS]
    assert len(rows_of_dbmate(database)) == 3
    again = here("--json", url=database.url, env=NAMED)
    assert (again.code, "takenOver" in again.out) == (0, False)
    assert versions(database) == [OWN, *VERSIONS]
    assert here("validate", url=database.url, env=NAMED).code == 0


@pytest.mark.usefixtures("source")
def test_a_tenant_takes_nothing_over_that_is_not_in_its_schema(
    database: Database, tmp_path: Path
) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    database.execute("CREATE SCHEMA acme")
    config = config_of(database, tmp_path / "migrations", MIGRATION_ALLOW_NONEMPTY="")
    result = runner.run(config.for_tenant("acme"), lambda _: None)
    assert (result.taken_over, [one.version for one in result.applied]) == ((), [OWN, *VERSIONS])
    assert tables(database) == ["acme.one", "acme.three", "acme.two", "one", "three", "two"]
    assert len(rows_of_dbmate(database)) == 3


@pytest.mark.usefixtures("source")
def test_import_proves_that_history_and_schema_agree(
    here: Here, database: Database, source: Path
) -> None:
    dbmate(database, "create_one", "create_three")
    result = here("import", "dbmate", str(source), "--prove", url=database.url, env=NAMED)
    assert (result.code, result.err) == (0, "")
    assert "✅ History and schema agree: 5 objects" in result.out
    database.execute("ALTER TABLE three ADD COLUMN extra text DEFAULT 'x'")
    result = here("import", "dbmate", str(source), "--prove", url=database.url, env=NAMED)
    assert result.code == 3
    assert "column public.three.extra\n    the files make: not there\n" in result.out
    assert tables(database) == ["one", "three"]
    assert rows_of_dbmate(database) == ["20240101000000", "20240103000000"]


@pytest.mark.usefixtures("source")
def test_nothing_of_the_marks_and_of_what_undoes_a_file_is_imported(here: Here) -> None:
    imported = (here.directory / "migrations" / f"{VERSIONS[0]}.sql").read_text()
    assert imported == "\nCREATE TABLE one (id int);\n"


def places_of_ours(database: Database) -> list[str]:
    """The schemas that have a history of ours."""
    rows = database.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_class c"
        " WHERE relname = 'schema_migrations'"
        " AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'checksum')"
    )
    return [schema for (schema,) in rows]


def changed_by(database: Database) -> list[tuple[object, ...]]:
    """What a run could have changed, but for the rows of tables."""
    return database.execute(
        "SELECT relnamespace::regnamespace::text, relname, xmin::text FROM pg_class "
        "WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    )


WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.mode = 'ShareLock' AND NOT l.granted"""
READS = (("status",), ("validate",), ("status", "--check"))
WRITES = ((), ("baseline", "1"), ("repair", "001-create-one"), ("--allow-nonempty",))


# Whose table it is, and what stands in its place


@pytest.fixture
def attacker(server: Server, database: Database) -> Iterator[Database]:
    """The database as a role sees it that may log in, and make things in `public`."""
    with login(server, database) as attacker:
        database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role(attacker)}")
        yield attacker


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("words", [*READS, *WRITES], ids=" ".join)
def test_another_roles_table_does_not_decide_what_is_applied(
    here: Here, database: Database, attacker: Database, words: tuple[str, ...]
) -> None:
    attacker.execute(
        "CREATE TABLE public.schema_migrations (version varchar PRIMARY KEY);"
        "INSERT INTO public.schema_migrations VALUES ('20240101000000')"
    )
    before = changed_by(database)
    result = here(*words, url=database.url)
    assert result.code == 3
    assert "which the role postgres does not trust" in result.err
    assert changed_by(database) == before


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("words", [*READS, *WRITES], ids=" ".join)
def test_rows_of_the_tool_that_row_security_hides_are_an_error(
    here: Here, server: Server, database: Database, words: tuple[str, ...]
) -> None:
    dbmate(database, "create_one")
    with login(server, database) as reader:
        database.execute(
            f"GRANT ALL ON public.schema_migrations TO {role(reader)};"
            f'GRANT CREATE ON DATABASE "{database.name}" TO {role(reader)};'
            "ALTER TABLE public.schema_migrations ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY few ON public.schema_migrations USING (version > '3')"
        )
        result = here(*words, url=reader.url)
        assert (result.code, "BYPASSRLS" in result.err) == (5, True)
        assert places_of_ours(database) == []


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    "made",
    [
        "CREATE VIEW public.schema_migrations AS SELECT 1 / 0 || '' AS version",
        "CREATE MATERIALIZED VIEW public.schema_migrations AS SELECT '20240101000000' AS version",
        "CREATE TABLE public.schema_migrations (version text) PARTITION BY LIST (version)",
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE public.schema_migrations (version text) SERVER s",
    ],
    ids=["view", "materialized view", "partitioned", "foreign"],
)
def test_what_is_no_plain_table_is_not_taken_over(
    here: Here, database: Database, made: str
) -> None:
    database.execute(f"CREATE TABLE users (id int); {made}")
    before = changed_by(database)
    for words in ((), ("status",)):
        result = here(*words, url=database.url)
        assert result.code == (0 if words else 3), result.err
        assert "taken over" not in result.out
    assert changed_by(database) == before


@pytest.mark.usefixtures("source")
def test_rows_of_a_table_that_inherits_from_the_tools_do_not_count(
    here: Here, database: Database
) -> None:
    dbmate(database, "create_one")
    database.execute(
        "CREATE TABLE public.child () INHERITS (public.schema_migrations);"
        "INSERT INTO public.child VALUES ('20240102000000'), ('20990101000000')"
    )
    assert here(url=database.url, env=NAMED).code == 0
    assert versions(database) == [OWN, *VERSIONS]
    assert database.execute("SELECT to_regclass('public.two')") == [("two",)]


PRISMA = """CREATE TABLE {} (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL,
    finished_at timestamptz, migration_name varchar(255) NOT NULL, logs text,
    rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(),
    applied_steps_count integer NOT NULL DEFAULT 0);
    INSERT INTO {} (id, checksum, finished_at, migration_name) VALUES ('{}', 'c', now(), '{}')"""


def prisma(table: str, *names: str) -> str:
    """SQL that makes Prisma's history in a table."""
    created = PRISMA.format(table, table, "0", names[0])
    inserted = (
        f"INSERT INTO {table} (id, checksum, finished_at, migration_name)"
        f" VALUES ('{number}', 'c', now(), '{name}')"
        for number, name in enumerate(names[1:], 1)
    )
    return "; ".join([created, *inserted])


@pytest.fixture
def of_prisma(tmp_path: Path, migrations: Write) -> Path:
    """A directory of Prisma's with two migrations."""
    migrations({})
    place = tmp_path / "prisma" / "migrations"
    for name in ("1_one", "2_two"):
        (place / name).mkdir(parents=True)
        fill(place / name, {"migration.sql": f"CREATE TABLE {name[2:]} (id int);\n"})
    return place


def ours(database: Database) -> list[tuple[str, str | None]]:
    return database.execute("SELECT version, applied_by FROM public.schema_migrations ORDER BY id")


@pytest.mark.parametrize(
    ("named", "path", "applied"),
    [
        (None, "public", 1),
        (None, "app, public", 2),
        ("app._prisma_migrations", "public", 2),
        ("public._prisma_migrations", "app, public", 1),
    ],
)
def test_of_several_tables_the_first_on_the_path_counts_or_the_one_named(
    here: Here, database: Database, of_prisma: Path, named: str | None, path: str, applied: int
) -> None:
    assert (
        here("import", "prisma", str(of_prisma), *(["--table", named] if named else [])).code == 0
    )
    database.execute(
        f"CREATE SCHEMA app; {prisma('app._prisma_migrations', '1_one', '2_two')};"
        f"{prisma('public._prisma_migrations', '1_one')}; CREATE TABLE public.one (id int);"
        f'ALTER DATABASE "{database.name}" SET search_path = {path}'
    )
    assert here(url=database.url, env=NAMED).code == 0
    table = f"{path.partition(',')[0]}.schema_migrations"
    found = database.execute(f"SELECT count(*) FROM {table} WHERE applied_by = 'import'")
    assert found == [(applied,)]


@pytest.mark.parametrize("applied", [True, False])
def test_a_table_whose_name_must_be_quoted_is_found(
    here: Here, database: Database, of_prisma: Path, applied: bool
) -> None:
    name = 'My "Schema'
    quoted = '"My ""Schema"."The ""Table"'
    words = ("import", "prisma", str(of_prisma), "--table", f'{name}.The "Table')
    assert here(*words).code == 0
    database.execute(f'CREATE SCHEMA "My ""Schema"; {prisma(quoted, "1_one")}')
    if not applied:
        database.execute(f"DELETE FROM {quoted}")
    assert here(url=database.url, env=NAMED).code == 0
    by = "import" if applied else "cli"
    assert ours(database) == [("001-one", by), ("002-two", "cli")]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        ("ALTER finished_at TYPE text", "its columns have other types or values"),
        ("ALTER migration_name TYPE bytea USING 'x'", "no imported file"),
        ("ALTER checksum TYPE int USING 1", "its columns have other types or values"),
        ("DROP COLUMN finished_at", "it has no column finished_at"),
    ],
)
@pytest.mark.parametrize("words", [(), ("status",)])
def test_a_table_of_another_shape_is_not_the_tools(
    here: Here,
    database: Database,
    of_prisma: Path,
    alter: str,
    said: str,
    words: tuple[str, ...],
) -> None:
    assert here("import", "prisma", str(of_prisma)).code == 0
    database.execute(
        f"{prisma('_prisma_migrations', '1_one')}; ALTER TABLE _prisma_migrations {alter}"
    )
    before = changed_by(database)
    result = here(*words, url=database.url, env=NAMED)
    assert (result.code, said in result.err) == (3, True), result.err
    assert changed_by(database) == before


# What this role may do


@pytest.fixture
def deployer(server: Server, database: Database) -> Iterator[Database]:
    """The database as a role sees it that may make schemas and tables, and owns nothing."""
    with login(server, database) as deployer:
        database.execute(
            f'GRANT CREATE ON DATABASE "{database.name}" TO {role(deployer)};'
            f"GRANT USAGE, CREATE ON SCHEMA public TO {role(deployer)}"
        )
        yield deployer


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("granted", [False, True])
def test_a_role_that_may_not_lock_the_table_is_told_what_to_grant(
    here: Here, database: Database, deployer: Database, granted: bool
) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    if granted:
        database.execute(f"GRANT SELECT ON public.schema_migrations TO {role(deployer)}")
        assert here("status", url=deployer.url).code == 0
    result = here(url=deployer.url, env=NAMED)
    assert (result.code, places_of_ours(database)) == (5, []), result.err
    grants = [line for line in result.err.splitlines() if line.startswith("  GRANT")]
    assert len(grants) == 2
    database.execute("".join(grants))
    assert here(url=deployer.url, env=NAMED).code == 0
    assert versions(database) == [OWN, *VERSIONS]


@pytest.mark.usefixtures("source")
def test_a_role_that_may_only_read_sees_what_is_to_be_taken_over(
    here: Here, server: Server, database: Database
) -> None:
    dbmate(database, "create_one")
    with login(server, database) as reader:
        database.execute(f"GRANT SELECT ON public.schema_migrations TO {role(reader)}")
        status = here("status", url=reader.url)
        assert (status.code, "To be taken over" in status.out) == (0, True)
        assert here(url=reader.url, env=NAMED).code == 5
        database.execute(
            f"GRANT ALL ON public.schema_migrations TO {role(reader)};"
            f"ALTER ROLE {role(reader)} SET default_transaction_read_only = on"
        )
        assert here(url=reader.url, env=NAMED).code == 5
        assert places_of_ours(database) == []


# Several at once


@pytest.mark.usefixtures("source")
def test_of_two_runs_at_once_one_takes_over(database: Database, tmp_path: Path) -> None:
    dbmate(database, "create_one", "create_two")
    every = [Events() for _ in range(4)]
    with ThreadPoolExecutor(len(every)) as pool:
        for one in [pool.submit(run, database, tmp_path / "migrations", each) for each in every]:
            one.result()
    taken = [event for each in every for event in each.all if isinstance(event, TakenOver)]
    assert len(taken) == 1
    assert sorted(version for each in every for version in each.applied) == VERSIONS[2:]
    assert versions(database) == [OWN, *VERSIONS]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("meanwhile", "applied"),
    [
        ("INSERT INTO public.schema_migrations VALUES ('20240102000000')", VERSIONS[2:]),
        ("DELETE FROM public.schema_migrations", VERSIONS),
        ("ALTER TABLE public.schema_migrations RENAME TO gone", VERSIONS),
        ("ALTER TABLE public.schema_migrations SET SCHEMA app", VERSIONS),
        (
            "ALTER TABLE public.schema_migrations RENAME TO gone;"
            "CREATE VIEW public.schema_migrations AS SELECT 1 / 0 || '' AS version",
            VERSIONS,
        ),
    ],
)
def test_what_the_tool_records_after_the_plan_is_planned_again(
    database: Database, tmp_path: Path, meanwhile: str, applied: list[str]
) -> None:
    dbmate(database, "create_one")
    database.execute("CREATE SCHEMA app; DROP TABLE public.one")
    seen: list[Event] = []

    def emit(event: Event) -> None:
        if isinstance(event, Started) and not any(isinstance(one, Started) for one in seen):
            database.execute(meanwhile)
        seen.append(event)

    result = runner.run(config_of(database, tmp_path / "migrations"), emit)
    own = [OWN] if applied == VERSIONS else []
    assert [one.version for one in result.applied] == [*own, *applied]
    assert versions(database) == [OWN, *VERSIONS]


@pytest.mark.usefixtures("source")
def test_a_table_that_another_role_has_put_in_its_place_is_not_read(
    here: Here, database: Database, attacker: Database, tmp_path: Path
) -> None:
    dbmate(database, "create_one")
    hostile = "CREATE TABLE public.schema_migrations AS SELECT '20240102000000' AS version"

    def emit(event: Event) -> None:
        if isinstance(event, Started):
            database.execute("ALTER TABLE public.schema_migrations RENAME TO gone")
            attacker.execute(hostile)

    with pytest.raises(Exception, match="does not trust"):
        runner.run(config_of(database, tmp_path / "migrations"), emit)
    assert places_of_ours(database) == []


@pytest.mark.usefixtures("source")
def test_the_tools_open_transaction_is_waited_for_and_its_session_named(
    here: Here, database: Database
) -> None:
    dbmate(database, "create_one")
    short = NAMED | {"MIGRATION_LOCK_TIMEOUT": "3s", "MIGRATION_RETRY": "0"}
    sql = FILES["20240102000000_create_two.sql"]
    insertion = "INSERT INTO public.schema_migrations VALUES ('20240102000000')"
    with holding(database, f"{sql}{insertion}") as tool:
        result = here(url=database.url, env=short)
        assert result.code == 4
        assert "public.schema_migrations is locked by another session" in result.err
        assert "reporting" in result.err
        assert places_of_ours(database) == []
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(run_quietly, database)
            until(lambda: database.execute(WAITS) == [(1,)])
            tool.commit()
            assert found.result() == VERSIONS[2:]
    assert versions(database) == [OWN, *VERSIONS]


def run_quietly(database: Database) -> list[str]:
    return run(database, Path("migrations").absolute(), MIGRATION_LOCK_TIMEOUT="30s").applied


# Faults


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("lost", ["the locked reading", "the commit", "its answer"])
def test_a_connection_that_is_lost_during_the_takeover_doubles_nothing(
    database: Database, proxy: Proxy, tmp_path: Path, lost: str
) -> None:
    dbmate(database, "create_one", "create_two")
    pattern = "LOCK TABLE" if lost == "the locked reading" else "RETURNING id"
    rule = proxy.when(pattern, cut_after if lost == "its answer" else cut_before)
    there = Database(database.name, proxy.url(database.url))
    try:
        run(there, tmp_path / "migrations")
    except Exception as error:
        assert "lost" in str(error), error
        assert places_of_ours(database) == []
    assert rule.hits == 1
    run(database, tmp_path / "migrations")
    assert versions(database) == [OWN, *VERSIONS]
    assert len(rows_of_dbmate(database)) == 2


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_during_the_takeover_leaves_nothing(
    cli: Cli, server: Server, database: Database, number: signal.Signals
) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    lock = "LOCK TABLE public.schema_migrations IN ROW EXCLUSIVE MODE"
    variables = environment(cli, database.url, MIGRATION_LOCK_TIMEOUT="60s", **NAMED)
    with holding(database, lock):
        running = subprocess.Popen(
            [sys.executable, str(cli.script)],
            env=variables | {"HOME": os.environ.get("HOME", "/")},
            cwd=cli.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        until(lambda: database.execute(WAITS) == [(1,)])
        running.send_signal(number)
        said = running.communicate()[0]
    if number is not signal.SIGKILL:
        assert f"interrupted by {number.name}" in said
        assert running.returncode == 128 + number
    nothing_is_left_running(server, database)
    assert places_of_ours(database) == []
    assert cli(url=database.url, env=NAMED).code == 0
    assert versions(database) == [OWN, *VERSIONS]


# A table of ours that is there, and empty


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("columns", ["", OLD_SHAPE])
def test_an_empty_history_of_ours_is_filled(here: Here, database: Database, columns: str) -> None:
    if columns:
        database.execute(f"CREATE SCHEMA onward; CREATE TABLE onward.schema_migrations {columns}")
    else:
        assert here(url=database.url, env=NAMED).code == 0
        database.execute("DELETE FROM onward.schema_migrations; DROP TABLE one, two, three")
    dbmate(database, "create_one", "create_two")
    assert here(url=database.url, env=NAMED).code == 0
    assert versions(database) == [OWN, *VERSIONS]
    marks = database.execute("SELECT DISTINCT environment FROM onward.schema_migrations")
    assert marks == [("development",)]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    "does",
    [
        "RETURN NULL",
        "NEW.checksum := 'x'; RETURN NEW",
        "NEW.version := NEW.version || '-x'; RETURN NEW",
    ],
)
def test_a_trigger_that_changes_what_is_recorded_undoes_the_takeover(
    here: Here, database: Database, does: str
) -> None:
    dbmate(database, "create_one")
    database.execute(
        f"CREATE SCHEMA onward; CREATE TABLE onward.schema_migrations {OLD_SHAPE};"
        f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$;"
        "CREATE TRIGGER spoil BEFORE INSERT ON onward.schema_migrations"
        " FOR EACH ROW EXECUTE FUNCTION spoil()"
    )
    result = here(url=database.url, env=NAMED)
    assert (result.code, "not stored as it was written; rolled back" in result.err) == (3, True)
    assert versions(database) == []
    assert database.execute("SELECT to_regclass('public.two')") == [(None,)]


def test_times_that_no_calendar_has_are_recorded_as_unknown(
    here: Here, database: Database, of_prisma: Path
) -> None:
    assert here("import", "prisma", str(of_prisma)).code == 0
    database.execute(
        f"{prisma('_prisma_migrations', '1_one', '2_two')};"
        "UPDATE _prisma_migrations SET finished_at = 'infinity' WHERE migration_name = '1_one';"
        "UPDATE _prisma_migrations SET started_at = '4000-01-01 BC' WHERE migration_name = '2_two'"
    )
    result = here(url=database.url, env=NAMED)
    if database.execute("SELECT current_setting('server_version_num')::int >= 170000") == [(True,)]:
        assert ours(database) == [("001-one", "import"), ("002-two", "import")]
        durations = database.execute("SELECT execution_time_ms FROM schema_migrations ORDER BY id")
        assert durations == [(None,), (2**31 - 1,)]
    else:
        assert (result.code, "cannot subtract infinite timestamps" in result.err) == (3, True)
        assert database.execute("SELECT to_regclass('public.schema_migrations')") == [(None,)]


# Which environment


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("words", [(), ("--allow-nonempty",), ("--allow-out-of-order",)])
@pytest.mark.parametrize("complete", [True, False])
def test_a_preview_build_on_productions_database_changes_nothing(
    here: Here, database: Database, words: tuple[str, ...], complete: bool
) -> None:
    dbmate(database, "create_one", *(["create_two", "create_three"] if complete else []))
    before = changed_by(database)
    build = {"CI": "1", "VERCEL": "1", "VERCEL_ENV": "preview", "VERCEL_DEPLOYMENT_ID": "d"}
    result = here(*words, url=database.url, env={**build, "MIGRATION_ENV": ""})
    assert result.code == 3
    assert "has the history of dbmate, which names no environment" in result.err
    assert changed_by(database) == before


@pytest.mark.usefixtures("source")
def test_a_deploy_of_production_takes_over_and_marks_its_database(
    here: Here, database: Database
) -> None:
    dbmate(database, "create_one", "create_two")
    build = {"CI": "1", "VERCEL": "1", "VERCEL_ENV": "production", "VERCEL_DEPLOYMENT_ID": "d"}
    assert here(url=database.url, env={**build, "MIGRATION_ENV": ""}).code == 0
    marks = database.execute(
        "SELECT DISTINCT environment, identity IS NOT NULL FROM onward.schema_migrations"
    )
    assert marks == [("production", True)]
    preview = {**build, "VERCEL_ENV": "preview", "MIGRATION_ENV": ""}
    (here.directory / "migrations" / "004-four.sql").write_text("CREATE TABLE four ();\n")
    refused = here(url=database.url, env=preview)
    assert (refused.code, "was last migrated as production" in refused.err) == (3, True)
    assert versions(database) == [OWN, *VERSIONS]


# The other commands before the takeover


@pytest.mark.usefixtures("source")
def test_commands_before_the_takeover_count_what_the_tool_has_applied(
    here: Here, database: Database
) -> None:
    dbmate(database, "create_one", "create_two")
    before = changed_by(database)
    for words in (("baseline", "3"), ("repair", "001-create-one")):
        result = here(*words, url=database.url, env=NAMED)
        assert (result.code, "is not taken over yet" in result.err) == (3, True), words
    renumbered = here("renumber", "001-create-one", url=database.url)
    assert (renumbered.code, "is applied in this database" in renumbered.err) == (3, True)
    assert here("drift", url=database.url).code in (0, 3)
    assert here("drift", "--accept", url=database.url, env=NAMED).code == 3
    assert here("validate", url=database.url).code == 0
    assert here("status", "--check", url=database.url).code == 8
    document = json.loads(here("status", "--json", url=database.url).out)
    assert document["takeover"]["versions"] == [OWN, *VERSIONS[:2]]
    assert (document["takeover"]["tool"], document["pendingMigrations"]) == ("dbmate", 1)
    assert changed_by(database) == before


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("command", ["plan", "rehearse"])
def test_a_rehearsal_runs_only_what_the_tool_has_not_applied(
    here: Here, database: Database, command: str
) -> None:
    dbmate(database, "create_one", "create_two")
    refused = here(command, url=database.url, env=NAMED)
    assert (refused.code, places_of_ours(database)) == (3, [])
    claim = next(word for word in refused.err.split() if word.startswith("MIGRATION_CLAIM="))
    result = here(
        command, url=database.url, env=NAMED | {"MIGRATION_CLAIM": claim.partition("=")[2]}
    )
    assert result.code == 0, result.err
    assert "003-create-three" in result.out
    there = {"plan": [], "rehearse": ["onward"]}
    assert places_of_ours(database) == there[command]


@pytest.mark.usefixtures("source")
def test_the_routes_show_a_takeover_and_do_it(database: Database, tmp_path: Path) -> None:
    dbmate(database, "create_one", "create_two")
    environ = {
        "POSTGRES_URL": database.url,
        "MIGRATION_DIR": str(tmp_path / "migrations"),
        **NAMED,
    }
    service = Service(environ)
    answer = asyncio.run(service.public_status())
    assert (answer.status, answer.document["pendingMigrations"]) == (200, 1)
    assert service.call("status", applied_by="api").document["takeover"]["tool"] == "dbmate"
    assert places_of_ours(database) == []
    done = service.call("migrate", applied_by="api")
    assert (done.status, done.document["applied"][0]["version"]) == (200, VERSIONS[2])
    assert versions(database) == [OWN, *VERSIONS]
    assert asyncio.run(service.public_status()).document["pendingMigrations"] == 0


@pytest.mark.usefixtures("source")
def test_the_variable_comes_before_the_schema_of_the_import(here: Here, database: Database) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    assert here(url=database.url, env=NAMED | {"MIGRATION_SCHEMA": "elsewhere"}).code == 0
    assert places_of_ours(database) == ["elsewhere"]
    refused = here(url=database.url, env=NAMED)
    assert (refused.code, "elsewhere" in refused.err) == (3, True)
    assert places_of_ours(database) == ["elsewhere"]


# What was imported


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    "edit",
    [
        lambda document: "{",
        lambda document: "[]",
        lambda document: document | {"format": 2},
        lambda document: document | {"tool": "liquibase"},
        lambda document: document | {"files": [{"version": "001-x"}]},
        lambda document: document | {"files": {"version": "001-x"}},
        lambda document: document | {"table": ["x"]},
        lambda document: {"format": 1},
        *(
            lambda document, version=version: (
                document | {"files": [{"path": "x", "key": "20240101000000", "version": version}]}
            )
            for version in ("../../etc/passwd", "x'; DROP TABLE one; --", "1", "", "001-A")
        ),
    ],
)
@pytest.mark.parametrize("words", [(), ("status",), ("import", "dbmate", "db/migrations")])
def test_an_imported_json_that_is_broken_is_named(
    here: Here, database: Database, edit: object, words: tuple[str, ...]
) -> None:
    dbmate(database, "create_one")
    path = here.directory / "migrations" / "imported.json"
    edited = edit(json.loads(path.read_text()))  # type: ignore[operator]
    path.write_text(edited if isinstance(edited, str) else json.dumps(edited))
    result = here(*words, url=database.url, env=NAMED)
    assert (result.code, "imported.json" in result.err) == (2, True), result.err
    assert "version control" in result.err
    assert places_of_ours(database) == []


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    "table",
    ["x; DROP TABLE public.one; --", "public.x' OR 'a' = 'a", 'public"."schema_migrations', "."],
)
def test_a_table_that_is_no_name_is_not_found_and_nothing_is_run(
    here: Here, database: Database, table: str
) -> None:
    dbmate(database, "create_one")
    path = here.directory / "migrations" / "imported.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"table": table}))
    before = changed_by(database)
    assert here(url=database.url, env=NAMED).code == 3
    assert changed_by(database) == before


def test_a_file_that_is_gone_is_recorded_without_a_checksum(
    here: Here, database: Database, source: Path
) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    (here.directory / "migrations" / f"{VERSIONS[0]}.sql").unlink()
    refused = here(url=database.url, env=NAMED)
    assert (refused.code, VERSIONS[0] in refused.err) == (3, True)
    assert places_of_ours(database) == []
    for version in VERSIONS[1:]:
        (here.directory / "migrations" / f"{version}.sql").unlink()
    assert here(url=database.url, env=NAMED).code == 0
    found = database.execute("SELECT version, checksum IS NULL FROM onward.schema_migrations")
    assert found == [(OWN, False), *((version, True) for version in VERSIONS)]
    assert here("import", "dbmate", str(source)).code == 0
    assert here("validate", url=database.url).code == 0


# How much, and how often


def test_a_takeover_costs_as_much_as_a_file_or_two_and_then_nothing(
    proxy: Proxy, database: Database, source: Path, here: Here
) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    there = Database(database.name, proxy.url(database.url))
    costs = []
    for _ in range(3):
        before = proxy.round_trips
        run(there, here.directory / "migrations", MIGRATION_DRIFT="off")
        costs.append(proxy.round_trips - before)
    # Read ours, find theirs, read it; begin, create, lock and read, record; read ours again.
    assert costs == [8, 1, 1]
    assert versions(database) == [OWN, *VERSIONS]


@pytest.mark.timeout(60)
def test_a_thousand_files_are_taken_over_at_once(
    here: Here, database: Database, tmp_path: Path, migrations: Write
) -> None:
    migrations({})
    place = tmp_path / "many"
    place.mkdir()
    names = [f"{number:05}_t{number}" for number in range(1, 1001)]
    fill(place, {f"{name}.sql": f"-- migrate:up\nSELECT 1;\n-- {name}\n" for name in names})
    assert here("import", "dbmate", str(place)).code == 0
    dbmate(database)
    database.execute(
        "INSERT INTO public.schema_migrations SELECT to_char(n, 'FM00000') FROM"
        " generate_series(1, 1000) n"
    )
    assert here(url=database.url, env=NAMED).code == 0
    assert len(versions(database)) == 1000
    assert here("validate", url=database.url).code == 0


def test_a_file_that_is_renumbered_is_found_under_its_new_number(
    here: Here, database: Database, source: Path
) -> None:
    dbmate(database, "create_one", "create_three")
    assert here("renumber", "002-create-two", url=database.url, env=NAMED).code == 0
    assert here(url=database.url, env=NAMED).code == 0
    assert versions(database) == [OWN, "001-create-one", "003-create-three", "004-create-two"]
    again = here("import", "dbmate", str(source))
    assert (again.code, "004-create-two.sql" in again.out) == (0, True)
    assert here("status", "--check", url=database.url, env=NAMED).code == 0


@pytest.mark.parametrize("tool", sorted(HISTORY_TABLES.values()))
def test_a_history_that_was_not_imported_is_named_with_the_command(
    here: Here, database: Database, migrations: Write, tool: str
) -> None:
    migrations(ONE)
    name = next(name for name, one in HISTORY_TABLES.items() if one == tool)
    if "." in name:
        database.execute(f"CREATE SCHEMA {name.partition('.')[0]}")
    database.execute(f"CREATE TABLE {name} (id int)")
    result = here(url=database.url, env=NAMED)
    assert result.code == 3
    assert f"{TABLES[tool].title} has a history here; to take it over" in result.err
    assert f"scripts/migrate.py import {tool} DIRECTORY" in result.err
    assert database.execute("SELECT to_regclass('public.one')") == [(None,)]


@pytest.mark.parametrize("third", ["CREATE TABLE three (id int);", "SELECT 1 / 0;"])
@pytest.mark.usefixtures("source")
def test_the_document_of_a_run_says_what_it_has_taken_over(
    here: Here, database: Database, third: str
) -> None:
    (here.directory / "migrations" / f"{VERSIONS[2]}.sql").write_text(third)
    dbmate(database, "create_one", "create_two")
    found = json.loads(here("--json", url=database.url, env=NAMED).out)
    assert found["takenOver"] == versions(database)[:3] == [OWN, *VERSIONS[:2]]
    assert found["success"] == (VERSIONS[2] in versions(database))
