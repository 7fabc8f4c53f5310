"""What the running code asks for and no longer finds."""

from pathlib import Path

import pytest

from lib.hazards.table import Level
from tests.conftest import Database
from tests.hazards.conftest import found, rehearsed, statements
from tests.kit import HEAD

pytestmark = pytest.mark.slow


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


def test_what_is_in_a_schema_that_is_renamed_is_not_told_by_itself(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE SCHEMA app; CREATE TABLE app.t (id int); CREATE TABLE app.u (id int)")
    sql = f"{HEAD}ALTER SCHEMA app RENAME TO shop;\nALTER TABLE shop.u RENAME TO w;"
    sentences = [one.sentence.partition(":")[0] for one in rehearsed(database, tmp_path, sql)]
    assert sentences == ["schema app is shop now", "app.u is shop.w now"]
