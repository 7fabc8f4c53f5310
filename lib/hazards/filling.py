"""Recipes that fill a column: added empty, then filled in batches that are committed. Pure."""

from __future__ import annotations

from itertools import islice

from lib.hazards.recipes import NO_TRANSACTION, Files, joined, not_null, qualified, text, unquoted
from lib.observation import Catalog, Column, Constraint, Index, Relation
from lib.source.lexer import tokens, upper

_INTEGERS = ("smallint", "integer", "bigint")
_BATCHES = """\
DO $$
DECLARE
    batch_first bigint := (SELECT min({key}) FROM {table});
    batch_last CONSTANT bigint := (SELECT max({key}) FROM {table});
BEGIN
    WHILE batch_first <= batch_last LOOP
        {statement}
        {glue} {key} >= batch_first AND {key} < batch_first + 1000;
        COMMIT;
        batch_first := batch_first + 1000;
    END LOOP;
END $$;"""
_KEPT = """\
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.{column} := (SELECT {value} FROM (SELECT NEW.*) AS new_row);
    RETURN NEW;
END $$;
CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION {function}();"""
_IDENTITY = """\
ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT;
ALTER TABLE {table} ALTER COLUMN {column} ADD GENERATED {when} AS IDENTITY;
SELECT setval(pg_get_serial_sequence({table_text}, {column_text}), nextval({sequence_text}));
DROP SEQUENCE {sequence};"""
# It is repeated if the file is.
_ONCE = (
    "-- If the file fails midway, it runs again: add a condition by which changed rows are left.\n"
)
_JOINING = {"FROM", "USING", "RETURNING", "WITH"}


