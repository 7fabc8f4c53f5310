"""Other roles' code, rows and tables: none of them decides what runs, whoever planted it and
wherever.

Each test ends by looking at the database.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from lib import adopt, events, runner
from lib.cli.main import main
from lib.errors import (
    DatabaseUnsuitable,
    FilesError,
    HistoryConflict,
    HistoryHidden,
    MigrationFailed,
    MigrationResult,
    NotEmpty,
    PartlyApplied,
    UntrustedHistory,
)
from lib.imported import Imported, ImportedFile, imported_text
from lib.tool_tables import TABLES
from lib.web.service import Service
from tests.conftest import Database, Server
from tests.hostile import Wire, listening, plant, safely
from tests.kit import (
    LOCK,
    SETTLED,
    Capture,
    Write,
    config_of,
    login,
    places,
    role,
    run,
    run_fails,
    tables,
)
from tests.proxy import Message, Proxy, cut_after

# No file here calls or names anything that could be shadowed: files run on the usual path.
FILES = {
    "001-items.sql": "CREATE TABLE items (i int);\n",
    "002-more.sql": "INSERT INTO items VALUES (1);\n",
    "003-index.sql": "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS items_i "
    "ON items (i);\n",
}
UNIQUE = (
    "-- migrate: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS items_u"
    " ON items (i);\n"
)
# What each table of lib/tool_tables.py is, with a row that says that migration 1 is applied.
TOOL_TABLES = {
    "prisma": """CREATE TABLE {0} (id varchar(36), checksum varchar(64), finished_at timestamptz,
            migration_name varchar(255), rolled_back_at timestamptz, started_at timestamptz);
        INSERT INTO {0} VALUES ('a', 'b', '2024-01-02', '1', NULL, '2024-01-01')""",
    "dbmate": "CREATE TABLE {0} (version varchar(255)); INSERT INTO {0} VALUES ('1')",
    "flyway": """CREATE TABLE {0} (installed_rank int, version varchar(50),
            description varchar(200), type varchar(20), checksum int, installed_on timestamp,
            execution_time int, success boolean);
        INSERT INTO {0} VALUES (1, '01.0', 'x', 'SQL', 5, '2024-01-01', 7, true)""",
    "supabase": "CREATE TABLE {0} (version text, statements text[]); INSERT INTO {0} VALUES ('1')",
    "drizzle": """CREATE TABLE {0} (id serial, hash text, created_at bigint);
        INSERT INTO {0} VALUES (1, 'a', 1)""",
    "node-pg-migrate": """CREATE TABLE {0} (id serial, name varchar(255), run_on timestamp);
        INSERT INTO {0} VALUES (1, '1', '2024-01-01')""",
    "goose": """CREATE TABLE {0} (id int, version_id bigint, is_applied bool, tstamp timestamp);
        INSERT INTO {0} VALUES (1, 1, true, '2024-01-01')""",
    "golang-migrate": """CREATE TABLE {0} (version bigint, dirty boolean);
        INSERT INTO {0} VALUES (1, false)""",
    "sqlx": """CREATE TABLE {0} (version bigint, description text, installed_on timestamptz,
            success boolean, checksum bytea, execution_time bigint);
        INSERT INTO {0} VALUES (1, 'x', '2024-01-01', true, 'x', 5000000)""",
}
OLD_SHAPE = """(
    id SERIAL PRIMARY KEY, version VARCHAR(255) UNIQUE NOT NULL, name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMP, execution_time_ms INTEGER, checksum VARCHAR(64))"""


@dataclass
class Story:
    """All that Onward can be asked to do, done to a database in turn; `said` is what it printed."""

    server: Server
    database: Database
    wire: Wire
    proxy: Proxy
    write: Write
    capture: Capture

    def command(self, *words: str, code: int = 0, **environ: str) -> str:
        """One command by its exit code; what it printed."""
        found = main(words, self.environ(**environ))
        out, err = self.capture.readouterr()
        assert found == code, out + err
        return out + err

    def environ(self, **environ: str) -> dict[str, str]:
        directory = self.write({})
        given = {
            "MIGRATION_DIR": str(directory),
            "MIGRATION_ENV": "development",
            "MIGRATION_ALLOW_NONEMPTY": "1",
        }
        return {**given, "POSTGRES_URL": self.proxy.url(self.database.url), **environ}

    def tell(self) -> None:
        for part in (
            self.first_run,
            self.routes,
            self.repair_and_baseline,
            self.held_up,
            self.broken,
            self.taken_over,
            self.of_another_tool,
        ):
            part()
            assert self.wire.called == [], part.__name__

    def first_run(self) -> None:
        self.write(FILES)
        self.command("status", "--check", code=8)
        assert self.command().count("✅ Applied") == 3
        self.command("status", "--check")
        self.command("validate")
        self.command()
        # All names are looked up before the server says that it has not loaded the library.
        safely(self.database).execute("CREATE SCHEMA stats")
        safely(self.database).execute("CREATE EXTENSION pg_stat_statements SCHEMA stats")
        assert "shared_preload_libraries" in self.command("queries", code=5)

    def routes(self) -> None:
        service = Service(self.environ())
        assert asyncio.run(service.public_status()).status == 200
        for action in ("status", "validate", "migrate"):
            assert service.call(action, applied_by="api").status == 200, action
        self.capture.readouterr()

    def repair_and_baseline(self) -> None:
        self.write(
            {
                "001-items.sql": "CREATE TABLE items (i int); -- a comment\n",
                "004-known.sql": "SELECT 1;\n",
            }
        )
        self.command("repair", "001-items")
        self.command("baseline", "4")

    def held_up(self) -> None:
        """By another run, and by a session that has the table."""
        self.write({"005-busy.sql": "ALTER TABLE items ADD COLUMN j int;\n"})
        with closing(psycopg.connect(safely(self.database).url)) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            self.command(code=4, MIGRATION_WAIT="300ms")
            other.rollback()
            other.execute("LOCK TABLE public.items IN ACCESS SHARE MODE")
            said = self.command(code=4, MIGRATION_LOCK_TIMEOUT="3s", MIGRATION_RETRY="0")
            assert "Blocked by" in said
        self.command()

    def broken(self) -> None:
        """A unique index that cannot be built, then can; an answer to a COMMIT that is lost."""
        self.write({"006-double.sql": "INSERT INTO items VALUES (1);\n", "007-unique.sql": UNIQUE})
        assert "is left, and the next run rebuilds it" in self.command(code=7)
        safely(self.database).execute("TRUNCATE public.items")
        assert "dropped the invalid index" in self.command()
        self.write({"008-lost.sql": "INSERT INTO items VALUES (2);\n"})
        rule = self.proxy.when("RETURNING id", cut_after)
        self.proxy.rules.insert(0, self.proxy.rules.pop())
        assert "confirmed after reconnecting" in self.command()
        assert rule.hits == 1

    def taken_over(self) -> None:
        """A history as an older runner left it."""
        columns = (
            "environment, DROP COLUMN identity, DROP COLUMN git_commit, DROP COLUMN applied_by"
        )
        safely(self.database).execute(f"ALTER TABLE public.schema_migrations DROP COLUMN {columns}")
        self.write({"009-taken-over.sql": "INSERT INTO items VALUES (3);\n"})
        self.command()
        rows = safely(self.database).execute(
            "SELECT version, environment FROM public.schema_migrations ORDER BY id"
        )
        assert [version[:3] for version, _ in rows] == [f"{number:03}" for number in range(1, 10)]
        assert rows[-1][1] == "development"

    def of_another_tool(self) -> None:
        """The history of every tool that is known here, taken over into one of its own."""
        directory = self.write({}).with_name("imported")
        directory.mkdir(exist_ok=True)
        (directory / "001-items.sql").write_text(FILES["001-items.sql"])
        for tool in TABLES:
            place, made = tool.replace("-", "_"), TOOL_TABLES[tool]
            safely(self.database).execute(
                f"CREATE SCHEMA {place}; CREATE SCHEMA {place}_ours; {made.format(f'{place}.t')}"
            )
            file = ImportedFile("one", "1", "001-items")
            document = Imported(tool, f"{place}.t", f"{place}_ours", (file,))
            (directory / "imported.json").write_text(imported_text(document))
            assert "To be taken over" in self.command("status", MIGRATION_DIR=str(directory))
            assert "Taken over" in self.command(MIGRATION_DIR=str(directory))
            rows = safely(self.database).execute(
                f"SELECT version FROM {place}_ours.schema_migrations"
            )
            assert rows == [("001-items",)], tool


async def another_pid(message: Message) -> None:
    """As a pooler does: the client is told another number than the server's."""
    data = message.data
    if data[:1] == b"K":
        data = data[:5] + (1).to_bytes(4, "big") + data[9:]
    await replace(message, data=data).pass_on()


