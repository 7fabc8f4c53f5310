"""What is seen of one statement: what it locks, reads, writes and builds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import Any

from lib.hazards import filling, recipes
from lib.hazards.batches import batched
from lib.hazards.findings import Circumstances
from lib.hazards.new_type import new_type, using
from lib.hazards.recipes import Files
from lib.hazards.seen import Seen, existed
from lib.hazards.table import MANY_ROWS
from lib.observation import (
    STORED,
    TABLES,
    Column,
    Constraint,
    FileObservation,
    Index,
    Mode,
    Relation,
    Step,
)
from lib.source.lexer import tokens

_FK_WEIGHT, _REINDEX_WEIGHT = 8, 4
_CORRECT_MINOR = 4
_NOT_VALID_PARTITIONED = 18  # since then a partitioned table may have a foreign key that is so


class Statement:
    """The findings of one statement: what it locks, reads, writes and builds."""

    def __init__(self, file: FileObservation, step: Step, given: Circumstances) -> None:
        self._file, self._step, self._given = file, step, given
        self._before, self._after = step.before, step.after
        self._first = step.keywords[0] if step.keywords else ""

    def findings(self) -> Iterator[Seen]:
        """All of them; a part of another one is among them."""
        if self._step.concurrent:
            yield from self._built_concurrently()
            return
        yield from self._rewrites()
        yield from self._builds()
        yield from self._changes()
        yield from self._scans()
        yield from self._work_under_lock()
        yield from self._drops_of_indexes()
        yield from self._partitions()
        yield from self._drops_of_tables()

    def _seen(self, name: str, relation: int, subject: str = "", **more: Any) -> Seen:
        return Seen(name, self._step.line, relation, subject)._replace(**more)

    def _existed(self, oid: int) -> bool:
        return existed(self._file, self._given, oid)

    @cached_property
    def _new_files(self) -> list[int]:
        """The tables that have another file node now."""
        return [
            oid
            for oid, now in self._after.relations.items()
            if now.kind in STORED
            and self._existed(oid)
            and self._before.relations[oid].node != now.node
        ]

    @cached_property
    def _rewritten(self) -> list[int]:
        return [] if self._first == "TRUNCATE" else self._new_files

    @cached_property
    def _scanned(self) -> list[int]:
        """The tables of which all rows were read."""
        return [
            oid
            for oid, now in self._after.relations.items()
            if self._existed(oid) and now.scans > self._before.relations[oid].scans
        ]

    @cached_property
    def _built(self) -> list[Index]:
        """The indexes that were built on tables that were there. Those of rewritten tables not."""
        nodes = {
            one.node for one in (*self._before.indexes.values(), *self._file.start.indexes.values())
        }
        return [
            one
            for oid, one in self._after.indexes.items()
            if oid not in self._before.indexes
            and self._existed(one.relation)
            and one.node not in nodes
            and one.relation not in self._rewritten
            and self._after.relations[one.relation].kind in STORED
        ]

    def _mode(self, oid: int) -> Mode:
        return self._file.mode(self._after, oid)

    def _rewrites(self) -> Iterator[Seen]:
        for oid in self._rewritten:
            now = self._after.relations[oid]
            if now.kind == "m":
                recipe = recipes.refresh(now) if self._has_unique_index(oid) else ()
                yield self._seen("rewrite", oid, what="read", recipe=recipe)
            else:
                yield self._seen("rewrite", oid, recipe=self._recipe_of_rewrite(oid))
        if self._first == "TRUNCATE":
            yield from (self._seen("data-loss", oid) for oid in self._new_files)

    def _has_unique_index(self, oid: int) -> bool:
        return any(
            one.unique and one.relation == oid and " WHERE " not in one.definition
            for one in self._after.indexes.values()
        )

    def _recipe_of_rewrite(self, oid: int) -> Files:
        table, major = self._root(oid), self._given.major
        changed = [
            one
            for one in self._after.columns_of(table.oid)
            if self._before.columns.get((table.oid, one.number)) != one
        ]
        added = [one for one in changed if (table.oid, one.number) not in self._before.columns]
        if not added:
            return self._recipe_of_types(table, changed)
        if len(changed) == 1:
            return filling.added_column(self._before, table, added[0], major)
        return ()

    def _recipe_of_types(self, table: Relation, changed: list[Column]) -> Files:
        """One column after the other, unless one's value might be made of another's old one."""
        if len(changed) > 1 and using(self._step.text):
            return ()
        files = [new_type(self._step, table, one, self._given.major) for one in changed]
        return tuple(chain(*files)) if all(files) else ()

    def _root(self, oid: int) -> Relation:
        """The partitioned table of a partition; other tables are their own."""
        table = self._after.relations[oid]
        return self._root(table.parent) if table.parent else table

    def _builds(self) -> Iterator[Seen]:
        names = {(one.relation, one.name) for one in self._before.indexes.values()}
        for one in self._built:
            owner = self._constraint_of(one)
            table = self._after.relations[one.relation]
            if owner and owner.kind == "x":
                yield self._seen("exclusion", one.relation, owner.name)
            elif owner:
                recipe = recipes.unique(
                    table, owner, one, self._made_not_null(table.oid), self._given.major
                )
                yield self._seen("constraint-builds-index", one.relation, owner.name, recipe=recipe)
            elif (one.relation, one.name) in names:
                yield self._seen(
                    "index-rebuilt", one.relation, one.name, recipe=self._recipe_of_collation(one)
                )
            else:
                yield self._index(one, table)

    def _recipe_of_collation(self, index: Index) -> Files:
        column = self._after.columns.get((index.relation, index.columns[0]))
        table = self._after.relations[index.relation]
        return recipes.collation(table, column, index) if column else ()

    def _index(self, one: Index, table: Relation) -> Seen:
        parent = next(
            (other for oid, other in self._after.indexes.items()
             if oid not in self._before.indexes and other.relation == table.parent), None,
        )  # fmt: skip
        if not parent:
            return self._seen("index-blocks-writes", table.oid, one.name, recipe=recipes.index(one))
        parts = [
            other for other in self._built
            if self._after.relations[other.relation].parent == parent.relation
        ]  # fmt: skip
        recipe = self._recipe_of_partitioned(parent, parts)
        return self._seen("index-blocks-writes", table.oid, parent.name, recipe=recipe)

    def _recipe_of_partitioned(self, parent: Index, parts: list[Index]) -> Files:
        table, owner = self._after.relations[parent.relation], self._constraint_of(parent)
        if not owner:
            return recipes.partitioned_index(parent, table, parts)
        columns = self._made_not_null(table.oid) if owner.kind == "p" else ()
        return (
            *(file for one in columns for file in recipes.not_null(table, one, self._given.major)),
            *recipes.partitioned_unique(
                table, owner, [(self._after.relations[one.relation], one) for one in parts]
            ),
        )

    def _constraint_of(self, index: Index) -> Constraint | None:
        return next(
            (
                one
                for one in self._after.constraints.values()
                if one.index_oid == index.oid
                and one.kind in "pux"
                and one.relation == index.relation
            ),
            None,
        )

    def _made_not_null(self, oid: int) -> list[Column]:
        return [
            one
            for key, one in self._after.columns.items()
            if key[0] == oid
            and one.not_null
            and key in self._before.columns
            and not self._before.columns[key].not_null
        ]

    def _changes(self) -> Iterator[Seen]:
        held = [
            self._file.start.relations[oid].name for oid in self._held(Mode.SHARE_ROW_EXCLUSIVE)
        ]
        for oid in self._backfilled:
            name = "backfill-under-lock" if held else "backfill"
            recipe = batched(self._before, self._root(oid), self._step.text)
            yield self._seen(name, oid, ", ".join(held), recipe=recipe)

    @cached_property
    def _backfilled(self) -> list[int]:
        """The tables of which many rows were changed, or maybe all."""
        return [
            oid
            for oid, now in self._after.relations.items()
            if now.kind == "r"
            and self._existed(oid)
            and oid not in self._new_files
            and (self._changed(oid) >= MANY_ROWS or self._reads_to_change(oid))
        ]

    def _changed(self, oid: int) -> int:
        return self._after.relations[oid].changes - self._before.relations[oid].changes

    def _reads_to_change(self, oid: int) -> bool:
        # A foreign key's trigger reads a table too, but does not lock it as a change does.
        now, before = (one.locks.get(oid, frozenset()) for one in (self._after, self._before))
        changes = self._first in ("UPDATE", "DELETE", "MERGE") or Mode.ROW_EXCLUSIVE not in before
        return oid in self._scanned and Mode.ROW_EXCLUSIVE in now and changes

    def _held(self, weakest: Mode) -> list[int]:
        """The tables that earlier statements of this file have locked."""
        return [
            oid
            for oid in self._before.locks
            if self._existed(oid)
            and self._file.mode(self._before, oid) >= weakest
            and self._file.taken(self._before, oid)
        ]

    def _scans(self) -> Iterator[Seen]:
        built = {one.relation for one in self._built}
        for oid in self._scanned:
            now, mode = self._after.relations[oid], self._mode(oid)
            if oid in self._new_files or oid in self._backfilled or not mode.blocks_writes:
                continue
            if now.kind == "m" and not mode.blocks_reads:
                continue
            what = "read or write" if mode.blocks_reads else "write"
            if nullable := self._not_null_scanned(self._root(oid).oid, oid):
                table = self._after.relations[nullable[0].relation]
                recipe = recipes.not_null(table, nullable[0], self._given.major)
                yield self._seen("not-null-scan", oid, what=what, recipe=recipe)
            elif oid not in built:
                yield from self._other_scan(oid, what)

    def _not_null_scanned(self, *tables: int) -> list[Column]:
        """The columns whose NOT NULL was checked: new, or valid only now (18)."""
        validated = [
            self._after.columns[one.relation, number]
            for oid in tables
            for one in self._validated(oid)
            for number in one.columns
            if one.kind == "n" and (one.relation, number) in self._before.columns
        ]
        return [one for oid in tables for one in self._made_not_null(oid)] or validated

    def _validated(self, oid: int) -> list[Constraint]:
        """The constraints of a table that are valid now, and were not, or not there."""
        return [
            one
            for key, one in self._after.constraints.items()
            if one.valid
            and oid in (one.relation, one.referenced)
            and not (key in self._before.constraints and self._before.constraints[key].valid)
        ]

    def _other_scan(self, oid: int, what: str) -> Iterator[Seen]:
        tables = self._root(oid).oid, oid
        validated = [one for table in tables for one in self._validated(table) if one.kind in "cf"]
        own = [one for one in validated if one.relation in tables]
        if own:
            weight = _FK_WEIGHT if own[0].kind == "f" else 1
            recipe = self._recipe_of_constraint(own[0])
            yield self._seen("constraint-scan", oid, what=what, recipe=recipe, weight=weight)
        # Whether a key's referenced table is read, the planner decides. A lock that an earlier file
        # of a plan holds is none that this statement needs.
        elif not validated and self._file.taken(self._after, oid):
            yield self._scan_under_lock(oid, what)

    def _recipe_of_constraint(self, one: Constraint) -> Files:
        table = self._after.relations[one.relation]
        again = (one.relation, one.name) in {
            (other.relation, other.name)
            for key, other in self._before.constraints.items()
            if key != one.oid
        }
        if again:
            return ()
        if one.kind == "f" and table.kind == "p" and self._given.major < _NOT_VALID_PARTITIONED:
            return recipes.partitioned_key(table, self._parts(table), one)
        return recipes.constraint(table, one)

    def _parts(self, table: Relation) -> list[Relation]:
        return [one for one in self._after.relations.values() if one.parent == table.oid]

    def _scan_under_lock(self, oid: int, what: str) -> Seen:
        now, before = self._after.relations[oid], self._before.relations[oid]
        nodes = {one.oid: one.node for one in self._before.indexes.values()}
        rebuilt = [
            one for one in self._after.indexes.values()
            if one.relation == oid and nodes.get(one.oid, one.node) != one.node
        ]  # fmt: skip
        if rebuilt:
            return self._seen(
                "scan-under-lock", oid, what="read or write", weight=_REINDEX_WEIGHT,
                recipe=recipes.reindex(now, rebuilt),
            )  # fmt: skip
        if self._step.keywords[:2] == ("ALTER", "DOMAIN"):
            recipe = recipes.domain(self._step.text, self._of_domain())
            return self._seen("scan-under-lock", oid, what=what, recipe=recipe)
        if now.parent and not before.parent and now.bound_check:
            recipe = recipes.attach(self._after.relations[now.parent], now)
            return self._seen("scan-under-lock", oid, what=what, recipe=recipe)
        return self._seen("scan-under-lock", oid, what=what)

    def _of_domain(self) -> list[tuple[Relation, Column]]:
        """The columns whose values were read for the domain that the statement names."""
        words = [token[0] for token in tokens(self._step.text)]
        name = words[4] if words[3:4] == ["."] else words[2]
        return [
            (table, one)
            for oid in self._scanned
            for table in [self._after.relations[oid]]
            for one in self._after.columns_of(oid)
            if one.type.rpartition(".")[2] in (name, name.lower()) and table.kind == "r"
        ]

    def _work_under_lock(self) -> Iterator[Seen]:
        works_on = {*self._rewritten, *(one.relation for one in self._built)} | {
            oid
            for oid in self._scanned
            if self._mode(oid).blocks_writes and oid not in self._backfilled
        }
        held = self._held(Mode.ACCESS_EXCLUSIVE)
        for oid in works_on:
            names = [self._file.start.relations[one].name for one in held if one not in works_on]
            if names:
                yield self._seen("work-under-lock", oid, ", ".join(names))

    def _drops_of_indexes(self) -> Iterator[Seen]:
        names = {(one.relation, one.name) for one in self._after.indexes.values()}
        for oid, one in self._before.indexes.items():
            gone = oid in self._file.start.indexes and oid not in self._after.indexes
            there = self._existed(one.relation) and one.relation in self._after.relations
            if gone and there and self._first == "DROP" and (one.relation, one.name) not in names:
                table = self._before.relations[one.relation]
                recipe = recipes.drop_index(table, one)
                yield self._seen("index-drop", table.oid, one.name, recipe=recipe)

    def _partitions(self) -> Iterator[Seen]:
        for oid, now in self._after.relations.items():
            before = self._before.relations.get(oid)
            if now.kind not in TABLES:
                continue
            if before and before.parent and not now.parent and self._locks_reads(before.parent):
                parent = self._before.relations[before.parent]
                recipe = recipes.detach(parent, now)
                yield self._seen("detach-locks-parent", parent.oid, now.name, recipe=recipe)
            elif not before and now.parent and self._locks_reads(now.parent):
                parent = self._after.relations[now.parent]
                recipe = recipes.create_partition(parent, now)
                yield self._seen("partition-locks-parent", parent.oid, now.name, recipe=recipe)

    def _drops_of_tables(self) -> Iterator[Seen]:
        """The tables that a dropped one references: they are locked, too."""
        for key in self._before.constraints.values():
            gone = key.kind == "f" and key.relation not in self._after.relations
            there = key.referenced in self._after.relations and self._existed(key.referenced)
            if gone and there and self._locks_reads(key.referenced):
                table = self._before.relations[key.relation]
                recipe = recipes.drop_table(table, key)
                yield self._seen("drop-locks-referenced", key.referenced, table.name, recipe=recipe)

    def _built_concurrently(self) -> Iterator[Seen]:
        """14.0 to 14.3 leave rows out of such an index if others write meanwhile."""
        minor = self._given.minor
        if self._given.major == 14 and minor is not None and minor < _CORRECT_MINOR:
            for one in self._built:
                yield self._seen("cic-corruption", one.relation, one.name)

    def _locks_reads(self, oid: int) -> bool:
        return self._existed(oid) and self._mode(oid).blocks_reads
