import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib import ROOT
from lib.errors import DuplicateNumbers, FilesError
from lib.report.text import next_step_text
from lib.source.latin1 import BOM
from lib.source.migration import (
    DRAFT,
    NO_TRANSACTION,
    load,
    names_in,
    number_of,
    require_runnable,
)
from tests.kit import fill, read

NAME = (
    "the name must be NNN-kebab-case.sql: three digits or more, "
    "then lower-case words joined by hyphens"
)
WRITE_ONE = (
    "write `-- migrate: no-transaction` or `-- migrate: draft` or "
    "`-- migrate: accept NAME: reason` on a line of its own, or reword the comment"
)
LINE_ENDS = ("\n", "\r\n", "\r")


def problems(directory: Path) -> list[str]:
    """Each problem without the directory, after the heading has been looked at."""
    with pytest.raises(FilesError) as caught:
        load(directory)
    heading, *found = caught.value.message.split("\n  ")
    assert heading == "the migration files are invalid:"
    next_step, _, commands = caught.value.next_step.partition("\n")
    assert next_step == "Nothing was sent to a database. Fix the files and run again."
    assert ("scripts/migrate.py renumber " in commands) == (
        "rename one of them" in str(caught.value)
    )
    assert all(problem.startswith(f"{directory}/") for problem in found)
    return [problem.removeprefix(f"{directory}/") for problem in found]


# Names and numbers


@pytest.mark.parametrize(
    ("file", "number", "name"),
    [
        ("001-create-users-table.sql", 1, "Create Users Table"),
        ("000-x.sql", 0, "X"),
        ("1000-add-2fa.sql", 1000, "Add 2fa"),
        ("0007-v2.sql", 7, "V2"),
        ("20251025140017-add-orders.sql", 20251025140017, "Add Orders"),
    ],
)
def test_a_file_is_identified_by_its_name(
    tmp_path: Path, file: str, number: int, name: str
) -> None:
    (migration,) = load(fill(tmp_path, {file: "SELECT 1;"}))
    assert (migration.number, migration.version, migration.name) == (
        number,
        file.removesuffix(".sql"),
        name,
    )
    assert (migration.path, migration.content) == (tmp_path / file, b"SELECT 1;")
    assert "SELECT" not in repr(migration)


@pytest.mark.parametrize(
    "file",
    [
        *(
            "1-x.sql",
            "12-x.sql",
            "001.sql",
            "001-.sql",
            "001_x.sql",
            "001-x_y.sql",
            "001 x.sql",
            "001-x y.sql",
        ),
        *(
            "001-X.sql",
            "001-x.SQL",
            "001-x.Sql",
            "001--x.sql",
            "001-x-.sql",
            "-001-x.sql",
            "x.sql",
            "_001-x.sql",
        ),
        *(
            "001-ä.sql",
            "٠٠١-x.sql",
            "001-x.up.sql",
            "001-x.sql\n.sql",
            "V001__x.sql",
            "001-x.sql.sql",
            "001-x²3.sql",
        ),
    ],
)
def test_a_sql_file_of_any_other_name_is_refused(tmp_path: Path, file: str) -> None:
    assert problems(fill(tmp_path, {"002-fine.sql": "SELECT 1;", file: "SELECT 1;"})) == [
        f"{file}: {NAME}"
    ]


@pytest.mark.slow
@given(
    st.from_regex(r"[0-9]{0,4}-?[a-z0-9-]{0,6}\.sql", fullmatch=True)
    | st.text("019aZ-_. ä²٣", max_size=9).map(lambda stem: f"{stem}.sql")
)
def test_a_name_is_digits_and_then_words_with_a_hyphen_before_each(file: str) -> None:
    digits, *words = file[:-4].split("-")
    fits = len(digits) >= 3 and set(digits) <= set("0123456789") and bool(words)
    fits = fits and all(
        word and set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789") for word in words
    )
    with tempfile.TemporaryDirectory() as directory:
        fill(Path(directory), {file: "SELECT 1;"})
        if file.startswith("."):
            with pytest.raises(FilesError, match=r"contains no \.sql file"):
                load(Path(directory))
        elif fits:
            assert load(Path(directory))[0].version == file[:-4]
        else:
            assert problems(Path(directory)) == [f"{file}: {NAME}"]