def added_column(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    """A new column whose values differ from row to row; none for a table without an integer key."""
    if not integer_key(catalog, table.oid):
        return ()
    if one.generated:
        return _generated(catalog, table, one, major)
    if one.identity or (one.default and "nextval(" in one.default):
        return _numbered(catalog, table, one, major)
    return _defaulted(catalog, table, one, major) if one.default else ()


def new_type(catalog: Catalog, table: Relation, was: Column, now: Column, major: int) -> Files:
    """Another type of a column: a second column takes its place, name and all.

    None if indexes or constraints are on the column, since they would go with it. The cast stands
    for what the change has in USING.
    """
    numbered = was.identity or "nextval(" in (was.default or "")  # its sequence would go with it
    if not integer_key(catalog, table.oid) or _is_used(catalog, was) or numbered:
        return ()
    fresh = now._replace(name=joined(was.name, "new"))
    value, alter = f"{was.name}::{now.type}", f"ALTER TABLE {table.name}"
    default = f"\n{alter} ALTER COLUMN {fresh.name} SET DEFAULT {now.default};"
    return (
        f"{alter} ADD COLUMN {fresh.name} {now.type};{default if now.default else ''}\n"
        f"{_kept(table, fresh, value)}",
        _filled(catalog, table, fresh, value),
        *(not_null(table, fresh, major) if now.not_null else ()),
        f"{_kept_no_more(table, fresh)}\n{alter} DROP COLUMN {was.name};\n"
        f"{alter} RENAME COLUMN {fresh.name} TO {was.name};",
    )


def batched(catalog: Catalog, table: Relation, statement: str) -> Files:
    """An UPDATE or DELETE of one table in batches; none where its condition cannot be extended."""
    key, depth, where = integer_key(catalog, table.oid), 0, 0
    words = []
    for token in tokens(statement):
        word = upper(token[0])
        depth += (word == "(") - (word == ")")
        if not depth:
            words.append(word)
            where = where or (word == "WHERE" and token.start())
    plain = not _JOINING & {*words[2:]} and words[:1] in (["UPDATE"], ["DELETE"])
    if not key or not plain or "$$" in statement or not _is_of(table, statement):
        return ()
    if where:
        condition = statement[where + len("WHERE") :].strip()
        statement = f"{statement[:where]}WHERE ({condition}\n        )"
    glue = "AND" if where else "WHERE"
    return (NO_TRANSACTION + _ONCE + _batches(table, key, statement, glue),)


def integer_key(catalog: Catalog, table: int) -> str | None:
    """The name of the one integer column that is the primary key."""
    for one in catalog.constraints.values():
        if one.kind == "p" and one.relation == table and len(one.columns) == 1:
            key = catalog.columns[table, one.columns[0]]
            return key.name if key.type in _INTEGERS else None
    return None


def _defaulted(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    alter = f"ALTER TABLE {table.name}"
    return (
        f"{alter} ADD COLUMN {one.name} {one.type};\n"
        f"{alter} ALTER COLUMN {one.name} SET DEFAULT {one.default};",
        _filled(catalog, table, one, str(one.default)),
        *(not_null(table, one, major) if one.not_null else ()),
    )


def _generated(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    alter, value = f"ALTER TABLE {table.name}", str(one.default)
    if major >= 18:
        return (f"{alter} ADD COLUMN {one.name} {one.type} GENERATED ALWAYS AS ({value}) VIRTUAL;",)
    return (
        f"{alter} ADD COLUMN {one.name} {one.type};\n{_kept(table, one, value)}",
        _filled(catalog, table, one, value),
    )


def _numbered(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    """A serial or identity column; an identity takes over where its first sequence ends."""
    base = joined(table.base_name, one.name, "numbers" if one.identity else "seq")
    sequence, alter = f"{table.schema}.{base}", f"ALTER TABLE {table.name}"
    owned = "" if one.identity else f"\nALTER SEQUENCE {sequence} OWNED BY {table.name}.{one.name};"
    value = f"nextval({text(sequence)})"
    return (
        f"{alter} ADD COLUMN {one.name} {one.type};\n"
        f"CREATE SEQUENCE {sequence} AS {one.type};{owned}\n"
        f"{alter} ALTER COLUMN {one.name} SET DEFAULT {value};",
        _filled(catalog, table, one, value),
        *not_null(table, one, major),
        *((_identity(table, one, sequence),) if one.identity else ()),
    )


def _identity(table: Relation, one: Column, sequence: str) -> str:
    return _IDENTITY.format(
        table=table.name, column=one.name, sequence=sequence,
        when="ALWAYS" if one.identity == "a" else "BY DEFAULT",
        table_text=text(qualified(table)), column_text=text(unquoted(one.name)),
        sequence_text=text(sequence),
    )  # fmt: skip


def _filled(catalog: Catalog, table: Relation, one: Column, value: str) -> str:
    key = integer_key(catalog, table.oid) or ""
    update = f"UPDATE {table.name} SET {one.name} = {value}\n"  # noqa: S608 - the catalog's names
    update += f"        WHERE {one.name} IS NULL"
    return NO_TRANSACTION + _batches(table, key, update, "AND")


def _batches(table: Relation, key: str, statement: str, glue: str) -> str:
    return _BATCHES.format(table=table.name, key=key, statement=statement, glue=glue)


def _kept(table: Relation, one: Column, value: str) -> str:
    """A trigger that keeps a column filled by whoever writes the table."""
    trigger = joined(table.base_name, one.name, "kept")
    function = f"{table.schema}.{trigger}"
    return _KEPT.format(
        table=table.name, column=one.name, value=value, trigger=trigger, function=function
    )


def _kept_no_more(table: Relation, one: Column) -> str:
    trigger = joined(table.base_name, one.name, "kept")
    return f"DROP TRIGGER {trigger} ON {table.name};\nDROP FUNCTION {table.schema}.{trigger}();"


def _is_of(table: Relation, statement: str) -> bool:
    """Whether the statement names the table; a cascade or a partition changes others, too."""
    first = [token[0] for token in islice(tokens(statement), 6)]
    return table.base_name in {*first, *(word.lower() for word in first)}


def _words(sql: str) -> set[str]:
    return {token[0] for token in tokens(sql)}


def _is_used(catalog: Catalog, column: Column) -> bool:
    """Whether an index or a constraint other than NOT NULL is on the column, or might be."""
    rules = [one for one in catalog.constraints.values() if one.kind != "n"]
    parts: list[Constraint | Index] = [*rules, *catalog.indexes.values()]
    return any(
        one.relation == column.relation
        and (column.number in one.columns or column.name in _words(one.definition))
        for one in parts
    )
