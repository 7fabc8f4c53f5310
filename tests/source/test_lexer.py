import importlib
import random
import re
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.source.lexer import Kind, Statement, bodies, opening_comment, pieces_at, split
from lib.source.rules import refusals
from tests.source.statements import BODIES, COPIES, FUNCTION, TRANSACTIONAL_ONLY, refused, texts

postgast = importlib.import_module("postgast")  # not by `import`: mypy cannot parse its stubs


# Where statements end


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" \t\r\n\f\v", []),
        (";;\n;", []),
        ("-- nothing; here", []),
        ("/* nor; /* here; */ */;\n-- ' \" $$\n", []),
        ("\ufeff", []),
        ("SELECT 1", ["SELECT 1"]),
        ("\ufeffSELECT 1;", ["SELECT 1"]),
        (" SELECT 1 ; ; SELECT 2 \n", ["SELECT 1", "SELECT 2"]),
        ("-- one\n/* two */ SELECT 1 -- three\n; -- four", ["SELECT 1 -- three"]),
        ("SELECT 1 -- a; b\r; SELECT 2", ["SELECT 1 -- a; b", "SELECT 2"]),
        ("SELECT 1 /* a; /* b; */ c; */; SELECT 2", ["SELECT 1 /* a; /* b; */ c; */", "SELECT 2"]),
        ("/*/ ; */ SELECT 1; /**/ SELECT 2; /***/ SELECT 3", ["SELECT 1", "SELECT 2", "SELECT 3"]),
        ("SELECT 1 */* ; */ 2; SELECT 2", ["SELECT 1 */* ; */ 2", "SELECT 2"]),
        ("SELECT 1 +-- ;\n 2; SELECT 2 @-@ 3", ["SELECT 1 +-- ;\n 2", "SELECT 2 @-@ 3"]),
        ("SELECT ';', 'it''s;', ''; SELECT 2", ["SELECT ';', 'it''s;', ''", "SELECT 2"]),
        (r"SELECT '\'; SELECT 2", [r"SELECT '\'", "SELECT 2"]),
        (r"SELECT E'\';', e'\\'; SELECT 2", [r"SELECT E'\';', e'\\'", "SELECT 2"]),
        (
            r"SELECT u&'\'; SELECT N'\'; SELECT b'0'",
            [r"SELECT u&'\'", r"SELECT N'\'", "SELECT b'0'"],
        ),
        (r"SELECT nameE'\'; SELECT 2", [r"SELECT nameE'\'", "SELECT 2"]),
        ("SELECT E'a'\n'\\';'; SELECT 2", ["SELECT E'a'\n'\\';'", "SELECT 2"]),
        (
            "SELECT E'a' -- b\r\n --c\n '\\';'; SELECT 2",
            ["SELECT E'a' -- b\r\n --c\n '\\';'", "SELECT 2"],
        ),
        ("SELECT E'a' '\\'; SELECT 2", ["SELECT E'a' '\\'", "SELECT 2"]),
        ("SELECT E'a' /* b */\n'\\'; SELECT 2", ["SELECT E'a' /* b */\n'\\'", "SELECT 2"]),
        ("SELECT 'a'\n'\\'; SELECT 2", ["SELECT 'a'\n'\\'", "SELECT 2"]),
        ('SELECT ";", "a"";" AS U&";"; SELECT 2', ['SELECT ";", "a"";" AS U&";"', "SELECT 2"]),
        ("SELECT $$;'$$; SELECT 2", ["SELECT $$;'$$", "SELECT 2"]),
        ("SELECT $a$;$b$;$$;$a $;$a$; SELECT 2", ["SELECT $a$;$b$;$$;$a $;$a$", "SELECT 2"]),
        ("SELECT $ä1$;$ä$;$ä1$; SELECT 2", ["SELECT $ä1$;$ä$;$ä1$", "SELECT 2"]),
        ("SELECT $x$;$y$x$; SELECT 2", ["SELECT $x$;$y$x$", "SELECT 2"]),
        (
            "SELECT a$b$; SELECT c$b$; SELECT ü$$; SELECT 4",
            ["SELECT a$b$", "SELECT c$b$", "SELECT ü$$", "SELECT 4"],
        ),
        (
            "SELECT $1; SELECT $1$$;$$; SELECT $ ; SELECT 4",
            ["SELECT $1", "SELECT $1$$;$$", "SELECT $", "SELECT 4"],
        ),
        ("SELECT 1$$;$$; SELECT 2", ["SELECT 1$$;$$", "SELECT 2"]),
        ("SELECT $1a$; SELECT '$1a$'", ["SELECT $1a$", "SELECT '$1a$'"]),
        ("SELECT (a; b); SELECT [1; 2", ["SELECT (a; b)", "SELECT [1", "2"]),
        ("SELECT ((a; (b));c); SELECT 2", ["SELECT ((a; (b));c)", "SELECT 2"]),
        (
            "SELECT ($$)$$; ';)'; /* ) */ a); SELECT 2",
            ["SELECT ($$)$$; ';)'; /* ) */ a)", "SELECT 2"],
        ),
        ("SELECT (/* /* ) */ */ ;); SELECT 2", ["SELECT (/* /* ) */ */ ;)", "SELECT 2"]),
        ("SELECT 1) ; SELECT (2; 3)); SELECT 4", ["SELECT 1)", "SELECT (2; 3))", "SELECT 4"]),
        ("SELECT 1;\N{NO-BREAK SPACE};2", ["SELECT 1", "\N{NO-BREAK SPACE}", "2"]),
        ("SELECT 1\N{NO-BREAK SPACE}; SELECT\x1c", ["SELECT 1\N{NO-BREAK SPACE}", "SELECT\x1c"]),
    ],
)
def test_only_semicolons_outside_quotes_comments_and_parentheses_end_one(
    sql: str, expected: list[str]
) -> None:
    assert texts(sql) == expected


