"""Statements that the tests of lexer and rules share, with what the rules say of them."""

from lib.source.lexer import split
from lib.source.rules import Refusal, refusals

DIRECTIVE = "add `-- migrate: no-transaction` to the leading comment"


ONE_ALREADY = "remove it: each file already runs in one transaction"


OWN_BLOCK = (
    f"remove it, or {DIRECTIVE}: then the file's own BEGIN; SET TRANSACTION ...; COMMIT; "
    "runs as written"
)


FUNCTION = "CREATE FUNCTION f() RETURNS int LANGUAGE sql"


BODIES = [
    f"{FUNCTION} BEGIN ATOMIC END",
    f"{FUNCTION} BEGIN ATOMIC SELECT 1; SELECT 2; END",
    f"{FUNCTION} BEGIN ATOMIC ; ; SELECT 1; END",
    f"{FUNCTION} begin/* ; */atomic SELECT 1; -- END;\n end",
    (
        f"{FUNCTION} BEGIN ATOMIC SELECT CASE WHEN a THEN CASE b WHEN 1 THEN 2 END ELSE 3 END"
        " FROM t; SELECT 2; END"
    ),
    (
        f"{FUNCTION} BEGIN ATOMIC SELECT (CASE WHEN true THEN 1 END);"
        " SELECT (SELECT CASE 1 WHEN 1 THEN 2 END); END"
    ),
    (
        f"{FUNCTION} BEGIN ATOMIC SELECT ';END;', $$;END;$$, \";END;\" FROM t; /* ;END; */"
        " SELECT 2; END"
    ),
    # Column names and labels that mislead psql's count of BEGIN, CASE and END.
    (
        f"{FUNCTION} BEGIN ATOMIC SELECT t.end, t.case, 1 AS end, 2 AS case, 3 end FROM t;"
        " SELECT begin FROM t; END"
    ),
    f"{FUNCTION} BEGIN ATOMIC SELECT 1 case; SELECT begin atomic FROM begin; END",
    f"{FUNCTION} BEGIN ATOMIC INSERT INTO t VALUES (1); UPDATE t SET a = 1; DELETE FROM t; END",
    (
        "CREATE OR REPLACE FUNCTION a.f(a int DEFAULT 1) RETURNS SETOF t BEGIN ATOMIC SELECT *"
        " FROM t; END"
    ),
    "create /* a /* b */ */ or -- c\n replace procedure p() begin atomic select 1; end",
    "CREATE PROCEDURE p() BEGIN ATOMIC CALL q(1); CALL r(2); END",
    "CREATE FUNCTION begin(begin int) RETURNS int LANGUAGE sql RETURN begin",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN CASE WHEN true THEN 1 END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END; $$",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''BEGIN ATOMIC;'''",
    "CREATE VIEW v AS SELECT begin atomic FROM t",
    'CREATE VIEW "function" AS SELECT begin atomic FROM t',
]


TRANSACTION_CONTROL = {
    "BEGIN": "BEGIN starts a transaction inside the one that the file runs in",
    "BEGIN ISOLATION LEVEL READ COMMITTED": "BEGIN starts a transaction",
    "START TRANSACTION READ ONLY": "START TRANSACTION starts a transaction",
    "COMMIT": "COMMIT ends the transaction that the file runs in",
    "COMMIT WORK": "COMMIT ends",
    "COMMIT AND CHAIN": "COMMIT ends",
    "COMMIT TRANSACTION AND NO CHAIN": "COMMIT ends",
    "END": "END ends the transaction that the file runs in",
    "END TRANSACTION": "END ends",
    "ROLLBACK": "ROLLBACK ends the transaction that the file runs in",
    "ROLLBACK WORK": "ROLLBACK ends",
    "ROLLBACK AND CHAIN": "ROLLBACK ends",
    "ABORT": "ABORT ends the transaction that the file runs in",
    "ABORT TRANSACTION": "ABORT ends",
    "PREPARE TRANSACTION 'a'": "PREPARE TRANSACTION ends the transaction that the file runs in",
    "PREPARE TRANSACTION $$a b$$": "PREPARE TRANSACTION ends",
    "PREPARE TRANSACTION E'a-b'": "PREPARE TRANSACTION ends",
}


