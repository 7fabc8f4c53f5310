"""Files that the command line refuses, before it connects or after it has read the history.

Each test ends by looking at the database.
"""

import json
import os
import re
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import Cli, Database, Here, Server
from tests.kit import ONE, TWO, Write, contents, recorded, tables

REFUSED_BY_NAME = (
    "2-too-few-digits.sql",
    "003_under_score.sql",
    "004-Upper-Case.sql",
    "005-shouted.SQL",
    "006-.sql",
    "notes.sql",
    "\u0661\u0662\u0663-arabic-digits.sql",
)
REFUSED_BY_CONTENT = {
    "BEGIN;\nSELECT 1;\nCOMMIT;": (1, "BEGIN starts a transaction"),
    "SELECT 1;\nSTART TRANSACTION;": (2, "START TRANSACTION starts a transaction"),
    "SELECT 1;\n\nCOMMIT;": (3, "COMMIT ends the transaction"),
    "COMMIT AND CHAIN;": (1, "COMMIT ends the transaction"),
    "end;": (1, "END ends the transaction"),
    "ROLLBACK;": (1, "ROLLBACK ends the transaction"),
    "ABORT;": (1, "ABORT ends the transaction"),
    "PREPARE TRANSACTION 'x';": (1, "PREPARE TRANSACTION ends the transaction"),
    "SET TRANSACTION READ ONLY;": (1, "SET TRANSACTION changes the transaction"),
    "\\copy t FROM 'x.csv'": (1, "\\copy is a psql command"),
    "\\i other.sql": (1, "\\i is a psql command"),
    "\\restrict abc": (1, "\\restrict is a psql command"),
    "COPY t FROM STDIN;\n1\n\\.\n": (1, "COPY ... FROM STDIN"),
    "CREATE INDEX CONCURRENTLY i ON t (id);": (
        1,
        "CREATE INDEX CONCURRENTLY cannot run inside a transaction",
    ),
    "VACUUM;": (1, "VACUUM cannot run inside a transaction"),
    "ALTER SYSTEM SET work_mem = '1MB';": (1, "ALTER SYSTEM cannot run inside a transaction"),
    "CREATE DATABASE x;": (1, "CREATE DATABASE cannot run inside a transaction"),
}


# What does not belong in a file


GOOSE = """-- +goose Up
CREATE TABLE orders (id int);

-- +goose Down
DROP TABLE users;
"""
POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n"
    "size 12345\n"
)
CONFLICT = "SELECT 1;\n<<<<<<< HEAD\nSELECT 2;\n=======\nSELECT 3;\n>>>>>>> topic\n"
UNFINISHED = {
    POINTER: ":1:1: this is a Git LFS pointer in the file's place",
    CONFLICT: ":2:1: `<<<<<<< HEAD` is a merge conflict marker",
    "-- migrate: draft\nSELECT 1;\n": ": still a draft",
}


def test_an_undo_section_is_not_run_and_nothing_else_is_either(
    here: Here, migrations: Write, database: Database
) -> None:
    database.execute("CREATE TABLE users AS SELECT generate_series(1, 1000) id")
    migrations(
        {
            "001-one.sql": "CREATE TABLE one ();\n",
            "002-orders.sql": GOOSE,
            "003-odd.sql": "SELECT\xa01;\n",
        }
    )
    env = {"MIGRATION_ALLOW_NONEMPTY": "1"}
    for result in (
        here(url=database.url, env=env),
        here("validate", url=database.url, env=env),
        here("validate"),
    ):
        assert result.code == 2
        for words in (
            "migrations/002-orders.sql:1:1: `-- +goose Up` is a mark of goose",
            "migrations/002-orders.sql:4:1: `-- +goose Down` is a mark of goose, and Onward runs "
            "the whole file",
            "migrations/003-odd.sql:1:7: invisible character outside of quotes: NO-BREAK SPACE "
            "(U+00A0)",
            "Nothing was changed",
        ):
            assert words in result.err
    assert tables(database) == ["users"]
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]
    migrations({"002-orders.sql": GOOSE.splitlines()[1], "003-odd.sql": "SELECT 1;\n"})
    assert here(url=database.url, env=env).code == 0
    assert recorded(database) == ["001-one", "002-orders", "003-odd"]
    assert database.execute("SELECT count(*) FROM users") == [(1000,)]