@pytest.fixture
def attacker(server: Server, database: Database) -> Iterator[Database]:
    """The database as a role sees it that may log in, and make things in `public`."""
    with login(server, database) as attacker:
        database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role(attacker)}")
        yield attacker


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "behind", [True, False], ids=["behind pg_catalog", "in front of pg_catalog"]
)
def test_nothing_that_another_role_planted_is_ever_called(
    server: Server,
    database: Database,
    attacker: Database,
    migrations: Write,
    capsys: Capture,
    behind: bool,
) -> None:
    with listening(server) as (wire, proxy):
        calm = server.create()
        Story(server, calm, wire, proxy, migrations, capsys).tell()
        for path in (migrations({})).iterdir():
            path.unlink()
        server.drop(calm)
        assert plant(database, wire.sent, owner=role(attacker)) > 3000
    if not behind:
        database.execute(f'ALTER DATABASE "{database.name}" SET search_path = public, pg_catalog')
    with listening(server) as (wire, proxy):
        Story(server, database, wire, proxy, migrations, capsys).tell()
        assert wire.called == []
    assert safely(database).execute("SELECT count(*) FROM public.items") == [(2,)]


# Whose table it is


def history_of(owner: Database, schema: str = "public", *rows: str) -> str:
    """SQL by which a role makes a table of our shape, with these versions in it."""
    made = f"CREATE TABLE {schema}.schema_migrations {OLD_SHAPE};"
    inserted = (
        f"INSERT INTO {schema}.schema_migrations (version, name) VALUES ('{row}', 'X');"
        for row in rows
    )
    return f"SET ROLE {role(owner)}; {made} {' '.join(inserted)} RESET ROLE"


def versions(database: Database, schema: str = "public") -> list[str]:
    rows = safely(database).execute(f"SELECT version FROM {schema}.schema_migrations ORDER BY id")
    return [version for (version,) in rows]


