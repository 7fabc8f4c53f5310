"""`rehearse` and `plan` with --queries: what becomes of the statements that production runs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.conftest import Completed, Database, Here
from tests.kit import HEAD, Write, contents, holding, recorded, rows, tables, until

pytestmark = pytest.mark.slow

BASE = {
    "001-orders.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int, notes varchar(9));\n"
    "CREATE TABLE users (id int);\n"
}
BY_ID, ALL = "SELECT id, notes FROM orders WHERE id = $1", "SELECT * FROM orders"
SUM, ADD = "SELECT total + $1 FROM orders", "INSERT INTO orders (id, notes) VALUES ($1, $2)"
QUERIES = {BY_ID: 340.0, ALL: 40.0, SUM: 12.5, ADD: 3.0}
WITH = ("--queries", "queries.json")


@pytest.fixture
def shop(here: Here, migrations: Write, database: Database) -> Database:
    """A database with the base's history, and a document of statements that it runs."""
    migrations(BASE)
    assert here(url=database.url).code == 0
    save(here, QUERIES)
    return database


def save(here: Here, queries: dict[str, float]) -> None:
    listed = [{"text": text, "callsPerMinute": calls} for text, calls in queries.items()]
    document = json.dumps({"format": 1, "queries": listed})
    (here.directory / "queries.json").write_text(document)


def findings(result: Completed) -> list[tuple[str, str, str]]:
    """Of the statements: file, hazard and message."""
    return [
        (file["version"][:3], one["name"], one["message"])
        for file in json.loads(result.out)["files"]
        for one in file["findings"]
        if one["queries"]
    ]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_a_dropped_column_breaks_what_names_it(
    here: Here, shop: Database, migrations: Write, command: str
) -> None:
    migrations({"002-drop.sql": "\nALTER TABLE orders DROP COLUMN notes;\n"})
    result = here(command, *WITH, url=shop.url)
    assert result.code == 9
    line = "line 2 · fail · query-breaks · SELECT id, notes FROM orders WHERE id = $1 (calls a "
    assert f'{line}minute: 340) fails: column "notes" does not exist' in result.out
    assert "query-breaks · INSERT INTO orders (id, notes)" in result.out
    assert "queries: queries.json, 0 of 4 could not be parsed before" in result.out
    applied = ["002-drop"] if command == "rehearse" else []
    assert recorded(shop) == ["001-orders", *applied]


def test_a_finding_is_at_the_statement_that_broke_the_query(
    here: Here, shop: Database, migrations: Write
) -> None:
    steps = (
        "CREATE TABLE lines (id int);",
        "ALTER TABLE orders ADD COLUMN paid boolean;",
        "ALTER TABLE orders DROP COLUMN notes;",
        "ALTER TABLE orders ADD COLUMN due date;",
        "CREATE INDEX lines_id ON lines (id);",
    )
    migrations({"002-drop.sql": "\n".join(steps)})
    save(here, {"SELECT notes FROM orders": 2, "SELECT * FROM orders": 1})
    result = here("rehearse", *WITH, url=shop.url)
    assert "line 3 · fail · query-breaks · SELECT notes FROM orders" in result.out
    assert "line 4 · warn · result-shape · SELECT * FROM orders" in result.out
    assert recorded(shop) == ["001-orders", "002-drop"]


@pytest.mark.parametrize(
    ("drop", "line"),
    [("ALTER TABLE orders RENAME TO sales", 2), ("DROP FUNCTION due_on(int)", 1)],
)
def test_a_finding_is_at_the_rename_or_else_at_the_first_statement(
    here: Here, shop: Database, migrations: Write, drop: str, line: int
) -> None:
    shop.execute("CREATE FUNCTION due_on(n int) RETURNS date LANGUAGE sql AS 'SELECT NULL::date'")
    migrations({"002-drop.sql": f"CREATE TABLE lines (id int);\n{drop};\n"})
    save(here, {"SELECT due_on(id) FROM orders": 2})
    result = here("rehearse", *WITH, url=shop.url)
    assert f"line {line} · fail · query-breaks · SELECT due_on(id)" in result.out
    assert recorded(shop) == ["001-orders", "002-drop"]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_each_file_is_told_what_it_breaks(
    here: Here, shop: Database, migrations: Write, command: str
) -> None:
    migrations(
        {
            "002-more.sql": "CREATE TABLE more (id int);\n",
            "003-type.sql": "ALTER TABLE orders ALTER total TYPE text;\n",
            "004-rename.sql": "ALTER TABLE orders RENAME notes TO remarks;\n",
            "005-back.sql": "ALTER TABLE orders RENAME remarks TO notes;\n",
        }
    )
    result = here(command, *WITH, "--json", url=shop.url)
    named = [(file, name, message.split(" ")[0]) for file, name, message in findings(result)]
    assert named == [
        ("003", "query-breaks", "SELECT"),
        ("003", "result-shape", "SELECT"),
        ("004", "query-breaks", "SELECT"),
        ("004", "query-breaks", "INSERT"),
        ("004", "result-shape", "SELECT"),
        ("005", "result-shape", "SELECT"),
    ]
    assert "operator does not exist: text + unknown (SQLSTATE 42883)" in findings(result)[0][2]
    assert tables(shop) == (["more"] if command == "rehearse" else []) + ["orders", "users"]


