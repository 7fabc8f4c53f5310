"""What `import --prove` says of a database, whose server may be of another major version than the
Postgres that is started for the proof: that one is always the embedded one.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, Completed, Database, Server
from tests.every_kind import EVERY_KIND
from tests.kit import contents, fill

pytestmark = pytest.mark.slow

KEY = "20240101000000"
HISTORY = """CREATE SCHEMA supabase_migrations;
    CREATE TABLE supabase_migrations.schema_migrations
        (version text PRIMARY KEY, statements text[], name text);"""
# What somebody has changed by hand: each statement, and the object that it changes.
BY_HAND = {
    "ALTER TABLE b ALTER y SET DEFAULT 7": "column public.b.y",
    "ALTER TABLE b ADD CONSTRAINT positive CHECK (y > 0)": "constraint public.b.positive",
    "CREATE INDEX late ON b (y)": "index public.late",
    "DROP FUNCTION ft()": "function public.ft()",
    "ALTER TYPE en ADD VALUE 'b'": "type public.en",
    "ALTER DOMAIN em DROP NOT NULL": "domain public.em",
    "ALTER POLICY po ON a USING (true)": "policy public.a.po",
    "ALTER TABLE a ENABLE TRIGGER t3": "trigger public.a.t3",
    "ALTER SEQUENCE s1 NO CYCLE": "sequence public.s1",
}
BY_HAND_IN_A_VIEW = "CREATE OR REPLACE VIEW v4 AS SELECT id, b FROM a WHERE id > 1"


@pytest.fixture
def source(tmp_path: Path, database: Database) -> Path:
    """A directory of the Supabase CLI's, whose one file is applied to the database."""
    directory = tmp_path / "supabase" / "migrations"
    directory.mkdir(parents=True)
    database.execute(EVERY_KIND)
    database.execute(HISTORY)
    database.execute("INSERT INTO supabase_migrations.schema_migrations VALUES (%s)", [KEY])
    return fill(directory, {f"{KEY}_every_kind.sql": EVERY_KIND})


@pytest.fixture
def prints_otherwise(server: Server) -> dict[str, int]:
    """The kinds that this server prints in another way than the embedded one, and how many objects
    of each there are.
    """
    return {"materialized view": 1, "view": 4} if major(server) < 16 else {}


def major(server: Server) -> int:
    [(number,)] = server.admin.execute("SELECT current_setting('server_version_num')::int / 10000")
    return int(number)


def prove(cli: Cli, source: Path, database: Database, *options: str) -> Completed:
    """Import and prove, without POSTGRES_BIN."""
    words = ("import", "supabase", str(source), "--prove", *options)
    return cli(*words, url=database.url, env={"MIGRATION_ENV": "development"})


def proof_of(result: Completed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.out)["proof"]
    return found


def test_what_is_printed_alike_agrees_and_the_rest_is_listed(
    cli: Cli, source: Path, server: Server, database: Database, prints_otherwise: dict[str, int]
) -> None:
    before = contents(database)
    result = prove(cli, source, database, "--json")
    proof = proof_of(result)
    assert (result.code, proof["agrees"], proof["differences"]) == (0, True, [])
    assert proof["notCompared"] == prints_otherwise
    assert proof["compared"] > 80
    assert (proof["postgres"], proof["madeBy"]) == (major(server), 18)
    told = f"Not compared, since PostgreSQL {major(server)} and 18 print them differently: "
    assert "✅ History and schema agree: " in result.err
    assert (told + "materialized view (1), view (4)" in result.err) is bool(prints_otherwise)
    assert ("--scratch URL, or POSTGRES_BIN" in result.err) is bool(prints_otherwise)
    assert contents(database) == before


def test_what_was_changed_by_hand_is_found_and_a_view_where_it_is_compared(
    cli: Cli, source: Path, database: Database, prints_otherwise: dict[str, int]
) -> None:
    for sql in (*BY_HAND, BY_HAND_IN_A_VIEW):
        database.execute(sql)
    before = contents(database)
    result = prove(cli, source, database, "--json")
    proof = proof_of(result)
    views = [] if prints_otherwise else ["view public.v4"]
    assert (result.code, proof["agrees"], proof["notCompared"]) == (3, False, prints_otherwise)
    assert [one["object"] for one in proof["differences"]] == sorted([*BY_HAND.values(), *views])
    assert contents(database) == before


def test_on_a_server_of_the_same_version_everything_is_compared(
    cli: Cli, source: Path, server: Server, database: Database
) -> None:
    database.execute(BY_HAND_IN_A_VIEW)
    result = prove(cli, source, database, "--scratch", server.url, "--json")
    proof = proof_of(result)
    assert (result.code, proof["notCompared"]) == (3, {})
    assert [one["object"] for one in proof["differences"]] == ["view public.v4"]
    assert (proof["postgres"], proof["madeBy"]) == (major(server), major(server))
