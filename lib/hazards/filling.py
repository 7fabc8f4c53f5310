"""Recipes that fill a column: added empty, then filled in batches that are committed. Pure."""

from __future__ import annotations

from lib.hazards.batches import batches, key_of
from lib.hazards.recipes import Files, joined, not_null, qualified, text, unquoted
from lib.observation import Catalog, Column, Relation

_KEPT = """\
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.{column} := (SELECT {value} FROM (SELECT NEW.*) AS {row});
    RETURN NEW;
END $$;
CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION {function}();"""
_IDENTITY = """\
ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT;
ALTER TABLE {table} ALTER COLUMN {column} ADD GENERATED {when} AS IDENTITY;
SELECT setval(pg_get_serial_sequence({table_text}, {column_text}), nextval({sequence_text}));
DROP SEQUENCE {sequence};"""


def added_column(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    """A new column whose values differ from row to row; none for a table without a key."""
    if not key_of(catalog, table.oid):
        return ()
    if one.generated:
        return _generated(catalog, table, one, major)
    if one.identity or (one.default and "nextval(" in one.default):
        return _numbered(catalog, table, one, major)
    return _defaulted(catalog, table, one, major) if one.default else ()


def _defaulted(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    alter = f"ALTER TABLE {table.name}"
    return (
        f"{alter} ADD COLUMN {one.name} {one.type};\n"
        f"{alter} ALTER COLUMN {one.name} SET DEFAULT {one.default};",
        *filled(catalog, table, one, str(one.default)),
        *(not_null(table, one, major) if one.not_null else ()),
    )


def _generated(catalog: Catalog, table: Relation, one: Column, major: int) -> Files:
    alter, value = f"ALTER TABLE {table.name}", str(one.default)
    if major >= 18:
        return (f"{alter} ADD COLUMN {one.name} {one.type} GENERATED ALWAYS AS ({value}) VIRTUAL;",)
    return (
        f"{alter} ADD COLUMN {one.name} {one.type};\n{kept(table, one, value)}",
        *filled(catalog, table, one, value),
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
        *filled(catalog, table, one, value),
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


def filled(catalog: Catalog, table: Relation, one: Column, value: str) -> Files:
    """The rows that have no value yet get one."""
    update = f"UPDATE {table.name} SET {one.name} = {value}\n"  # noqa: S608 - the catalog's names
    return batches(catalog, table, f"{update}        WHERE {one.name} IS NULL", "AND")


def kept(table: Relation, one: Column, value: str) -> str:
    """A trigger that keeps a column filled by whoever writes the table."""
    trigger = _trigger(table, one)
    return _KEPT.format(
        table=table.name, column=one.name, value=value, trigger=trigger,
        function=f"{table.schema}.{trigger}", row=table.base_name,
    )  # fmt: skip


def kept_no_more(table: Relation, one: Column) -> str:
    """The end of that trigger."""
    trigger = _trigger(table, one)
    return f"DROP TRIGGER {trigger} ON {table.name};\nDROP FUNCTION {table.schema}.{trigger}();"


def _trigger(table: Relation, one: Column) -> str:
    # Triggers fire in the order of their names: it has to see what the others have written.
    return joined("z", table.base_name, one.name, "kept")
