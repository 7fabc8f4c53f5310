"""What is seen by comparing a file's start with its end."""

from lib.hazards.table import Level
from tests.conftest import Database
from tests.hazards.conftest import found


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
