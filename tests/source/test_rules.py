import re
import shlex
import subprocess
from collections.abc import Callable

import pytest

from lib.source.rules import Rule
from tests.source.statements import (
    COMMANDS,
    COPIES,
    DIRECTIVE,
    FUNCTION,
    ONE_ALREADY,
    OWN_BLOCK,
    STDIN,
    TRANSACTIONAL_ONLY,
    refused,
    texts,
)

RULES = {
    ONE_ALREADY: Rule.TRANSACTION_CONTROL,
    OWN_BLOCK: Rule.TRANSACTION_MODE,
    DIRECTIVE: Rule.NEEDS_NO_TRANSACTION,
}


@pytest.mark.parametrize("sql", TRANSACTIONAL_ONLY)
def test_what_a_transaction_cannot_contain_is_refused_there_with_remedy(
    sql: str,
) -> None:
    what, remedy = TRANSACTIONAL_ONLY[sql]
    [refusal] = refused(f"SELECT 1;\n-- a\n {sql};\nSELECT 2")
    assert refusal.line == 3
    assert refusal.what.startswith(what)
    assert refusal.remedy == remedy
    assert refusal.what.endswith("cannot run inside a transaction") == (remedy == DIRECTIVE)
    assert refusal.rule is RULES[remedy]
    assert refused(sql, transactional=False) == []


@pytest.mark.parametrize("sql", COPIES)
def test_a_copy_from_or_to_the_client_is_refused_in_every_file(sql: str) -> None:
    [refusal] = refused(f"SELECT 1;\n{sql};\n")
    assert (refusal.line, refusal.what) == (2, COPIES[sql])
    assert refusal.rule is (Rule.COPY_FROM_STDIN if COPIES[sql] == STDIN else Rule.COPY_TO_STDOUT)
    assert refused(f"SELECT 1;\n{sql};\n", transactional=False) == [refusal]


@pytest.mark.parametrize(
    ("table", "own"),
    [
        *(
            ("schema_migrations", True),
            ("public.schema_migrations", True),
            ('app."schema_migrations" (id, a)', True),
        ),
        *(
            ("schema_migrations_old", False),
            ("my_schema_migrations", False),
            ("schema_migrations.t", False),
        ),
    ],
)
def test_the_rows_of_the_history_itself_are_to_be_taken_out_of_a_dump(
    table: str, own: bool
) -> None:
    [refusal] = refused(f"COPY {table} FROM stdin;\n1\t001-x\n\\.\nVACUUM;\n")
    assert refusal.what == STDIN
    assert (
        refusal.remedy.startswith("remove it and everything else that names schema_migrations:")
        is own
    )
    assert refusal.remedy.endswith("as `pg_dump --inserts` does") is not own


@pytest.mark.parametrize("sql", COMMANDS)
def test_psql_commands_are_refused_in_every_file(sql: str) -> None:
    what = f"{COMMANDS[sql]} is a psql command, not SQL"
    for transactional in (True, False):
        [behind] = refused(f"SELECT 1\n{sql}\nSELECT 2", transactional=transactional)
        [alone] = refused(f"\n\n  {sql}", transactional=transactional)
        assert (behind.rule, behind.line, behind.what) == (Rule.PSQL_COMMAND, 2, what)
        assert (alone.rule, alone.line, alone.what) == (Rule.PSQL_COMMAND, 3, what)


def test_the_remedy_for_restrict_removes_those_lines_and_no_others() -> None:
    body = "CREATE FUNCTION f() RETURNS text AS $$\nSELECT '\\restrict a'\n$$ LANGUAGE sql;\n"
    dump = f"\\restrict a\n{body}\\unrestrict a\n"
    first, last = refused(dump)
    assert (first.line, last.line, first.remedy) == (1, 5, last.remedy)
    _, command = re.findall("`([^`]*)`", first.remedy)[0].split(" | ")
    plain = subprocess.run(
        shlex.split(command), input=dump, capture_output=True, encoding="utf-8", check=True
    )
    assert (plain.stdout, refused(plain.stdout)) == (body, [])