def test_an_applied_file_with_another_tools_marks_may_stay(
    here: Here, migrations: Write, database: Database
) -> None:
    dbmate = "-- migrate:up\nCREATE TABLE one ();\n-- migrate:down\nDROP TABLE one;\n"
    migrations({"001-one.sql": "SELECT 1;"})
    assert here("baseline", "001", url=database.url).code == 0
    migrations({"001-one.sql": dbmate})
    assert here("repair", "001-one", url=database.url).code == 0
    migrations({"002-two.sql": "CREATE TABLE two ();"})
    result = here("validate", "--json", url=database.url)
    assert result.code == 0
    assert [one.split("; ")[0].split("/")[-1] for one in json.loads(result.out)["warnings"]] == [
        f"001-one.sql:{line}:1: `-- migrate:{way}` is a mark of dbmate, and Onward runs the whole "
        "file"
        for line, way in ((1, "up"), (3, "down"))
    ]
    assert here(url=database.url).code == 0
    assert (recorded(database), tables(database)) == (["001-one", "002-two"], ["two"])


@pytest.mark.parametrize("text", UNFINISHED)
def test_a_file_that_is_not_finished_is_neither_run_nor_recorded(
    here: Here, migrations: Write, database: Database, text: str
) -> None:
    migrations({"001-one.sql": text})
    for command in ((), ("validate",), ("baseline", "1")):
        result = here(*command, url=database.url)
        assert result.code == 2
        assert f"migrations/001-one.sql{UNFINISHED[text]}" in result.err
        assert "it will only be recorded" not in result.out
    assert contents(database) == ([], [])
    migrations(ONE)
    assert here(url=database.url).code == 0
    before = database.execute("SELECT * FROM schema_migrations")
    migrations({"001-one.sql": text})
    result = here("repair", "001-one", url=database.url)
    assert result.code == 2
    assert result.err.startswith("❌ migrations cannot be recorded:\n  ")
    assert f"migrations/001-one.sql{UNFINISHED[text]}" in result.err
    assert database.execute("SELECT * FROM schema_migrations") == before