@pytest.mark.parametrize(
    "rest",
    [
        *(
            "'a; b",
            "E'a; \\'; b",
            "E'a;\\",
            "'a;''",
            '"a; b',
            'U&"a;""',
            "$$ a; b",
            "$a$ a; $b$",
            "$a$;$$;$a",
            "B'0; 1",
        ),
        *("/* a; b", "1 /* a; /* b; */ c", "1 /* ; /*", "(a; b", "((a; b); c", "E'a'\n'\\'; b"),
    ],
)
def test_what_is_left_open_reaches_to_the_end_as_one_statement(rest: str) -> None:
    assert texts(f"SELECT 1; SELECT {rest}") == ["SELECT 1", f"SELECT {rest}"]
    assert texts(f"SELECT 1; {rest}") == ["SELECT 1", rest]
    assert texts(f"SELECT 1; (SELECT {rest}") == ["SELECT 1", f"(SELECT {rest}"]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_of_statements_is_part_of_its_routine(body: str) -> None:
    assert texts(f"SELECT 1; {body}; SELECT 2; END; {body}") == [
        "SELECT 1",
        body,
        "SELECT 2",
        "END",
        body,
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; SELECT 2;",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; (END; SELECT 2)",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1 END; SELECT 2;",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT (1; END; SELECT 2;",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT (1; END); SELECT 2;",
    ],
)
def test_a_body_left_open_reaches_to_the_end(sql: str) -> None:
    assert texts(sql) == [sql]


def test_only_unquoted_ascii_words_make_a_body() -> None:
    assert len(texts("CREATE FUNCTION f() BEGIN 'ATOMIC' SELECT 1; END")) == 2
    assert len(texts('CREATE FUNCTION f() BEGIN "ATOMIC" SELECT 1; END')) == 2
    assert (
        len(texts("CREATE FUNCTION f() BEGIN ATOM\N{LATIN SMALL LETTER DOTLESS I}C SELECT 1; END"))
        == 2
    )
    assert len(texts("CREATE FUNCTION f() (BEGIN ATOMIC) SELECT 1; END")) == 2
    assert len(texts("CREATE FUNCTION f(BEGIN ATOMIC; a); END")) == 2
    assert len(texts("CREATES FUNCTION f() BEGIN ATOMIC; END")) == 2
    assert len(texts("CREATE TABLE function BEGIN ATOMIC; END")) == 2
    assert len(texts("SELECT FUNCTION BEGIN ATOMIC; END")) == 2


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("\\i a.sql; b\nSELECT 1;", ["\\i a.sql; b", "SELECT 1"]),
        ("SELECT 1 \\gexec\r\nSELECT 2;", ["SELECT 1", "\\gexec", "SELECT 2"]),
        ("SELECT (1 \\echo (\rSELECT 2;", ["SELECT (1", "\\echo (", "SELECT 2"]),
        ("SELECT 1\\; SELECT 2;\nSELECT 3", ["SELECT 1", "\\; SELECT 2;", "SELECT 3"]),
        (
            f"{FUNCTION} BEGIN ATOMIC SELECT 1;\n\\q\nSELECT 2",
            [f"{FUNCTION} BEGIN ATOMIC SELECT 1;", "\\q", "SELECT 2"],
        ),
        ("\\", ["\\"]),
    ],
)
def test_a_psql_command_is_a_statement_that_reaches_to_the_end_of_its_line(
    sql: str, expected: list[str]
) -> None:
    assert texts(sql) == expected


# What a statement knows of itself


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_and_offsets_are_those_of_the_first_token(line_end: str) -> None:
    sql = line_end.join(
        ["-- a", "", "SELECT", "1;;/* b", "*/ SELECT '", "';", "\\i x", "SELECT 3; SELECT 4"]
    )
    assert [(s.line, s.text[:8]) for s in split(sql)] == [
        *(
            (3, f"SELECT{line_end}1"[:8]),
            (5, "SELECT '"),
            (7, "\\i x"),
            (8, "SELECT 3"),
            (8, "SELECT 4"),
        ),
    ]
    assert all(sql.startswith(s.text, s.offset) for s in split(sql))


