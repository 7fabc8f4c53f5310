"""Hazards, on what a real server does."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lib.guard import Change
from lib.hazards import HAZARDS, Circumstances, Finding, Level, find
from lib.observation import FileObservation
from lib.postgres.catalog import Observer
from lib.rehearsal import prepare, rehearse
from lib.sizes import Size, Sizes
from lib.source.lexer import split
from tests.conftest import ROOT, Database, Server
from tests.kit import config_of, file, fill, history, session_of

TRUTH: dict[str, Any] = json.loads((ROOT / "tests" / "ddl_truth.json").read_text())
SCHEMA = (ROOT / "tests" / "ddl_truth.sql").read_text()
# What the truth table does not judge.
BESIDE = {"fk-without-index", "several-scans", "partition-locks-parent", "detach-locks-parent"}
LARGE = 100_000_000


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    database = server.create(name=f"{server.run}_{server.worker}_{os.getpid()}_hazards")
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in split(SCHEMA):
            connection.execute(statement.text.encode())
    yield database
    server.drop(database)


@pytest.fixture
def clone(server: Server, rich: Database) -> Iterator[Database]:
    database = server.create(template=rich.name)
    yield database
    server.drop(database)


def major(database: Database) -> int:
    return int(database.execute("SHOW server_version_num")[0][0]) // 10_000


def observed(database: Database, sql: str, session: str = "") -> FileObservation:
    observer = Observer()
    with session_of(database) as connection:
        connection.send(f"{session}; BEGIN")
        reply = observer.send(file("001-x", sql), connection)
        assert not reply.failed, reply.error
        connection.send("ROLLBACK")
    return observer.files[0]


def found(
    database: Database, sql: str, sizes: Sizes | None = None, session: str = ""
) -> list[Finding]:
    given = Circumstances(major(database), sizes or Sizes(), LARGE)
    return find(observed(database, sql, session), given)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTH)
def test_a_statement_has_the_hazards_of_the_truth_table(clone: Database, name: str) -> None:
    truth = TRUTH[name]
    if major(clone) < truth.get("since", 14):
        pytest.skip("this server does not have it")
    for sql in truth.get("setup", ()):
        clone.execute(sql)
    findings = found(clone, truth["sql"], session=truth.get("session", ""))
    names = {one.name for one in findings} - BESIDE
    assert names == set(truth["hazards"])


BIG = Sizes({"public.t": Size(9_000_000_000, 41_000_000)})


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.name, one.level.name.lower()) for one in findings]


@pytest.mark.slow
def test_the_level_of_a_scan_depends_on_the_size_of_the_table(clone: Database) -> None:
    sql = "ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0);"
    assert names(found(clone, sql)) == [("constraint-scan", "warn")]
    assert names(found(clone, sql, BIG)) == [("constraint-scan", "fail")]
    middle = Sizes({"public.t": Size(2_000_000, 1)})
    assert names(found(clone, sql, middle)) == [("constraint-scan", "warn")]
    small = Sizes({"public.other": Size(2_000_000, 1)})
    assert names(found(clone, sql, small)) == []


def test_what_a_file_makes_itself_has_no_hazards(database: Database) -> None:
    sql = """
        CREATE TABLE fresh (id int PRIMARY KEY, a int, j json);
        INSERT INTO fresh SELECT g, g FROM generate_series(1, 20000) g;
        UPDATE fresh SET a = a + 1;
        CREATE INDEX fresh_a ON fresh (a);
        ALTER TABLE fresh ADD CONSTRAINT positive CHECK (a > 0), ALTER COLUMN a TYPE bigint;
        ALTER TABLE fresh ALTER COLUMN a SET NOT NULL;
        ALTER TABLE fresh RENAME a TO b;
        ALTER TABLE fresh DROP COLUMN j;
        DROP TABLE fresh;
    """
    assert found(database, sql, BIG) == []


def test_a_constraint_validated_in_the_file_that_adds_it_is_a_scan(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    sql = """
        ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        ALTER TABLE t VALIDATE CONSTRAINT positive;
    """
    findings = found(database, sql, BIG)
    assert [(one.name, one.line) for one in findings] == [("constraint-scan", 3)]


def test_a_change_that_a_savepoint_takes_back_is_no_hazard(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL DEFAULT 1)")
    sql = """
        SAVEPOINT here;
        ALTER TABLE t DROP COLUMN a;
        ROLLBACK TO here;
        ALTER TABLE t ALTER COLUMN a DROP DEFAULT;
        ALTER TABLE t ALTER COLUMN a SET DEFAULT 2;
    """
    assert found(database, sql) == []


def test_work_while_another_table_is_locked_is_told(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE busy (id int)")
    sql = "ALTER TABLE busy ADD COLUMN z int;\nCREATE INDEX t_a ON t (a);"
    findings = found(database, sql)
    assert [one.name for one in findings] == ["index-blocks-writes", "work-under-lock"]
    assert "busy stays locked" in findings[1].sentence


def test_an_update_of_all_rows_is_told_on_a_tiny_table_too(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    database.execute("INSERT INTO t VALUES (1, 1)")
    database.execute("ANALYZE t")  # now the planner knows that all of it is read fastest
    assert found(database, "UPDATE t SET a = 1 WHERE id = 5;") == []
    assert names(found(database, "UPDATE t SET a = 1;")) == [("backfill", "warn")]


def test_partitions_have_one_finding_with_their_table(database: Database) -> None:
    database.execute("""
        CREATE TABLE part (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
        CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    """)
    (only,) = found(database, "CREATE INDEX part_id ON part (id);")
    assert (only.name, only.table) == ("index-blocks-writes", "part")
    assert len(only.recipe) == 3


def test_a_column_that_old_code_does_not_fill_fails(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    (only,) = found(database, "ALTER TABLE t ADD COLUMN z int NOT NULL;")
    assert (only.name, only.level) == ("required-column", Level.FAIL)


# The page shows each sentence about a table `orders`.
SUBJECTS = {
    "index-blocks-writes": "orders_total_idx",
    "constraint-builds-index": "orders_number_key",
    "exclusion": "orders_no_overlap",
    "index-rebuilt": "orders_name_idx",
    "index-drop": "orders_total_idx",
    "detach-locks-parent": "orders_2020",
    "partition-locks-parent": "orders_2020",
    "backfill-under-lock": "customers",
    "work-under-lock": "customers",
    "rename": "orders is purchases now",
    "security": "it is switched off",
    "fk-without-index": "orders_customer_fkey",
    "type-change": "orders.note was varchar(20) and is text",
    "query-breaks": 'SELECT notes FROM orders (calls a minute: 340) fails: column "notes" does not '
    "exist (SQLSTATE 42703)",
    "result-shape": "SELECT * FROM orders (calls a minute: 40) returns also paid",
    "accepts-nothing": "drop-column",
    "type": "orders.data is json: use jsonb",
}


def page_rows() -> list[str]:
    """The rows of docs/hazards.md, from the code's table."""
    return [
        f"| `{one.name}` | {level_in_words(one.level, one.weight)} "
        f"| {one.sentence.format(**words)} | {one.remedy.format(**words)} |"
        for one in HAZARDS.values()
        for words in [words_of(one.name)]
    ]


def words_of(name: str) -> dict[str, str]:
    subject = SUBJECTS.get(name, "orders.total")
    return {"table": "orders", "what": "read or write", "subject": subject}


def level_in_words(level: Level, weight: int) -> str:
    return f"by size, weight {weight}" if weight else level.name.lower()


def test_the_page_of_the_hazards_is_the_code_s_table() -> None:
    page = (ROOT / "docs" / "hazards.md").read_text().splitlines()
    assert [line for line in page if line.startswith("| `")] == page_rows()


def recipe_cases() -> list[tuple[str, str]]:
    """A statement for each hazard that has a recipe in SQL."""
    return [
        ("constraint-scan", "ALTER TABLE t ADD CONSTRAINT n CHECK (a > 0)"),
        ("constraint-scan", "ALTER TABLE other ADD CONSTRAINT n FOREIGN KEY (k) REFERENCES t (id)"),
        ("not-null-scan", "ALTER TABLE t ALTER COLUMN b SET NOT NULL"),
        ("rewrite", "ALTER TABLE t ADD COLUMN z uuid DEFAULT gen_random_uuid()"),
        ("rewrite", "REFRESH MATERIALIZED VIEW mv"),
        ("index-blocks-writes", "CREATE UNIQUE INDEX n ON t (nn) WHERE a > 5"),
        ("index-blocks-writes", "CREATE INDEX n ON part (v)"),
        ("constraint-builds-index", "ALTER TABLE t ADD CONSTRAINT n UNIQUE (nn) DEFERRABLE"),
        ("constraint-builds-index", "ALTER TABLE part_no ADD CONSTRAINT n PRIMARY KEY (v)"),
        ("index-drop", "DROP INDEX t_a_idx"),
        ("scan-under-lock", "REINDEX TABLE t"),
        (
            "scan-under-lock",
            "ALTER TABLE part ATTACH PARTITION part_no "
            "FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')",
        ),
        ("detach-locks-parent", "ALTER TABLE part DETACH PARTITION part_1"),
        (
            "partition-locks-parent",
            "CREATE TABLE part_3 PARTITION OF part "
            "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
        ),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sql"), recipe_cases())
def test_a_recipe_runs_and_has_no_finding_of_its_own(
    clone: Database, tmp_path: Path, name: str, sql: str
) -> None:
    recipe = next(one.recipe for one in found(clone, f"{sql};") if one.name == name)
    assert recipe
    files = {f"{number:03}-step.sql": text for number, text in enumerate(recipe, start=1)}
    config = config_of(clone, fill(tmp_path, files))
    prepared = prepare(config, Change.rehearse())
    # No table is known to be small, so that every finding shows.
    prepared = prepared._replace(given=prepared.given._replace(sizes=Sizes()))
    result, rehearsal = rehearse(config, lambda _: None, prepared)
    assert [one.version for one in result.applied] == [one[:-4] for one in files]
    assert rehearsal.findings(Level.FAIL) + rehearsal.findings(Level.WARN) == []
    assert history(clone) == [one[:-4] for one in files]