def test_repair_takes_what_only_a_pending_file_may_not_contain(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations({"001-one.sql": GOOSE})
    assert here("repair", "001-one", url=database.url).code == 0
    checksum = sha256(GOOSE.encode()).hexdigest()
    assert database.execute("SELECT checksum FROM schema_migrations") == [(checksum,)]


# Files that are refused before anything is connected to


def test_all_unusable_files_are_named_at_once_before_connecting(
    here: Here, migrations: Write, database: Database, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.sql"
    outside.write_text("SELECT 1;")
    directory = migrations({**TWO, **dict.fromkeys(REFUSED_BY_NAME, "SELECT 1;")})
    migrations(
        {
            "007-seven.sql": "SELECT 7;",
            "0007-seven-again.sql": "SELECT 7;",
            "011-latin.sql": "SELECT 'Größe'".encode("latin-1"),
            "012-nul.sql": b"SELECT\0 1;",
            "013-directive.sql": "-- migrate: no-transactions\nSELECT 1;",
            "014-near-miss.sql": "-- Migrate: no transaction\nSELECT 1;",
        }
    )
    (directory / "015-directory.sql").mkdir()
    os.mkfifo(directory / "016-pipe.sql")
    (directory / "017-link.sql").symlink_to(outside)
    (directory / "018-dangling.sql").symlink_to(directory / "nowhere.sql")
    result = here(url=database.url)
    assert result.code == 2
    for name, words_wanted in {
        **dict.fromkeys(REFUSED_BY_NAME, "the name must be NNN-kebab-case.sql"),
        "007-seven.sql": (
            "number 7 is taken by 0007-seven-again.sql; rename one of them, the next free number is"
        ),
        "011-latin.sql": "not UTF-8: byte 0xf6 at offset 10; save the file as UTF-8",
        "012-nul.sql": "a NUL byte at offset 6",
        "013-directive.sql": "write `-- migrate: no-transaction`",
        "014-near-miss.sql": "write `-- migrate: no-transaction`",
        "015-directory.sql": "not a regular file",
        "016-pipe.sql": "not a regular file",
        "017-link.sql": "a symlink to a file outside the directory; copy that file here",
        "018-dangling.sql": "cannot be read",
    }.items():
        assert re.search(
            rf"^  migrations/{re.escape(name)}: .*{re.escape(words_wanted)}",
            result.err,
            re.MULTILINE,
        ), name
    assert "001-one" not in result.err
    assert "Next: Nothing was sent to a database" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize("command", ["run", "status", "validate", "baseline", "repair"])
def test_no_command_connects_while_files_are_wrong(
    here: Here, migrations: Write, database: Database, server: Server, command: str
) -> None:
    migrations({"one.sql": "SELECT 1;"})
    arguments = {"run": [], "baseline": ["baseline", "1"], "repair": ["repair", "x"]}.get(
        command, [command]
    )
    result = here(*arguments, url=server.database("there-is-none").url)
    assert result.code == 2, "with a connection it would have been 5"
    assert "migrations/one.sql: the name must be" in result.err
    assert contents(database) == ([], [])


def test_what_does_not_end_in_sql_is_ignored(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {**ONE, "README.md": "x", ".DS_Store": b"\0", "002-x.sql~": "x", ".003-x.sql.swp": b"\0"}
    )
    assert here(url=database.url).code == 0
    assert recorded(database) == ["001-one"]


def test_an_unreadable_file_is_named(cli: Cli, migrations: Write, database: Database) -> None:
    directory = migrations(TWO)
    (directory / "002-two.sql").chmod(0)
    if os.access(directory / "002-two.sql", os.R_OK):
        pytest.skip("root reads everything")
    result = cli(url=database.url)
    assert result.code == 2
    assert "migrations/002-two.sql: cannot be read: permission denied" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize("state", ["missing", "empty", "a file", "a link to itself", "unreadable"])
def test_a_directory_without_migrations_is_refused_with_its_remedy(
    here: Here, tmp_path: Path, database: Database, state: str
) -> None:
    directory = tmp_path / "migrations"
    if state == "a file":
        directory.write_text("")
    elif state == "a link to itself":
        directory.symlink_to(directory)
    elif state != "missing":
        directory.mkdir(mode=0 if state == "unreadable" else 0o755)
    if state == "unreadable" and os.access(directory, os.R_OK):
        pytest.skip("root reads everything")
    for command in ((), ("status",), ("validate",)):
        result = here(*command, url=database.url)
        assert result.code == 2
        assert result.err.startswith("❌ migrations: ")
        assert "MIGRATION_DIR" in result.err
    assert contents(database) == ([], [])


# Pending files that are refused after the history is read


@pytest.mark.parametrize("sql", REFUSED_BY_CONTENT)
def test_a_pending_file_is_refused_with_the_statements_line_and_remedy(
    here: Here, migrations: Write, database: Database, sql: str
) -> None:
    line, what = REFUSED_BY_CONTENT[sql]
    migrations({**ONE, "002-refused.sql": sql})
    result = here(url=database.url)
    assert result.code == 2
    assert re.search(
        rf"^  migrations/002-refused\.sql:{line}: {re.escape(what)}.*; (remove|write|add) ",
        result.err,
        re.MULTILINE,
    )
    assert "Nothing was changed." in result.err
    assert contents(database) == ([], [])


def test_all_refused_files_are_named_at_once_and_none_before_is_applied(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    refused = {f"{number:03}-refused.sql": sql for number, sql in enumerate(REFUSED_BY_CONTENT, 3)}
    migrations(
        {
            "002-two.sql": TWO["002-two.sql"],
            **refused,
            "099-draft.sql": "-- migrate: draft\nSELECT 1;",
        }
    )
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 2
    assert (document["error"]["code"], document["applied"]) == ("invalid_files", [])
    assert document["remaining"] == [
        "002-two",
        *(name.removesuffix(".sql") for name in refused),
        "099-draft",
    ]
    for name in (*refused, "099-draft.sql"):
        assert f"migrations/{name}:" in result.err
        assert f"migrations/{name}:" in document["error"]["message"]
    assert contents(database) == before


def test_savepoints_are_fine(here: Here, migrations: Write, database: Database) -> None:
    migrations(
        {
            "001-save.sql": "SAVEPOINT a; CREATE TABLE gone (); ROLLBACK TO a; RELEASE a; CREATE "
            "TABLE kept ();"
        }
    )
    assert here(url=database.url).code == 0
    assert (recorded(database), tables(database)) == (["001-save"], ["kept"])