def spread(sql: str, between: str) -> str:
    return re.sub(r"('[^']*'|\"[^\"]*\"|\$\$.*?\$\$)| ", lambda found: found[1] or between, sql)


@pytest.mark.parametrize("between", ["\r\n\t", "/**/", " -- a; 'b\n", '/* c /* ; */ " */ '])
def test_case_and_comments_between_the_words_do_not_help(between: str) -> None:
    for sql in [*TRANSACTIONAL_ONLY, *COPIES]:
        for written in (sql.lower(), sql.title(), sql.swapcase()):
            assert refused(spread(written, between)) == refused(sql) != []


def doubled(sql: str, quote: str = "'") -> str:
    return sql.replace(quote, quote * 2)


HIDING_PLACES: list[Callable[[str], str]] = [
    lambda sql: f"-- {sql};\nSELECT 1",
    lambda sql: f"SELECT 1; -- '; {sql};\r\nSELECT 1",
    lambda sql: f"/* ;\n{sql};\n*/ SELECT 1",
    lambda sql: f"SELECT 1 /* /* ; */\n{sql};\n*/",
    lambda sql: f"SELECT ';\n{doubled(sql)};\n'",
    lambda sql: f"SELECT E'\\';\n{doubled(sql.replace(chr(92), chr(92) * 2))};\n'",
    lambda sql: f"SELECT E'a'\n'\\';\n{doubled(sql.replace(chr(92), chr(92) * 2))};\n'",
    lambda sql: f"SELECT n';\n{doubled(sql)};\n'",
    lambda sql: f"SELECT U&';\n{doubled(sql)};\n'",
    lambda sql: f'SELECT 1 AS ";\n{doubled(sql, chr(34))};\n"',
    lambda sql: f'SELECT 1 AS u&";\n{doubled(sql, chr(34))};\n"',
    lambda sql: f"DO $do$ ;\n{sql};\n $do$",
    lambda sql: f"SELECT ($x1$ ;\n{sql};\n $$ $x1$)",
    lambda sql: (
        f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $body$ BEGIN\n{sql};\nEND $body$"
    ),
    lambda sql: f"{FUNCTION} BEGIN ATOMIC SELECT $a$;\n{sql};\n$a$; END",
    lambda sql: f"CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT $a$;\n{sql};\n$a$; SELECT 1)",
]


