"""What is seen of one statement."""

from pathlib import Path

import pytest

from lib import runner
from lib.hazards.findings import Circumstances
from lib.hazards.judging import find
from lib.hazards.table import Level
from lib.postgres.catalog import Observer
from lib.sizes import Sizes
from tests.conftest import Database
from tests.hazards.conftest import BIG, found, names
from tests.kit import HEAD, config_of, fill

pytestmark = pytest.mark.slow


def test_a_constraint_validated_in_the_file_that_adds_it_is_a_scan(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    sql = """
        ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        ALTER TABLE t VALIDATE CONSTRAINT positive;
    """
    findings = found(database, sql, BIG)
    assert [(one.name, one.line) for one in findings] == [("constraint-scan", 3)]


def test_work_while_another_table_is_locked_is_told(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE busy (id int)")
    sql = "ALTER TABLE busy ADD COLUMN z int;\nCREATE INDEX t_a ON t (a);"
    findings = found(database, sql)
    assert [one.name for one in findings] == ["index-blocks-writes", "work-under-lock"]
    assert "Reads of busy wait" in findings[1].sentence
    scan = "ALTER TABLE busy ADD COLUMN z int;\nALTER TABLE t ADD CHECK (a > 0);"
    # Whoever splits it does both, and the file's line names all tables that it locks.
    assert ("constraint-scan", "t") in [(one.name, one.table) for one in found(database, scan)]
    assert "work-under-lock" not in [one.name for one in found(database, scan)]
    fill = "ALTER TABLE t ADD z int; ALTER TABLE busy ADD z int;\nUPDATE t SET z = 1;"
    told = [(one.name, one.table) for one in found(database, fill) if one.level > Level.NOTE]
    assert told == [("backfill-under-lock", "t")]


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


def test_a_truncated_table_is_told_with_all_that_go_with_it(database: Database) -> None:
    database.execute("""
        CREATE TABLE t (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
        CREATE TABLE grandchild (child int REFERENCES child);
    """)
    emptied = found(database, "TRUNCATE t CASCADE;")
    assert {one.name for one in emptied} == {"data-loss"}
    assert sorted(one.table for one in emptied) == ["child", "grandchild", "t"]


def test_a_primary_key_on_columns_that_may_be_null_reads_the_table(database: Database) -> None:
    database.execute("CREATE TABLE t (a int); CREATE UNIQUE INDEX t_a ON t (a)")
    sql = "ALTER TABLE t ADD CONSTRAINT t_a PRIMARY KEY USING INDEX t_a;"
    assert [one.name for one in found(database, sql)] == ["not-null-scan"]


def test_a_dropped_table_locks_those_that_it_references(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (t int REFERENCES t)")
    findings = found(database, "DROP TABLE c;")
    assert [(one.name, one.table) for one in findings] == [
        ("drop", "c"), ("drop-locks-referenced", "t"),
    ]  # fmt: skip


def test_an_index_built_concurrently_before_14_4_may_lack_rows(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    observer = Observer()
    built = {"001-index.sql": f"{HEAD}CREATE INDEX CONCURRENTLY t_a ON t (a);"}
    runner.run(config_of(database, fill(tmp_path, built)), lambda _: None, observer=observer)
    for major, minor, expected in [(14, 3, ["cic-corruption"]), (14, 4, []), (18, 0, [])]:
        given = Circumstances(major, Sizes(), 0, minor=minor)
        assert [one.name for one in find(observer.files[0], given)] == expected
