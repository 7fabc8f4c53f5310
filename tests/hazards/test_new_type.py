"""A new type of a column leaves what the statement itself leaves, whatever is on the column."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psycopg
import pytest

from lib.hazards.new_type import using
from tests.conftest import Database
from tests.hazards.conftest import definitions, found, recipe_of, rehearse_files, rehearse_recipe
from tests.kit import until

ROWS = "INSERT INTO t (a, b, c) SELECT g, nullif(g % 7, 0), g FROM generate_series(1, 2500) g;"
KEYED = f"CREATE TABLE t (id serial, a int, b int, c int, PRIMARY KEY (id)); {ROWS}"
# Of the table t: a schema, the column that gets another type, and this.
CASES = {
    "plain with NULL": (KEYED, "b", "bigint"),
    "indexes": (
        KEYED + """
        CREATE INDEX t_b ON t (b) WHERE b > 2 AND a::text COLLATE "C" > 'b';
        CREATE UNIQUE INDEX t_ab ON t (a DESC, b NULLS FIRST) INCLUDE (c) WITH (fillfactor = 80);
        CREATE INDEX t_expression ON t (abs(b), (b + 1));
        """,
        "b", "bigint",
    ),
    "checks and defaults": (
        KEYED + """
        ALTER TABLE t ADD CHECK (b < 10), ADD CONSTRAINT "Not Valid" CHECK (b + c > 0) NOT VALID,
        ALTER b SET DEFAULT 3;
        """,
        "b", "numeric(10,2)",
    ),
    "primary key that others reference": (
        KEYED + """
        CREATE TABLE child (t_id int CONSTRAINT child_key REFERENCES t ON DELETE CASCADE, self int);
        INSERT INTO child SELECT g, g FROM generate_series(1, 2500) g;
        ALTER TABLE t ADD CONSTRAINT self_key FOREIGN KEY (b) REFERENCES t (id) DEFERRABLE;
        """,
        "id", "bigint",
    ),
    "foreign key": (
        KEYED + """
        ALTER TABLE t ADD CONSTRAINT self_key FOREIGN KEY (b) REFERENCES t (id) ON UPDATE CASCADE;
        """,
        "b", "bigint",
    ),
    "unique and not null": (
        KEYED + "ALTER TABLE t ALTER a SET NOT NULL, ADD CONSTRAINT t_u UNIQUE (c, a) DEFERRABLE;",
        "a", "bigint",
    ),
    "serial": (KEYED, "id", "bigint"),
    "serial to text": (KEYED, "id", "text"),
    "identity": (
        f"""CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY (INCREMENT 3 START 5) PRIMARY KEY,
        a int, b int, c int); {ROWS}""",
        "id", "bigint",
    ),
    "composite key": (
        f"CREATE TABLE t (a int, b int DEFAULT 0, c int, PRIMARY KEY (a, c)); {ROWS}",
        "c", "bigint",
    ),
    "two columns": (
        KEYED + """
        ALTER TABLE t ADD CONSTRAINT self_key FOREIGN KEY (b) REFERENCES t (id),
        ADD CHECK (b <= id OR id < 7);
        CREATE UNIQUE INDEX t_two ON t (b, id) WHERE b <> id;
        """,
        "id", "bigint, ALTER b TYPE bigint",
    ),
    "with a default and NOT NULL in one": (
        KEYED + "ALTER TABLE t ALTER a SET DEFAULT 1",
        "a", "text USING 'n' || a, ALTER a SET NOT NULL, ALTER a SET DEFAULT 'none'",
    ),
    "collation": (
        f"CREATE TABLE t (id serial PRIMARY KEY, a int, b varchar(10), c text UNIQUE); {ROWS}",
        "b", 'text COLLATE "C" USING b || a',
    ),
    "quoted names": (
        '''CREATE TABLE "T 1" ("Id ""x""" serial PRIMARY KEY, "my B" int UNIQUE CHECK ("my B" > 0));
        INSERT INTO "T 1" ("my B") SELECT g FROM generate_series(1, 1200) g;
        CREATE INDEX "Index ""of"" B" ON "T 1" ("my B", abs("my B"));
        ALTER TABLE "T 1" ADD CONSTRAINT "Key's" FOREIGN KEY ("my B") REFERENCES "T 1";