def test_a_column_more_changes_the_result_of_all_columns(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"002-paid.sql": "ALTER TABLE orders ADD COLUMN paid boolean;\n"})
    result = here("rehearse", *WITH, url=shop.url)
    assert result.code == 0
    said = "warn · result-shape · SELECT * FROM orders (calls a minute: 40) returns also paid: "
    assert said in result.out
    assert "prepare_threshold=None" in result.out
    assert "⚠️  1 finding warns" in result.out
    assert recorded(shop) == ["001-orders", "002-paid"]


def test_a_result_has_changed_where_the_server_says_so(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"002-wide.sql": "ALTER TABLE orders ALTER notes TYPE varchar(20);\n"})
    with psycopg.connect(shop.url, autocommit=True) as session:
        session.execute("PREPARE named AS SELECT id FROM orders")
        session.execute("PREPARE starred AS SELECT * FROM orders")
        result = here("rehearse", *WITH, "--json", url=shop.url)
        session.execute("EXECUTE named")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change"):
            session.execute("EXECUTE starred")
    (only,) = [one for one in json.loads(result.out)["files"][0]["findings"] if one["queries"]]
    assert (only["name"], only["queries"]) == ("result-shape", [BY_ID, ALL])
    assert recorded(shop) == ["001-orders", "002-wide"]


def test_a_table_renamed_with_a_view_of_its_old_name_breaks_nothing(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations(
        {
            "002-rename.sql": "ALTER TABLE orders RENAME TO purchases;\n"
            "CREATE VIEW orders AS SELECT * FROM purchases;\n"
        }
    )
    result = here("rehearse", *WITH, "--json", url=shop.url)
    assert (result.code, findings(result)) == (0, [])
    assert recorded(shop) == ["001-orders", "002-rename"]


def test_a_file_without_a_transaction_is_told_too(
    here: Here, shop: Database, migrations: Write
) -> None:
    drop = "ALTER TABLE orders DROP COLUMN notes;\n"
    migrations({"002-drop.sql": f"{HEAD}CREATE INDEX CONCURRENTLY o ON orders (total);\n{drop}"})
    result = here("rehearse", *WITH, "--json", url=shop.url)
    assert result.code == 9
    assert [one[:2] for one in findings(result)][:2] == [("002", "query-breaks")] * 2
    assert recorded(shop) == ["001-orders", "002-drop"]


def test_a_file_accepts_what_it_breaks(here: Here, shop: Database, migrations: Write) -> None:
    accepted = (
        "-- migrate: accept query-breaks: release 214 is gone\n"
        "-- migrate: accept result-shape: nothing is prepared\n"
        "-- migrate: accept drop-column: release 214 is gone\n"
    )
    migrations({"002-drop.sql": f"{accepted}ALTER TABLE orders DROP COLUMN notes;\n"})
    result = here("plan", *WITH, url=shop.url, env={"MIGRATION_PLAN_FAIL_ON": "warn"})
    assert result.code == 0
    assert result.out.count("accepted: release 214 is gone") == 3
    assert recorded(shop) == ["001-orders"]


def test_the_comment_and_the_annotations_have_them(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"002-drop.sql": "ALTER TABLE orders DROP COLUMN notes;\n"})
    github = {"GITHUB_ACTIONS": "true"}
    result = here("plan", *WITH, "--markdown", url=shop.url, env=github)
    assert "**❌ 002, line 1: query-breaks.** SELECT id, notes FROM orders" in result.out
    assert "::error file=migrations/002-drop.sql,line=1,title=query-breaks::SELECT" in result.err
    assert recorded(shop) == ["001-orders"]