def test_what_does_not_end_in_sql_is_ignored(tmp_path: Path) -> None:
    others = dict.fromkeys(
        ("README.md", ".DS_Store", "x.sql~", ".x.sql.swp", "003-x.sql.bak", "sql"), b"\0\xff"
    )
    (tmp_path / "archive").mkdir()
    assert [one.version for one in load(fill(tmp_path, others | {"001-x.sql": "SELECT 1;"}))] == [
        "001-x"
    ]


HIDDEN = ("._001-x.sql", ".001-x.sql", ".002-y.sql", ".sql", "._999-x.SQL", ".env.sql")


def test_hidden_files_are_ignored_whatever_is_in_them(tmp_path: Path) -> None:
    fill(tmp_path, dict.fromkeys(HIDDEN, b"\0\x05\x16\x07\0\x02\0\0Mac OS X \xff"))
    (tmp_path / ".#001-x.sql").symlink_to("me@host.4711:1700000000")
    (tmp_path / ".003-folder.sql").mkdir()
    with pytest.raises(FilesError, match=r"contains no \.sql file"):
        load(tmp_path)
    assert [one.version for one in load(fill(tmp_path, {"001-x.sql": "SELECT 1;"}))] == ["001-x"]
    assert names_in(tmp_path) == ["001-x.sql"]


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    fill(
        tmp_path, dict.fromkeys(("1000-d.sql", "0099-b.sql", "999-c.sql", "010-a.sql"), "SELECT 1;")
    )
    assert [one.number for one in load(tmp_path)] == [10, 99, 999, 1000]


def test_a_number_is_taken_once_however_it_is_written(tmp_path: Path) -> None:
    fill(
        tmp_path,
        dict.fromkeys(
            ("007-b.sql", "0007-a.sql", "7-c.sql", "007_d.sql", "008-e.sql"), "SELECT 1;"
        ),
    )
    assert problems(tmp_path) == [
        f"007_d.sql: {NAME}",
        f"7-c.sql: {NAME}",
        (
            "007-b.sql: number 7 is taken by 0007-a.sql; "
            "rename one of them, the next free number is 009"
        ),
        (
            "007_d.sql: number 7 is taken by 0007-a.sql; "
            "rename one of them, the next free number is 009"
        ),
        "7-c.sql: number 7 is taken by 0007-a.sql; rename one of them, the next free number is 009",
    ]


def test_files_that_share_a_number_are_listed_with_their_commands(tmp_path: Path) -> None:
    fill(tmp_path, dict.fromkeys(("007-b.sql", "0007-a.sql", "008-e.sql"), "SELECT 1;"))
    with pytest.raises(DuplicateNumbers) as caught:
        load(tmp_path)
    assert caught.value.duplicates == [["0007-a", "007-b"]]
    assert caught.value.next_step.splitlines()[-2:] == [
        "  scripts/migrate.py renumber 0007-a",
        "  scripts/migrate.py renumber 007-b",
    ]


@pytest.mark.parametrize(
    ("version", "number"),
    [("001-x", 1), ("1000", 1000), ("12x", 12), ("x1", None), ("", None), ("٣-x", None)],
)
def test_a_version_of_the_history_has_the_number_it_begins_with(
    version: str, number: int | None
) -> None:
    assert number_of(version) == number


# What is no migration


