"""What the running code asks for and no longer finds: relations, columns, types. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lib.hazards import recipes
from lib.hazards.comparison import Comparison
from lib.hazards.narrowing import narrowed
from lib.hazards.seen import Seen
from lib.observation import Catalog, Column, Relation, Step


class OldNames(Comparison):
    """The findings about what was there when the file began."""

    def findings(self) -> Iterator[Seen]:
        """All of them."""
        yield from self._relations()
        yield from self._old_columns()
        yield from self._views()

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
            elif self._is_renamed(was, now) and not self._is_served(was):
                yield Seen("rename", line, oid, f"{was.name} is {now.name} now")

    def _is_renamed(self, was: Relation, now: Relation) -> bool:
        """What has another name only because its schema has is not told again."""
        if now.name == was.name:
            return False
        moved = self._file.schemas.get(was.schema)
        return now.base_name != was.base_name or now.schema != moved

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
        return sorted({name for step in steps for name in _gone(step, was)} - self._made_again(was))

    def _made_again(self, was: Column) -> set[str]:
        """What has the same name at the end, on the column that serves the same code."""
        rules = {
            f"constraint {one.name}"
            for one in self._end.constraints.values()
            if was.relation in (one.relation, one.referenced)
        }
        indexes = {
            f"index {one.name}"
            for one in self._end.indexes.values()
            if one.relation == was.relation
        }
        return rules | indexes

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
