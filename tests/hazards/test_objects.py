"""What is seen of functions, enum values, triggers, extensions and privileges."""

import pytest

from lib.sizes import Size, Sizes
from tests.conftest import Database
from tests.hazards.conftest import found

pytestmark = pytest.mark.slow

SCHEMA = """
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE t (id int PRIMARY KEY, m mood);
    CREATE TABLE child (id int, t_id int REFERENCES t);
    CREATE FUNCTION price(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE SCHEMA app; CREATE TABLE app.x (id int);
    CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE EXTENSION pg_trgm; CREATE EXTENSION citext;
    CREATE PUBLICATION p FOR TABLE t;
    GRANT SELECT ON t TO pg_monitor;
"""
REBUILT = """
    ALTER TYPE mood RENAME TO old_mood;
    CREATE TYPE mood AS ENUM ('ok');
    ALTER TABLE t ALTER COLUMN m TYPE mood USING m::text::mood;
    DROP TYPE old_mood;
"""
PRICE = "CREATE FUNCTION price(a int, {0}) RETURNS {1} LANGUAGE sql AS 'SELECT NULL::{1}'"
CASES = [
    ("DROP FUNCTION price", "function-signature", "price(a integer) is gone"),
    (
        "DROP FUNCTION price;"
        "CREATE FUNCTION price(a int) RETURNS text LANGUAGE sql AS $$ SELECT '' $$",
        "function-signature",
        "returned integer and returns text",
    ),
    (f"DROP FUNCTION price; {PRICE.format('b text', 'int')}", "function-signature", "is gone"),
    (f"DROP FUNCTION price; {PRICE.format('b int = 1', 'text')}", "function-signature", "is gone"),
    ("ALTER FUNCTION price RENAME TO cost", "rename", "function price(a integer) is cost("),
    ("ALTER TYPE mood RENAME TO feeling", "rename", "type mood is feeling now"),
    ("ALTER TYPE mood RENAME VALUE 'sad' TO 'low'", "rename", "value 'sad' of mood is 'low' now"),
    ("ALTER SCHEMA app RENAME TO shop", "rename", "schema app is shop now"),
    ("ALTER TABLE t DISABLE TRIGGER touched", "trigger-disabled", "touched on t is disabled"),
    ("DROP EXTENSION pg_trgm", "extension", "pg_trgm is gone"),
    ("REVOKE SELECT ON t FROM pg_monitor", "privileges", "pg_monitor loses SELECT on t"),
    ("GRANT DELETE ON t TO PUBLIC", "privileges", "PUBLIC gets DELETE on t"),
    ("ALTER TABLE child OWNER TO pg_monitor", "privileges", "child was owned by"),
    ("ALTER TABLE t REPLICA IDENTITY FULL", "replica-identity", "identified by the columns of"),
]
QUIET = [
    "ALTER FUNCTION price STABLE",
    "CREATE OR REPLACE FUNCTION price(a int) RETURNS int LANGUAGE sql AS 'SELECT a + 1'",
    f"DROP FUNCTION price; {PRICE.format('b mood = NULL, c int = 1', 'int')}",
    "DROP FUNCTION app.f; CREATE FUNCTION app.f(int = 1) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP TRIGGER touched ON t; DROP FUNCTION touch()",
    "ALTER TYPE mood ADD VALUE 'fine'",
    "ALTER TABLE t DISABLE TRIGGER touched; ALTER TABLE t ENABLE TRIGGER touched",
    "CREATE FUNCTION fresh() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION fresh()",
    "ALTER TABLE child REPLICA IDENTITY FULL",
    "GRANT DELETE ON t TO pg_monitor",
    "CREATE EXTENSION hstore",
]


@pytest.mark.parametrize(("sql", "name", "words"), CASES)
def test_a_change_of_an_object_is_told_once(
    database: Database, sql: str, name: str, words: str
) -> None:
    database.execute(SCHEMA)
    findings = [one for one in found(database, f"{sql};") if one.level > 1]
    assert [one.name for one in findings] == [name]
    assert words in findings[0].sentence


@pytest.mark.parametrize("sql", QUIET)
def test_a_change_that_serves_old_code_is_no_finding(database: Database, sql: str) -> None:
    database.execute(SCHEMA)
    assert [one for one in found(database, f"{sql};") if one.level > 1] == []


def test_a_value_that_an_enum_loses_is_told_with_the_columns_that_have_it(
    database: Database,
) -> None:
    database.execute(SCHEMA)
    findings = {one.name: one for one in found(database, REBUILT)}
    assert findings["enum-value-removed"].sentence.startswith("'sad' of mood is gone")
    assert "CHECK (m <> 'sad') NOT VALID" in findings["enum-value-removed"].recipe[0]
    assert "rename" not in findings


def test_an_owner_that_changes_is_told_whatever_the_size(database: Database) -> None:
    database.execute(SCHEMA)
    sizes = Sizes({"public.other": Size(2_000_000, 1)})
    (only,) = found(database, "ALTER TABLE child OWNER TO pg_monitor;", sizes)
    assert (only.name, only.table) == ("privileges", "child")


def test_a_grant_on_many_tables_is_one_finding(database: Database) -> None:
    database.execute(SCHEMA)
    database.execute("CREATE TABLE u (id int); CREATE TABLE w (id int)")
    findings = found(database, "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO PUBLIC;")
    assert [(one.name, one.table) for one in findings] == [("privileges", "")]
    assert findings[0].sentence.startswith("PUBLIC gets INSERT, SELECT on child, t, u and 1 more:")


def test_a_role_that_becomes_the_owner_loses_nothing(database: Database) -> None:
    database.execute(SCHEMA)
    (only,) = found(database, "ALTER TABLE t OWNER TO pg_monitor;")
    assert "t was owned by" in only.sentence
