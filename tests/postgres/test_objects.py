"""Objects with their oids, read before and after a file."""

from lib.postgres.connection import Connection
from lib.postgres.objects import read_objects
from tests.conftest import Database, Server
from tests.kit import login, session_of

SCHEMA = """
    CREATE TYPE mood AS ENUM ('sad');
    CREATE TABLE t (id int PRIMARY KEY, m mood);
    CREATE TABLE child (t_id int CONSTRAINT child_t REFERENCES t);
    CREATE FUNCTION price(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
    GRANT SELECT ON t TO PUBLIC;
    CREATE PUBLICATION p FOR TABLE t;
"""


def named(connection: Connection) -> set[tuple[str, str, str]]:
    return {(one.kind, one.name, one.value) for one in read_objects(connection).values()}


def test_each_kind_of_object_is_read(database: Database) -> None:
    database.execute(SCHEMA)
    with session_of(database) as connection:
        assert named(connection) >= {
            ("schema", "public", ""),
            ("function", "public.price(a integer)", "integer"),
            ("type", "public.mood", ""),
            ("enum value", "public.mood", "sad"),
            ("trigger", "the trigger of child_t", "O"),
            ("extension", "plpgsql", "1.0"),
            ("replica identity", "public.t", "the columns of t_pkey"),
            ("privilege", "public.t", "PUBLIC SELECT"),
        }


def test_a_role_without_privileges_reads_the_same(server: Server) -> None:
    database = server.create()
    database.execute(SCHEMA)
    with (
        login(server, database) as plain,
        session_of(database) as owner,
        session_of(plain) as connection,
    ):
        assert named(owner) == named(connection)


def test_what_was_renamed_keeps_its_key(database: Database) -> None:
    database.execute(SCHEMA)
    with session_of(database) as connection:
        before = read_objects(connection)
        database.execute("ALTER FUNCTION price RENAME TO cost")
        after = read_objects(connection)
    changed = [key for key, one in before.items() if after.get(key) != one]
    assert [after[key].name for key in changed if key[0] == "function"] == [
        "public.cost(a integer)"
    ]


def test_objects_are_read_in_a_file_s_transaction_as_it_was(database: Database) -> None:
    database.execute(SCHEMA)
    with session_of(database) as connection:
        connection.send("BEGIN; SET LOCAL search_path = nowhere; CREATE SCHEMA fresh")
        found = read_objects(connection).values()
        assert any(one.kind == "schema" and one.name == "fresh" for one in found)
        connection.send("ROLLBACK")
    assert database.execute("SELECT to_regnamespace('fresh')") == [(None,)]
