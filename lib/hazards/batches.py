"""Changes of many rows in batches that are committed one by one, in the order of a key. Pure."""

from __future__ import annotations

import re
from itertools import islice, pairwise

from lib.hazards.recipes import NO_TRANSACTION, Files
from lib.observation import Catalog, Relation
from lib.source.lexer import tokens, upper

_BATCHES = """\
DO $$
DECLARE
    batch_first record;
    batch_last record;
BEGIN
    SELECT {keys} INTO batch_first FROM {table} ORDER BY {keys} LIMIT 1;
    WHILE FOUND LOOP
        SELECT {keys} INTO batch_last FROM (
            SELECT {keys} FROM {table} WHERE ({keys}) >= ({first}) ORDER BY {keys} LIMIT 1000
        ) AS batch ORDER BY {descending} LIMIT 1;
        {statement}
        {glue} ({keys}) >= ({first}) AND ({keys}) <= ({last});
        COMMIT;
        SELECT {keys} INTO batch_first FROM {table} WHERE ({keys}) > ({last})
        ORDER BY {keys} LIMIT 1;
    END LOOP;
END $$;"""
# It is repeated if the file is.
_ONCE = (
    "-- If the file fails midway, it runs again: add a condition by which changed rows are left.\n"
)
_JOINING = {"FROM", "USING", "RETURNING", "WITH"}


def key_of(catalog: Catalog, table: int) -> list[str]:
    """The columns of the primary key, else of a UNIQUE whose columns are NOT NULL; or none."""
    keys = [one for one in catalog.constraints.values() if one.relation == table]
    for one in sorted((one for one in keys if one.kind in "pu"), key=lambda one: one.kind):
        columns = [catalog.columns[table, number] for number in one.columns]
        if all(column.not_null for column in columns):
            return [column.name for column in columns]
    return []


def batches(catalog: Catalog, table: Relation, statement: str, glue: str) -> Files:
    """A file that repeats a statement for each batch of rows; `glue` is its WHERE, or an AND."""
    keys = key_of(catalog, table.oid)
    return (
        NO_TRANSACTION + _BATCHES.format(
            table=table.name, statement=statement, glue=glue, keys=", ".join(keys),
            descending=", ".join(f"{key} DESC" for key in keys),
            first=", ".join(f"batch_first.{key}" for key in keys),
            last=", ".join(f"batch_last.{key}" for key in keys),
        ),
    )  # fmt: skip


def batched(catalog: Catalog, table: Relation, statement: str) -> Files:
    """An UPDATE or DELETE of one table in batches; none where its condition cannot be extended."""
    keys, where = key_of(catalog, table.oid), 0
    found = _outer_tokens(statement)
    words = [upper(token[0]) for token in found]
    plain = not _JOINING & {*words[2:]} and words[:1] in (["UPDATE"], ["DELETE"])
    if "WHERE" in words:
        where = found[words.index("WHERE")].start()
    changed = _changes_key(found, keys)
    if not keys or not plain or changed or "$$" in statement or not _is_of(table, statement):
        return ()
    if where:
        condition = statement[where + len("WHERE") :].strip()
        statement = f"{statement[:where]}WHERE ({condition}\n        )"
    (file,) = batches(catalog, table, statement, "AND" if where else "WHERE")
    return (file.replace(NO_TRANSACTION, NO_TRANSACTION + _ONCE, 1),)


def _outer_tokens(statement: str) -> list[re.Match[str]]:
    """The tokens outside of parentheses, and these themselves."""
    depth, found = 0, list[re.Match[str]]()
    for token in tokens(statement):
        depth -= token[0] == ")"
        if not depth:
            found.append(token)
        depth += token[0] == "("
    return found


def _changes_key(found: list[re.Match[str]], keys: list[str]) -> bool:
    """Whether rows might move to a later batch; SET (...) = is taken to do so."""
    pairs = pairwise(upper(token[0]) for token in found)
    moved = {(before, one) for before in ("SET", ",") for one in (*map(upper, keys), "(")}
    return any(pair in moved for pair in pairs)


def _is_of(table: Relation, statement: str) -> bool:
    """Whether the statement names the table; a cascade changes others, too."""
    first = [token[0] for token in islice(tokens(statement), 6)]
    return table.base_name in {*first, *(word.lower() for word in first)}