def test_a_byte_order_mark_counts_as_a_character_of_the_file() -> None:
    assert list(split("\ufeff\nSELECT 1")) == [Statement("SELECT 1", offset=2, line=2)]
    assert texts("\ufeff\ufeff; \ufeff") == ["\ufeff", "\ufeff"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select/**/12.5", ("select", "12", ".", "5")),
        (
            "N'a' n'b' U&'c' u&'d' B'0' X'1' E'e' e'f'",
            tuple("N'a' n'b' U&'c' u&'d' B'0' X'1' E'e' e'f'".split()),
        ),
        ('DROP TABLE "a ""b" , U&"c"', ("DROP", "TABLE", '"a ""b"', ",", 'U&"c"')),
        ("DO $a$ x; $a$ -- b", ("DO", "$a$ x; $a$")),
        (
            "SELECT 'it''s', E'\\'', 'a'\n'b', x'1F', $1",
            (*("SELECT", "'it''s'", ","), "E'\\''", ",", "'a'\n'b'", *", x'1F' , $ 1".split()),
        ),
        ("a -- b\n/* c /* d */ */->> ü_1$ >=", ("a", "-", ">", ">", "ü_1$", ">", "=")),
        ("SELECT /* open", ("SELECT", "/* open")),
        ("a " * 20, ("a",) * 16),
        ("\\i a b", ("\\i a b",)),
    ],
)
def test_the_first_tokens_are_as_written(sql: str, expected: tuple[str, ...]) -> None:
    assert next(split(sql)).first_tokens == expected


@pytest.mark.parametrize(
    ("sql", "keywords"),
    [
        (
            "Create -- a\n Unique/* b */index concurrently",
            ("CREATE", "UNIQUE", "INDEX", "CONCURRENTLY"),
        ),
        ('drop table "x" cascade', ("DROP", "TABLE")),
        ("VACUUM (full) t", ("VACUUM",)),
        ("PREPARE TRANSACTION 'x'", ("PREPARE", "TRANSACTION")),
        ("EXECUTE e'x' y", ("EXECUTE",)),
        ("SET b$1 1 c", ("SET", "B$1")),
        ("(SELECT 1)", ()),
        ("/* open", ()),
        ("ro\N{LATIN SMALL LETTER LONG S}e straße", ("ro\N{LATIN SMALL LETTER LONG S}e", "straße")),
    ],
)
def test_keywords_are_the_unquoted_words_among_the_first_tokens(
    sql: str, keywords: tuple[str, ...]
) -> None:
    assert next(split(sql)).keywords == keywords


@pytest.mark.parametrize(
    ("sql", "comments"),
    [
        ("", []),
        ("SELECT 1; -- a", []),
        (
            "-- a\n--b\n\n /* c\n/* d */ */--e\nSELECT 1 -- f",
            ["-- a", "--b", "/* c\n/* d */ */", "--e"],
        ),
        ("\ufeff-- a\r\n-- b\r\n\r\nSELECT 1;", ["-- a", "-- b"]),
        ("-- a\r--b", ["-- a", "--b"]),
        ("-- a\n; -- b", ["-- a"]),
        ("-- a\n\\i x -- b", ["-- a"]),
        ("-- a\n/* open -- b", ["-- a"]),
        ("\ufeff\ufeff-- a", []),
        ("- - a\n-- b", []),
    ],
)
def test_the_opening_comment_ends_before_the_first_token(sql: str, comments: list[str]) -> None:
    assert list(opening_comment(sql)) == comments


# What a character is part of


def kinds(sql: str, sign: str) -> list[str]:
    """What each of these characters is part of."""
    return [
        str(piece.kind)
        for piece in pieces_at(sql, [at for at, char in enumerate(sql) if char == sign])
    ]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("?a? ? (?);?", ["code"] * 5),
        ("\ufeff?", ["code"]),
        ("-- ?\n? --?\r?", ["line comment", "code", "line comment", "code"]),
        ("/* ? /* ? */ ? */ ? /* ?", [*["block comment"] * 3, "code", "block comment"]),
        ("'?' ? '?''?' ? '?", ["quoted", "code", "quoted", "quoted", "code", "quoted"]),
        ("E'\\'?' ? N'\\' ? e'\\\\' ?", ["quoted", "code", "code", "code"]),
        ("E'a'\n'\\'?' ? nameE'\\' ?", ["quoted", "code", "code"]),
        ('"?" ? U&"?" ? U&\'?\' ?', ["quoted", "code", "quoted", "code", "quoted", "code"]),
        (
            "$$?$a$?$$ ? $a$?$$?$a$ ? $1 ? a$b$ ? $b$?",
            [*["quoted"] * 2, "code", *["quoted"] * 2, *["code"] * 3, "quoted"],
        ),
        ("\\copy ' ?\n? \\? ' ?\r?", ["command", "code", "command", "command", "code"]),
        ("SELECT 1;\n--\n'?", ["quoted"]),
    ],
)
def test_each_character_is_part_of_code_or_a_comment_or_quotes(
    sql: str, expected: list[str]
) -> None:
    assert kinds(sql, "?") == expected


