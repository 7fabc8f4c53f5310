"""What is seen of functions, enum values, triggers, extensions and privileges, at start and end.

Pure. A file is read only before and after all its statements, so that these stay cheap: the line
is that of the last statement whose first keywords name the kind.
"""

from __future__ import annotations

from collections.abc import Iterator

from lib.hazards import recipes
from lib.hazards.findings import Circumstances
from lib.hazards.seen import Seen
from lib.observation import FileObservation, Object

_OPEN_TO_ALL = ("PUBLIC", "anon")  # anon: whoever calls Supabase's or PostgREST's API
_DISABLED = "D"
_OBJECTS_SHOWN = 3
_RENAMED = ("schema", "function", "type")
_WORDS = {
    "schema": {"SCHEMA"},
    "function": {"FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE"},
    "type": {"TYPE"},
    "enum value": {"TYPE"},
    "trigger": {"TABLE", "TRIGGER"},
    "extension": {"EXTENSION"},
    "replica identity": {"TABLE", "INDEX"},
    "owner": {"OWNER", "OWNED", "ALTER"},
    "privilege": {"GRANT", "REVOKE"},
}


class ObjectChanges:
    """The findings about objects that other sessions knew before."""

    def __init__(self, file: FileObservation, given: Circumstances) -> None:
        self._file, self._given = file, given
        self._known = file.objects_before if given.known_objects is None else given.known_objects
        self._start, self._end = file.objects_before, file.objects_after
        self._names = {(one.kind, one.name) for one in self._end.values()}
        self._schemas = file.schemas

    def findings(self) -> Iterator[Seen]:
        """All of them."""
        rules = {
            "function": self._function, "enum value": self._enum_value, "trigger": self._trigger,
            "extension": self._extension, "replica identity": self._replica_identity,
            "owner": self._owner,
        }  # fmt: skip
        for key, was in self._start.items():
            now = self._end.get(key)
            if now == was or key not in self._known or self._is_gone(was.relation):
                continue
            if now and was.kind in _RENAMED and self._is_renamed(was, now):
                yield self._seen("rename", was, f"{was.kind} {_short(was)} is {_short(now)} now")
            elif was.kind in rules:
                yield from rules[was.kind](was, now)
        yield from self._privileges()

    def _seen(self, name: str, one: Object, subject: str, recipe: recipes.Files = ()) -> Seen:
        steps = [step for step in self._file.steps if _WORDS[one.kind] & {*step.keywords}]
        line = steps[-1].line if steps else 1
        return Seen(name, line, one.relation, subject, recipe=recipe)

    def _is_gone(self, relation: int) -> bool:
        return bool(relation) and relation not in self._file.end.relations

    def _is_renamed(self, was: Object, now: Object) -> bool:
        """What moved only because its schema was renamed is not told again."""
        schema, dot, rest = was.name.partition(".")
        moved = f"{self._schemas.get(schema, schema)}{dot}{rest}" if dot else was.name
        return now.name not in (was.name, moved) and (was.kind, was.name) not in self._names

    def _function(self, was: Object, now: Object | None) -> Iterator[Seen]:
        now = now or next(
            (one for one in self._end.values() if (one.kind, one.name) == (was.kind, was.name)),
            None,
        )
        if not now:
            if not self._is_served(was):
                yield self._seen("function-signature", was, f"{_short(was)} is gone")
        elif now.value != was.value:
            change = f"{_short(was)} returned {was.value} and returns {now.value}"
            yield self._seen("function-signature", was, change)

    def _is_served(self, was: Object) -> bool:
        """Whether another function takes its calls, by defaults of the arguments that it adds."""
        return any(
            (one.kind, one.name, one.value) == ("call", was.name, was.value)
            for one in self._end.values()
        )

    def _enum_value(self, was: Object, now: Object | None) -> Iterator[Seen]:
        values = {(one.name, one.value) for one in self._end.values() if one.kind == was.kind}
        there = ("type", was.name) in self._names
        if now and now.value != was.value:
            change = f"value '{was.value}' of {_short(was)} is '{now.value}' now"
            yield self._seen("rename", was, change)
        elif not now and there and (was.name, was.value) not in values:
            columns = [
                (table, column)
                for column in self._file.start.columns.values()
                if column.type == was.name
                and (table := self._file.start.relations[column.relation]).kind in "rp"
            ]
            subject = f"'{was.value}' of {_short(was)}"
            recipe = recipes.without_value(columns, was.value)
            yield self._seen("enum-value-removed", was, subject, recipe)

    def _trigger(self, was: Object, now: Object | None) -> Iterator[Seen]:
        if now and now.value == _DISABLED:
            yield self._seen("trigger-disabled", was, was.name)

    def _extension(self, was: Object, now: Object | None) -> Iterator[Seen]:
        change = f"is version {now.value} after {was.value}" if now else "is gone"
        yield self._seen("extension", was, f"{was.name} {change}")

    def _replica_identity(self, was: Object, now: Object | None) -> Iterator[Seen]:
        if now and now.value != was.value:
            change = f"{was.value} before, {now.value} from now on"
            yield self._seen("replica-identity", was, change)

    def _owner(self, was: Object, now: Object | None) -> Iterator[Seen]:
        if now and now.value != was.value:
            change = f"{_short(was)} was owned by {was.value} and is by {now.value}"
            yield self._seen("privileges", was, change)

    def _privileges(self) -> Iterator[Seen]:
        """Lost ones, and those that all have from now on; one finding for all objects alike."""
        privileges: dict[tuple[str, Object], list[str]] = {}
        for verb, one in self._lost_and_opened():
            grantee, _, privilege = one.value.rpartition(" ")
            target = self._start[_target(one)]
            privileges.setdefault((f"{grantee} {verb}", target), []).append(privilege)
        targets: dict[str, list[Object]] = {}
        for (words, target), names in privileges.items():
            targets.setdefault(f"{words} {', '.join(sorted(names))}", []).append(target)
        for words, alike in targets.items():
            yield self._privilege(words, alike)

    def _lost_and_opened(self) -> Iterator[tuple[str, Object]]:
        for key, one in self._start.items():
            if key not in self._end and one.kind == "privilege" and self._is_old(one):
                yield "loses", one
        for key, one in self._end.items():
            is_open = one.kind == "privilege" and one.value.rpartition(" ")[0] in _OPEN_TO_ALL
            if key not in self._start and is_open and self._is_old(one):
                yield "gets", one

    def _is_old(self, privilege: Object) -> bool:
        """Whether what it is a privilege on was there before, and is there; owners have all."""
        key, grantee = _target(privilege), privilege.value.rpartition(" ")[0]
        there = key in self._known and key in self._start and key in self._end
        return there and self._end[key].value != grantee

    def _privilege(self, words: str, targets: list[Object]) -> Seen:
        more = len(targets) - _OBJECTS_SHOWN
        shown = ", ".join(sorted(map(_short, targets))[:_OBJECTS_SHOWN])
        subject = f"{words} on {shown}{f' and {more} more' if more > 0 else ''}"
        seen = self._seen("privileges", targets[0]._replace(kind="privilege"), subject)
        return seen if len(targets) == 1 else seen._replace(relation=0)


def _target(privilege: Object) -> tuple[str, str]:
    """The key of the owner of what it is a privilege on."""
    return "owner", privilege.key.partition(" ")[0]


def _short(one: Object) -> str:
    return one.name.removeprefix("public.")
