"""Rehearsals, plans and drift through a pooler in transaction mode."""

from collections.abc import Iterator

import pytest

from tests.conftest import Database, Here, Server
from tests.kit import HEAD, Write, contents, history, rows
from tests.platform.pooler import Pooler

BASE = {"001-orders.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int);\n"}
FILES = {
    "002-check.sql": "SET search_path = '';\nALTER TABLE public.orders ADD CHECK (total > 0);",
    "003-index.sql": f"{HEAD}CREATE INDEX CONCURRENTLY orders_total ON orders (total);",
    "004-mine.sql": "CREATE TEMPORARY TABLE mine (id int);\nUPDATE orders SET total = 1;",
}
# What the next client of the session would inherit.
LEFT = """
SELECT name FROM pg_settings
WHERE name IN ('enable_seqscan', 'jit', 'lock_timeout', 'search_path') AND setting <> reset_val
UNION ALL SELECT 'mine' WHERE to_regclass('pg_temp.mine') IS NOT NULL
"""


@pytest.fixture
def pooled(kind: type[Pooler], server: Server, database: Database) -> Iterator[Database]:
    """The database by way of a pooler that has two sessions with it."""
    with kind(server.url, pool=2) as pooler:
        yield Database(database.name, pooler.url(database.url))


def test_a_plan_a_rehearsal_and_drift_are_right_through_a_pooler(
    here: Here, migrations: Write, database: Database, pooled: Database
) -> None:
    migrations(BASE)
    assert here(url=pooled.url).code == 0
    migrations(FILES)
    before = contents(database)
    planned = here("plan", url=pooled.url)
    assert (planned.code, "constraint-scan" in planned.out) == (0, True)
    assert contents(database) == before
    rehearsed = here("rehearse", url=pooled.url)
    assert (rehearsed.code, "constraint-scan" in rehearsed.out) == (0, True)
    assert history(database) == ["001-orders", "002-check", "003-index", "004-mine"]
    assert here("drift", "--check", "--strict", url=pooled.url).code == 0
    database.execute("DROP INDEX orders_total")
    found = here("drift", "--check", url=pooled.url)
    assert (found.code, "index public.orders_total" in found.out) == (3, True)
    assert here("drift", "--accept", url=pooled.url).code == 0
    assert here("drift", "--check", url=database.url).code == 0
    assert rows(pooled.url, LEFT) == []