@pytest.mark.parametrize("body", BODIES[:12])
def test_a_body_of_statements_reaches_from_behind_atomic_to_before_end(body: str) -> None:
    sql = f"SELECT 1; {body}; SELECT begin atomic; {body}"
    found = [sql[start:end] for start, end in bodies(sql)]
    assert len(found) == 2
    assert found[0] == found[1]
    assert body.endswith(found[0] + body[-3:])
    left_open = f"{body[:-3]} COMMIT"
    assert [end for _, end in bodies(left_open)] == [len(left_open)]


# Agreement with PostgreSQL's own parser


OPERATORS = """+ - * / % ^ < > = <= >= <> != || && -> ->> #> #>> #- @> <@ ? ?| ?& @-@ ## <-> << >> \
&< &> <<| |>> &<| |&>
?- ?-| ?|| ~= ~ ~* !~ !~* ~~ ~~* @@ @@@ @? -|- ^@ | & # <% %> <<% %>> ||/ */ /- +* ~-~ <#> <=> \
@- !- +@ *-*"""


STRINGS = [
    *(
        "'a'",
        "''",
        "''''",
        "'a;''b'",
        "'\\'",
        "';\\'",
        "E'\\''",
        "e'\\\\'",
        "E'a''b\\';'",
        "E'\\x41\\101\\u0041'",
    ),
    *(
        "N'a;'",
        "n'\\'",
        "B'01'",
        "x'1F'",
        "U&'\\0041;'",
        "u&'d!0061;' UESCAPE '!'",
        "'--'",
        "'/* ;'",
        "'$$;'",
        "'\";'",
    ),
    *("'a'\n'b;'", "E'a'\n'\\';'", "E'a' \r\n\t\r '\\';'", "'a'\n'\\'", "U&'a'\n';\\0061'"),
    *(
        "$$a$$",
        "$$;$$",
        "$$$$",
        "$a$;$$;$a$",
        "$a$$b$;$a$",
        "$ä_1$'$ä_1$",
        "$$--$$",
        "$$/*$$",
        "$A$$a$;$A$",
        "$_$ $_$",
    ),
    *("'é;\N{GRINNING FACE}'", "$$\N{GRINNING FACE};$$", "'\ufeff'", "'a\nb;\n'", "$$\r\n;\r\n$$"),
]


NAMES = [
    '"a;b"',
    '"a"";"',
    'U&"d\\0061;t"',
    "u&\"d!0061;\" UESCAPE '!'",
    '"--"',
    '"/*"',
    '"$$"',
    '"\'"',
    "ä",
    "_a$1",
    "a$$",
]


# A comment between two parts of a string is missing: PostgreSQL (15, tried) takes it, postgast's
# copy of it does not.
COMMENTS = [
    *(
        "-- a;\n",
        "--\n",
        "--' \" $$ /*\r\n",
        "/* ; */",
        "/**/",
        "/***/",
        "/* /* ; */ ; */",
        "/*/ ; /*/ */ */",
        "/* ' */",
    ),
    *(
        "/* -- */",
        "/* $$ */",
        "/*\n;\n*/",
        "/* /**/ */",
        "--\r",
        "/*** ; ***/",
        "/*//*;*/;*/",
        "/* é\N{GRINNING FACE}; */",
    ),
]