def test_nothing_but_a_file_of_the_directory_can_be_a_migration(tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "001-directory.sql").mkdir()
    os.mkfifo(directory / "002-pipe.sql")
    (directory / "003-outward.sql").symlink_to(
        fill(tmp_path, {"outside.sql": "SELECT 1;"}) / "outside.sql"
    )
    (directory / "004-dangling.sql").symlink_to("nowhere")
    (directory / "005-loop.sql").symlink_to("005-loop.sql")
    (directory / "006-directory.sql").symlink_to(directory)
    assert problems(directory) == [
        "001-directory.sql: not a regular file",
        "002-pipe.sql: not a regular file",
        "003-outward.sql: a symlink to a file outside the directory; copy that file here",
        "004-dangling.sql: cannot be read: no such file or directory",
        "005-loop.sql: cannot be read: too many levels of symbolic links",
        "006-directory.sql: not a regular file",
    ]


def test_a_link_within_the_directory_is_as_good_as_the_file(tmp_path: Path) -> None:
    directory = tmp_path / "real"
    directory.mkdir()
    fill(directory, {"text": "SELECT 1;"})
    (directory / "001-x.sql").symlink_to("text")
    (tmp_path / "link").symlink_to(directory)
    assert load(tmp_path / "link")[0].content == b"SELECT 1;"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (fill(tmp_path, {"001-x.sql": "SELECT 1;"}) / "001-x.sql").chmod(0)
    assert problems(tmp_path) == ["001-x.sql: cannot be read: permission denied"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"SELECT '\xe4';", "not UTF-8: byte 0xe4 at offset 8; save the file as UTF-8"),
        (BOM + b"SELECT '\xe4';", "not UTF-8: byte 0xe4 at offset 11; save the file as UTF-8"),
        ("-- ä\n".encode() + b"\xc3", "not UTF-8: byte 0xc3 at offset 6; save the file as UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0xed at offset 0; save the file as UTF-8"),
        ("SELECT 1;".encode("utf-16"), "not UTF-8: byte 0xff at offset 0; save the file as UTF-8"),
        (
            b"SELECT 1;\0",
            "a NUL byte at offset 9, where the server would stop reading; save the file as UTF-8",
        ),
        (
            BOM + b"\0",
            "a NUL byte at offset 3, where the server would stop reading; save the file as UTF-8",
        ),
        (
            "é\0".encode(),
            "a NUL byte at offset 2, where the server would stop reading; save the file as UTF-8",
        ),
    ],
)
def test_what_is_not_utf8_text_is_refused_with_the_offset(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    assert problems(fill(tmp_path, {"001-x.sql": content})) == [f"001-x.sql: {problem}"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda _: None, "cannot be read: no such file or directory"),
        (lambda path: path.write_text(""), "cannot be read: not a directory"),
        (lambda path: path.mkdir(), "contains no .sql file"),
        (
            lambda path: fill(path, {"README.md": ""}) if path.mkdir() is None else None,
            "contains no .sql file",
        ),
    ],
)
def test_a_directory_without_migrations_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], problem: str
) -> None:
    directory = tmp_path / "migrations"
    make(directory)
    with pytest.raises(FilesError) as caught:
        load(directory)
    assert caught.value.message == f"{directory}: {problem}"
    assert "set MIGRATION_DIR" in caught.value.next_step


def test_all_problems_are_named_at_once_and_sound_files_are_not(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "001-sound.sql": "SELECT 1;",
            "002_name.sql": b"\xff",
            "003-bytes.sql": b"\xff",
            "003-nul.sql": b"\0",
            "004-directive.sql": "-- migrate: fast",
        },
    )
    assert problems(tmp_path) == [
        f"002_name.sql: {NAME}",
        "003-bytes.sql: not UTF-8: byte 0xff at offset 0; save the file as UTF-8",
        (
            "003-nul.sql: a NUL byte at offset 0, where the server would stop reading; "
            "save the file as UTF-8"
        ),
        f"004-directive.sql: unknown directive `-- migrate: fast`; {WRITE_ONE}",
        (
            "003-nul.sql: number 3 is taken by 003-bytes.sql; "
            "rename one of them, the next free number is 005"
        ),
    ]


