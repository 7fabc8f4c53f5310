"""What a file adds and leaves locked, by comparing its start with its end. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lib.hazards import recipes
from lib.hazards.comparison import Comparison
from lib.hazards.seen import Seen
from lib.hazards.table import MANY_LOCKS
from lib.observation import Catalog, Column, Constraint, Relation, Step

_TYPES = (
    ("json", "use jsonb: json has no equality"),
    ("character(", "use text: char(n) pads with blanks"),
    ("money", "use numeric: money depends on the server's locale"),
    ("timestamp without time zone", "use timestamptz"),
    ("timestamp(", "use timestamptz"),
)


class WholeFile(Comparison):
    """The findings about what is there at the end."""

    def findings(self) -> Iterator[Seen]:
        """All of them."""
        yield from self._new_columns()
        yield from self._security()
        yield from self._foreign_keys()
        yield from self._rules()
        yield from self._replaced_indexes()
        yield from self._totals()
        yield from self._lock_timeout()

    def _new_columns(self) -> Iterator[Seen]:
        for key, one in self._end.columns.items():
            if key in self._start.columns or not self._existed(key[0]):
                continue
            if self._end.relations[key[0]].kind in "vm":
                continue
            if one.not_null and one.default is None and not one.identity and not one.generated:
                yield self._required(one)
            # What other columns of the table have is a team's custom, or its ORM's.
            if one.type not in {old.type for old in self._start.columns_of(key[0])}:
                yield from self._types(one)

    def _required(self, one: Column) -> Seen:
        """Rows that are there make it fail only if the same statement adds it so."""
        key, table = (one.relation, one.number), self._end.relations[one.relation]
        added = next(
            step.after.columns[key] for step in self._file.steps if key in step.after.columns
        )
        name = f"{table.name}.{one.name}"
        change = (
            f"{name} has NOT NULL and no default: adding it fails if {table.name} has rows"
            if added.not_null and added.default is None
            else f"{name} is NOT NULL and has no default in the end"
        )
        recipe = recipes.nullable_first(table, one, self._given.major)
        return Seen("required-column", self._line_of_column(key), table.oid, change, recipe=recipe)

    def _types(self, one: Column) -> Iterator[Seen]:
        line = self._line_of_column((one.relation, one.number))
        name = f"{self._end.relations[one.relation].name}.{one.name}"
        for prefix, advice in _TYPES:
            if one.type == prefix or (
                prefix.endswith("(")
                and one.type.startswith(prefix)
                and "with time zone" not in one.type
            ):
                yield Seen("type", line, one.relation, f"{name} is {one.type}: {advice}")

    def _security(self) -> Iterator[Seen]:
        for oid, was in self._start.relations.items():
            now = self._end.relations.get(oid)
            if now and self._existed(oid) and (change := self._switched(was, now)):
                yield Seen("security", self._line(
                    _security(step.before, oid) != _security(step.after, oid)
                    for step in self._file.steps
                ), oid, change)  # fmt: skip
        for key, policy in self._start.policies.items():
            after = self._end.policies.get(key)
            there = policy.relation in self._end.relations and self._existed(policy.relation)
            if there and after != policy:
                line = self._line(
                    step.before.policies.get(key) != step.after.policies.get(key)
                    for step in self._file.steps
                )
                change = "changed" if after else "gone"
                yield Seen("security", line, policy.relation, f"policy {policy.name} is {change}")

    def _switched(self, was: Relation, now: Relation) -> str:
        """Switched on with policies in the same file, it is meant."""
        if was.row_security and not now.row_security:
            return "it is switched off"
        if was.forced is not now.forced and was.row_security:
            return "it holds for the owner, too" if now.forced else "it spares the owner"
        policies = any(one.relation == now.oid for one in self._end.policies.values())
        alone = now.row_security and not was.row_security and not policies
        return "it is switched on, and no policy lets anybody but the owner in" if alone else ""

    def _foreign_keys(self) -> Iterator[Seen]:
        for key, one in self._end.constraints.items():
            if one.kind != "f" or key in self._start.constraints or not self._existed(one.relation):
                continue
            if not any(
                index.valid and {*index.columns[: len(one.columns)]} == {*one.columns}
                for index in self._end.indexes.values()
                if index.relation == one.relation
            ):
                yield Seen(
                    "fk-without-index", self._line_of_constraint(key), one.relation, one.name
                )

    def _rules(self) -> Iterator[Seen]:
        """What writes of the running code must satisfy, though old rows need not yet."""
        for key, one in self._end.constraints.items():
            old = any((one.relation, number) in self._start.columns for number in one.columns)
            if key in self._start.constraints or not old or not self._existed(one.relation):
                continue
            if (not one.valid or one.kind in "ux") and not self._held_before(one):
                yield Seen(
                    "new-rule-on-old-writes", self._line_of_constraint(key), one.relation, one.name
                )

    def _held_before(self, one: Constraint) -> bool:
        """Whether a rule that asks the same of new rows was there, whatever its name or actions."""
        by_definition = one.kind in "cx"
        return any(
            (was.relation, was.referenced, was.kind, was.columns)
            == (one.relation, one.referenced, one.kind, one.columns)
            and (was.definition == one.definition or not by_definition)
            for was in self._start.constraints.values()
        )

    def _line_of_constraint(self, key: int) -> int:
        return self._line(
            key in step.after.constraints and key not in step.before.constraints
            for step in self._file.steps
        )

    def _replaced_indexes(self) -> Iterator[Seen]:
        """In a file with a transaction, nobody sees the time between."""
        gone = [one for oid, one in self._start.indexes.items() if oid not in self._end.indexes]
        made = [one for oid, one in self._end.indexes.items() if oid not in self._start.indexes]
        for old, new in ((old, new) for old in gone for new in made):
            same = old.relation == new.relation and old.columns[:1] == new.columns[:1]
            first = next(step for step in self._file.steps if old.oid not in step.after.indexes)
            late = new.oid not in first.after.indexes and not self._file.transactional
            if same and late and self._existed(old.relation):
                recipe = recipes.replaced(self._start.relations[old.relation], old, new)
                yield Seen("index-replaced", first.line, old.relation, old.name, recipe=recipe)

    def _lock_timeout(self) -> Iterator[Seen]:
        """How a file that waits longer than the settings say makes others wait behind it."""
        limit = self._start.lock_timeout
        for step in self._file.steps if self._file.transactional and limit else ():
            now = step.after.lock_timeout
            if not 0 < now <= limit and self._waits_after(step):
                yield Seen("lock-timeout", step.line, 0, f"{now} ms" if now else "none")
                return

    def _waits_after(self, step: Step) -> bool:
        """Whether later statements lock a table that others use."""
        return any(
            mode.blocks_writes
            for later in self._file.steps
            for oid, modes in later.after.locks.items()
            if self._existed(oid)
            for mode in modes - step.after.locks.get(oid, frozenset())
        )

    def _totals(self) -> Iterator[Seen]:
        locked = [
            oid for oid in self._end.locks if self._locks_reads(self._end, oid)
        ]  # fmt: skip
        if len(locked) > MANY_LOCKS:
            yield Seen("many-locks", self._file.steps[-1].line, locked[0])
        yield from self._one_after_another()
        yield from self._several_scans()

    def _one_after_another(self) -> Iterator[Seen]:
        """Tables that statement after statement locks against reads."""
        taken: dict[int, int] = {}
        for step in self._file.steps if self._file.transactional else ():
            for oid in step.after.locks:
                if self._locks_reads(step.after, oid) and self._start.relations[oid].parent is None:
                    taken.setdefault(oid, step.line)
        lines = sorted({*taken.values()})
        if len(lines) > 1:
            late = next(oid for oid, line in taken.items() if line == lines[1])
            names = sorted(self._start.relations[oid].name for oid in taken if oid != late)
            yield Seen("many-tables-locked", lines[1], late, ", ".join(names))

    def _several_scans(self) -> Iterator[Seen]:
        """Tables that several ALTER TABLE read, where one could have all their actions."""
        alters = [step for step in self._file.steps if step.keywords[:2] == ("ALTER", "TABLE")]
        for oid in self._start.relations:
            lines = [step.line for step in alters if self._reads_all(step, oid)]
            if len(lines) > 1:
                yield Seen("several-scans", lines[1], oid)

    def _locks_reads(self, moment: Catalog, oid: int) -> bool:
        return self._existed(oid) and any(one.blocks_reads for one in self._file.taken(moment, oid))

    def _reads_all(self, step: Step, oid: int) -> bool:
        before, after = step.before.relations.get(oid), step.after.relations.get(oid)
        return bool(
            before
            and after
            and self._existed(oid)
            and after.scans > before.scans
            and not step.concurrent
            and self._file.mode(step.after, oid).blocks_writes
        )


def _security(catalog: Catalog, oid: int) -> tuple[bool, bool] | None:
    relation = catalog.relations.get(oid)
    return (relation.row_security, relation.forced) if relation else None