DDL = """CREATE TABLE a (b int PRIMARY KEY, c text NOT NULL DEFAULT 'd;', CHECK (b > 0), \
UNIQUE (b, c))
CREATE TABLE IF NOT EXISTS a.b (LIKE c INCLUDING ALL) PARTITION BY RANGE (d)
CREATE TEMP TABLE a ON COMMIT DROP AS SELECT 1 AS b
CREATE TABLE a PARTITION OF b FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)
CREATE TABLE a (b int GENERATED ALWAYS AS IDENTITY, c int GENERATED ALWAYS AS (b * 2) STORED)
CREATE UNLOGGED TABLE a (b numeric(10, 2)[], c timestamp(3) with time zone, d "char")
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a ON b USING gin (c jsonb_path_ops) \
WHERE (d ->> 'e') <> ';'
CREATE INDEX ON a (lower(b), (c || d) DESC NULLS LAST) INCLUDE (e)
CREATE VIEW a AS SELECT ';' AS b UNION ALL SELECT '--'
CREATE OR REPLACE VIEW a WITH (security_barrier) AS SELECT * FROM b WITH CHECK OPTION
CREATE MATERIALIZED VIEW a AS SELECT 1 WITH NO DATA
CREATE RULE a AS ON UPDATE TO b DO ALSO (INSERT INTO c VALUES (1); DELETE FROM d; NOTIFY e)
CREATE RULE a AS ON DELETE TO b DO INSTEAD NOTHING
CREATE TRIGGER a BEFORE INSERT OR UPDATE OF b ON c FOR EACH ROW \
WHEN (NEW.b IS DISTINCT FROM OLD.b) EXECUTE FUNCTION d()
CREATE TYPE a AS ENUM ('b', ';', 'c''d')
CREATE TYPE a AS (b int, c text)
CREATE DOMAIN a AS text CHECK (VALUE ~ '^[a-z;]+$')
CREATE SEQUENCE a START WITH -5 INCREMENT BY -1 MINVALUE -10
CREATE SCHEMA a CREATE TABLE b (c int) CREATE VIEW d AS SELECT 1
CREATE SCHEMA IF NOT EXISTS a AUTHORIZATION CURRENT_USER
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public CASCADE
CREATE POLICY a ON b FOR SELECT TO c USING (d = current_user)
CREATE OPERATOR -+@- (LEFTARG = box, RIGHTARG = box, FUNCTION = area_equal)
CREATE OPERATOR a.|/-| (RIGHTARG = int, FUNCTION = b)
CREATE AGGREGATE a (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')
CREATE CAST (a AS b) WITH FUNCTION c(a) AS ASSIGNMENT
CREATE COLLATION a (provider = icu, locale = 'de-u-co-phonebk')
CREATE STATISTICS a (dependencies) ON b, c FROM d
CREATE EVENT TRIGGER a ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION b()
CREATE FOREIGN TABLE a (b int) SERVER c OPTIONS (d ';')
CREATE PUBLICATION a FOR TABLE b WHERE (c > 1)
CREATE SUBSCRIPTION a CONNECTION 'host=b;' PUBLICATION c WITH (connect = false)
CREATE ROLE a LOGIN PASSWORD 'b;c' VALID UNTIL 'infinity'
CREATE DATABASE a TEMPLATE b ENCODING 'UTF8'
CREATE TABLESPACE a LOCATION '/b;c'
CREATE TABLE function (begin int, atomic int)
CREATE VIEW function AS SELECT begin atomic FROM function
ALTER TABLE a ADD COLUMN b int DEFAULT 1, DROP COLUMN c, ALTER d TYPE text USING d::text
ALTER TABLE ONLY a.b ADD CONSTRAINT c FOREIGN KEY (d) REFERENCES e (f) ON DELETE CASCADE NOT VALID
ALTER TABLE a DETACH PARTITION b CONCURRENTLY
ALTER TABLE a RENAME COLUMN b TO "c;d"
ALTER TYPE a ADD VALUE IF NOT EXISTS ';' BEFORE 'b'
ALTER DEFAULT PRIVILEGES IN SCHEMA a GRANT SELECT ON TABLES TO PUBLIC
ALTER SYSTEM SET work_mem = '4MB'
ALTER DATABASE a SET search_path TO "$user", public
ALTER DATABASE a SET TABLESPACE b
ALTER FUNCTION a(int, VARIADIC text[]) SET search_path FROM CURRENT
ALTER ROLE a SET log_statement = 'all;'
ALTER SEQUENCE a OWNED BY b.c
ALTER INDEX a ATTACH PARTITION b
ALTER SUBSCRIPTION a REFRESH PUBLICATION
DROP TABLE IF EXISTS a, b.c CASCADE
DROP INDEX CONCURRENTLY IF EXISTS a
DROP FUNCTION a(int), b
DROP DATABASE IF EXISTS a WITH (FORCE)
DROP OPERATOR - (NONE, a)
COMMENT ON TABLE a IS 'b; -- c'
COMMENT ON COLUMN a.b IS NULL
GRANT SELECT (a, b), INSERT ON c TO d WITH GRANT OPTION
REVOKE ALL ON ALL TABLES IN SCHEMA a FROM PUBLIC
SECURITY LABEL ON TABLE a IS 'b;'
REINDEX (VERBOSE, CONCURRENTLY) TABLE a
REFRESH MATERIALIZED VIEW CONCURRENTLY a
VACUUM (FULL, ANALYZE) a (b, c)
ANALYZE a
CLUSTER
TRUNCATE a, b RESTART IDENTITY CASCADE"""


