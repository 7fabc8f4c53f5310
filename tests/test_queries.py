"""Which statements are listed, what a document may hold, and what a change of them is called."""

import json
from pathlib import Path
from typing import Any

import pytest

from lib.errors import ConfigError
from lib.observation import Parsed, Query
from lib.queries import changes, is_kept, listed, read_queries


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM orders WHERE id = $1",
        "(select $1 from orders) union all (select $2 from orders)",
        "/* shop */ -- and more\nWITH x AS (SELECT $1) SELECT * FROM x",
        "INSERT INTO orders (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING *",
        "UPDATE orders SET total = total + $1",
        "DELETE FROM orders",
        "MERGE INTO orders USING lines ON $1 WHEN MATCHED THEN DELETE",
        'SELECT "a b" FROM orders WHERE id IN ($1 /*, ... */) COLLATE "C"',
        "SELECT pg_advisory_xact_lock($1), total FROM orders",
    ],
)
def test_what_an_application_asks_of_its_tables_is_listed(text: str) -> None:
    assert is_kept(text)


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE app PASSWORD 'secret'",
        "/* SELECT */ CREATE ROLE app LOGIN PASSWORD 'secret'",
        "DO $$ SELECT 1 $$",
        "EXPLAIN SELECT * FROM orders",
        "COPY orders TO STDOUT",
        "",
        "-- SELECT",
        "SELECT * FROM users WHERE email = 'ada@example.org'",
        "SELECT dblink(E'password=secret')",
        "SELECT $$secret$$",
        "SELECT relname FROM pg_class",
        'SELECT relname FROM "pg_catalog".pg_class',
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM metrics.pg_stat_statements",
        "SELECT * FROM pg_stat_statements($1)",
        'INSERT INTO "public".schema_migrations (version) VALUES ($1)',
    ],
)
def test_nothing_else_is_listed(text: str) -> None:
    assert not is_kept(text)


def test_comments_are_not_listed_and_statements_alike_are_one() -> None:
    counted = [
        ("/* user=ada@example.org */ SELECT id -- canary\nFROM orders /*traceparent='1'*/", 2.0),
        ("SELECT total->>$1 FROM orders", 2.5),
        ("/*traceparent='2'*/ SELECT id /**/ FROM orders", 1.0),
        ("ALTER ROLE app PASSWORD 'secret' /* SELECT */", 9.0),
    ]
    assert listed(counted) == [
        Query("SELECT id FROM orders", 3.0),
        Query("SELECT total->>$1 FROM orders", 2.5),
    ]


def saved(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "queries.json"
    path.write_text(json.dumps(document))
    return path


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    listed = [{"text": "SELECT 1", "callsPerMinute": 2}]
    path = saved(tmp_path, {"format": 1, "queries": listed, "more": None})
    assert read_queries(path) == ((Query("SELECT 1", 2.0),), None)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "is no document of `queries`"),
        ({"queries": []}, "is no document"),
        ({"format": 2, "queries": []}, "has the format 2, and this version reads 1"),
        ({"format": 1, "queries": {"text": 1}}, "is no document"),
        ({"format": 1, "queries": ["SELECT 1"]}, "is no document"),
        ({"format": 1, "queries": [{"text": "SELECT 1"}]}, "is no document"),
        ({"format": 1, "queries": [{"text": 1, "callsPerMinute": 1}]}, "is no document"),
        ({"format": 1, "queries": [{"text": "DROP TABLE x", "callsPerMinute": 1}]}, "is no"),
        ({"format": 1, "queries": [{"text": "SELECT 1\0", "callsPerMinute": 1}]}, "is no"),
        ({"format": 1, "queries": [{"text": "SELECT \ud800", "callsPerMinute": 1}]}, "is no"),
        ({"format": 1, "queries": [{"text": "SELECT 1", "callsPerMinute": "often"}]}, "is no"),
        ({"format": 1, "queries": [{"text": "SELECT 1", "callsPerMinute": float("nan")}]}, "is no"),
    ],
)
def test_a_document_of_another_kind_is_refused(tmp_path: Path, document: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        read_queries(saved(tmp_path, document))
    assert "scripts/migrate.py queries > " in caught.value.next_step


@pytest.mark.parametrize("content", [b"", b"\xff", b"SELECT 1", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queries.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no document of `queries`"):
        read_queries(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: no such file or directory"):
        read_queries(tmp_path / "queries.json")


A, B, C = Query("SELECT *  FROM a", 340.04), Query("SELECT * FROM b", 2), Query("SELECT $1", 0)
ID, TOTAL, NAME = ("id", 23, -1), ("total", 23, -1), ("name", 1043, 24)


def test_statements_that_fail_alike_are_told_once() -> None:
    before = dict.fromkeys((A, B, C), Parsed())
    (only,) = changes(before, before | dict.fromkeys((A, B), Parsed("no such table")))
    words = "SELECT * FROM a and 1 more (calls a minute: 342) fails: no such table"
    assert only == (True, words, (A.text, B.text))


def test_what_failed_before_is_not_told() -> None:
    assert changes({A: Parsed("old")}, {A: Parsed("new")}) == []
    assert changes({A: Parsed("old")}, {A: Parsed()}) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ((ID, TOTAL, NAME), "returns also name"),
        ((ID,), "returns no total"),
        ((ID, NAME), "returns also name, no total"),
        ((ID, ("total", 20, -1)), "returns another type of total"),
        ((TOTAL, ID), "returns other columns"),
    ],
)
def test_a_result_of_other_columns_is_told(now: tuple[Any, ...], words: str) -> None:
    (only,) = changes({B: Parsed("", (ID, TOTAL))}, {B: Parsed("", now)})
    assert only == (False, f"SELECT * FROM b (calls a minute: 2) {words}", (B.text,))


def test_a_modifier_of_a_type_is_a_part_of_the_result() -> None:
    (only,) = changes({C: Parsed("", (NAME,))}, {C: Parsed("", (("name", 1043, 44),))})
    assert only.words == "SELECT $1 (calls a minute: under 0.1) returns another type of name"


def test_a_long_statement_is_shortened() -> None:
    long = Query("SELECT " + "a, " * 100, 1)
    (only,) = changes({long: Parsed()}, {long: Parsed("x")})
    assert (len(only.words) < 150, only.texts) == (True, (long.text,))
