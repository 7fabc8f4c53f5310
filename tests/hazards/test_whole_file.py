"""What is seen by comparing a file's start with its end."""

from pathlib import Path

from lib import runner
from lib.hazards.findings import Circumstances, Finding
from lib.hazards.judging import find
from lib.hazards.table import Level
from lib.postgres.catalog import Observer
from lib.sizes import Sizes
from tests.conftest import Database
from tests.hazards.conftest import LARGE, found, major
from tests.kit import HEAD, config_of, fill


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


def test_a_column_that_old_code_does_not_fill_fails(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    (only,) = found(database, "ALTER TABLE t ADD COLUMN z int NOT NULL;")
    assert (only.name, only.level) == ("required-column", Level.FAIL)


def statements(database: Database, sql: str) -> list[tuple[str, str]]:
    return [(one.name, one.table) for one in found(database, sql) if one.level > Level.NOTE]


def test_a_dropped_column_is_told_with_what_went_with_it(database: Database) -> None:
    database.execute("""
        CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE, b int);
        CREATE INDEX t_both ON t (b, a); CREATE VIEW v AS SELECT a FROM t;
    """)
    dropped = next(
        one for one in found(database, "ALTER TABLE t DROP COLUMN a CASCADE;")
        if one.name == "drop-column"
    )  # fmt: skip
    assert "t.a (and with it constraint t_a_key, index t_both, view v) is gone" in dropped.sentence


def test_a_column_or_table_that_is_served_under_its_old_name_is_none(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int)")
    swapped = "ALTER TABLE t DROP COLUMN a; ALTER TABLE t RENAME b TO a;"
    assert statements(database, swapped) == [("rename", "t")]
    viewed = "ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT * FROM u;"
    assert statements(database, viewed) == []
    less = "ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT id FROM u;"
    assert statements(database, less) == [("rename", "t")]


def test_a_view_made_anew_is_told_for_the_columns_that_it_lacks(database: Database) -> None:
    database.execute("CREATE VIEW v AS SELECT 1 AS a, 2 AS b")
    same = "DROP VIEW v; CREATE VIEW v AS SELECT 1 AS a, 2 AS b, 3 AS c;"
    assert statements(database, same) == []
    (only,) = found(database, "DROP VIEW v; CREATE VIEW v AS SELECT 2 AS b;")
    assert (only.name, only.sentence) == (
        "view-columns", "v is without a: the running code may still read it.",
    )  # fmt: skip


def test_a_type_that_holds_less_fails_and_one_that_holds_more_does_not(
    database: Database,
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2), c varchar(20))")
    narrower = "ALTER TABLE t ALTER COLUMN n TYPE numeric(8,2), ALTER COLUMN id TYPE smallint;"
    levels = [one.level for one in found(database, narrower) if one.name == "narrower-type"]
    assert levels == [Level.FAIL, Level.FAIL]
    wider = "ALTER TABLE t ALTER COLUMN n TYPE numeric(14,2), ALTER COLUMN c TYPE text;"
    assert statements(database, wider) == []


def test_a_rule_holds_for_new_rows_before_it_is_validated(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    rule = "ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;"
    (only,) = found(database, rule)
    assert (only.name, only.level) == ("new-rule-on-old-writes", Level.NOTE)
    fresh = "ALTER TABLE t ADD z int, ADD CONSTRAINT n CHECK (z > 0) NOT VALID;"
    assert found(database, fresh) == []


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


def test_a_file_that_waits_longer_for_locks_than_it_should_is_noted(database: Database) -> None:
    limit = "SET lock_timeout = '5s'"
    longer = found(database, "SET LOCAL lock_timeout = '1min';", session=limit)
    never = found(database, "SET LOCAL lock_timeout = 0;", session=limit)
    assert [one.sentence.partition(":")[2][:12] for one in longer + never] == [
        " 60000 ms. W", " none. While",
    ]  # fmt: skip
    assert found(database, "SET LOCAL lock_timeout = '1s';", session=limit) == []


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


def rehearsed(database: Database, directory: Path, sql: str) -> list[Finding]:
    observer = Observer()
    config = config_of(database, fill(directory, {"001-x.sql": sql}))
    runner.run(config, lambda _: None, observer=observer)
    return find(observer.files[0], Circumstances(major(database), Sizes(), LARGE))