DML = """SELECT
SELECT 1
SELECT a.*, b AS "c;" FROM a LEFT JOIN b USING (d) \
WHERE e = ANY ('{1,2}'::int[]) AND f[1:2] = ARRAY[1, 2]
SELECT DISTINCT ON (a) b FROM c ORDER BY a, b DESC NULLS LAST \
LIMIT 1 OFFSET 2 FOR UPDATE OF c SKIP LOCKED
SELECT count(*) FILTER (WHERE a > 1), \
rank() OVER (PARTITION BY b ORDER BY c ROWS 1 PRECEDING) FROM d
SELECT CASE WHEN a THEN 'b;' ELSE ';' END
SELECT 1 AS end, 2 AS begin, 3 case, a.end FROM a
SELECT 1.5, .5, 5., 1e10, 1E-5, 0x1F, 0o17, 0b11, 1_000, 1.e5
SELECT a -1, a - -1, - a, + - a
SELECT a-b-c, a*-b, a/-b, a<-b
SELECT (1)::text || ';', a::b.c, CAST(a AS numeric(1, 2))
SELECT $1, $2::int
SELECT interval '1 day' + timestamp '2020-01-01', time with time zone '1:00', INTERVAL '1' DAY
SELECT a IS DISTINCT FROM b, a BETWEEN 1 AND 2, a LIKE 'b\\;' ESCAPE ';', NOT a, a IN (1, 2)
SELECT '{"a": [1, ";"]}'::jsonb #- '{a,0}', a -> 'b' ->> 'c', a @? '$.b ? (@ > 1);'
SELECT a COLLATE "de_DE;", a AT TIME ZONE 'b', (a).b.c, (a.b).*
SELECT operator_test OPERATOR(pg_catalog.+) 1
SELECT 1 /*a;*/ + 2/*b;*/
SELECT a.b.c(d => 1, VARIADIC e := 2)
SELECT * FROM a, LATERAL (SELECT ';') b, ROWS FROM (c(), d()) WITH ORDINALITY, \
e TABLESAMPLE SYSTEM (1)
SELECT * FROM json_table('[]', '$[*]' COLUMNS (a int PATH '$.b'))
SELECT xmlelement(name a, ';'), extract(epoch FROM b), substring(c FROM 1 FOR 2), \
trim(BOTH ';' FROM d)
(SELECT 1) UNION (SELECT 2 EXCEPT SELECT 3)
VALUES (1, ';'), (2, E'\\'')
TABLE a
WITH RECURSIVE a (b) AS (SELECT 1 UNION ALL SELECT b + 1 FROM a) SELECT * FROM a
WITH a AS MATERIALIZED (DELETE FROM b RETURNING *) INSERT INTO c SELECT * FROM a
INSERT INTO a VALUES (1, ';', DEFAULT), (2, $$;$$, NULL)
INSERT INTO a (b, c) SELECT 1, ')' ON CONFLICT (b) DO UPDATE \
SET c = EXCLUDED.c WHERE a.d RETURNING *
INSERT INTO a DEFAULT VALUES
INSERT INTO a AS b OVERRIDING SYSTEM VALUE VALUES (1) ON CONFLICT ON CONSTRAINT c DO NOTHING
UPDATE a SET (b, c) = (1, ';'), d[1] = e FROM f WHERE a.g = f.g RETURNING a.*
UPDATE a SET b = DEFAULT WHERE CURRENT OF c
DELETE FROM ONLY a USING b WHERE a.c = b.c
MERGE INTO a USING b ON a.c = b.c WHEN MATCHED THEN UPDATE SET d = ';' \
WHEN NOT MATCHED THEN INSERT VALUES (1)
COPY a (b, c) FROM '/d;' WITH (FORMAT csv, DELIMITER ';', NULL '')
COPY (SELECT ';' FROM a) TO STDOUT
COPY a.from FROM STDIN
EXPLAIN (ANALYZE, BUFFERS) SELECT ';'
PREPARE a (int) AS SELECT $1
PREPARE transaction AS SELECT 'a'
EXECUTE a (1, ';')
DEALLOCATE ALL
DECLARE a CURSOR WITH HOLD FOR SELECT ';'
FETCH FORWARD 5 FROM a
LISTEN a
NOTIFY a, ';'
LOCK TABLE a IN ACCESS EXCLUSIVE MODE NOWAIT
SET search_path = a, "b;", 'c;'
SET LOCAL lock_timeout TO '1s'
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE
RESET ALL
SHOW server_version
DISCARD ALL
CALL a(1, b => ';')
DO $$ BEGIN IF true THEN RAISE NOTICE ';'; END IF; END $$
DO LANGUAGE plpgsql $do$ DECLARE a text := $$;$$; BEGIN EXECUTE 'COMMIT;'; END; $do$
DO 'BEGIN PERFORM ''a;''; END'
BEGIN
BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY
START TRANSACTION
COMMIT AND CHAIN
END
ROLLBACK TO SAVEPOINT a
ROLLBACK AND NO CHAIN
ABORT
PREPARE TRANSACTION 'a;'
COMMIT PREPARED ';'
SET TRANSACTION ISOLATION LEVEL READ COMMITTED
SAVEPOINT a
RELEASE a
CHECKPOINT
LOAD 'a;'
IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c
REASSIGN OWNED BY a TO CURRENT_ROLE"""


CORPORA = {
    "definitions": DDL.splitlines(),
    "other statements": DML.splitlines(),
    "bodies": BODIES,
    "what a transaction cannot contain": list(TRANSACTIONAL_ONLY),
    "COPY": list(COPIES),
    "operators": [
        *(f"SELECT a {operator} b" for operator in OPERATORS.split()),
        *(f"SELECT 1{operator}2, '{operator};'" for operator in OPERATORS.split()),
        *(f"SELECT a{operator}/*;*/b--;\n" for operator in OPERATORS.split()),
    ],
    "strings": [
        *(f"SELECT {string}" for string in STRINGS),
        *(f"SELECT lower({string}), ({string}) AS b" for string in STRINGS),
    ],
    "names": [f"SELECT a AS {name}" for name in NAMES],
    "comments": [
        *(f"SELECT{comment}a {comment}, {comment} b" for comment in COMMENTS),
        *(f"DO{comment}$a$ ; {comment} ; $a$" for comment in COMMENTS),
    ],
}
CORPUS = [sql for corpus in CORPORA.values() for sql in corpus]


