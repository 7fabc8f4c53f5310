"""What does not belong in a file, and files in which nothing of it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import FilesError
from lib.report.text import next_step_text
from lib.source import other_tools
from lib.source.migration import require_runnable
from tests.kit import HEAD, read
from tests.source.statements import DIRECTIVE

SECTIONS = "remove the marks and the whole undo section"


def refused(text: str | bytes) -> list[str]:
    """What is refused in a file, without the directory."""
    migration = read(text)
    try:
        require_runnable([migration])
    except FilesError as error:
        heading, *found = error.message.split("\n  ")
        assert heading == "pending migrations cannot run:"
        assert (error.exit_code, next_step_text(error)) == (
            2,
            "Nothing was changed. Fix the files and run again.",
        )
        return [one.removeprefix(f"{migration.path.parent}/") for one in found]
    return []


def places(text: str | bytes) -> list[str]:
    return [one.split(" ")[0] for one in refused(text)]


# Other tools' marks

UNDO = {
    "goose": [
        "-- +goose Down",
        "--+goose Down",
        "-- +goose DOWN",
        "  -- +goose Down",
        "-- +goose  Down  ",
    ],
    "sql-migrate": ["-- +migrate Down", "-- +migrate Down notransaction"],
    "micrate": ["-- +micrate Down"],
    "dbmate": [
        *("-- migrate:down", "--migrate:down", "--  migrate:down \t", "  -- migrate:down"),
        *("-- migrate:down transaction:false", "-- migrate:down a:b transaction:false"),
    ],
    "node-pg-migrate": [
        "-- Down Migration",
        "--down migration",
        "  --- DOWN  MIGRATION ---",
        "-- Down Migration:",
    ],
    "tern": ["---- create above / drop below ----"],
    "rambler": ["-- rambler down"],
    "shmig": ["-- ==== DOWN ===="],
    "MyBatis Migrations": ["-- //@UNDO", "--//@UNDO", "-- // @UNDO", "-- @UNDO"],
    "Play Evolutions": ["# --- !Downs", "#--- !Downs", "--- !Downs", "-- !Downs"],
}
OTHER_SECTIONS = {
    "goose": [
        "-- +goose Up",
        "-- +goose StatementBegin",
        "-- +goose StatementEnd",
        "-- +goose ENVSUB ON",
    ],
    "sql-migrate": ["-- +migrate Up", "-- +migrate StatementBegin"],
    "micrate": ["-- +micrate Up"],
    "dbmate": ["-- migrate:up", "--migrate:up", "-- migrate:up transaction:false"],
    "node-pg-migrate": ["-- Up Migration", "-- up migration"],
    "rambler": ["-- rambler up"],
    "shmig": ["-- ====  UP  ===="],
    "Play Evolutions": ["# --- !Ups", "-- !Ups"],
    "Liquibase": [
        "--liquibase formatted sql",
        "-- Liquibase formatted SQL",
        "-- liquibase formatted sql x:y",
    ],
    "Atlas": ["-- atlas:txtar", "-- atlas:delimiter \\n\\n"],
}
WITHOUT_TRANSACTION = {
    "goose": ["-- +goose NO TRANSACTION"],
    "sql-migrate": ["-- +migrate Up notransaction", "-- +migrate Down notransaction"],
    "dbmate": ["-- migrate:up transaction:false", "-- migrate:down  transaction:false"],
    "Atlas": ["-- atlas:txmode none"],
    "graphile-migrate": ["--! no-transaction", "--!no-transaction"],
    "postgres-migrations": ["-- postgres-migrations disable-transaction"],
    "yoyo": ["-- transactional: false", "--transactional:False"],
}
LATER = [(tool, mark) for tool, marks in UNDO.items() for mark in marks]
MARKS = [*LATER, *((tool, mark) for tool, marks in OTHER_SECTIONS.items() for mark in marks)]


@pytest.mark.parametrize(("tool", "mark"), LATER)
def test_an_undo_section_is_refused_where_it_begins(tool: str, mark: str) -> None:
    text = f"CREATE TABLE users (id int);\n\n{mark}\nDROP TABLE users;\n"
    column = len(mark) - len(mark.lstrip()) + 1
    [found] = refused(text)
    assert found.startswith(
        f"001-x.sql:3:{column}: `{mark.strip()}` is a mark of {tool}, "
        f"and Onward runs the whole file; {SECTIONS}"
    )
    # A tool that sends all of a section at once lets its last semicolon be missing.
    assert places(text.replace(";", "", 1)) == [f"001-x.sql:3:{column}:"]
    assert places(HEAD + text) == [f"001-x.sql:4:{column}:"]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_a_bom_hide_no_mark(end: str, bom: str) -> None:
    marks = [
        "-- migrate:up",
        "# --- !Ups",
        "-- ==== UP ====",
        "-- //@UNDO",
        "-- Down Migration",
        "  -- rambler down",
    ]
    text = bom + end.join([*marks, "SELECT 1;", "-- atlas:txmode none", ""])
    assert places(text) == [f"001-x.sql:{line}:{3 if line == 6 else 1}:" for line in range(1, 7)]


@pytest.mark.parametrize(("tool", "mark"), MARKS)
def test_a_mark_without_an_undo_section_is_refused_too(tool: str, mark: str) -> None:
    text = f"-- Users\n{mark}\nCREATE TABLE users (id int);\n"
    [found] = refused(text)
    assert found.startswith(
        f"001-x.sql:2:{len(mark) - len(mark.lstrip()) + 1}: `{mark.strip()}` is a mark of {tool},"
    )


@pytest.mark.parametrize(
    ("tool", "mark"), [(tool, one) for tool, marks in WITHOUT_TRANSACTION.items() for one in marks]
)
def test_a_mark_for_no_transaction_is_refused_with_our_directive(tool: str, mark: str) -> None:
    [found] = refused(f"{mark}\nCREATE TABLE users (id int);\n")
    assert found.startswith(f"001-x.sql:1:1: `{mark}` is a mark of {tool}, and ")
    assert found.endswith(f", and {DIRECTIVE}")
    with_ours = refused(f"{HEAD}{mark}\nCREATE TABLE users (id int);\n")
    if tool in ("goose", "sql-migrate", "dbmate"):
        assert [one.endswith(SECTIONS) for one in with_ours] == [True]
    else:
        assert with_ours == []


def test_the_remedy_of_a_mark_leads_to_a_file_that_may_run() -> None:
    text = "-- +goose Up\n-- +goose NO TRANSACTION\nVACUUM;\n\n-- +goose Down\nVACUUM FULL;\n"
    assert [one.endswith(SECTIONS) for one in refused(text)] == [True, False, False, True, False]
    assert refused(f"{HEAD}VACUUM;\n") == []
    assert refused(f"{HEAD}-- atlas:txmode none\nVACUUM;\n") == []


def test_each_mark_of_a_file_is_named_once_with_the_places_where_it_is() -> None:
    block = "-- +goose StatementBegin\nSELECT 1;\n-- +goose StatementEnd\n"
    found = refused("-- +goose Up\n" + block * 7 + "-- +goose Down\nSELECT 2;\n")
    assert [one.split(":")[1] for one in found] == ["1", "2", "4", "23"]
    assert (
        " is a mark of goose, and Onward runs the whole file (also at 5:1, 8:1, 11:1, "
        "3 more places); "
    ) in found[1]
    assert "also at" not in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "-- +goose Up\nINSERT INTO notes VALUES ('first\n-- +goose Down\nlast');",
        "INSERT INTO notes VALUES ('\n-- +goose Down\n');",
        "INSERT INTO notes VALUES (E'\\'\n-- migrate:down\n');",
        "INSERT INTO notes VALUES ($$\n-- migrate:down\nDROP TABLE t;\n$$);",
        'CREATE TABLE t ("\n-- migrate:down\n" int);',
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $f$\n-- +goose Down\nBEGIN END $f$;",
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n-- +goose Down\n"
            "SELECT 1;\n-- migrate:down\nEND;"
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC"
            " SELECT 1;\n-- +goose Down\nSELECT CASE WHEN a THEN 1 END; END;"
        ),
        "/*\n-- migrate:down\nDROP TABLE t;\n*/\nSELECT 1;",
        "SELECT 1 /* /* */\n-- +goose Down\n*/;",
        "SELECT 1; -- +goose Down",
        "SELECT 1 -- migrate:down\n;",
        "-- see -- +goose Down\nSELECT 1;",
        "-- --rollback DROP TABLE t\nSELECT 1;",
    ],
)
def test_what_only_looks_like_a_mark_is_none(text: str) -> None:
    up = ["001-x.sql:1:1:"] if text.startswith("-- +goose Up") else []
    assert places(text) == up
    assert len(refused(f"{text}\n-- migrate:down\nSELECT 2;")) == len(up) + 1


def test_a_mark_is_seen_between_and_behind_bodies_of_statements() -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n-- +goose Up\nSELECT 1; END"
    assert places(
        f"{body};\n-- +goose Down\n{body};\n-- migrate:down\n{body}\n-- rambler down\n;"
    ) == [*("001-x.sql:4:1:", "001-x.sql:8:1:", "001-x.sql:12:1:")]


@pytest.mark.parametrize(
    "mark",
    [
        "-- atlas:txmode none",
        "--! no-transaction",
        "--liquibase formatted sql",
        "-- transactional: false",
    ],
)
def test_what_counts_at_the_beginning_of_a_file_does_not_count_later(mark: str) -> None:
    assert refused(f"SELECT 1;\n{mark}\nSELECT 2;\n") == []


@pytest.mark.parametrize(
    "comment",
    [
        *(
            "-- Rollback: see the runbook",
            "-- rollback plan",
            "--rollback DROP TABLE users;",
            "-- Down",
            "-- UP",
        ),
        *(
            "-- Down migration is not needed",
            "-- Up migration adds the table",
            "-- Down Migration: DROP TABLE users;",
        ),
        *(
            "-- Down migrations are not supported",
            "-- Down migration 不需要",
            "-- There is no down migration",
        ),
        *(
            "-- goose: Canada goose",
            "-- The +goose Down part was dropped",
            "-- goose Down",
            "-- + goose Down",
        ),
        *(
            "-- Migrate up: all users",
            "-- migrated: up",
            "-- Migration: up",
            "-- migrate up",
            "-- Migrations down",
        ),
        *(
            "--> statement-breakpoint",
            "--! Previous: -",
            "--! Hash: sha1:af",
            "--bun:split",
            "-- squawk-ignore",
        ),
        *(
            "-- //",
            "-- // create users",
            "-- @undo",
            "-- UNDO: none",
            "-- atlas:nolint destructive",
            "-- name: f",
        ),
        *(
            "-- ===== DOWN =====",
            "-- ==== Down ====",
            "-- ====",
            "-- =======",
            "-- ====== UP ======",
        ),
        *(
            "-- depends: 001-x",
            "-- Flyway: ${schema}",
            "-- txn-mode = off",
            "-- changeset a:b",
            "--changeset a:b",
        ),
        *(
            "-- transactional: yes",
            "-- atlas:txmode file",
            "-- beware!Downs",
            "-- drop below",
            "-- formatted by hand",
        ),
        *("-- Liquibase was here", "-- Deploy app:users to pg", "-- name: Down :exec"),
    ],
)
def test_prose_and_harmless_marks_are_not_refused(comment: str) -> None:
    assert refused(f"{comment}\nSELECT 1;\n{comment}\nSELECT 2;\n") == []


# Pointers and conflicts

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n"
    "size 12345\n"
)
CONFLICT = (
    "SELECT 1;\n<<<<<<< HEAD\nSELECT 2;\n||||||| 1a2b3c\nSELECT 3;\n=======\nSELECT 4;\n"
    ">>>>>>> topic/it's\n"
)


def test_a_git_lfs_pointer_is_refused_by_name() -> None:
    for text in (POINTER, POINTER.replace("\n", "\r\n"), "\ufeff" + POINTER):
        [found] = refused(text)
        assert found.startswith(
            "001-x.sql:1:1: this is a Git LFS pointer in the file's place; "
            "fetch the file with `git "
        )
        assert len(read(text).unfinished()) == 1
    assert refused(f"-- {POINTER.splitlines()[0]}\nSELECT 1;\n") == []


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_mark_of_a_merge_conflict_is_refused(end: str) -> None:
    text = CONFLICT.replace("\n", end)
    assert refused(text) == [
        f"001-x.sql:{line}:1: `{mark}` is a merge conflict marker; resolve the conflict"
        for line, mark in (
            (2, "<<<<<<< HEAD"),
            (4, "||||||| 1a2b3c"),
            (6, "======="),
            (8, ">>>>>>> topic/it's"),
        )
    ]
    assert len(read(text).unfinished()) == 4


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("<<<<<<< HEAD\n", [1]),
        ("\ufeff<<<<<<< ветка\nSELECT 1;", [1]),
        ("CREATE TABLE t (\n<<<<<<< HEAD\n  a int\n=======\n  b int\n>>>>>>> x\n);", [2, 4, 6]),
        ("/*\n<<<<<<< HEAD\n * Version: 003\n=======\n * Version: 004\n>>>>>>> x\n */", [2, 6]),
        (
            (
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC\n<<<<<<< HEAD\nSELECT 1;\n=======\n"
                ">>>>>>> x\nEND"
            ),
            [2, 4, 5],
        ),
        ("SELECT 'a\n=======\nb';\n=======\n", [4]),
    ],
)
def test_a_conflict_is_found_wherever_it_is_not_quoted(text: str, lines: list[int]) -> None:
    assert places(text) == [f"001-x.sql:{line}:1:" for line in lines]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO notes VALUES ('\n<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> topic\n');",
        "DO $$\n<<<<<<< HEAD\n=======\n>>>>>>> x\n$$;",
        'SELECT 1 AS "\n=======\n";',
        "/*\nOrders\n=======\n*/\nSELECT 1;",
        "-- Orders\n-- =======\n-- <<<<<<< HEAD\n",
        "SELECT a <<<<<<< b, a ======= b, a >>>>>>> b;",
        " =======\n",
        "SELECT 1\n========\n2",
        "DO $$ <<outer>> BEGIN\n<<inner>>\nBEGIN END; END $$;",
    ],
)
def test_what_only_looks_like_a_conflict_is_none(text: str) -> None:
    assert refused(text) == []


# Characters that nobody sees

SPACES = "\xa0\u1680\u2000\u2003\u2009\u200a\u202f\u205f\u3000"
LINE_ENDS = "\u2028\u2029"
NOTHING = (
    "\xad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f"
    "\u2060\u2064\u206f\ufeff\u3164\ufe0f\uffa0\U000e0041"
)
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = "\x01\x08\x0e\x1b\x7f\x80\x85\x9f"


@pytest.mark.parametrize("char", [*SPACES, *LINE_ENDS, *NOTHING, *DIRECTIONS, *CONTROLS])
def test_an_invisible_character_between_words_is_refused_by_place_and_name(
    char: str,
) -> None:
    [found] = refused(f"-- Größe\r\nSELECT 'ä',{char}1;\r\n")
    assert found.startswith("001-x.sql:2:12: invisible character outside of quotes: ")
    assert f"(U+{ord(char):04X}); " in found
    instead = "replace it with a plain space" if char in SPACES else "remove it"
    assert found.endswith("replace it with a line break" if char in LINE_ENDS else instead)
    for place in (
        f"SELECT{char}1;",
        f"SELECT a{char};",
        f"{char}SELECT 1;",
        f"SELECT 1;{char}",
        f"SELECT ü{char}ü;",
        char,
    ):
        assert places(f"\n{place}") == [f"001-x.sql:2:{place.index(char) + 1}:"]


def test_an_invisible_character_is_named_as_unicode_names_it() -> None:
    assert "NO-BREAK SPACE (U+00A0)" in refused("SELECT\xa01")[0]
    assert "ZERO WIDTH SPACE (U+200B)" in refused("SELECT\u200b1")[0]
    assert "ZERO WIDTH NO-BREAK SPACE (U+FEFF)" in refused("\ufeffSELECT 1;\n\ufeffSELECT 2;")[0]
    assert "control character (U+0085)" in refused("SELECT\x851")[0]


def test_a_character_that_is_everywhere_is_told_once() -> None:
    [found] = refused("\xa0\xa0SELECT 1;\n" * 50)
    assert found.startswith("001-x.sql:1:1: ")
    assert (
        "(U+00A0) (also at 1:2, 2:1, 2:2, 96 more places); replace it with a plain space" in found
    )


@pytest.mark.parametrize("char", [*SPACES, *LINE_ENDS, *NOTHING, *CONTROLS])
def test_an_invisible_character_in_quotes_or_a_comment_is_text(char: str) -> None:
    for text in (
        f"-- a{char}b",
        f"/* a{char}b /* {char} */ {char} */ SELECT 1;",
        f"SELECT 'a{char}', E'\\'{char}';",
    ):
        assert refused(text) == []
    for text in (
        f"SELECT \"a{char}\", U&'{char}', 'a\n{char}';",
        f"DO $${char}$$;",
        f"DO $f$ SELECT{char}1 $f$;",
    ):
        assert refused(text) == []
    assert places(f"SELECT '{char}', '{char}'{char};") == ["001-x.sql:1:16:"]


@pytest.mark.parametrize(
    "text",
    [
        "-- access \u202eis denied\nSELECT 1;",
        "/* \u202e } \u2066if admin\u2069 \u2066 begin */ SELECT 1;",
        "-- a\u2067\n-- b\u2069\nSELECT 1;",
        "/* a\u202b\nb\u202c */ SELECT 1;",
        'SELECT "a\u2068";',
        "DO $$ BEGIN -- \u202e\n END $$;",
        "DO $$ BEGIN IF a = 'user\u202e \u2066-- only\u2069 \u2066' THEN END IF; END $$;",
        "-- a\u202e\u2069\u202e\u202c",
    ],
)
def test_code_and_comments_shown_in_another_order_than_theirs_are_refused(
    text: str,
) -> None:
    found = refused(text)
    assert found
    assert all(
        (
            " is not closed on its line, so the text is displayed in another order than the "
            "server reads it; "
        )
        in one
        for one in found
    )


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES ('\u2068{name}\u2069 hat \u2067שלום\u2069 gesagt');",
        "INSERT INTO t VALUES ('\u202bשלום\u202c', '\u202eabc\u202c', '\u200fעברית\u200e');",
        "-- \u202bהערה\u202c\nSELECT 1;",
        (
            "INSERT INTO phones VALUES ('\u202a+49 170 1234567\u202c'), "
            "('\u202a+49 170 1234568'), ('0170\u202c');"
        ),
        "SELECT 'שלום', 'مرحبا';",
        "INSERT INTO t VALUES ('\u202bשלום'), (E'\u202e'), (N'\u2067'), (U&'\u2068');",
        "DO $$ BEGIN RAISE NOTICE '\u202bשלום\u202c'; END $$; -- \u2067שלום\u2069",
    ],
)
def test_text_of_languages_that_run_to_the_left_is_not_refused(text: str) -> None:
    assert refused(text) == []


# Ordinary files

ORDINARY = {
    "a table": "-- Users\nCREATE TABLE users (\n    id   BIGINT PRIMARY KEY,\n    name TEXT\n);\n",
    "headings": (
        "-- ============\n-- 1. Orders\n-- ============\n/*\n Orders\n =======\n-------\n*/\n"
        "SELECT 1;\n"
    ),
    "a rollback in words": "-- Rollback:\n--   DROP TABLE users;\nCREATE TABLE users ();\n",
    "an undo section that is a comment": (
        "CREATE TABLE t ();\n-- DOWN:\n-- DROP t;\n/*\n-- migrate:down\nDROP t;\n*/\n"
    ),
    "umlauts": "-- Größe und Maß\nCREATE TABLE größe (maß int, \"straße\" text DEFAULT 'Köln');\n",
    "Cyrillic names": "CREATE TABLE заказы (номер int, имя text);\nCREATE INDEX ON заказы (имя);\n",
    "Chinese names and a wide space": (
        "CREATE TABLE 訂單 (編號 int);\nINSERT INTO 訂單 VALUES (1); -- 全角\u3000空白\n"
    ),
    "emoji": "-- ⚠️ careful\nINSERT INTO moods VALUES ('👩‍💻', '❤️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿'); -- 🚀\n",
    "a no-break space in text": (
        "INSERT INTO prices VALUES ('10\u00a0€', '1\u202f000'), ('soft\u00adhyphen');\n"
    ),
    "a function": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  -- Down\n    RETURN 1;\n"
        "END $$;\n"
    ),
    "labels": "DO $$\n<<outer>>\nBEGIN\n    <<inner>>\n    LOOP EXIT outer; END LOOP;\nEND $$;\n",
    "operators": (
        "SELECT a << 1, b >> 2, c || d, e = f, g @> h, i #>> '{a}', j !~~ k, l |/ m, !! 5, @ -5"
        " FROM t;\n"
    ),
    "an end of line for Windows": "-- Orders\r\nCREATE TABLE orders (\r\n    id int\r\n);\r\n",
    "a byte order mark": "\ufeffCREATE TABLE t ();\n",
    "tabs and form feeds": "CREATE TABLE t (\n\ta int,\n\tb int\n);\n\f\nSELECT\v1;\n",
    "Drizzle's breakpoints": (
        "CREATE TABLE a ();\n--> statement-breakpoint\nSELECT 1;--> statement-breakpoint\n"
    ),
    "Prisma's comments": (
        '-- CreateTable\nCREATE TABLE "User" ("id" SERIAL NOT NULL);\n\n-- AddForeignKey\n'
        "SELECT 1;\n"
    ),
    "graphile-migrate's header": (
        "--! Previous: sha1:0\n--! Hash: sha1:1\n--! Message: users\n\nCREATE TABLE t ();\n"
    ),
    "sqlc's and linters' comments": (
        "-- name: GetUser :one\n-- squawk-ignore x\n-- noqa: disable=all\nSELECT 1;\n"
    ),
    "placeholders": "INSERT INTO t VALUES ('${name}', '{{ name }}', ':name', '%(name)s', '$1');\n",
    "documentation of git": (
        "INSERT INTO docs VALUES ($md$\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main\n$md$);\n"
    ),
    "documentation of goose": "COMMENT ON TABLE t IS '\n-- +goose Up\n-- +goose Down\n';\n",
    "index without a transaction": (
        "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a);\n"
    ),
    "serializable": (
        f"{HEAD}BEGIN;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\nSELECT 1;\nCOMMIT;\n"
    ),
    "art": "/*\n  |||||||  >>>>>>>  <<<<<<<\n  ####### migrations #######\n*/\nSELECT 1;\n",
    "dashes": "--\n---\n----\n-- -- --\n--------------------\nSELECT 1 - -1;\n",
    "a body of statements": (
        "CREATE FUNCTION f() RETURNS int\nBEGIN ATOMIC\n    -- Up\n    SELECT 1;\nEND;\n"
    ),
    "nothing": "",
    "words like the marks": (
        "CREATE TABLE migrate (up int, down int);\nINSERT INTO migrate (up, down) VALUES (1, 2);\n"
    ),
    "Persian in quotes": (
        "CREATE TABLE t (\"می\u200cشود\" text);\nCOMMENT ON TABLE t IS 'می\u200cشود';\n"
    ),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_an_ordinary_file_is_not_refused(what: str) -> None:
    assert refused(ORDINARY[what]) == []
    assert read(ORDINARY[what]).unfinished() == []


def test_nothing_is_looked_for_in_the_rows_of_a_copy() -> None:
    rows = "1\ta\xa0b\n-- migrate:down\n=======\n\\.\n"
    [found] = refused(f"COPY t FROM stdin;\n{rows}")
    assert "COPY ... FROM STDIN reads rows" in found
    assert read(f"COPY t FROM stdin;\n{rows}").unfinished() == []
    mark, _ = refused(f"-- migrate:down\nCOPY t FROM stdin;\n{rows}")
    assert mark.startswith(
        "001-x.sql:1:1: `-- migrate:down` is a mark of dbmate, and Onward runs the whole file; "
    )


# Any text at all


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "-- migrate:down\n",
                    "-- +goose Up\n",
                    "# --- !Ups",
                    "<<<<<<< a\n",
                    "=======\n",
                    "\xa0",
                    "\u202e",
                    "\u2069",
                ),
                *(
                    "'",
                    '"',
                    "$$",
                    "$a$",
                    "E'",
                    "--",
                    "/*",
                    "*/",
                    "\n",
                    "\r",
                    " ",
                    "é",
                    "\\",
                    ";",
                    "SELECT",
                    "(",
                    ")",
                ),
                *(
                    "CREATE FUNCTION f() BEGIN ATOMIC",
                    "END",
                    "COPY t FROM STDIN;",
                    "\ufeff",
                    "\t",
                    "U&'",
                    "\u3000",
                ),
            ]
        ),
        max_size=30,
    ).map("".join)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8"))
)
def test_any_text_is_looked_through(text: str) -> None:
    bytewise = text.encode().decode("latin-1")
    for found in [
        *other_tools.unfinished(bytewise),
        *other_tools.refusals(bytewise, transactional=True),
    ]:
        line = bytewise.replace("\r\n", "\n").replace("\r", "\n").split("\n")[found.line - 1]
        assert found.column is not None
        assert 1 <= found.column <= len(line.encode("latin-1").decode())


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "opener",
    [
        *(
            "-- migrate:down\n",
            "-- +goose Up\r",
            "<<<<<<< a\n",
            "=======\n",
            "\xa0",
            "\u202e",
            "\u2066\u2069",
            "\u202e\n",
        ),
        *(
            "'\xa0'",
            "'\u202e'",
            "--\xa0\n",
            "/*\u202e*/",
            "# !Ups\n",
            "          --",
            "-- - - -",
            "$a$\u202e$a$",
            "\xa0;",
        ),
        *(
            "CREATE FUNCTION f() BEGIN ATOMIC\n-- migrate:up\n;END;",
            "E'a'\n'\xa0' -- \xa0\n",
            "(\xa0",
            "$\xa0",
            "E'\xa0",
        ),
    ],
)
@pytest.mark.slow
def test_any_hint_many_times_over_is_looked_at_in_linear_time(opener: str) -> None:
    # Quadratic work on this much would take longer than this test may.
    sql = (opener * (80_000 // len(opener))).encode().decode("latin-1")
    for text in (sql, f"SELECT '{sql}", f"CREATE FUNCTION f() BEGIN ATOMIC {sql}"):
        assert len(other_tools.unfinished(text)) <= 1
        assert len(other_tools.refusals(text, transactional=True)) <= 3