''',
        '"Id ""x"""', "bigint",
    ),
    "long names": (
        f"""CREATE TABLE t (id int PRIMARY KEY, {"b" * 63} int UNIQUE NOT NULL);
        INSERT INTO t SELECT g, g FROM generate_series(1, 1200) g;""",
        "b" * 63, "bigint",
    ),
    "names that are words": (
        """CREATE TABLE t (id int PRIMARY KEY, date date, type text, lower text);
        INSERT INTO t SELECT g, date '2020-01-01' + g, g, 'A' || g FROM generate_series(1, 1200) g;
        CREATE INDEX date ON t (date, lower(lower)) WHERE date > '2020-01-05'::date;""",
        "date", "timestamp USING date::timestamp",
    ),
    "generated column beside it": (
        """CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int GENERATED ALWAYS AS (a) STORED);
        INSERT INTO t SELECT g, g, g FROM generate_series(1, 1200) g;""",
        "b", "bigint",
    ),
    "partitioned without an index on it": (
        """CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY HASH (id);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO t SELECT g, g FROM generate_series(1, 1200) g;""",
        "a", "bigint",
    ),
    "no integer key": (
        f"CREATE TABLE t (c text PRIMARY KEY, a int, b int); {ROWS}", "b",
        "text USING coalesce(t.b::text, 'none, or unknown') -- said, plainly",
    ),
}  # fmt: skip
# The order of columns is the one difference.
VALUES = """
    SELECT jsonb_object(array_agg(key ORDER BY key), array_agg(value ORDER BY key))
    FROM {0} AS x, jsonb_each_text(to_jsonb(x)) GROUP BY x.tableoid, x.ctid ORDER BY 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_recipe_of_a_new_type_leaves_what_the_statement_leaves(
    database: Database, tmp_path: Path, case: str
) -> None:
    schema, column, new_type = CASES[case]
    table = '"T 1"' if '"T 1"' in schema else "t"
    sql, values = f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {new_type}", VALUES.format(table)
    database.execute(schema)
    assert rehearse_recipe(database, tmp_path, sql, "rewrite") == []
    made = definitions(database), database.execute(values)
    database.execute(f"DROP TABLE {table} CASCADE; DROP TABLE IF EXISTS child")
    database.execute(schema)
    database.execute(sql)
    assert made == (definitions(database), database.execute(values))


@pytest.mark.parametrize(
    ("statement", "expression"),
    [
        ("ALTER TABLE t ALTER a TYPE bigint", ""),
        ("ALTER TABLE t ALTER a TYPE bigint USING a + 1", "a + 1"),
        (
            "ALTER TABLE t ALTER type SET DATA TYPE int USING f(a, 1)[2, 3], ADD b int",
            "f(a, 1)[2, 3]",
        ),
        ("ALTER TABLE t ADD CONSTRAINT n UNIQUE USING INDEX i, ALTER a TYPE int", ""),
        ("ALTER TABLE t ALTER a TYPE int, ADD CONSTRAINT n UNIQUE USING INDEX i", ""),
        ("ALTER TABLE t ALTER a TYPE numeric(8, 2) USING a -- cents\n / 100", "a / 100"),
    ],
)
def test_using_is_the_expression_of_the_new_type(statement: str, expression: str) -> None:
    assert using(statement) == expression


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "column"),
    [
        ("CREATE TABLE t (id int, b int)", "b"),
        ("CREATE TABLE t (id int PRIMARY KEY, b int, EXCLUDE (b WITH =))", "b"),
        ("CREATE TABLE t (id int PRIMARY KEY, b int GENERATED ALWAYS AS (id) STORED)", "b"),
        (
            "CREATE TABLE t (id int PRIMARY KEY, b int) PARTITION BY HASH (id);"
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            "CREATE INDEX t_b ON t (b)",
            "b",
        ),
    ],
)
def test_what_cannot_be_exchanged_has_no_recipe(
    database: Database, schema: str, column: str
) -> None:
    database.execute(schema)
    findings = found(database, f"ALTER TABLE t ALTER {column} TYPE bigint;")
    assert [one.recipe for one in findings if one.name == "rewrite"] == [()]
    assert database.execute("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.slow
def test_a_sequence_goes_on_beyond_the_limit_of_the_old_type(
    database: Database, tmp_path: Path
) -> None:
    database.execute(f"{KEYED} SELECT setval('t_id_seq', 2147483647)")
    rehearse_recipe(database, tmp_path, "ALTER TABLE t ALTER id TYPE bigint", "rewrite")
    made = database.execute("INSERT INTO t (a) VALUES (1) RETURNING id")
    assert made == [(2147483648,)]


@pytest.mark.slow
def test_what_others_write_meanwhile_is_in_the_new_column(
    database: Database, tmp_path: Path
) -> None:
    database.execute(f"{KEYED} CREATE TABLE child (t_id int REFERENCES t (id))")
    database.execute("INSERT INTO child SELECT id FROM t; CREATE TABLE child_2 (LIKE child)")
    database.execute("ALTER TABLE child_2 ADD FOREIGN KEY (t_id) REFERENCES t (id)")
    sql = "ALTER TABLE t ALTER id TYPE bigint, ALTER b TYPE bigint"
    recipe = recipe_of(database, sql, "rewrite")  # before: the statement itself would deadlock
    ended, written = Event(), list[int]()

    def write() -> None:
        with psycopg.connect(database.url, autocommit=True, prepare_threshold=None) as other:
            while not ended.is_set():
                new = "INSERT INTO t (a, b, c) VALUES (0, 1, 1) RETURNING id"
                (row,) = other.execute(new).fetchall()
                both = "UPDATE t SET a = 0, b = id, c = id WHERE id IN (%s, %s)"
                other.execute(both, (row[0], len(written) + 1))
                other.execute("INSERT INTO child VALUES (%s)", row)
                other.execute("INSERT INTO child_2 VALUES (%s)", row)
                written.append(row[0])

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        try:
            until(lambda: written)
            assert rehearse_files(database, tmp_path, recipe) == []
        finally:
            ended.set()
        writer.result()
    wrong = "SELECT id, a, b, c FROM t WHERE b IS DISTINCT FROM CASE a WHEN 0 THEN c ELSE {} END"
    assert database.execute(wrong.format("nullif(a % 7, 0)")) == []
    assert database.execute("SELECT count(*) FROM t") == [(2500 + len(written),)]
    assert database.execute("SELECT count(*) FROM child") == [(2500 + len(written),)]
