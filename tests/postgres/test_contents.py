"""What the digests of tables and sequences change for."""

import pytest

from lib.postgres.contents import Contents, read_contents, rows_in
from tests.conftest import Database
from tests.kit import session_of

SQL = """
CREATE TABLE a (id serial, n int, "odd ""name" text);
INSERT INTO a (n) VALUES (1), (2), (2);
CREATE TABLE none ();
CREATE TABLE schema_migrations (id serial);
"""


def contents(database: Database) -> Contents:
    with session_of(database) as session:
        return read_contents(session, "public")


def changed(database: Database, sql: str) -> set[str]:
    before = contents(database)
    database.execute(sql)
    after = contents(database)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_each_table_column_and_sequence_has_its_line(database: Database) -> None:
    database.execute(SQL)
    found = contents(database)
    assert {*found} == {
        *("columns of public.a", "rows of public.a", "position of public.a_id_seq"),
        *("values of public.a.id", "values of public.a.n", 'values of public.a.odd "name'),
        *("columns of public.none", "rows of public.none"),
    }
    assert found["position of public.a_id_seq"] == "3 t"
    assert rows_in(found) == 3


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("UPDATE a SET n = n", set()),
        ("UPDATE a SET n = 5 WHERE id = 1", {"rows of public.a", "values of public.a.n"}),
        # The same values in other rows.
        ("UPDATE a SET n = 3 - n WHERE id < 3", {"rows of public.a"}),
        ("SELECT nextval('a_id_seq')", {"position of public.a_id_seq"}),
        ("INSERT INTO none DEFAULT VALUES", {"rows of public.none"}),
        ("INSERT INTO schema_migrations DEFAULT VALUES", set()),
    ],
)
def test_what_a_change_shows_in(database: Database, sql: str, names: set[str]) -> None:
    database.execute(SQL)
    assert changed(database, sql) == names