ISOLATION = {
    "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE": "BEGIN starts a transaction",
    "BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ": "BEGIN starts a transaction",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, DEFERRABLE": (
        "START TRANSACTION starts a transaction"
    ),
    "SET TRANSACTION READ ONLY": "SET TRANSACTION changes the transaction that the file runs in",
    "SET TRANSACTION SNAPSHOT 'a'": "SET TRANSACTION changes",
    "SET LOCAL TRANSACTION ISOLATION LEVEL SERIALIZABLE": "SET TRANSACTION changes",
    "SET SESSION TRANSACTION NOT DEFERRABLE": "SET TRANSACTION changes",
}


OUTSIDE_TRANSACTIONS = {
    "COMMIT PREPARED 'a'": "COMMIT PREPARED",
    "ROLLBACK PREPARED 'a'": "ROLLBACK PREPARED",
    "CREATE INDEX CONCURRENTLY ON t (a)": "CREATE INDEX CONCURRENTLY",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)": "CREATE INDEX CONCURRENTLY",
    'CREATE UNIQUE INDEX CONCURRENTLY "i" ON ONLY a.t USING btree (lower(a)) WHERE b': (
        "CREATE INDEX CONCURRENTLY"
    ),
    "DROP INDEX CONCURRENTLY i": "DROP INDEX CONCURRENTLY",
    "DROP INDEX CONCURRENTLY IF EXISTS a.i CASCADE": "DROP INDEX CONCURRENTLY",
    "REINDEX INDEX CONCURRENTLY i": "REINDEX CONCURRENTLY",
    "REINDEX TABLE CONCURRENTLY a.t": "REINDEX CONCURRENTLY",
    "REINDEX SCHEMA CONCURRENTLY a": "REINDEX CONCURRENTLY",
    "REINDEX DATABASE": "REINDEX DATABASE",
    "REINDEX DATABASE a": "REINDEX DATABASE",
    "REINDEX SYSTEM a": "REINDEX SYSTEM",
    "VACUUM": "VACUUM",
    "VACUUM FULL t": "VACUUM",
    "VACUUM (ANALYZE, VERBOSE) a.t (b)": "VACUUM",
    "ALTER SYSTEM SET work_mem = '1MB'": "ALTER SYSTEM",
    "ALTER SYSTEM RESET ALL": "ALTER SYSTEM",
    "CREATE DATABASE a TEMPLATE b": "CREATE DATABASE",
    "DROP DATABASE IF EXISTS a WITH (FORCE)": "DROP DATABASE",
    "CREATE TABLESPACE a LOCATION '/b'": "CREATE TABLESPACE",
    "DROP TABLESPACE a": "DROP TABLESPACE",
    "DISCARD ALL": "DISCARD ALL",
}


TRANSACTIONAL_ONLY = {
    **{sql: (what, ONE_ALREADY) for sql, what in TRANSACTION_CONTROL.items()},
    **{sql: (what, OWN_BLOCK) for sql, what in ISOLATION.items()},
    **{sql: (what, DIRECTIVE) for sql, what in OUTSIDE_TRANSACTIONS.items()},
}


STDIN = "COPY ... FROM STDIN reads rows from the client, and Onward sends none"


STDOUT = "COPY ... TO STDOUT sends rows to the client, and Onward takes none"


COPIES = {
    "COPY t FROM STDIN": STDIN,
    "COPY a.t (b, c) FROM STDIN WITH (FORMAT csv, NULL '')": STDIN,
    'COPY "a b"."c;" ("d)", e) FROM STDIN WHERE a > 1': STDIN,
    "COPY BINARY t FROM STDIN": STDIN,
    "COPY stdin FROM STDIN": STDIN,
    "COPY a.from FROM STDIN": STDIN,
    "COPY t FROM STDOUT": STDIN,
    f"COPY t ({', '.join(f'column_{i}' for i in range(200))}) FROM STDIN": STDIN,
    "COPY t TO STDOUT": STDOUT,
    "COPY t (a) TO STDIN": STDOUT,
    "COPY (SELECT a FROM (SELECT b FROM stdin) c WHERE d IN ('x', E'\\'')) TO STDOUT CSV": STDOUT,
}


COMMANDS = {
    "\\i a.sql": "\\i",
    "\\ir": "\\ir",
    "\\copy t from 'a.csv' csv": "\\copy",
    "\\restrict abc": "\\restrict",
    "\\connect a": "\\connect",
    "\\.": "\\.",
    "\\;": "\\;",
    "\\": "\\",
    "\\set a 'b": "\\set",
}


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


def refused(sql: str, *, transactional: bool = True) -> list[Refusal]:
    return list(refusals(sql, transactional=transactional))
