"""The statements of pg_stat_statements, on a server that counts them, and parsing without running.

Each test ends by looking at the database, or at what was written of it.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from lib.errors import TableBusy
from lib.observation import Query
from lib.postgres.queries import parse_all
from scripts.embedded import Embedded
from tests.conftest import SETTINGS, Database, Here, Server
from tests.kit import Write, contents, holding, login, role, run, session_of, tables

SHOP = "CREATE TABLE orders (id int PRIMARY KEY, notes text); CREATE TABLE users (id int)"


# Parsing


def said(database: Database, *texts: str) -> list[str]:
    with session_of(database) as connection:
        parsed = parse_all(connection, [Query(text, 1) for text in texts])
    return [one.error for one in parsed.values()]


def test_a_statement_is_parsed_and_not_run(database: Database) -> None:
    database.execute(SHOP)
    before = contents(database)
    assert said(
        database, "DELETE FROM orders WHERE id = $1", "INSERT INTO orders VALUES ($1, $2)"
    ) == ["", ""]
    assert contents(database) == before


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; DROP TABLE users",
        "SELECT 1; COMMIT; DROP TABLE users",
        "DROP TABLE users; SELECT 1",
        "COMMIT; DROP TABLE users",
        "SELECT $1) AS SELECT 1; DROP TABLE users; --",
    ],
)
def test_several_statements_are_an_error_and_none_is_run(database: Database, text: str) -> None:
    database.execute(SHOP)
    before = contents(database)
    first, second = said(database, text, "SELECT id FROM users")
    assert first.endswith("(SQLSTATE 42601)")
    assert second == ""
    assert (tables(database), contents(database)) == (["orders", "users"], before)


@pytest.mark.parametrize("text", ["DROP TABLE users", "COMMIT", "DISCARD ALL", "BEGIN"])
def test_a_utility_statement_is_not_run_either(database: Database, text: str) -> None:
    database.execute(SHOP)
    with session_of(database) as connection:
        connection.send("BEGIN; CREATE TABLE here (id int)")
        parsed = parse_all(connection, [Query(text, 1), Query("SELECT id FROM here", 1)])
        assert [one.error for one in parsed.values()] == ["", ""]
        assert connection.in_transaction
        connection.send("COMMIT")
    assert tables(database) == ["here", "orders", "users"]


def test_a_failure_leaves_the_transaction_as_it_was(database: Database) -> None:
    with session_of(database) as connection:
        connection.send("BEGIN; CREATE TABLE here (id int); SET LOCAL search_path = pg_catalog")
        first, second = parse_all(
            connection, [Query("SELECT * FROM nowhere", 1), Query("SELECT * FROM here", 1)]
        ).values()
        assert first.error == 'relation "nowhere" does not exist (SQLSTATE 42P01)'
        assert second.columns == (("id", 23, -1),)
        ((path, locks),) = connection.send(
            "SELECT current_setting('search_path'), (SELECT count(*) FROM pg_locks "
            "WHERE pid = pg_backend_pid() AND mode = 'AccessShareLock' AND relation = "
            "to_regclass('public.here'))"
        ).rows
        connection.send("COMMIT")
    assert (path, locks, tables(database)) == ("pg_catalog", "0", ["here"])


def test_a_statement_is_parsed_as_the_role_of_the_url(server: Server, database: Database) -> None:
    database.execute(SHOP)
    with login(server, database) as plain:
        database.execute(f"GRANT {role(plain)} TO CURRENT_USER; CREATE SCHEMA own")
        database.execute("CREATE TABLE own.mine (id int)")
        ours = f'ALTER ROLE CURRENT_USER IN DATABASE "{database.name}"'
        database.execute(f"{ours} SET search_path = own")
        with session_of(database) as connection:
            connection.send(f"BEGIN; SET ROLE {role(plain)}; SET search_path = public")
            (parsed,) = parse_all(connection, [Query("SELECT * FROM mine", 1)]).values()
            ((now,),) = connection.send("SELECT quote_ident(current_user)").rows
            connection.send("ROLLBACK")
        assert (parsed.error, now) == ("", role(plain).strip('"'))
        assert tables(database) == ["orders", "own.mine", "users"]
        database.execute(f"{ours} RESET ALL")


def test_a_table_that_is_locked_says_nothing_of_a_statement(database: Database) -> None:
    database.execute(SHOP)
    with (
        holding(database, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"),
        session_of(database) as connection,
        pytest.raises(TableBusy),
    ):
        parse_all(
            connection, [Query("SELECT * FROM orders", 1)], "SET LOCAL lock_timeout = '50ms';"
        )
    assert said(database, "SELECT * FROM orders") == [""]


# What the server has counted


def test_without_the_extension_the_command_says_how_to_create_it(
    here: Here, database: Database
) -> None:
    result = here("queries", url=database.url)
    assert result.code == 5
    assert "CREATE EXTENSION pg_stat_statements;" in result.err
    assert json.loads(result.out)["success"] is False
    assert tables(database) == []


def test_without_the_library_the_command_says_how_to_load_it(
    here: Here, database: Database
) -> None:
    database.execute("CREATE EXTENSION pg_stat_statements")
    result = here("queries", url=database.url)
    assert result.code == 5
    assert "shared_preload_libraries = 'pg_stat_statements'" in result.err
    assert tables(database) == []


def test_an_old_extension_is_to_be_updated(here: Here, database: Database) -> None:
    database.execute("CREATE EXTENSION pg_stat_statements VERSION '1.8'")
    result = here("queries", url=database.url)
    assert result.code == 5
    assert "ALTER EXTENSION pg_stat_statements UPDATE;" in result.err
    database.execute("ALTER EXTENSION pg_stat_statements UPDATE")
    assert "shared_preload_libraries" in here("queries", url=database.url).err


@pytest.fixture(scope="module")
def counting() -> Iterator[Server]:
    """A server of its own that counts statements."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    server = Embedded(
        Path(tempfile.mkdtemp(prefix="onward-tests-", dir=place)),
        settings=[*SETTINGS, "shared_preload_libraries=pg_stat_statements"],
    )
    try:
        with server:
            yield Server(server.url(), "counting", "here")
    finally:
        server.drop()


