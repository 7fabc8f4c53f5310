"""What is seen by comparing a file's start with its end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lib.hazards import recipes
from lib.hazards.findings import Circumstances
from lib.hazards.narrowing import narrowed
from lib.hazards.seen import Seen, existed
from lib.hazards.table import MANY_LOCKS
from lib.observation import Catalog, Column, FileObservation, Relation, Step

_TYPES = (
    ("json", "use jsonb: json has no equality"),
    ("character(", "use text: char(n) pads with blanks"),
    ("money", "use numeric: money depends on the server's locale"),
    ("timestamp without time zone", "use timestamptz"),
    ("timestamp(", "use timestamptz"),
)


class WholeFile:
    """The findings that compare a file's start with its end; what it takes back is none."""

    def __init__(self, file: FileObservation, given: Circumstances) -> None:
        self._file, self._given = file, given
        self._start, self._end = file.start, file.end

    def findings(self) -> Iterator[Seen]:
        """All of them."""
        yield from self._relations()
        yield from self._old_columns()
        yield from self._new_columns()
        yield from self._security()
        yield from self._foreign_keys()
        yield from self._rules()
        yield from self._views()
        yield from self._replaced_indexes()
        yield from self._totals()
        yield from self._lock_timeout()

    def _existed(self, oid: int) -> bool:
        return existed(self._file, self._given, oid)

    def _line(self, changed: Iterable[bool]) -> int:
        """The line of the last statement for which it is true."""
        lines = [step.line for step, yes in zip(self._file.steps, changed, strict=True) if yes]
        return lines[-1] if lines else 1

    def _relations(self) -> Iterator[Seen]:
        for oid, was in self._start.relations.items():
            if was.kind not in "rpmvf" or not self._existed(oid):
                continue
            now = self._end.relations.get(oid)
            if not now and was.kind in "vm" and self._named_relation(was):
                continue
            line = self._line(
                _name(step.before, oid) != _name(step.after, oid) for step in self._file.steps
            )
            if now is None:
                yield Seen("drop", line, oid)
            elif now.base_name != was.base_name or self._has_moved(was, now):
                if self._is_served(was):
                    continue
                yield Seen("rename", line, oid, f"{was.name} is {now.name} now")

    def _has_moved(self, was: Relation, now: Relation) -> bool:
        """Whether it is in another schema, and not in its own one under another name."""
        schemas = {
            one.name: (self._file.objects_after.get(key) or one).name
            for key, one in self._file.objects_before.items()
            if one.kind == "schema"
        }
        return now.schema not in (was.schema, schemas.get(was.schema))

    def _old_columns(self) -> Iterator[Seen]:
        for key, was in self._start.columns.items():
            if key[0] not in self._end.relations or not self._existed(key[0]):
                continue
            if self._start.relations[key[0]].kind in "vm":
                continue
            if self._given.known and key not in self._given.known.columns:
                continue
            now = self._end.columns.get(key)
            if now != was:
                line = self._line_of_column(key)
                yield from self._changed_column(line, was, now)

    def _line_of_column(self, key: tuple[int, int]) -> int:
        return self._line(
            step.before.columns.get(key) != step.after.columns.get(key) for step in self._file.steps
        )

    def _changed_column(self, line: int, was: Column, now: Column | None) -> Iterator[Seen]:
        oid = was.relation
        name = f"{self._start.relations[oid].name}.{was.name}"
        if now is None:
            yield from self._gone_column(line, was, name)
            return
        if now.name != was.name and not self._named(oid, was.name):
            yield Seen("rename", line, oid, f"{name} is {now.name} now")
        if condition := narrowed(was.name, was.type, now.type):
            recipe = recipes.narrower(self._start.relations[oid], was, condition)
            change = f"{name} was {was.type} and is {now.type}"
            yield Seen("narrower-type", line, oid, change, recipe=recipe)
        elif now.type != was.type and not self._is_rewritten(oid):
            yield Seen("type-change", line, oid, f"{name} was {was.type} and is {now.type}")
        if was.default and not now.default and now.not_null and not now.identity:
            yield Seen("default-dropped", line, oid, name)
        if was.not_null and not now.not_null:
            yield Seen("nullable", line, oid, name)

    def _gone_column(self, line: int, was: Column, name: str) -> Iterator[Seen]:
        """Another column that has its name by now serves the same code."""
        others = self._gone_with(was)
        heir = self._named(was.relation, was.name)
        if others or not heir:
            went = f" (and with it {', '.join(others)})" if others else ""
            yield Seen("drop-column", line, was.relation, f"{name}{went}")
        elif heir.type != was.type:
            yield Seen(
                "type-change", line, was.relation, f"{name} was {was.type} and is {heir.type}"
            )

    def _gone_with(self, was: Column) -> list[str]:
        """The indexes, constraints and views that are gone with a column."""
        steps = [
            step for step in self._file.steps
            if (was.relation, was.number) in step.before.columns
            and (was.relation, was.number) not in step.after.columns
        ]  # fmt: skip
        return sorted({name for step in steps for name in _gone(step, was)})

    def _named(self, oid: int, name: str) -> Column | None:
        """The column that has this name at the end."""
        return next((one for one in self._end.columns_of(oid) if one.name == name), None)

    def _is_served(self, was: Relation) -> bool:
        """Whether another relation, a view most likely, has the name and the columns by now."""
        columns = {one.name for one in self._start.columns_of(was.oid)}
        return any(
            one.name == was.name and columns <= {has.name for has in self._end.columns_of(one.oid)}
            for one in self._end.relations.values()
            if one.kind in "rpmvf"
        )

    def _is_rewritten(self, oid: int) -> bool:
        return self._start.relations[oid].node != self._end.relations[oid].node

    def _new_columns(self) -> Iterator[Seen]:
        for key, one in self._end.columns.items():
            if key in self._start.columns or not self._existed(key[0]):
                continue
            table, line = self._end.relations[key[0]], self._line_of_column(key)
            if table.kind in "vm":
                continue
            name = f"{table.name}.{one.name}"
            if one.not_null and one.default is None and not one.identity and not one.generated:
                recipe = recipes.nullable_first(table, one, self._given.major)
                yield Seen("required-column", line, table.oid, name, recipe=recipe)
            for prefix, advice in _TYPES:
                if one.type == prefix or (
                    prefix.endswith("(")
                    and one.type.startswith(prefix)
                    and "with time zone" not in one.type
                ):
                    yield Seen("type", line, table.oid, f"{name} is {one.type}: {advice}")

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
                line = self._line(
                    key in step.after.constraints and key not in step.before.constraints
                    for step in self._file.steps
                )
                yield Seen("fk-without-index", line, one.relation, one.name)

    def _rules(self) -> Iterator[Seen]:
        """What writes of the running code must satisfy, though old rows need not yet."""
        for key, one in self._end.constraints.items():
            old = any((one.relation, number) in self._start.columns for number in one.columns)
            if key in self._start.constraints or not old or not self._existed(one.relation):
                continue
            if not one.valid or one.kind in "ux":
                line = self._line(
                    key in step.after.constraints and key not in step.before.constraints
                    for step in self._file.steps
                )
                yield Seen("new-rule-on-old-writes", line, one.relation, one.name)

    def _views(self) -> Iterator[Seen]:
        """The columns that a view has no more, also if it was dropped and made anew."""
        for oid, was in self._start.relations.items():
            now = self._end.relations.get(oid) or self._named_relation(was)
            if was.kind not in "vm" or not self._existed(oid) or not now:
                continue
            left = {one.name for one in self._end.columns_of(now.oid)}
            gone = [one.name for one in self._start.columns_of(oid) if one.name not in left]
            if gone:
                line = self._line(
                    step.before.columns_of(oid) != step.after.columns_of(oid)
                    for step in self._file.steps
                )
                yield Seen("view-columns", line, oid, ", ".join(gone))

    def _named_relation(self, was: Relation) -> Relation | None:
        """The relation that has its name at the end."""
        found = (one for one in self._end.relations.values() if one.kind in "rpmvf")
        return next((one for one in found if one.name == was.name), None)

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
            if not 0 < now <= limit:
                yield Seen("lock-timeout", step.line, 0, f"{now} ms" if now else "none")
                return

    def _totals(self) -> Iterator[Seen]:
        locked = [
            oid for oid in self._end.locks
            if self._existed(oid) and self._file.mode(self._end, oid).blocks_reads
        ]  # fmt: skip
        if len(locked) > MANY_LOCKS:
            yield Seen("many-locks", self._file.steps[-1].line, locked[0])
        yield from self._one_after_another()
        for oid in self._start.relations:
            lines = [step.line for step in self._file.steps if self._reads_all(step, oid)]
            if len(lines) > 1:
                yield Seen("several-scans", lines[1], oid)

    def _one_after_another(self) -> Iterator[Seen]:
        """Tables that statement after statement locks against reads."""
        taken: dict[int, int] = {}
        for step in self._file.steps if self._file.transactional else ():
            for oid in step.after.locks:
                if self._locks_reads(step, oid) and self._start.relations[oid].parent is None:
                    taken.setdefault(oid, step.line)
        lines = sorted({*taken.values()})
        if len(lines) > 1:
            late = next(oid for oid, line in taken.items() if line == lines[1])
            names = sorted(self._start.relations[oid].name for oid in taken if oid != late)
            yield Seen("many-tables-locked", lines[1], late, ", ".join(names))

    def _locks_reads(self, step: Step, oid: int) -> bool:
        return self._existed(oid) and self._file.mode(step.after, oid).blocks_reads

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


def _gone(step: Step, was: Column) -> Iterator[str]:
    before, after = step.before, step.after
    rules = [one for one in before.constraints.values() if one.kind != "n"]
    for rule in rules:
        if rule.oid not in after.constraints and was.relation in (rule.relation, rule.referenced):
            yield f"constraint {rule.name}"
    owned = {one.index_oid for one in rules if one.kind in "pux"}
    for index in before.indexes.values():
        on_it = index.relation == was.relation and index.oid not in owned
        if on_it and index.oid not in after.indexes:
            yield f"index {index.name}"
    for one in before.relations.values():
        if one.kind in "vm" and one.oid not in after.relations:
            yield f"view {one.name}"


def _name(catalog: Catalog, oid: int) -> str | None:
    relation = catalog.relations.get(oid)
    return relation.name if relation else None
