"""Recipes that fill a column leave what the statement itself leaves."""

from pathlib import Path

import pytest

from tests.conftest import Database
from tests.hazards.conftest import found
from tests.kit import fill, run

pytestmark = pytest.mark.slow

KEYED = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, m text)"
ROWS = "INSERT INTO t SELECT g, g, g FROM generate_series(-1500, 1500) g"
CHANGES = [
    "ALTER TABLE t ADD COLUMN z uuid NOT NULL DEFAULT gen_random_uuid()",
    "ALTER TABLE t ADD COLUMN z bigint GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE t ADD COLUMN z serial",
    "ALTER TABLE t ADD COLUMN z int GENERATED ALWAYS AS (a + 1) STORED",
    "ALTER TABLE t ALTER COLUMN a TYPE bigint",
    "ALTER TABLE t ALTER COLUMN m TYPE int USING m::integer",
]
COLUMNS = """
    SELECT attname::text, atttypid::regtype::text, attnotnull, attidentity::text
    FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped
    ORDER BY attname
"""
VALUES = "SELECT count(*), count(DISTINCT {0}) FROM t WHERE {0} IS NOT NULL"


def apply_recipe(database: Database, directory: Path, sql: str, name: str) -> None:
    recipe = next(one.recipe for one in found(database, f"{sql};") if one.name == name)
    files = {f"{number:03}-step.sql": text for number, text in enumerate(recipe, start=1)}
    assert run(database, fill(directory, files)).applied == [one[:-4] for one in files]


@pytest.mark.parametrize("rows", [ROWS, "SELECT 1"], ids=["filled", "empty"])
@pytest.mark.parametrize("sql", CHANGES)
def test_a_recipe_leaves_the_columns_and_values_of_the_statement(
    database: Database, tmp_path: Path, sql: str, rows: str
) -> None:
    database.execute(f"{KEYED}; {rows}")
    apply_recipe(database, tmp_path, sql, "rewrite")
    values = VALUES.format("z" if "ADD" in sql else sql.split()[5])
    after = database.execute(COLUMNS), database.execute(values)
    database.execute(f"DROP TABLE t; {KEYED}; {rows}")
    database.execute(sql)
    assert after == (database.execute(COLUMNS), database.execute(values))
    database.execute("INSERT INTO t (id, a) VALUES (9000, 1)")


def test_an_identity_goes_on_after_the_numbers_of_its_recipe(
    database: Database, tmp_path: Path
) -> None:
    database.execute(f"{KEYED}; {ROWS}")
    apply_recipe(database, tmp_path, CHANGES[1], "rewrite")
    database.execute("INSERT INTO t (id, a) VALUES (9000, 1)")
    assert database.execute("SELECT z = max(z) OVER () FROM t WHERE id = 9000") == [(True,)]
    assert database.execute("SELECT count(*) = count(DISTINCT z) FROM t") == [(True,)]