ONE = {"001-one.sql": "CREATE TABLE one (i int)"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE two (i int)"}


def test_a_history_that_another_role_planted_is_refused_and_untouched(
    database: Database, attacker: Database, migrations: Write
) -> None:
    database.execute(history_of(attacker, "public", "001-one"))
    before = database.execute("SELECT xmin, * FROM schema_migrations")
    for ask in (
        partial(run, database),
        lambda directory: runner.connect_and_read_plan(config_of(database, directory)),
    ):
        with pytest.raises(UntrustedHistory) as caught:
            ask(migrations(ONE))
        assert (caught.value.exit_code, caught.value.http_status, caught.value.code) == (
            3,
            409,
            "untrusted_history",
        )
        assert "ALTER TABLE" in caught.value.next_step
        assert (
            f"GRANT {role(attacker)} TO" in caught.value.next_step.replace('""', '"')
            or "GRANT" in caught.value.next_step
        )
    assert (tables(database), database.execute("SELECT xmin, * FROM schema_migrations")) == (
        [],
        before,
    )


def test_a_history_that_another_role_planted_elsewhere_is_ignored(
    database: Database, attacker: Database, migrations: Write
) -> None:
    database.execute(f"CREATE SCHEMA low AUTHORIZATION {role(attacker)}")
    database.execute(history_of(attacker, "low", "001-one"))
    assert run(database, migrations(ONE)).applied == ["001-one"]
    assert (versions(database), versions(database, "low")) == (["001-one"], ["001-one"])
    assert tables(database) == ["one"]


@pytest.mark.parametrize("remedy", [0, 1])
def test_each_of_the_two_remedies_makes_the_history_trusted(
    server: Server, database: Database, attacker: Database, migrations: Write, remedy: int
) -> None:
    """With a plain role that owns nothing: a superuser's grants would do as well."""
    with login(server, database) as owner:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(owner)}")
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute(
            "ALTER TABLE schema_migrations ADD environment text, ADD identity text, ADD git_commit "
            "text"
        )
        database.execute("ALTER TABLE schema_migrations ADD applied_by text")
        with pytest.raises(UntrustedHistory) as caught:
            run(owner, migrations(TWO))
        database.execute(caught.value.next_step.splitlines()[1 + remedy])
        assert run(owner, migrations(TWO)).applied == ["002-two"]
    # The database is dropped with the role.


def test_code_of_an_untrusted_table_is_not_run_by_a_look(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    """A policy, an index and a check, each of which calls a function; a column that is printed by
    one.
    """
    low, mark = role(attacker), "RAISE EXCEPTION 'hostile code was called'"
    hostile = (
        "CREATE FUNCTION public.hostile(int) RETURNS boolean"
        f" LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {mark}; END $$"
    )
    calm = (
        "CREATE FUNCTION public.hostile(int) RETURNS boolean"
        " LANGUAGE sql IMMUTABLE AS 'SELECT true'"
    )
    with login(server, database) as reader:
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute(f"SET ROLE {low}; GRANT SELECT ON schema_migrations TO PUBLIC")
        assert trusted(reader, migrations(ONE)) is False
        for planted in (
            "CREATE INDEX planted ON schema_migrations ((hostile(1)))",
            "CREATE INDEX planted ON schema_migrations (id) WHERE hostile(1)",
            "ALTER TABLE schema_migrations ADD CONSTRAINT planted CHECK (hostile(1))",
            "CREATE STATISTICS planted ON (hostile(1)), id FROM schema_migrations",
        ):
            database.execute(
                f"SET ROLE {low}; {calm}; {planted}; "
                f"{hostile.replace('CREATE', 'CREATE OR REPLACE')}"
            )
            with pytest.raises(UntrustedHistory):
                trusted(reader, migrations(ONE))
            drop = (
                "ALTER TABLE schema_migrations DROP CONSTRAINT"
                if "CHECK" in planted
                else f"DROP {planted.split()[1]}"
            )
            database.execute(f"{drop} planted; DROP FUNCTION public.hostile(int)")
        assert trusted(reader, migrations(ONE)) is False


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TABLE planted () INHERITS (schema_migrations)",
        "CREATE DOMAIN planted AS text; ALTER TABLE schema_migrations ADD environment planted",
    ],
)
def test_an_untrusted_table_with_a_child_or_a_type_of_its_own_is_not_read(
    server: Server, database: Database, attacker: Database, migrations: Write, planted: str
) -> None:
    """A child has checks and policies of its own, and a type has functions that print it."""
    low, directory = role(attacker), migrations(ONE)
    with login(server, database) as reader:
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute(f"SET ROLE {low}; GRANT SELECT ON schema_migrations TO PUBLIC")
        assert trusted(reader, directory) is False
        database.execute(f"SET ROLE {low}; {planted}")
        with pytest.raises(UntrustedHistory):
            trusted(reader, directory)
        assert versions(database) == ["001-one"]


