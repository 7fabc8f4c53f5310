"""What is seen by comparing a file's start with its end."""

from pathlib import Path

import pytest

from lib.hazards.table import Level
from lib.rehearsal import plan
from tests.conftest import Database
from tests.hazards.conftest import found, rehearsed, statements
from tests.kit import HEAD, config_of, fill

pytestmark = pytest.mark.slow


def test_a_column_that_old_code_does_not_fill_fails(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    (only,) = found(database, "ALTER TABLE t ADD COLUMN z int NOT NULL;")
    assert (only.name, only.level) == ("required-column", Level.FAIL)


def test_a_column_that_the_same_file_fills_fails_in_the_running_code_only(
    database: Database,
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    filled = "ALTER TABLE t ADD z int; UPDATE t SET z = 1 WHERE id = 5;"
    default = "ALTER TABLE t ADD z int NOT NULL DEFAULT 0; ALTER TABLE t ALTER z DROP DEFAULT;"
    for sql in (f"{filled} ALTER TABLE t ALTER z SET NOT NULL;", default):
        (only,) = [one for one in found(database, sql) if one.level is Level.FAIL]
        assert only.name == "required-column"
        assert only.sentence == (
            "t.z is NOT NULL and has no default in the end, and INSERTs of the running code do "
            "not name it."
        )


def test_a_type_that_the_table_has_already_is_not_told(database: Database) -> None:
    database.execute("CREATE TABLE t (at timestamp(3)); CREATE TABLE u (id int)")
    add = "ALTER TABLE {} ADD read_at timestamp(3);".format
    assert found(database, add("t")) == []
    assert [one.name for one in found(database, add("u"))] == ["type"]


def test_a_rule_holds_for_new_rows_before_it_is_validated(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    rule = "ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;"
    (only,) = found(database, rule)
    assert (only.name, only.level) == ("new-rule-on-old-writes", Level.NOTE)
    fresh = "ALTER TABLE t ADD z int, ADD CONSTRAINT n CHECK (z > 0) NOT VALID;"
    assert found(database, fresh) == []


def test_a_rule_that_is_made_anew_is_no_new_rule(database: Database) -> None:
    database.execute("""
        CREATE TABLE t (id int PRIMARY KEY, a int);
        CREATE TABLE c (t int CONSTRAINT c_t REFERENCES t, CHECK (t > 0));
        CREATE INDEX c_by_t ON c (t);
    """)
    key = "ADD FOREIGN KEY (t) REFERENCES t ON DELETE CASCADE NOT VALID"
    assert found(database, f"ALTER TABLE c DROP CONSTRAINT c_t, {key};") == []
    assert found(database, "ALTER TABLE c ADD CONSTRAINT twice CHECK (t > 0) NOT VALID;") == []
    (only,) = found(database, "ALTER TABLE c ADD CONSTRAINT other CHECK (t > 1) NOT VALID;")
    assert only.name == "new-rule-on-old-writes"


def test_row_security_without_a_policy_is_told(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    alone = "ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
    assert statements(database, alone) == [("security", "t")]
    assert statements(database, f"{alone} CREATE POLICY p ON t USING (true);") == []


def test_tables_that_are_locked_one_after_another_are_noted(database: Database) -> None:
    database.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    both = "ALTER TABLE a ADD z int;\nALTER TABLE b ADD z int;"
    (only,) = found(database, both)
    assert (only.name, only.line, only.table) == ("many-tables-locked", 2, "b")
    assert found(database, "ALTER TABLE a ADD z int;\nALTER TABLE a ADD y int;") == []


def test_tables_that_an_earlier_file_of_a_plan_has_locked_do_not_count(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    files = {
        "001-a.sql": "SELECT FROM a WHERE false;\nALTER TABLE a ADD z int;",
        "002-b.sql": "SELECT;\nALTER TABLE b ADD z int;",
        "003-read.sql": "SELECT count(*) FROM a;",
    }
    directory = fill(tmp_path, files)
    first, *others = plan(config_of(database, directory), lambda _: None).files
    assert not first.findings
    assert [(one.at_most, one.findings) for one in others] == [(True, ()), (True, ())]


def test_only_tables_that_one_statement_could_alter_are_read_twice(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    check = "ALTER TABLE t ADD CHECK (a > {});".format
    twice = found(database, f"{check(1)}\n{check(2)}")
    assert ("several-scans", 2) in [(one.name, one.line) for one in twice]
    index = found(database, "CREATE INDEX ON t (a);\nUPDATE t SET a = 1;")
    assert sorted(one.name for one in index) == ["backfill", "index-blocks-writes"]


def test_a_file_that_waits_longer_for_locks_than_it_should_is_noted(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    limit, change = "SET lock_timeout = '5s'", "ALTER TABLE t ADD z int"
    longer = found(database, f"SET LOCAL lock_timeout = '1min'; {change};", session=limit)
    never = found(database, f"SET LOCAL lock_timeout = 0; {change};", session=limit)
    assert [one.sentence.partition(":")[2][:12] for one in longer + never] == [
        " 60000 ms. W", " none. While",
    ]  # fmt: skip
    assert found(database, f"SET LOCAL lock_timeout = '1s'; {change};", session=limit) == []
    late = f"{change}; SET LOCAL lock_timeout = 0; CREATE TABLE new (); ALTER TABLE new ADD z int;"
    assert found(database, late, session=limit) == []


def test_an_index_dropped_before_its_successor_is_told(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE t (id int, a int, b int); CREATE INDEX old ON t (a)")
    build, drop = "CREATE INDEX CONCURRENTLY new ON t (a, b);", "DROP INDEX CONCURRENTLY old;"
    wrong = rehearsed(database, tmp_path, f"{HEAD}{drop}\n{build}")
    assert [(one.name, one.line) for one in wrong] == [("index-replaced", 2)]
    database.execute("DROP INDEX new; CREATE INDEX old ON t (a); DROP TABLE schema_migrations")
    assert rehearsed(database, tmp_path, *wrong[0].recipe) == []
    assert database.execute("SELECT to_regclass('old'), to_regclass('new') IS NOT NULL") == [
        (None, True)
    ]