@pytest.mark.parametrize("hide", HIDING_PLACES)
def test_what_is_only_quoted_or_in_a_comment_is_not_refused(hide: Callable[[str], str]) -> None:
    for sql in [*TRANSACTIONAL_ONLY, *COPIES, *COMMANDS]:
        assert refused(hide(sql)) == []
        assert [refusal.line for refusal in refused(f"{hide('x')};\n{sql}")] == [
            hide("x").count("\n") + 2
        ]


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "ROLLBACK WORK TO SAVEPOINT a",
            "rollback transaction to a",
            "RELEASE a",
        ),
        *(
            "PREPARE a AS SELECT 1",
            "PREPARE transaction AS SELECT 'a'",
            "PREPARE transaction (text) AS SELECT $1",
        ),
        *(
            "SET LOCAL lock_timeout = '1s'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SET ROLE a",
        ),
        *(
            "SET LOCAL transaction_isolation = 'read committed'",
            "LOCK TABLE begin",
            "DISCARD TEMP",
            "DISCARD PLANS",
        ),
        *(
            "CREATE INDEX i ON t (concurrently)",
            'CREATE INDEX "concurrently" ON t (a)',
            "DROP INDEX concurrent",
        ),
        *(
            "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
            "REINDEX TABLE t",
            "REINDEX (VERBOSE) INDEX a.i",
        ),
        *(
            'REINDEX INDEX "concurrently"',
            "CLUSTER t",
            "ANALYZE",
            "CHECKPOINT",
            "DISCARD SEQUENCES",
        ),
        *("ALTER DATABASE a RESET ALL", "ALTER DATABASE a SET default_tablespace = 'b'"),
        *(
            "CREATE TABLE database (a int) TABLESPACE b",
            "DROP TABLE tablespace",
            "ALTER TABLESPACE a RENAME TO b",
        ),
        *(
            "ALTER TABLE a DETACH PARTITION b",
            "ALTER TABLE t SET LOGGED",
            "ALTER TYPE a ADD VALUE IF NOT EXISTS 'b'",
        ),
        *(
            "ALTER TABLE system SET TABLESPACE a",
            "ALTER INDEX ALL IN TABLESPACE a SET TABLESPACE b",
        ),
        *(
            "DROP SUBSCRIPTION a",
            "ALTER SUBSCRIPTION a DISABLE",
            "CREATE PUBLICATION a FOR ALL TABLES",
        ),
        *(
            "COPY t FROM '/a.csv'",
            "COPY t TO '/a.csv' CSV",
            "COPY stdin FROM '/a'",
            "COPY stdout TO PROGRAM 'cat'",
        ),
        *(
            "COPY t (stdin, stdout) FROM PROGRAM 'cat'",
            "COPY \"to stdout\" FROM '/a'",
            "COPY t FROM 'STDIN'",
        ),
        *("COPY (SELECT a FROM stdin) TO '/a'", "COPY t FROM '/a' WHERE b IS DISTINCT FROM stdin"),
        *(
            "EXPLAIN SELECT 1",
            "SELECT vacuum FROM commit",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "(SELECT 1)",
        ),
        *(
            '"COMMIT"',
            "'COMMIT'",
            "commit1",
            "c\N{LATIN SMALL LETTER O}mmits",
            "b\N{CYRILLIC SMALL LETTER IE}gin",
        ),
        *(
            "\N{KELVIN SIGN}COMMIT",
            "VACUU\N{FULLWIDTH LATIN CAPITAL LETTER M}",
            "\N{LATIN SMALL LETTER LONG S}TART TRANSACTION",
        ),
        f"{FUNCTION} BEGIN ATOMIC COMMIT; VACUUM; SELECT 1; END",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (COMMIT; SELECT 1; COPY t FROM STDIN)",
        "CREATE VIEW v AS SELECT 1 AS concurrently",
        "DO $$ BEGIN COMMIT; END $$",
    ],
)
def test_what_a_transaction_can_contain_is_not_refused(sql: str) -> None:
    assert len(texts(sql)) == 1
    assert refused(sql) == refused(sql, transactional=False) == []


@pytest.mark.parametrize(
    "sql",
    [
        "REINDEX (CONCURRENTLY) TABLE t",
        "REINDEX (VERBOSE) SCHEMA a",
        "CLUSTER",
        "ALTER TABLE a DETACH PARTITION b CONCURRENTLY",
        "CREATE SUBSCRIPTION a CONNECTION 'b' PUBLICATION c",
        "ALTER DATABASE a SET TABLESPACE b",
    ],
)
def test_rare_statements_are_left_to_the_server(sql: str) -> None:
    assert refused(sql) == refused(sql, transactional=False) == []


def test_every_refusal_is_reported_in_the_order_of_the_file() -> None:
    sql = "BEGIN;\nVACUUM;\n\nSELECT 1; \\x on\nCOPY t TO STDOUT; COMMIT;"
    assert [(r.line, r.what.split()[0]) for r in refused(sql)] == [
        *((1, "BEGIN"), (2, "VACUUM"), (4, "\\x"), (5, "COPY"), (5, "COMMIT"))
    ]
    assert [r.line for r in refused(sql, transactional=False)] == [4, 5]


def test_nothing_is_said_of_the_rows_after_a_copy_from_stdin() -> None:
    for row in ("1\t2", "1\tit's", "\\N\tcommit;"):
        dump = f"\\restrict a\nCOPY t FROM stdin;\n{row}\n\\.\nVACUUM;\n\\unrestrict a\n"
        assert [refusal.line for refusal in refused(dump)] == [1, 2]