# Directives


@pytest.mark.parametrize(
    ("lines", "directives"),
    [
        (["-- migrate: no-transaction", "SELECT 1;"], {NO_TRANSACTION}),
        (["-- migrate: draft"], {DRAFT}),
        (["", "  -- migrate: draft \t", "-- migrate: no-transaction"], {DRAFT, NO_TRANSACTION}),
        (["-- migrate: draft", "-- migrate: draft"], {DRAFT}),
        (
            ["-- Version: 003", "", "/* a", "/* b */ c */ -- migrate: no-transaction", "SELECT 1;"],
            {NO_TRANSACTION},
        ),
        (["SELECT 1;", "-- migrate: no-transaction"], set()),
        (["SELECT 1; -- migrate: draft"], set()),
        (["SELECT 1;", "-- migrate: anything"], set()),
        (["SELECT '", "-- migrate: draft", "';"], set()),
        (["/* left open", "-- migrate: draft"], set()),
        (["SELECT 1;"], set()),
    ],
)
def test_directives_stand_in_the_comment_that_opens_the_file(
    lines: list[str], directives: set[str]
) -> None:
    migration = read("\n".join([*lines, ""]))
    assert migration.directives == directives
    assert migration.transactional == (NO_TRANSACTION not in directives)


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_line_ends_and_a_bom_hide_no_directive(tmp_path: Path, bom: str, end: str) -> None:
    assert read(
        f"{bom}-- migrate: draft{end}-- migrate: no-transaction{end}SELECT 1;{end}"
    ).directives == {
        DRAFT,
        NO_TRANSACTION,
    }
    fill(
        tmp_path,
        {
            "001-x.sql": (
                f"{bom}-- migrate: fast{end}-- Version: 001{end}/* migrate : slow */{end}SELECT 1;"
            )
        },
    )
    assert problems(tmp_path) == [
        f"001-x.sql: unknown directive `-- migrate: fast`, `/* migrate : slow */`; {WRITE_ONE}"
    ]


@pytest.mark.parametrize(
    "comment",
    [
        *("--migrate: no-transaction", "-- migrate:no-transaction", "-- Migrate: no-transaction"),
        *("-- migrate: no_transaction", "-- migrate: No-Transaction", "-- MIGRATE: NO-TRANSACTION"),
        *("-- migrate: no transaction", "-- migrate : no-transaction", "-- migrate: notransaction"),
        *(
            "--  migrate: no-transaction",
            "--- migrate: no-transaction",
            "--\tmigrate: no-transaction",
        ),
        *(
            "-- migrate: no-transactions",
            "-- migrate: no-transaction;",
            "-- migrate: no\u2011transaction",
        ),
        *(
            "-- migrate: no-transaction -- slow",
            "--migrate: draft",
            "-- migrate:draft",
            "-- Migrate: draft",
        ),
        *("-- migrate: draft -- Orders", "-- Migrate: draft (unfinished)", "/* migrate: draft */"),
        *("/*migrate: draft*/", "/** migrate: draft **/"),
        *(
            "-- migrate:",
            "-- migrate: fast",
            "-- migrate : fast",
            "-- migrate: accept lock",
            "-- migrate: up",
        ),
        *("-- Migrate:up", "-- Migrate: all users", "-- Migrate: drafts to orders"),
    ],
)
def test_what_begins_like_a_directive_and_is_none_is_refused(tmp_path: Path, comment: str) -> None:
    fill(tmp_path, {"001-x.sql": f"-- Version: 001\n{comment}\nSELECT 1;\n"})
    assert problems(tmp_path) == [f"001-x.sql: unknown directive `{comment}`; {WRITE_ONE}"]