def test_an_untrusted_table_that_may_have_partitions_is_not_read(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    partitioned = f"{OLD_SHAPE} PARTITION BY HASH (id)".replace(" UNIQUE", "")
    with login(server, database) as reader:
        database.execute(
            f"SET ROLE {role(attacker)}; CREATE TABLE schema_migrations {partitioned};"
            "GRANT SELECT ON schema_migrations TO PUBLIC"
        )
        with pytest.raises(UntrustedHistory):
            trusted(reader, migrations(ONE))
        assert database.execute("SELECT * FROM schema_migrations") == []


def test_a_history_that_may_only_be_read_never_comes_before_a_trusted_one(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    with login(server, database) as plain:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(plain)}")
        run(plain, directory)
        database.execute(f"CREATE SCHEMA low AUTHORIZATION {role(attacker)}")
        database.execute(history_of(attacker, "low", "001-one", "002-two"))
        database.execute(
            "GRANT USAGE ON SCHEMA low TO PUBLIC; GRANT SELECT ON low.schema_migrations TO PUBLIC;"
            f'ALTER DATABASE "{database.name}" SET search_path = low, public'
        )
        assert trusted(plain, directory)
        migrations({"002-two.sql": "CREATE TABLE public.two (i int)"})
        assert run(plain, directory).applied == ["002-two"]
        assert versions(database) == ["001-one", "002-two"]
        assert tables(database) == ["one", "two"]


def test_a_history_elsewhere_is_not_read_for_a_schema_that_is_missing(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    with login(server, database) as reader:
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute("GRANT SELECT ON schema_migrations TO PUBLIC")
        config = config_of(reader, migrations(ONE), MIGRATION_SCHEMA="onward")
        found, _ = runner.connect_and_read_plan(config)
        assert (found.schema, found.table_id, found.rows) == ("onward", None, ())
        assert versions(database) == ["001-one"]


def trusted(database: Database, directory: Path) -> bool:
    """What the status says."""
    return runner.connect_and_read_plan(config_of(database, directory))[0].trusted


def test_a_reader_sees_the_only_history_there_is_and_is_told_whose_it_is(
    server: Server, database: Database, attacker: Database, migrations: Write, capsys: Capture
) -> None:
    directory = migrations(ONE)
    assert run(attacker, directory).applied == ["001-one"]
    with login(server, database) as reader:
        database.execute(f"GRANT SELECT ON schema_migrations TO {role(reader)}")
        environ = {"POSTGRES_URL": reader.url, "MIGRATION_DIR": str(directory)}
        assert main(["status", "--check"], environ) == 0
        owner = role(attacker).strip('"')
        assert f"belongs to {owner}" in capsys.readouterr().out
        assert main(["status", "--json"], environ) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["trusted"], document["owner"], document["appliedMigrations"]) == (
            False,
            owner,
            1,
        )
        migrations(TWO)
        assert main([], environ | {"MIGRATION_ENV": "development"}) == 3
        assert tables(database) == ["one"]


def test_nothing_is_done_with_the_history_of_a_role_that_is_not_trusted(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    """Nor by a role that could not write it anyway: it is told whose history it is, and not which
    grant it lacks.
    """
    directory = migrations(TWO)
    with login(server, database) as reader:
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute(f"SET ROLE {role(attacker)}; GRANT SELECT ON schema_migrations TO PUBLIC")
        before = database.execute("SELECT xmin, * FROM schema_migrations")
        config = config_of(reader, directory)
        with run_fails(UntrustedHistory):
            run(reader, directory)
        for act in (partial(adopt.baseline, config, 2), partial(adopt.repair, config, "001-one")):
            with pytest.raises(UntrustedHistory):
                act()
        assert (tables(database), database.execute("SELECT xmin, * FROM schema_migrations")) == (
            [],
            before,
        )


@pytest.mark.parametrize("remedy", ["ALTER SCHEMA", "GRANT"])
def test_no_history_is_made_in_a_schema_whose_owner_could_drop_it(
    server: Server, database: Database, attacker: Database, migrations: Write, remedy: str
) -> None:
    directory = migrations(ONE)
    with login(server, database) as migrator:
        database.execute(
            f"CREATE SCHEMA onward AUTHORIZATION {role(attacker)};"
            f"GRANT CREATE, USAGE ON SCHEMA onward TO {role(migrator)};"
            f"GRANT CREATE ON SCHEMA public TO {role(migrator)}"
        )
        with run_fails(DatabaseUnsuitable) as failed:
            run(migrator, directory, MIGRATION_SCHEMA="onward")
        environ = {"POSTGRES_URL": migrator.url, "MIGRATION_DIR": str(directory)}
        environ |= {"MIGRATION_SCHEMA": "onward"}
        assert main(["status", "--upgrade-check"], environ) == 5
        assert (tables(database), places(database)) == ([], [])
        message = failed.value.message if failed.value else ""
        command = next(line for line in message.splitlines() if line.strip().startswith(remedy))
        database.execute(command)
        run(migrator, directory, MIGRATION_SCHEMA="onward")
        assert (tables(database), places(database)) == (["one"], ["onward"])


def test_a_table_planted_just_before_ours_is_made_is_not_taken_for_ours(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    with listening(server) as (_, proxy):
        plant = history_of(attacker, "public", "001-one")
        before(proxy, "CREATE TABLE", lambda: database.execute(plant))
        with run_fails(UntrustedHistory):
            run(Database(database.name, proxy.url(database.url)), migrations(ONE))
    assert (tables(database), versions(database)) == ([], ["001-one"])


@pytest.mark.parametrize(
    "when", ["BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;", "CREATE TABLE two"]
)
def test_a_history_that_its_schemas_owner_replaces_is_not_written_to(
    server: Server, database: Database, attacker: Database, migrations: Write, when: str
) -> None:
    """Before the second file, by dropping it; during that, by renaming the schema, which no lock of
    ours prevents.
    """
    low, directory = role(attacker), migrations(ONE)
    database.execute("CREATE SCHEMA low; CREATE TABLE public.spoils (who text)")
    database.execute(f"GRANT INSERT ON public.spoils TO {low}")
    run(database, directory, MIGRATION_SCHEMA="low")
    database.execute(f"ALTER SCHEMA low OWNER TO {low}")
    migrations(TWO)
    gone = (
        "DROP TABLE low.schema_migrations"
        if "BEGIN" in when
        else "ALTER SCHEMA low RENAME TO old; CREATE SCHEMA low"
    )
    replant = (
        f"SET ROLE {low}; {gone}; CREATE TABLE low.schema_migrations {OLD_SHAPE};"
        "INSERT INTO low.schema_migrations (version, name) VALUES ('001-one', 'X');"
        "CREATE FUNCTION low.spy() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO public.spoils VALUES (current_user); RETURN NEW; END $$;"
        "CREATE TRIGGER spy BEFORE INSERT ON low.schema_migrations FOR EACH ROW EXECUTE FUNCTION "
        "low.spy()"
    )
    if "BEGIN" not in when:
        database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO {low}')
    with listening(server) as (_, proxy):
        before(proxy, when, lambda: database.execute(replant))
        with run_fails((UntrustedHistory, MigrationFailed)):
            run(Database(database.name, proxy.url(database.url)), directory, MIGRATION_SCHEMA="low")
    assert database.execute("SELECT * FROM spoils") == []
    assert (tables(database), versions(database, "low")) == (["one", "spoils"], ["001-one"])


def before(proxy: Proxy, pattern: str, work: Callable[[], object]) -> None:
    """Do something just before a message that has this in it arrives."""

    async def action(message: Message) -> None:
        await asyncio.to_thread(work)
        await message.pass_on()

    proxy.when(pattern, action)
    proxy.rules.insert(0, proxy.rules.pop())


@pytest.mark.parametrize(
    ("grant", "is_trusted"),
    [
        ("GRANT {owner} TO {runner}", True),
        ("ALTER DATABASE {database} OWNER TO {owner}", True),
        ("ALTER ROLE {owner} SUPERUSER", True),
        ("ALTER TABLE schema_migrations OWNER TO pg_database_owner", True),
        ("ALTER ROLE {runner} SUPERUSER", False),
        ("ALTER ROLE {runner} CREATEROLE", False),
        ("GRANT {runner} TO {owner}", False),
        ("GRANT ALL ON schema_migrations, schema_migrations_id_seq TO {runner}", False),
    ],
)
def test_whom_a_role_trusts(
    server: Server,
    database: Database,
    attacker: Database,
    migrations: Write,
    grant: str,
    is_trusted: bool,
) -> None:
    with login(server, database) as plain:
        database.execute(history_of(attacker, "public", "001-one"))
        names = {"owner": role(attacker), "runner": role(plain), "database": f'"{database.name}"'}
        database.execute(
            f"GRANT SELECT ON schema_migrations TO {role(plain)}; {grant.format(**names)}"
        )
        if is_trusted:
            assert trusted(plain, migrations(ONE))
        elif "ALL" in grant or "{runner} SUPERUSER" in grant:
            with pytest.raises(UntrustedHistory):
                trusted(plain, migrations(ONE))
        else:
            assert not trusted(plain, migrations(ONE))
        database.execute(f'ALTER DATABASE "{database.name}" OWNER TO postgres')
    # The database is dropped with the role.


def test_the_owner_of_another_database_is_not_trusted(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    other = server.create()
    with login(server, database) as plain:
        database.execute(
            f"{history_of(attacker, 'public', '001-one')};"
            f"GRANT SELECT ON schema_migrations TO {role(plain)}"
        )
        database.execute(f'ALTER DATABASE "{other.name}" OWNER TO {role(attacker)}')
        assert trusted(plain, migrations(ONE)) is False
    server.drop(other)


@pytest.mark.parametrize(
    ("options", "is_trusted"),
    [
        ("INHERIT FALSE, SET FALSE, ADMIN TRUE", False),  # as CREATE ROLE leaves it
        ("INHERIT TRUE, SET FALSE", True),
        ("INHERIT FALSE, SET TRUE", True),
    ],
)
def test_a_grant_counts_by_what_it_lets_the_role_do(
    server: Server,
    database: Database,
    attacker: Database,
    migrations: Write,
    options: str,
    is_trusted: bool,
) -> None:
    """Before PostgreSQL 16 each of them lets it SET ROLE."""
    old = int(server.admin.execute("SHOW server_version_num")[0][0]) < 160000
    with login(server, database) as plain:
        database.execute(history_of(attacker, "public", "001-one"))
        database.execute(f"GRANT SELECT ON schema_migrations TO {role(plain)}")
        database.execute(
            f"GRANT {role(attacker)} TO {role(plain)} WITH {'ADMIN OPTION' if old else options}"
        )
        assert trusted(plain, migrations(ONE)) is (is_trusted or old)


def test_the_role_that_logged_in_is_trusted_by_the_one_that_it_acts_as(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    """As where a role that belongs to nobody owns all tables, and people log in as members."""
    with login(server, database) as other:
        acts_as = role(other).strip('"')
        database.execute(
            f"{history_of(attacker, 'public', '001-one')};"
            f"GRANT SELECT ON schema_migrations TO {role(other)};"
            f"GRANT {role(other)} TO {role(attacker)};"
            f"ALTER ROLE {role(attacker)} SET role = '{acts_as}'"
        )
        found, _ = runner.connect_and_read_plan(config_of(attacker, migrations(ONE)))
        assert (found.role, found.trusted) == (acts_as, True)
        assert versions(database) == ["001-one"]


# Rows that are not stored, and rows that are not seen


HEADS = pytest.mark.parametrize(
    "head", ["", "-- migrate: no-transaction\n"], ids=["transaction", "no transaction"]
)


@HEADS
@pytest.mark.parametrize(
    "keep_out",
    [
        "CREATE TRIGGER keep_out BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION "
        "nothing()",
        "CREATE TRIGGER keep_out AFTER INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION "
        "remove()",
        "CREATE CONSTRAINT TRIGGER keep_out AFTER INSERT ON schema_migrations DEFERRABLE INITIALLY "
        "DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION remove()",
        "CREATE TRIGGER keep_out BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION "
        "rename()",
        "CREATE RULE keep_out AS ON INSERT TO schema_migrations DO INSTEAD NOTHING",
        "CREATE RULE keep_out AS ON INSERT TO schema_migrations DO ALSO DELETE FROM "
        "schema_migrations"
        " WHERE version = NEW.version",
    ],
    ids=["returns null", "deletes", "deletes at commit", "renames", "rule instead", "rule also"],
)
def test_a_file_whose_row_is_not_stored_is_not_applied(
    database: Database, migrations: Write, head: str, keep_out: str
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    for name, body in {
        "nothing": "RETURN NULL",
        "remove": "DELETE FROM schema_migrations WHERE version = NEW.version; RETURN NULL",
        "rename": "NEW.version := NEW.version || '-x'; RETURN NEW",
    }.items():
        database.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$"
        )
    database.execute(keep_out)
    migrations(
        {"002-two.sql": f"{head}CREATE TABLE two ();", "003-three.sql": "CREATE TABLE three ()"}
    )
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.applied) == (1, [])
    assert "schema_migrations" in caught.value.next_step
    assert (tables(database), versions(database)) == (["one"], ["001-one"])
    database.execute(
        "DROP RULE keep_out ON schema_migrations"
        if "RULE" in keep_out
        else "DROP TRIGGER keep_out ON schema_migrations"
    )
    assert run(database, directory).applied == ["002-two", "003-three"]


def test_a_row_that_cannot_be_written_at_the_end_is_given_to_be_typed(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    spoil = (
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END "
        "$$;\n"
        "CREATE TRIGGER keep_out BEFORE INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION "
        "nothing();\n"
    )
    migrations({"002-two.sql": f"-- migrate: no-transaction\nCREATE TABLE two ();\n{spoil}"})
    with run_fails(PartlyApplied) as caught:
        run(database, directory)
    assert caught.value.exit_code == 7
    [insert] = [
        line.strip()
        for line in caught.value.state.splitlines()
        if line.strip().startswith("INSERT INTO")
    ]
    database.execute(f"DROP TRIGGER keep_out ON schema_migrations; {insert}")
    assert run(database, directory).applied == []
    assert (tables(database), versions(database)) == (["one", "two"], ["001-one", "002-two"])
    unknown = "SELECT version FROM schema_migrations WHERE restore_time IS NULL"
    assert database.execute(unknown) == []


@pytest.mark.parametrize("command", ["INSERT", "UPDATE"])
def test_a_trigger_that_keeps_out_a_baseline_or_a_repair_is_told(
    database: Database, migrations: Write, command: str
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    database.execute(
        f"CREATE TRIGGER keep_out BEFORE {command} ON schema_migrations FOR EACH ROW EXECUTE "
        "FUNCTION nothing()"
    )
    before = database.execute("SELECT xmin, * FROM schema_migrations")
    migrations(
        TWO if command == "INSERT" else {"001-one.sql": "CREATE TABLE one (i int); -- changed"}
    )
    config = config_of(database, directory)
    act = (
        partial(adopt.baseline, config, 2)
        if command == "INSERT"
        else partial(adopt.repair, config, "001-one")
    )
    with pytest.raises(
        HistoryConflict, match="not stored as it was written; rolled back"
    ) as caught:
        act()
    assert "information_schema.triggers" in caught.value.next_step
    assert database.execute("SELECT xmin, * FROM schema_migrations") == before
    database.execute("DROP TRIGGER keep_out ON schema_migrations")
    act()
    assert run(database, directory).applied == []


def test_a_trigger_that_changes_other_rows_of_a_baseline_undoes_it(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " DELETE FROM schema_migrations WHERE version = '001-one'; RETURN NULL; END $$;"
        "CREATE TRIGGER forget AFTER INSERT ON schema_migrations FOR EACH ROW"
        " EXECUTE FUNCTION forget()"
    )
    migrations(TWO)
    with pytest.raises(HistoryConflict, match="have been changed; rolled back") as caught:
        adopt.baseline(config_of(database, directory), 2)
    assert "information_schema.triggers" in caught.value.next_step
    assert (tables(database), versions(database)) == (["one"], ["001-one"])


def test_a_version_is_never_applied_twice_in_one_run(database: Database, migrations: Write) -> None:
    directory = migrations(
        {**ONE, "002-two.sql": "-- migrate: no-transaction\nCREATE TABLE two ();"}
    )

    def forget(event: events.Event) -> None:
        if isinstance(event, MigrationResult):
            database.execute(
                "DELETE FROM schema_migrations WHERE version = '001-one'; DROP TABLE one"
            )

    with run_fails(HistoryConflict, match="missing from the history now: 001-one") as caught:
        runner.run(config_of(database, directory), forget)
    assert caught.applied == ["001-one"]
    assert (tables(database), versions(database)) == ([], [])


@pytest.mark.parametrize(
    "command", [(), ("status",), ("validate",), ("baseline", "1"), ("repair", "001-one")]
)
@pytest.mark.parametrize("policy", ["", "CREATE POLICY all_rows ON schema_migrations USING (true)"])
def test_rows_that_row_security_hides_are_an_error_for_every_command(
    server: Server,
    database: Database,
    migrations: Write,
    capsys: Capture,
    command: tuple[str, ...],
    policy: str,
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    migrations(TWO)
    with login(server, database) as reader:
        rights = f"GRANT SELECT, INSERT, UPDATE ON schema_migrations TO {role(reader)}"
        database.execute(
            f"ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY; {rights}; {policy}"
        )
        environ = {"POSTGRES_URL": reader.url, "MIGRATION_DIR": str(directory), **SETTLED}
        assert main(command, environ) == 5
        said = capsys.readouterr().err
        assert "BYPASSRLS" in said
        assert "schema_migrations DISABLE ROW LEVEL SECURITY" in said.replace('"', "")
        assert (tables(database), versions(database)) == (["one"], ["001-one"])
        answer = asyncio.run(Service(environ).public_status())
        assert (answer.status, answer.document["error"]["code"]) == (503, "history_hidden")


def test_forced_row_security_hides_the_owners_rows_until_the_remedy(
    database: Database, attacker: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(attacker, directory)
    database.execute(
        "ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    migrations(
        {"001-one.sql": "CREATE TABLE one (i int)", "002-two.sql": "CREATE TABLE two (i int)"}
    )
    with pytest.raises(HistoryHidden) as caught:
        run(attacker, directory)
    assert tables(database) == ["one"]
    database.execute(caught.value.next_step.splitlines()[-1])
    assert run(attacker, directory).applied == ["002-two"]


# A database that has tables and no history


PRISMA = "CREATE TABLE _prisma_migrations (id text)"
FULL = "CREATE TABLE users (id int); INSERT INTO users VALUES (1)"


@pytest.mark.parametrize(
    "there", [FULL, PRISMA, f"CREATE SCHEMA app; SET search_path = app; {PRISMA}"]
)
@pytest.mark.parametrize("words", [(), ("--allow-nonempty",), ("baseline", "1")])
def test_a_preview_build_changes_nothing_on_a_database_with_tables(
    database: Database, migrations: Write, capsys: Capture, there: str, words: tuple[str, ...]
) -> None:
    database.execute(there)
    before = tables(database)
    environ = {"MIGRATION_DIR": str(migrations(ONE)), "POSTGRES_URL": database.url}
    build = {"CI": "1", "VERCEL": "1", "VERCEL_ENV": "preview", "VERCEL_DEPLOYMENT_ID": "d"}
    assert main(words, environ | build) == 3
    assert "Nothing was changed" in capsys.readouterr().err
    assert tables(database) == before
    assert safely(database).execute(
        "SELECT pg_catalog.to_regclass('public.schema_migrations')"
    ) == [(None,)]


@pytest.mark.parametrize(
    "environment", [{"MIGRATION_ENV": "staging"}, {"VERCEL_ENV": "production"}]
)
@pytest.mark.parametrize("there", [FULL, PRISMA])
def test_the_first_run_on_a_database_with_tables_stops_and_names_the_ways(
    database: Database, migrations: Write, capsys: Capture, there: str, environment: dict[str, str]
) -> None:
    database.execute(there)
    before = tables(database)
    environ = {
        "MIGRATION_DIR": str(migrations(ONE)),
        "POSTGRES_URL": database.url,
        "CI": "1",
        **environment,
    }
    assert main([], environ) == 3
    said = capsys.readouterr().err
    confirmed = " --production" if "VERCEL_ENV" in environment else ""
    assert f": scripts/migrate.py baseline NNN{confirmed}\n" in said
    assert "--allow-nonempty" in said
    assert ("Prisma Migrate" in said) is (there == PRISMA)
    assert main(["--json"], environ) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not_empty"
    answer = Service(environ).call("migrate", applied_by="api")
    assert (answer.status, answer.document["error"]["code"]) == (409, "not_empty")
    assert tables(database) == before
    assert main(["--allow-nonempty"], environ) == 0
    assert versions(database) == ["001-one"]


@pytest.mark.parametrize(("number", "rest"), [(5, ""), (6, ", …")])
def test_of_many_tables_without_a_history_five_are_named(
    database: Database, migrations: Write, number: int, rest: str
) -> None:
    names = [f"t{one}" for one in range(number)]
    database.execute("".join(f"CREATE TABLE {name} ();" for name in names))
    with run_fails(NotEmpty) as failed:
        run(database, migrations(ONE), MIGRATION_ALLOW_NONEMPTY="")
    shown = ", ".join(f"public.{name}" for name in names[:5])
    assert failed.value.message.endswith(f"it has tables: {shown}{rest}")
    assert tables(database) == names


def test_the_variable_lets_all_files_run_beside_tables_too(
    database: Database, migrations: Write
) -> None:
    database.execute(FULL)
    environ = {
        "MIGRATION_DIR": str(migrations(ONE)),
        "POSTGRES_URL": database.url,
        "MIGRATION_ENV": "staging",
    }
    assert main([], environ | {"MIGRATION_ALLOW_NONEMPTY": "0"}) == 3
    assert tables(database) == ["users"]
    assert main([], environ | {"MIGRATION_ALLOW_NONEMPTY": "1"}) == 0
    assert (tables(database), versions(database)) == (["one", "users"], ["001-one"])


def test_baseline_records_what_is_missing_if_the_history_has_no_conflict(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"000-zero.sql": "CREATE TABLE zero ()"})
    run(database, directory)
    migrations({**TWO, "003-three.sql": "CREATE TABLE three ()"})
    recorded = adopt.baseline(config_of(database, directory), 2)
    assert [one.version for one in recorded] == ["001-one", "002-two"]
    assert adopt.baseline(config_of(database, directory), 2) == ()
    assert run(database, directory).applied == ["003-three"]
    assert tables(database) == ["three", "zero"]
    migrations({"000-zero.sql": "CREATE TABLE changed ()", "004-four.sql": "CREATE TABLE four ()"})
    with pytest.raises(HistoryConflict, match="changed after it was applied"):
        adopt.baseline(config_of(database, directory), 4)
    assert versions(database) == ["000-zero", "001-one", "002-two", "003-three"]


def test_baseline_refuses_what_could_not_run(database: Database, migrations: Write) -> None:
    directory = migrations({"001-dump.sql": "\\restrict abc\nCREATE TABLE one ();"})
    with pytest.raises(FilesError, match="psql"):
        adopt.baseline(config_of(database, directory), 1)
    assert safely(database).execute(
        "SELECT pg_catalog.to_regclass('public.schema_migrations')"
    ) == [(None,)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-- migrate: draft\nCREATE TABLE one (i int);\n", "still a draft"),
        (
            "CREATE TABLE one (\n<<<<<<< ours\n i int\n=======\n j int\n>>>>>>> theirs\n);\n",
            "merge conflict",
        ),
    ],
)
def test_repair_refuses_a_file_that_is_not_finished(
    database: Database, migrations: Write, text: str, says: str
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    before = database.execute("SELECT xmin, * FROM schema_migrations")
    migrations({"001-one.sql": text})
    with pytest.raises(FilesError, match=says):
        adopt.repair(config_of(database, directory), "001-one")
    assert database.execute("SELECT xmin, * FROM schema_migrations") == before


# Which path counts


def test_a_path_that_came_with_the_connection_is_taken_at_its_word(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE SCHEMA b; CREATE SCHEMA c; CREATE SCHEMA d")
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    for tenant in ("b", "c", "d"):  # to the last one, several histories are elsewhere
        there = Database(database.name, f"{database.url}?options=-csearch_path%3D{tenant}")
        assert run(there, directory).applied == ["001-one"]
        assert run(there, directory).applied == []
        assert versions(database, tenant) == ["001-one"]
    assert tables(database) == ["b.one", "c.one", "d.one"]


def test_the_schema_that_is_set_counts_whatever_path_the_connection_has(
    server: Server, database: Database, attacker: Database, migrations: Write
) -> None:
    """Also for a table that another role owns, and this one trusts."""
    with login(server, database) as plain:
        database.execute(
            f"CREATE SCHEMA audit AUTHORIZATION {role(attacker)};"
            f"{history_of(attacker, 'audit', '001-one')};"
            f"GRANT {role(attacker)} TO {role(plain)}"
        )
        there = Database(database.name, f"{plain.url}?options=-csearch_path%3Dpublic")
        config = config_of(there, migrations(ONE), MIGRATION_SCHEMA="audit")
        found, plan = runner.connect_and_read_plan(config)
        assert (found.schema, found.trusted, plan.pending) == ("audit", True, ())
        assert versions(database, "audit") == ["001-one"]


# Before an upgrade


def test_the_upgrade_check_says_what_a_run_would_refuse_and_only_reads(
    server: Server, database: Database, attacker: Database, migrations: Write, capsys: Capture
) -> None:
    directory = migrations(ONE)
    environ = {
        "MIGRATION_DIR": str(directory),
        "POSTGRES_URL": database.url,
        "MIGRATION_ENV": "staging",
    }

    def check(code: int, **more: str) -> list[str]:
        assert main(["status", "--upgrade-check", "--json"], environ | more) == code
        document = json.loads(capsys.readouterr().out)
        assert document["success"] is (code == 0)
        return [problem["code"] for problem in document["problems"]]

    assert check(0) == []
    assert check(2, MIGRATION_SECRET="short") == ["not_configured"]
    database.execute(FULL)
    assert check(3) == ["not_empty"]
    assert check(3, MIGRATION_SECRET="short") == ["not_empty", "not_configured"]
    database.execute(history_of(attacker, "public", "001-one"))
    assert check(3) == ["untrusted_history"]
    database.execute("ALTER TABLE schema_migrations OWNER TO CURRENT_USER")
    assert check(0) == []
    assert (tables(database), versions(database)) == (["users"], ["001-one"])


# What to do next, done


def test_advice_that_names_the_directive_is_right(database: Database, migrations: Write) -> None:
    directory = migrations(
        {"001-loop.sql": "CREATE TABLE one (i int);\nDO $$ BEGIN COMMIT; END $$;\n"}
    )
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert (caught.value.failure.server.sqlstate, tables(database)) == ("2D000", [])
    [directive] = re.findall("`(-- migrate: .*)`", caught.value.next_step)
    migrations(
        {"001-loop.sql": f"{directive}\nCREATE TABLE one (i int);\nDO $$ BEGIN COMMIT; END $$;\n"}
    )
    assert run(database, directory).applied == ["001-loop"]
    assert tables(database) == ["one"]


@pytest.mark.parametrize("way", ["the next file", "the directive"])
def test_a_new_value_of_an_enum_is_used_as_the_advice_says(
    database: Database, migrations: Write, way: str
) -> None:
    add, use = "ALTER TYPE mood ADD VALUE 'new';\n", "INSERT INTO one VALUES ('new');\n"
    directory = migrations(
        {"001-mood.sql": "CREATE TYPE mood AS ENUM ('old'); CREATE TABLE one (m mood)"}
    )
    run(database, directory)
    migrations({"002-new.sql": add + use})
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert caught.value.failure.server.sqlstate == "55P04"
    assert "in the next file" in caught.value.next_step
    assert "-- migrate: no-transaction" in caught.value.next_step
    migrations(
        {"002-new.sql": add, "003-use.sql": use}
        if way == "the next file"
        else {"002-new.sql": f"-- migrate: no-transaction\n{add}{use}"}
    )
    run(database, directory)
    assert database.execute("SELECT m::text FROM one") == [("new",)]


def test_a_table_that_is_there_already_is_recorded_as_the_advice_says(
    database: Database, migrations: Write, capsys: Capture
) -> None:
    database.execute("CREATE TABLE one (i int)")
    environ = {"POSTGRES_URL": database.url, "MIGRATION_DIR": str(migrations(TWO)), **SETTLED}
    assert main([], environ) == 1
    assert "scripts/migrate.py baseline NNN" in capsys.readouterr().err
    assert main(["baseline", "1"], environ) == 0
    assert main([], environ) == 0
    assert (tables(database), versions(database)) == (["one", "two"], ["001-one", "002-two"])