@pytest.fixture
def counted(counting: Server) -> Iterator[Database]:
    """A database whose extension is in a schema that is on nobody's path."""
    database = counting.create()
    database.execute("CREATE SCHEMA stats; CREATE EXTENSION pg_stat_statements SCHEMA stats")
    database.execute(SHOP)
    yield database
    counting.drop(database)


def ask(database: Database, *statements: str, times: int = 1) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in statements * times:
            connection.execute(statement.encode())


def written(here: Here, database: Database) -> dict[str, float]:
    """The statements that `queries` writes."""
    result = here("queries", url=database.url)
    assert (result.code, "calls a minute" in result.err) == (0, True), result.err
    found = json.loads(result.out)
    assert (found["format"], found["database"]) == (1, database.name)
    assert found["asOf"].endswith("Z")
    return {one["text"]: one["callsPerMinute"] for one in found["queries"]}


@pytest.mark.slow
def test_statements_are_written_with_their_calls_and_no_password(
    here: Here, counted: Database
) -> None:
    ask(counted, "SELECT notes FROM orders WHERE id = 4", times=6)
    ask(
        counted,
        "UPDATE orders /* canary-of-a-user */ SET notes = 'canary-of-a-row'",
        "CREATE ROLE app LOGIN PASSWORD 'canary-of-a-role'",
        "ALTER ROLE app PASSWORD 'canary-of-a-role'",
        "DROP ROLE app",
        "DO $$ BEGIN PERFORM id FROM users; END $$",
        "SELECT relname FROM pg_class WHERE relname = 'canary-of-a-row'",
    )
    texts = counted.execute("SELECT query FROM stats.pg_stat_statements")
    assert "canary-of-a-role" in str(texts)
    assert "canary-of-a-user" in str(texts)
    found = written(here, counted)
    assert [*found] == ["SELECT notes FROM orders WHERE id = $1", "UPDATE orders SET notes = $1"]
    assert 0 < found["SELECT notes FROM orders WHERE id = $1"] <= 6


@pytest.mark.slow
def test_nothing_of_onward_itself_is_written(
    here: Here, counted: Database, migrations: Write
) -> None:
    migrations({"001-one.sql": "CREATE TABLE one (id int);\n"})
    run(counted, here.directory / "migrations")
    for command in ("status", "plan", "drift", "validate", "queries"):
        assert here(command, url=counted.url).code == 0
    ask(counted, "SELECT id FROM one")
    assert [*written(here, counted)] == ["SELECT id FROM one"]


@pytest.mark.slow
def test_a_role_that_may_not_see_the_statements_is_told_the_grant(
    here: Here, counting: Server, counted: Database
) -> None:
    ask(counted, "SELECT notes FROM orders")
    with login(counting, counted) as plain:
        counted.execute(f"GRANT USAGE ON SCHEMA stats TO {role(plain)}")
        result = here("queries", url=plain.url)
        assert result.code == 5
        (grant,) = [line for line in result.err.splitlines() if "GRANT" in line]
        assert grant == f"  GRANT pg_read_all_stats TO {role(plain)};"
        counted.execute(grant)
        assert [*written(here, plain)] == ["SELECT notes FROM orders"]


@pytest.mark.slow
def test_statements_of_other_databases_are_not_written(
    here: Here, counting: Server, counted: Database
) -> None:
    other = counting.create()
    ask(other, "SELECT 'elsewhere' AS elsewhere")
    ask(counted, "SELECT id FROM users")
    counting.drop(other)
    assert [*written(here, counted)] == ["SELECT id FROM users"]