def test_a_file_accepts_hazards_with_a_reason_each(tmp_path: Path) -> None:
    content = (
        "-- migrate: accept drop-column: nothing reads it\n"
        "-- migrate: accept rewrite:  it is small \n"
        "-- migrate: no-transaction\n"
        "SELECT 1;\n-- migrate: accept drop: too late\n"
    )
    (one,) = load(fill(tmp_path, {"001-x.sql": content}))
    assert one.accepted() == {"drop-column": "nothing reads it", "rewrite": "it is small"}
    assert one.directives == {"no-transaction"}


def test_an_acceptance_without_a_reason_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"001-x.sql": "-- migrate: accept drop-column\nSELECT 1;\n"})
    assert problems(tmp_path) == [
        f"001-x.sql: unknown directive `-- migrate: accept drop-column`; {WRITE_ONE}"
    ]


def test_all_unknown_directives_of_a_file_are_named(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "001-x.sql": (
                "-- migrate: a\n/* Orders\r\n * migrate: draft\r\n */\n-- migrate: draft\nSELECT 1;"
            )
        },
    )
    assert problems(tmp_path) == [
        f"001-x.sql: unknown directive `-- migrate: a`, `* migrate: draft`; {WRITE_ONE}"
    ]


def test_a_mark_of_dbmates_is_no_directive_and_only_refused_while_pending(
    tmp_path: Path,
) -> None:
    migrations = load(
        fill(
            tmp_path,
            {"001-x.sql": "-- migrate:up transaction:false\nVACUUM;\n/* migrate:down */\n"},
        )
    )
    assert migrations[0].transactional
    with pytest.raises(
        FilesError, match=r"001-x\.sql:1:1: `-- migrate:up transaction:false` is a mark of dbmate"
    ):
        require_runnable(migrations)


@pytest.mark.parametrize(
    "comment",
    [
        *(
            "-- Migration: 003-add-orders",
            "-- Migrate existing rows",
            "-- Version: 003",
            "-- migrated by hand",
        ),
        *(
            "-- Migration: draft-invoices table",
            "-- Migration of draft orders",
            "-- Draft: none",
            "-- migrate",
            "--",
        ),
        *("-- Migration 003: no transactions are lost", "-- this cannot migrate: no-transaction"),
        *(
            "-- Was `-- migrate: no-transaction` until 2024",
            "/* Migration: add orders */",
            "-- immigrate: draft",
        ),
        # Without `migrate:` nobody can tell what is meant: the server refuses what needed the
        # directive.
        *("-- no-transaction", "--no-transaction", "-- No Transaction", "/* no-transaction */"),
        *(
            "-- migrate no-transaction",
            "-- migrate= no-transaction",
            "-- migration: no-transaction",
        ),
        *("-- migrate draft", "-- MIGRATION: DRAFT"),
    ],
)
def test_prose_is_no_directive(comment: str) -> None:
    assert read(f"{comment}\nSELECT 1;").directives == frozenset()


def test_a_statement_whose_directive_is_mere_prose_names_the_directive() -> None:
    [found] = read("-- no-transaction\nVACUUM;").refusals()
    assert found.endswith(
        "001-x.sql:2: VACUUM cannot run inside a transaction; "
        "add `-- migrate: no-transaction` to the leading comment"
    )


# Checksums


def test_the_checksum_of_a_plain_file_is_that_of_sha256sum() -> None:
    content = b"SELECT 'caf\xc3\xa9';\n"
    assert read(content).checksum == sha256(content).hexdigest()


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0\r\n\ufeff", codec="utf-8"), max_size=5),
        max_size=5,
    ),
    st.sampled_from(LINE_ENDS),
    st.booleans(),
)
@example(["", ""], "\r", True)
def test_line_endings_and_a_bom_do_not_change_a_checksum(
    words: list[str], end: str, bom: bool
) -> None:
    lines = ["SELECT 1;", *words, ""]
    unix = "\n".join(lines).encode()
    content = BOM * bom + end.join(lines).encode()
    migration = read(content)
    assert migration.checksum == sha256(unix).hexdigest()
    for stored in (
        content,
        unix,
        unix.replace(b"\n", b"\r\n"),
        BOM + unix,
        BOM + unix.replace(b"\n", b"\r\n"),
    ):
        assert migration.matches(sha256(stored).hexdigest())
    for other in (b" " + unix, unix + b"\n", unix.replace(b"SELECT", b"select"), BOM + BOM + unix):
        assert not migration.matches(sha256(other).hexdigest())
    assert not migration.matches("")


