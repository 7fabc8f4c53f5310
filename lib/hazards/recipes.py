"""How to make a change without a hazard: the text of files, one after another, in SQL. Pure.

The names and definitions are the catalog's, so that a recipe can be run as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lib.observation import Column, Constraint, Index, Relation
from lib.quoting import identifier
from lib.source.lexer import tokens, upper, without_comments

Files = tuple[str, ...]

NO_TRANSACTION = "-- migrate: no-transaction\n"
_NAME_BYTES = 63  # NAMEDATALEN - 1: Postgres would cut off the end, by which names differ


def index(one: Index) -> Files:
    """An index of a table, built while the table is written."""
    return (f"{NO_TRANSACTION}{concurrently(one.definition)};",)


def partitioned_index(parent: Index, table: Relation, parts: Sequence[Index]) -> Files:
    """An index of a partitioned table, built partition by partition."""
    only = parent.definition.replace(f" ON ONLY {qualified(table)} ", f" ON {qualified(table)} ")
    only = only.replace(f" ON {qualified(table)} ", f" ON ONLY {qualified(table)} ")
    builds = "\n".join(f"{concurrently(part.definition)};" for part in parts)
    schema = table.schema
    attached = "\n".join(
        f"ALTER INDEX {schema}.{parent.name} ATTACH PARTITION {schema}.{part.name};"
        for part in parts
    )
    return f"{only};", f"{NO_TRANSACTION}{builds}", attached


def partitioned_unique(
    table: Relation, one: Constraint, parts: Sequence[tuple[Relation, Index]]
) -> Files:
    """A UNIQUE or PRIMARY KEY of a partitioned table, built partition by partition."""
    builds = "\n".join(f"{concurrently(built.definition)};" for _, built in parts)
    made = (using_index(part, one._replace(name=on.name), on.name) for part, on in parts)
    whole = f"ALTER INDEX {table.schema}.{one.name} ATTACH PARTITION"
    return (
        f"ALTER TABLE ONLY {table.name} ADD CONSTRAINT {one.name} {one.definition};",
        f"{NO_TRANSACTION}{builds}",
        "\n".join((*made, *(f"{whole} {part.schema}.{built.name};" for part, built in parts))),
    )


def partitioned_key(table: Relation, parts: Sequence[Relation], one: Constraint) -> Files:
    """A FOREIGN KEY of a partitioned table that takes over those of its partitions."""
    if any(part.kind != "r" for part in parts):
        return ()
    files = zip(*(_validated_later(part, one.name, one.definition) for part in parts), strict=True)
    whole = f"ALTER TABLE {table.name} ADD CONSTRAINT {one.name} {one.definition};"
    return *("\n".join(lines) for lines in files), whole


def domain(statement: str, columns: Iterable[tuple[Relation, Column]]) -> Files:
    """A CHECK of a domain for new values, and one for the rows of each column that has it."""
    statement = without_comments(statement)
    found = [*tokens(statement)]
    words = [upper(token[0]) for token in found]
    if "CHECK" not in words or words[-1] != ")":
        return ()
    rule = statement[found[words.index("CHECK")].start() :]
    later = (
        _validated_later(table, joined(table.base_name, one.name, "domain"), _of(one, rule))
        for table, one in columns
    )
    files = tuple(map("\n".join, zip(*later, strict=True)))
    return (f"{statement} NOT VALID;", *files) if files else ()


def constraint(table: Relation, one: Constraint) -> Files:
    """A CHECK or FOREIGN KEY that is validated while the table is written."""
    return _validated_later(table, one.name, one.definition)


def not_null(table: Relation, column: Column, major: int) -> Files:
    """A NOT NULL that is checked while the table is written."""
    name, alter = joined(table.base_name, column.name, "not_null"), f"ALTER TABLE {table.name}"
    if major >= 18:
        return _validated_later(table, name, f"NOT NULL {column.name}")
    return (
        *_validated_later(table, name, f"CHECK ({column.name} IS NOT NULL)"),
        # Two statements: in one, the constraint is dropped first, and all rows are read after all.
        f"{alter} ALTER COLUMN {column.name} SET NOT NULL;\n{alter} DROP CONSTRAINT {name};",
    )


def unique(
    table: Relation, one: Constraint, built: Index, nullable: Iterable[Column], major: int
) -> Files:
    """A UNIQUE or PRIMARY KEY whose index is built while the table is written."""
    if table.kind == "p":
        return ()
    columns = nullable if one.kind == "p" else ()
    return (
        *(file for column in columns for file in not_null(table, column, major)),
        f"{NO_TRANSACTION}{concurrently(built.definition)};",
        using_index(table, one, built.name),
    )


def using_index(table: Relation, one: Constraint, built: str) -> str:
    """A UNIQUE or PRIMARY KEY of an index that is there; the index gets the constraint's name."""
    kind = "PRIMARY KEY" if one.kind == "p" else "UNIQUE"
    deferrable = " DEFERRABLE" if " DEFERRABLE" in one.definition else ""
    initially = " INITIALLY DEFERRED" if "INITIALLY DEFERRED" in one.definition else ""
    return (
        f"ALTER TABLE {table.name} ADD CONSTRAINT {one.name} {kind} USING INDEX {built}"
        f"{deferrable}{initially};"
    )


def narrower(table: Relation, column: Column, condition: str) -> Files:
    """The rule of a narrower type as a constraint; the column keeps its type."""
    name = joined(table.base_name, column.name, "range")
    return _validated_later(table, name, f"CHECK ({condition})")