def parsed(sql: str) -> list[tuple[int, str]]:
    """Where PostgreSQL's parser finds each statement, and its text, by characters."""
    raw = sql.encode()
    found = []
    for node in postgast.parse(sql).stmts:
        end = node.stmt_location + node.stmt_len if node.stmt_len else len(raw)
        text = raw[node.stmt_location : end].decode().rstrip()
        found.append((len(raw[: node.stmt_location].decode()), text))
    return found


def found(sql: str) -> list[tuple[int, str]]:
    return [(statement.offset, statement.text) for statement in split(sql)]


@pytest.mark.parametrize("corpus", CORPORA)
def test_one_statement_is_one_to_the_server_and_to_us(corpus: str) -> None:
    for sql in CORPORA[corpus]:
        assert found(sql) == parsed(sql) == [(0, sql.rstrip())]


SEPARATORS = [
    *(
        ";",
        ";\n",
        "\n;;\r\n\r\n ",
        ";-- a; 'b\n",
        "; /* c; /* $$ */ ' */ ;",
        ";\r\n-- d\r\n",
        "\t;\f;",
        ";--\n/**/\n",
    ),
    *("/* e */;", " -- f\n;\n", ";\n/*\n*/-- g\r"),
]


@pytest.mark.parametrize("seed", range(60))
def test_the_server_and_we_find_the_same_statements_in_a_file(seed: int) -> None:
    choice = random.Random(seed)
    statements = choice.sample(CORPUS, 40)
    sql = "".join(
        choice.choice(SEPARATORS) + statement for statement in statements
    ) + choice.choice([*SEPARATORS, ""])
    if seed % 3 == 0:
        sql = re.sub("\r?\n", "\r\n", sql)
    # Ours contain the comments before the semicolon, and so do the server's; its begin at the first
    # token as ours do.
    assert found(sql) == parsed(sql)
    assert len(found(sql)) == len(statements)


# Any text at all


PIECES = [
    *(
        "'",
        "''",
        '"',
        "$$",
        "$a$",
        "$ä$",
        "$",
        "$1",
        "E'",
        "e'",
        "U&'",
        'u&"',
        "N'",
        "B'",
        "\\",
        "\\'",
        "\\\\",
        ";",
        "; ",
    ),
    *(
        "--",
        "-- ",
        "/*",
        "*/",
        "*",
        "/",
        "-",
        "+",
        "(",
        ")",
        "a",
        "_b1",
        "ä",
        "1",
        "1.5e",
        " ",
        "\n",
        "\r\n",
        "\r",
        "\t",
    ),
    *(
        "\ufeff",
        "\N{NO-BREAK SPACE}",
        "\x00",
        "CREATE ",
        "FUNCTION ",
        "OR REPLACE ",
        "BEGIN ",
        "ATOMIC ",
        "CASE ",
        "END",
    ),
    *(
        "COPY ",
        "FROM STDIN",
        "COMMIT",
        "SELECT ",
        "'a'\n'",
        "E'a'\n'\\'",
        "/* /* */ */",
        "-- a\n",
        "$a$;$a$",
        "';'",
    ),
]


soup = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def gaps(sql: str) -> Iterator[str]:
    """What stands between the statements, and around them."""
    end = 0
    for statement in split(sql):
        yield sql[end : statement.offset]
        end = statement.offset + len(statement.text)
    yield sql[end:]


def without_comments(gap: str) -> str:
    gap, depth = re.sub(r"--[^\r\n]*|(/\*|\*/)", lambda mark: mark[1] or " ", gap), 0
    kept = []
    for part in re.split(r"(/\*|\*/)", gap):
        depth += (part == "/*") - (part == "*/")
        kept.append("" if depth or part == "*/" else part)
    return "".join(kept)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.one_of(soup, st.text()))
def test_any_text_is_split_into_statements_and_gaps(sql: str) -> None:
    end = 0
    for statement in split(sql):
        assert statement.offset >= end
        assert sql.startswith(statement.text, statement.offset)
        assert statement.line == 1 + len(re.findall(r"\r\n|\r|\n", sql[: statement.offset]))
        assert statement.text == statement.text.strip(" \t\r\n\f\v")
        assert statement.text[0] not in ";"
        assert 0 <= len(statement.first_tokens) <= 16
        assert all(token in statement.text for token in statement.first_tokens)
        end = statement.offset + len(statement.text)
    for transactional in (True, False):
        assert all(refusal.line >= 1 for refusal in refused(sql, transactional=transactional))
    assert all(
        comment.startswith(("--", "/*")) and comment in sql for comment in opening_comment(sql)
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(soup)
def test_between_statements_there_are_only_space_comments_and_semicolons(sql: str) -> None:
    for gap in gaps(sql.lstrip("\ufeff")):
        assert not texts(gap)
        if "-" not in gap:
            assert not without_comments(gap).strip(" \t\r\n\f\v;")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CORPUS), st.sampled_from(SEPARATORS)), max_size=30))