def test_a_file_of_mixed_line_endings_matches_its_raw_bytes() -> None:
    content = b"SELECT 1;\r\nSELECT 2;\nSELECT 3;\rSELECT 4;"
    migration = read(content)
    assert migration.checksum == sha256(b"SELECT 1;\nSELECT 2;\nSELECT 3;\nSELECT 4;").hexdigest()
    assert migration.matches(sha256(content).hexdigest())


def test_the_sql_that_is_sent_is_the_file_untouched_without_its_bom() -> None:
    content = b"SELECT '%s', '$1', ':x', '{}';\r\n\r"
    migration = read(BOM + content)
    assert (migration.sql, migration.text()) == (content, content.decode())
    assert read(content).sql == content


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ("", True),
        ("\ufeff-- only\n/* comments */;\n", True),
        ("SELECT 1", False),
        ("-- x\n;a", False),
    ],
)
def test_a_file_without_a_statement_is_known_as_empty(text: str, empty: bool) -> None:
    assert read(text).is_empty is empty


# Pending files


def test_all_that_pending_files_may_not_contain_is_named_at_once(tmp_path: Path) -> None:
    files = {
        "001-fine.sql": "CREATE TABLE a ();",
        "002-wrapped.sql": "\ufeff-- why\r\nBEGIN;\r\nSELECT 1;\r\nCOMMIT;",
        "003-draft.sql": "-- migrate: draft\nVACUUM;",
        "004-piecewise.sql": "-- migrate: no-transaction\nVACUUM;\n\\copy t from x\n",
    }
    migrations = load(fill(tmp_path, dict(files)))
    with pytest.raises(FilesError) as caught:
        require_runnable(migrations)
    heading, *found = caught.value.message.split("\n  ")
    assert heading == "pending migrations cannot run:"
    once = "remove it: each file already runs in one transaction"
    assert [one.removeprefix(f"{tmp_path}/") for one in found] == [
        (
            "002-wrapped.sql:2: BEGIN starts a transaction inside the one that the file runs in; "
            f"{once}"
        ),
        f"002-wrapped.sql:4: COMMIT ends the transaction that the file runs in; {once}",
        (
            "003-draft.sql: still a draft; remove the line `-- migrate: draft` when the SQL is "
            "finished"
        ),
        "003-draft.sql:2: VACUUM cannot run inside a transaction; "
        "add `-- migrate: no-transaction` to the leading comment",
        (
            "004-piecewise.sql:3: \\copy is a psql command, not SQL; "
            "remove the line, or replace it with SQL"
        ),
    ]
    assert next_step_text(caught.value) == "Nothing was changed. Fix the files and run again."
    require_runnable(migrations[:1])
    require_runnable([])


def test_the_bytes_of_the_files_that_are_shipped_never_change() -> None:
    """One changed word would be `modified` on every database that has them."""
    shipped = {
        path.name[:3]: sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / "migrations").glob("*.sql")
    }
    assert shipped == {
        "000": "18eb93b6bcd09ea33b24abffc2fb19063c8fc0865701a6bb5142c406a31c920b",
        "001": "23e2f472b92561317ddafaa68e3bdc28cd965d6146ad5c1a00eeab0dd5eb37b4",
        "002": "6caabc61f058a9232d03f86f51d76c7a63271d1e346afd505936c09d59a1a92d",
    }