def without_value(columns: Iterable[tuple[Relation, Column]], value: str) -> Files:
    """A value of an enum that no row may have; the type keeps it."""
    files = (
        _validated_later(table, joined(table.base_name, one.name, "values"), rule)
        for table, one in columns
        for rule in [f"CHECK ({one.name} <> {text(value)})"]
    )
    return tuple(map("\n".join, zip(*files, strict=True)))


def nullable_first(table: Relation, column: Column, major: int) -> Files:
    """A column that rows need not have, until all have it."""
    filled, *others = not_null(table, column, major)
    once = "-- Once all rows have a value, and the running code writes it:\n"
    added = f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type};"
    return added, f"{once}{filled}", *others


def collation(table: Relation, column: Column, rebuilt: Index) -> Files:
    """An index in the new collation before the column has it, so that none is built then."""
    end = f"({column.name})"
    if not (column.collation and rebuilt.definition.endswith(end)):
        return ()
    fresh, base = joined(rebuilt.name, "new"), rebuilt.definition.removesuffix(end)
    made = concurrently(base).replace(f" {rebuilt.name} ON ", f" {fresh} ON ", 1)
    return (
        f"{NO_TRANSACTION}{made}({column.name} COLLATE {column.collation});\n"
        f"DROP INDEX CONCURRENTLY IF EXISTS {table.schema}.{rebuilt.name};",
        f"ALTER TABLE {table.name} ALTER COLUMN {column.name} TYPE {column.type} "
        f"COLLATE {column.collation};\n"
        f"ALTER INDEX {table.schema}.{fresh} RENAME TO {rebuilt.name};",
    )


def drop_index(table: Relation, one: Index) -> Files:
    """An index dropped while its table is used."""
    return (f"{NO_TRANSACTION}DROP INDEX CONCURRENTLY IF EXISTS {table.schema}.{one.name};",)


def drop_table(table: Relation, key: Constraint) -> Files:
    """A table dropped when it no longer references another."""
    return f"ALTER TABLE {table.name} DROP CONSTRAINT {key.name};", f"DROP TABLE {table.name};"


def replaced(table: Relation, old: Index, new: Index) -> Files:
    """An index exchanged for another without a time that has none."""
    name = joined(new.name, "new") if new.name == old.name else new.name
    made = concurrently(new.definition).replace(f" {new.name} ON ", f" {name} ON ", 1)
    files = (
        f"{NO_TRANSACTION}{made};\nDROP INDEX CONCURRENTLY IF EXISTS {table.schema}.{old.name};",
    )
    if name == new.name:
        return files
    return *files, f"ALTER INDEX {table.schema}.{name} RENAME TO {new.name};"


def reindex(table: Relation, rebuilt: Iterable[Index]) -> Files:
    """Indexes rebuilt while their table is written."""
    lines = (f"REINDEX INDEX CONCURRENTLY {table.schema}.{one.name};" for one in rebuilt)
    return (NO_TRANSACTION + "\n".join(lines),)


def detach(parent: Relation, partition: Relation) -> Files:
    """A partition detached while the partitioned table is used."""
    alter = f"ALTER TABLE {parent.name} DETACH PARTITION {partition.name} CONCURRENTLY;"
    return (NO_TRANSACTION + alter,)


def attach(parent: Relation, partition: Relation) -> Files:
    """A partition attached without reading its rows under a lock."""
    name, alter = joined(partition.base_name, "bounds"), f"ALTER TABLE {partition.name}"
    return (
        f"{alter} ADD CONSTRAINT {name} CHECK ({partition.bound_check}) NOT VALID;",
        f"{alter} VALIDATE CONSTRAINT {name};",
        f"ALTER TABLE {parent.name} ATTACH PARTITION {partition.name} {partition.bound};\n"
        f"{alter} DROP CONSTRAINT {name};",
    )


def create_partition(parent: Relation, partition: Relation) -> Files:
    """A partition created without a lock that blocks readers of the partitioned table."""
    return (
        f"CREATE TABLE {partition.name} (LIKE {parent.name} INCLUDING ALL);\n"
        f"ALTER TABLE {parent.name} ATTACH PARTITION {partition.name} {partition.bound};",
    )


def refresh(view: Relation) -> Files:
    """A materialized view refreshed while it is read; it needs a unique index."""
    return (f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view.name};",)


def qualified(relation: Relation) -> str:
    """The name with its schema, as definitions have it."""
    return f"{relation.schema}.{relation.base_name}"


def text(value: str) -> str:
    """A string as SQL, as people write it."""
    return "'" + value.replace("'", "''") + "'"


def _of(column: Column, rule: str) -> str:
    """A rule of a domain as one of a column."""
    parts, end = list[str](), 0
    for token in tokens(rule):
        value = column.name if upper(token[0]) == "VALUE" else token[0]
        parts += [rule[end : token.start()], value]
        end = token.end()
    return "".join(parts)


def _validated_later(table: Relation, name: str, rule: str) -> Files:
    alter = f"ALTER TABLE {table.name}"
    return (
        f"{alter} ADD CONSTRAINT {name} {rule} NOT VALID;",
        f"{alter} VALIDATE CONSTRAINT {name};",
    )


def concurrently(definition: str) -> str:
    """An index's definition as one that is built while its table is written."""
    return definition.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)


def unquoted(name: str) -> str:
    """A name as the catalog has it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def joined(*parts: str) -> str:
    """A name made of names, quoted only if one of them is; the end of one that is too long."""
    name = "_".join(map(unquoted, parts))
    short = name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    quoted = short != name or any(part.startswith('"') for part in parts)
    return identifier(short) if quoted else name
