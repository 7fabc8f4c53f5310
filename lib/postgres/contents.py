"""What the tables and sequences of a database contain, as digests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lib.history import TABLE
from lib.postgres.connection import Connection
from lib.quoting import identifier, literal

Contents = Mapping[str, str]
"""By name: `columns of public.orders` (their order), `rows of public.orders`, `values of
public.orders.total`, `position of public.tickets`.
"""

_RELATIONS = """
SELECT json_agg(json_build_array(n.nspname, c.relname, c.relkind, (
        SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT (n.nspname = {schema} AND c.relname IN ('{table}', '{table}_id_seq'))
"""
_DIGEST = "CAST(sum(hashtextextended(CAST({value} AS text), 0)) AS text)"
_ROWS = (
    "SELECT {name}, array_to_json(ARRAY[CAST(count(*) AS text), {digests}]) FROM ONLY {table} t;"
)
_POSITION = "SELECT {name}, concat_ws(' ', last_value, is_called) FROM {table};"


class _Relation(NamedTuple):
    schema: str
    name: str
    kind: str
    columns: list[str]


def read_contents(connection: Connection, schema: str) -> Contents:
    """The number of rows of each table, digests of its rows and of each column, and the position
    of each sequence; without the history in `schema`. Reads only.
    """
    ((listed,),) = connection.query(_RELATIONS.format(schema=literal(schema), table=TABLE))
    relations = [_Relation(*relation) for relation in json.loads(listed or "[]")]
    found = connection.query(" ".join(map(_query, relations))) if relations else []
    contents: dict[str, str] = {}
    for relation, (_, text) in zip(relations, found, strict=True):
        contents |= dict(_contents_of(relation, text or ""))
    return contents


def rows_in(contents: Contents) -> int:
    """The number of rows of all tables."""
    counts = (text.split()[0] for name, text in contents.items() if name.startswith("rows of "))
    return sum(map(int, counts))


def _query(relation: _Relation) -> str:
    table = f"{identifier(relation.schema)}.{identifier(relation.name)}"
    name = literal(f"{relation.schema}.{relation.name}")
    if relation.kind == "S":
        return _POSITION.format(name=name, table=table)
    values = [f"t.{identifier(column)}" for column in relation.columns]
    row = f"ROW({', '.join(sorted(values))})"  # the columns of an inherited table may be reordered
    digests = ", ".join(_DIGEST.format(value=value) for value in (row, *values))
    return _ROWS.format(name=name, digests=digests, table=table)


def _contents_of(relation: _Relation, text: str) -> Iterator[tuple[str, str]]:
    name = f"{relation.schema}.{relation.name}"
    if relation.kind == "S":
        yield f"position of {name}", text
        return
    count, rows, *values = json.loads(text)
    yield f"columns of {name}", ", ".join(relation.columns)
    yield f"rows of {name}", f"{count} #{rows}"
    for column, digest in zip(relation.columns, values, strict=True):
        yield f"values of {name}.{column}", f"{count} #{digest}"
