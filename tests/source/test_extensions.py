"""Which extensions files create, as far as their text tells."""

import pytest

from lib.source.extensions import created, remedy
from tests.kit import HEAD, read


def names(*texts: str | bytes) -> list[str]:
    return [extension.name for extension in created(map(read, texts))]


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE EXTENSION citext", "citext"),
        ("create extension if not exists PgCrypto with schema public;", "pgcrypto"),
        ('CREATE EXTENSION IF NOT EXISTS "uuid-ossp" CASCADE;', "uuid-ossp"),
        ('Create /* a */ Extension -- b\n "say ""x""";', 'say "x"'),
        ("SELECT 1; CREATE EXTENSION vector;", "vector"),
        (f"{HEAD}CREATE EXTENSION postgis;", "postgis"),
        ('CREATE EXTENSION "erweiterung-für-alle";', "erweiterung-für-alle"),
    ],
)
def test_the_name_is_the_one_that_the_server_would_look_for(sql: str, name: str) -> None:
    assert names(sql) == [name]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP EXTENSION citext; ALTER EXTENSION citext UPDATE;",
        "COMMENT ON EXTENSION citext IS 'CREATE EXTENSION pgcrypto';",
        "-- CREATE EXTENSION citext;\nSELECT 1;",
        "DO $$ BEGIN CREATE EXTENSION citext; EXCEPTION WHEN others THEN NULL; END $$;",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'CREATE EXTENSION citext';",
        'CREATE EXTENSION U&"cit\\0065xt"',
        "CREATE EXTENSION",
        "CREATE EXTENSION IF NOT EXISTS;",
        "CREATE EXTENSION 'citext';",
    ],
)
def test_what_creates_none_for_certain_is_not_judged(sql: str) -> None:
    assert names(sql) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pgtle.install_extension('ours', '1', '', '');",
        "CREATE EXTENSION pg_tle;",
        "SET extension_control_path = '/srv/extensions';",
    ],
)
def test_files_that_may_provide_an_extension_are_not_judged(sql: str) -> None:
    assert names(sql, "CREATE EXTENSION ours;") == []


def test_each_is_named_with_its_file_and_line() -> None:
    first, second = created([read("\n\nCREATE EXTENSION a;\nCREATE EXTENSION b;")])
    assert [one.place.rpartition("/")[2] for one in (first, second)] == [
        "001-x.sql:3",
        "001-x.sql:4",
    ]


def test_the_remedy_names_what_needs_no_extension_only_where_it_helps() -> None:
    assert "gen_random_uuid()" not in remedy(["postgis"])
    for name in ("pgcrypto", "uuid-ossp"):
        assert "gen_random_uuid()" in remedy(["postgis", name])
