"""Hazards and their levels, on what a real server does."""

import pytest

from lib.sizes import Size, Sizes
from tests.conftest import Database
from tests.hazards.conftest import BIG, found, major, names
from tests.truth import TRUTH

pytestmark = pytest.mark.slow

# What the truth table does not judge.
BESIDE = {
    "fk-without-index", "several-scans", "partition-locks-parent", "detach-locks-parent",
    "new-rule-on-old-writes", "drop-locks-referenced",
}  # fmt: skip


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
