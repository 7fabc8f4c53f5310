"""Another type of a column: a second column takes its place, with all that is on it. Pure.

What the second column shall have is read from the catalog after the direct statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from lib.hazards.batches import key_of
from lib.hazards.filling import filled, kept, kept_no_more
from lib.hazards.recipes import (
    NO_TRANSACTION,
    Files,
    concurrently,
    joined,
    not_null,
    qualified,
    text,
    using_index,
)
from lib.observation import Catalog, Column, Constraint, Index, OwnedSequence, Relation, Step
from lib.source.lexer import tokens, upper, without_comments

_GIST_KEY = "WITHOUT OVERLAPS"  # 18
_INTEGERS = ("smallint", "integer", "bigint")
_NOT_TAKEN_OVER = (
    "-- Its comment, privileges, statistics and place among the columns do not go over.\n"
)
_IDENTITY = """\
{alter} ALTER COLUMN {column} ADD GENERATED {when} AS IDENTITY (SEQUENCE NAME {fresh} {options});
SELECT setval({fresh_text}, last_value, is_called) FROM {old};"""
_DEPTHS = {"(": 1, "[": 1, ")": -1, "]": -1}


def new_type(step: Step, table: Relation, column: Column, major: int) -> Files:
    """The files of a new type.

    None for a generated column, under an exclusion constraint, in a table without a key, or if it
    is partitioned and an index or a constraint is on the column.
    """
    change = _NewType(step.before, step.after, table, column)
    value = using(step.text) or column.name
    possible = key_of(step.before, table.oid) and not column.generated and "$$" not in value
    return change.files(value, major) if possible and change.is_possible(major) else ()


def using(statement: str) -> str:
    """The expression after USING of the one change of a type; empty if there is none."""
    depth, typed, start, end = 0, False, 0, len(statement)
    for token in tokens(statement):
        word = upper(token[0])
        if not depth and start and word == ",":
            end = token.start()
            break
        typed = bool(depth or word != ",") and (typed or word == "TYPE")
        start = start or (typed and word == "USING" and token.end()) or 0
        depth += _DEPTHS.get(word, 0)
    return without_comments(statement[start:end]) if start else ""


def of_column(one: Index, was: str, fresh: str) -> str:
    """The index of another name, and on one column in the place of another, built concurrently."""
    head, using, rest = concurrently(one.definition).partition(" USING ")
    head = head.replace(f" {one.name} ON ", f" {joined(one.name, 'new')} ON ", 1)
    parts, end, before = [head, using], 0, ""
    found = [*tokens(rest)]
    for token, following in zip(found, [*(one[0] for one in found[1:]), ""], strict=True):
        named = token[0] == was and following != "(" and before not in (":", ".", "COLLATE")
        parts += [rest[end : token.start()], fresh if named else token[0]]
        end, before = token.end(), token[0]
    return "".join(parts)


class _NewType:
    """A column, the one that takes its place, and what is on it after the direct statement."""

    def __init__(self, before: Catalog, after: Catalog, table: Relation, column: Column) -> None:
        self._before, self._after, self._table = before, after, table
        self._was = before.columns[table.oid, column.number]
        self._now = after.columns[table.oid, column.number]
        self._fresh = self._now._replace(name=joined(column.name, "new"))
        self._alter = f"ALTER TABLE {table.name}"

    def is_possible(self, major: int) -> bool:
        """Whether all that is on the column can be made again while the table is used."""
        rules = [*self._constraints.values()]
        if self._table.kind == "p":
            return not (rules or self._indexes)
        tables = [self._after.relations[one.relation] for one in rules if one.kind == "f"]
        late = major >= 18 or all(one.kind != "p" for one in tables)  # NOT VALID on partitioned
        built = all(one.kind != "x" and _GIST_KEY not in one.definition for one in rules)
        return late and built  # what cannot be made of an index that is there

    def files(self, value: str, major: int) -> Files:
        """A second column that is kept and filled, what is on it, the exchange, the validation."""
        fresh, names = self._fresh, sorted(self._validated)
        collation = f" COLLATE {fresh.collation}" if fresh.collation else ""
        built = [f"{of_column(one, self._was.name, fresh.name)};" for one in self._indexes]
        return (
            f"{self._alter} ADD COLUMN {fresh.name} {fresh.type}{collation};\n"
            f"{kept(self._table, fresh, value)}",
            *filled(self._before, self._table, fresh, value),
            *(not_null(self._table, fresh, major) if fresh.not_null else ()),
            *([NO_TRANSACTION + "\n".join(built)] if built else ()),
            _NOT_TAKEN_OVER + "\n".join(self._exchange()),
            *(["\n".join(names)] if names else ()),
        )

    @cached_property
    def _constraints(self) -> dict[int, Constraint]:
        """Those with the column, and the foreign keys that reference it; without NOT NULL."""
        return {
            oid: one
            for oid, one in self._after.constraints.items()
            if (one.relation == self._table.oid and self._was.number in one.columns
                and one.kind != "n")
            or self._references(one)
        }  # fmt: skip

    def _references(self, one: Constraint) -> bool:
        """The index of a foreign key is the referenced table's."""
        there = one.kind == "f" and one.referenced == self._table.oid
        referenced = self._after.indexes.get(one.index_oid)
        return bool(there and referenced and self._was.number in referenced.columns)

    @cached_property
    def _indexes(self) -> list[Index]:
        return [
            one
            for one in self._after.indexes.values()
            if one.relation == self._table.oid
            and (self._was.number in one.columns or self._was.name in _words(one.definition))
        ]

    @property
    def _validated(self) -> Iterator[str]:
        for one in self._constraints.values():
            if one.kind in "cf" and one.valid:
                yield f"{self._alter_of(one)} VALIDATE CONSTRAINT {one.name};"

    def _alter_of(self, one: Constraint) -> str:
        return f"ALTER TABLE {self._after.relations[one.relation].name}"

    def _exchange(self) -> Iterator[str]:
        """First all tables are locked, in the order in which those that write them lock them."""
        keys = [one for one in self._constraints.values() if self._references(one)]
        others = {self._after.relations[one.relation].name for one in keys} - {self._table.name}
        if others:
            names = ", ".join((*sorted(others), self._table.name))
            yield f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE;"
        for one in keys:
            yield f"{self._alter_of(one)} DROP CONSTRAINT {one.name};"
        yield kept_no_more(self._table, self._fresh)
        yield from self._default()
        yield f"{self._alter} DROP COLUMN {self._was.name};"
        yield f"{self._alter} RENAME COLUMN {self._fresh.name} TO {self._was.name};"
        yield from self._names()
        for one in self._constraints.values():
            if one.kind in "cf":
                yield f"{self._alter_of(one)} ADD CONSTRAINT {one.name} {one.definition} NOT VALID;"

    def _default(self) -> Iterator[str]:
        """The default, and the sequence that goes on with its next number."""
        fresh, sequence = self._fresh, self._was.sequence
        if sequence and self._was.identity:
            yield self._identity(sequence)
        elif sequence:
            name = f"{sequence.schema}.{sequence.name}"
            yield f"ALTER SEQUENCE {name} OWNED BY {qualified(self._table)}.{fresh.name};"
            if fresh.type in _INTEGERS:
                yield f"ALTER SEQUENCE {name} AS {fresh.type};  -- ALTER COLUMN leaves its limit"
        if fresh.default and not fresh.identity:
            yield f"{self._alter} ALTER COLUMN {fresh.name} SET DEFAULT {fresh.default};"

    def _identity(self, sequence: OwnedSequence) -> str:
        name = f"{sequence.schema}.{joined(sequence.name, 'new')}"
        return _IDENTITY.format(
            alter=self._alter, column=self._fresh.name, fresh=name, fresh_text=text(name),
            when="ALWAYS" if self._was.identity == "a" else "BY DEFAULT",
            options=sequence.options, old=f"{sequence.schema}.{sequence.name}",
        )  # fmt: skip

    def _names(self) -> Iterator[str]:
        """What has been made for the second column gets the name that it has on the first."""
        owners = {one.index_oid: one for one in self._constraints.values() if one.kind in "pu"}
        schema, sequence = self._table.schema, self._was.sequence
        for one in self._indexes:
            built = joined(one.name, "new")
            if one.oid in owners:
                yield using_index(self._table, owners[one.oid], built)
            else:
                yield f"ALTER INDEX {schema}.{built} RENAME TO {one.name};"
        if self._was.identity and sequence:
            name = joined(sequence.name, "new")
            yield f"ALTER SEQUENCE {sequence.schema}.{name} RENAME TO {sequence.name};"
        for rule in self._after.constraints.values():
            if rule.kind == "n" and (rule.relation, rule.columns) == (
                self._table.oid,
                (self._was.number,),
            ):
                name = joined(self._table.base_name, self._fresh.name, "not_null")
                yield f"{self._alter} RENAME CONSTRAINT {name} TO {rule.name};"


def _words(sql: str) -> Iterable[str]:
    return {token[0] for token in tokens(sql)}