@example([("SELECT E'a'", ";-- a; 'b\n"), ("SELECT '\\'", ";")])
def test_statements_that_are_put_into_a_file_come_out_again(pairs: list[tuple[str, str]]) -> None:
    sql, offsets = "", []
    for statement, separator in pairs:
        offsets.append(len(sql))
        sql += statement + separator
    statements = list(split(sql))
    assert [s.offset for s in statements] == offsets
    for ours, (statement, separator) in zip(statements, pairs, strict=True):
        assert ours.text == (statement + separator.split(";")[0]).rstrip()
        assert next(split(statement)).first_tokens == ours.first_tokens


def scanned(sql: str) -> list[tuple[int, str]]:
    """The tokens that PostgreSQL's scanner finds, and where, comments too; none if it finds an
    error.
    """
    raw = sql.encode()
    try:
        tokens = postgast.scan(sql).tokens
    except postgast.PgQueryError:
        return []
    return [
        (len(raw[: token.start].decode()), raw[token.start : token.end].decode())
        for token in tokens
    ]


def scanned_starts(tokens: list[tuple[int, str]]) -> Iterator[int]:
    depth, inside = 0, False
    for offset, token in tokens:
        if token.startswith(("--", "/*")):
            continue
        if not inside and token != ";":
            yield offset
        depth = max(depth + (token == "(") - (token == ")"), 0)
        inside = token != ";" or depth > 0


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(soup)
@example("E'a'\n'\\';'; b")
def test_the_servers_scanner_agrees_on_where_statements_begin(sql: str) -> None:
    sql = sql.replace("\0", "").lstrip("\ufeff")
    tokens = scanned(sql)
    ours_alone = any(token == "\\" for _, token in tokens) or "function" in sql.lower()
    # Between the parts of a string postgast lets no comment stand, unlike PostgreSQL.
    comment_in_string = re.search(
        "'--[^\0]*\0'", "\0".join(token.strip() for _, token in tokens).replace("'\0--", "'--")
    )
    if tokens and not ours_alone and not comment_in_string:
        assert [statement.offset for statement in split(sql)] == list(scanned_starts(tokens))


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, "?"]), max_size=40).map("".join))
def test_what_stands_between_statements_is_in_a_comment(sql: str) -> None:
    between, end = [], 0
    for statement in [*split(sql), Statement("", len(sql), 0)]:
        between += [at for at in range(end, statement.offset) if sql[at] == "?"]
        end = statement.offset + len(statement.text)
    places = list(pieces_at(sql, between))
    assert {piece.kind for piece in places} <= {Kind.LINE_COMMENT, Kind.BLOCK_COMMENT}
    assert all(piece.start < at < piece.end for at, piece in zip(between, places, strict=True))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "opener",
    [
        *(
            "(",
            ")",
            "/*",
            "*/",
            "$a$",
            "$a$ $b$",
            "$",
            "$a",
            "'",
            '"',
            "E'",
            "E'\\",
            "E''\n",
            "E''--\n",
            "U&",
            "--",
            "-",
        ),
        *(
            "/",
            "\\",
            "[",
            "(/*",
            "($a$",
            "( '",
            "(;",
            "/* (",
            "(/* /* */ */",
            "'\n",
            "a$",
            "1$a$",
            "copy (",
            "copy a.",
        ),
        *(
            "REINDEX ( , ",
            "alter table detach partition x ",
            "CREATE SUBSCRIPTION ( connect = ",
            "create function ",
        ),
        *(
            "create function begin atomic ",
            "begin atomic case end ",
            "''\n",
            "-- a\n",
            "/**/",
            "; ",
            "\ufeff",
            "\r\n",
        ),
    ],
)
def test_any_opener_many_times_over_is_read_in_linear_time(opener: str) -> None:
    # Quadratic work on this much would take longer than this test may.
    sql = opener * (80_000 // len(opener))
    for text in (sql, f"SELECT {sql}", f"CREATE FUNCTION f() BEGIN ATOMIC {sql}"):
        assert len(refused(text)) <= 1
    assert sum(map(len, opening_comment(sql))) <= len(sql)


@pytest.mark.slow
def test_a_file_of_many_statements_takes_no_memory_beside_its_text() -> None:
    sql = "INSERT INTO t (a, b) VALUES (1, lower('it''s; done'));\n" * 20_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in split(sql)) == 20_000
        assert refused(sql) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_statements_come_before_the_rest_is_read() -> None:
    first = next(split("SELECT 1; " + "SELECT '" * 100_000))
    assert (first.text, first.line) == ("SELECT 1", 1)
    assert next(refusals("COMMIT; " + "/*" * 100_000, transactional=True)).line == 1