HOSTILE = ("SELECT 1; DROP TABLE users", "SELECT 1; COMMIT; DROP TABLE users", "SELECT wrong(")


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_a_hostile_file_has_no_effect(
    here: Here, shop: Database, migrations: Write, command: str
) -> None:
    migrations({"002-more.sql": "CREATE TABLE more (id int);\n"})
    shop.execute("INSERT INTO orders VALUES (1, 1, 'x')")
    save(here, {**dict.fromkeys(HOSTILE, 1.0), "DELETE FROM orders": 1.0})
    result = here(command, *WITH, "--json", url=shop.url)
    document = json.loads(result.out)
    assert (result.code, findings(result)) == (0, [])
    assert (document["queries"], document["queriesParsed"]) == (4, 1)
    assert {"orders", "users"} <= set(tables(shop))
    assert rows(shop.url, "SELECT * FROM orders") == [(1, 1, "x")]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_the_statements_of_another_database_are_refused(
    here: Here, shop: Database, migrations: Write, command: str
) -> None:
    migrations({"002-more.sql": "CREATE TABLE more (id int);\n"})
    before = contents(shop)
    save(here, {"SELECT * FROM elsewhere": 1.0, HOSTILE[0]: 2.0})
    result = here(command, *WITH, url=shop.url)
    assert result.code == 2
    assert "queries.json has the statements of another database: it lists 2, and" in result.err
    assert 'relation "elsewhere" does not exist' in result.err
    assert contents(shop) == before


@pytest.mark.parametrize("command", ["rehearse", "plan"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "queries.json cannot be read: no such file or directory"),
        ('{"sizes": {}}', "queries.json is no document of `queries`"),
        ('{"format": 1, "queries": [{"text": "DROP TABLE users", "callsPerMinute": 1}]}', "is no"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(
    here: Here, shop: Database, migrations: Write, command: str, content: str | None, problem: str
) -> None:
    migrations({"002-more.sql": "CREATE TABLE more (id int);\n"})
    before = contents(shop)
    path = here.directory / "queries.json"
    path.unlink()
    if content:
        path.write_text(content)
    result = here(command, *WITH, url=shop.url)
    assert result.code == 2
    assert problem in result.err
    assert "scripts/migrate.py queries > queries.json" in result.err
    assert contents(shop) == before


def test_on_a_new_database_nothing_is_known_of_the_statements(
    here: Here, migrations: Write, database: Database
) -> None:
    save(here, QUERIES)
    migrations({**BASE, "002-drop.sql": "ALTER TABLE orders DROP COLUMN notes;\n"})
    result = here("rehearse", *WITH, "--json", url=database.url)
    found: dict[str, Any] = json.loads(result.out)
    assert (result.code, findings(result), found["queriesParsed"]) == (0, [], 0)
    assert recorded(database) == ["001-orders", "002-drop"]


def test_a_plan_whose_file_fails_leaves_everything(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"002-drop.sql": "DROP TABLE orders;\n", "003-wrong.sql": "SELECT 1 / 0;\n"})
    before = contents(shop)
    result = here("plan", *WITH, url=shop.url)
    assert result.code == 1
    assert "division by zero" in result.err
    assert contents(shop) == before


UNTIL_LOCKED = """DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'orders'::regclass
        AND mode = 'AccessExclusiveLock') LOOP PERFORM pg_sleep(0.02); END LOOP;
END $$;
"""


def test_a_busy_table_does_not_run_a_file_without_a_transaction_twice(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"002-more.sql": f"{HEAD}INSERT INTO users VALUES (1);\n{UNTIL_LOCKED}"})
    ended = threading.Event()

    def hold() -> None:
        until(lambda: shop.execute("SELECT id FROM users"))
        with holding(shop, "LOCK TABLE orders"):
            ended.wait()

    with ThreadPoolExecutor() as pool:
        pool.submit(hold)
        result = here("rehearse", *WITH, url=shop.url, env={"MIGRATION_LOCK_TIMEOUT": "100ms"})
        ended.set()
    assert result.code == 7
    assert "canceling statement due to lock timeout" in result.err
    assert (rows(shop.url, "SELECT id FROM users"), recorded(shop)) == ([(1,)], ["001-orders"])
