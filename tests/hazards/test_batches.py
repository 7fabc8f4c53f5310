"""Changes in batches reach each row once, in the order of whatever key the table has."""

from pathlib import Path

import pytest

from lib.hazards.batches import batched
from tests.conftest import Database
from tests.hazards.conftest import found
from tests.kit import fill, run
from tests.truth import observed

pytestmark = pytest.mark.slow

KEYED = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, m text)"
KEYS = [
    "id int PRIMARY KEY, k2 text",
    "id int, k2 text, PRIMARY KEY (k2, id)",
    "id int, k2 text PRIMARY KEY",
    "id uuid DEFAULT gen_random_uuid() PRIMARY KEY, k2 text",
    "id int NOT NULL UNIQUE, k2 text",
    'id int, k2 text, "Key "" 3" int DEFAULT 0, PRIMARY KEY (k2, "Key "" 3")',
]


@pytest.mark.parametrize("columns", KEYS)
@pytest.mark.parametrize("rows", [0, 1, 1000, 2501])
def test_batches_reach_each_row_once(
    database: Database, tmp_path: Path, columns: str, rows: int
) -> None:
    number = "" if "uuid" in columns else "id, "
    database.execute(f"CREATE TABLE t ({columns}, n int DEFAULT 0)")
    database.execute(
        f"INSERT INTO t ({number}k2) SELECT {number and 'g * 1000, '}'k' || g % 10 || '-' || g "
        f"FROM generate_series(1, {rows}) g"
    )
    (one,) = found(database, "UPDATE t SET n = n + 1 WHERE n >= 0 OR n IS NULL;")
    run(database, fill(tmp_path, {"001-x.sql": one.recipe[0]}))
    assert database.execute("SELECT count(*) FROM t WHERE n = 1") == [(rows,)]


def test_batches_of_a_partitioned_table_are_made_through_it(
    database: Database, tmp_path: Path
) -> None:
    database.execute("""
        CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0) PARTITION BY HASH (id);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO t SELECT g FROM generate_series(1, 2500) g;
    """)
    (one,) = found(database, "UPDATE t SET n = n + 1;")
    run(database, fill(tmp_path, {"001-x.sql": one.recipe[0]}))
    assert database.execute("SELECT count(*) FROM t WHERE n = 1") == [(2500,)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = o.a FROM other o WHERE o.id = t.id",
        "DELETE FROM t USING other o WHERE o.id = t.id",
        "UPDATE t SET a = 1 RETURNING id",
        "WITH x AS (SELECT 1) UPDATE t SET a = 1",
        "UPDATE t SET m = $$x$$",
        "UPDATE t SET m = 'x', id = id + 1",
        "UPDATE t SET (id, m) = (id + 1, 'x')",
        "TRUNCATE t",
        "DELETE FROM parent",
    ],
)
def test_a_statement_whose_condition_cannot_be_extended_has_no_batches(
    database: Database, sql: str
) -> None:
    database.execute(KEYED)
    start = observed(database, "SELECT 1;").start
    (table,) = (one for one in start.relations.values() if one.name == "t")
    assert batched(start, table, "DELETE FROM t WHERE a IN (SELECT id FROM other)")
    assert batched(start, table, sql) == ()
