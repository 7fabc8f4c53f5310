"""What a file does that a busy table or the code of the running release does not survive. Pure.

Everything is decided from what was observed. Of the text only the first keywords count: an empty
table that is truncated looks like one that is rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

from lib import recipes
from lib.errors import FilesError
from lib.observation import (
    STORED,
    TABLES,
    Catalog,
    Column,
    Constraint,
    FileObservation,
    Index,
    Mode,
    Relation,
    Step,
)
from lib.queries import Queries, changes
from lib.recipes import Files
from lib.sizes import LISTED_BYTES, Size, Sizes
from lib.source.migration import Migration

MANY_ROWS = 10_000
MANY_LOCKS = 200


class Level(IntEnum):
    """How much a finding matters."""

    NOTE = 1
    WARN = 2
    FAIL = 3


class Hazard(NamedTuple):
    """A kind of finding: its sentence about a table or column, and what to do instead."""

    name: str
    level: Level
    weight: int
    """Of a byte of the table, against the limit above which it fails; 0: size does not matter."""
    sentence: str
    remedy: str


_READ_ALL = "All rows of {table} are read while nobody can {what} it"
_DEPLOY_FIRST = "Deploy code that does not use it first; in a later deploy accept this."
_ROWS_CHANGED = "All rows of {table} are read, and maybe changed, in one transaction"
HAZARDS = {
    one.name: one
    for one in (
        Hazard(
            "required-column", Level.FAIL, 0,
            "{subject} has NOT NULL and no default: adding it fails if {table} has rows, and "
            "INSERTs of the running code do not name it.",
            "Give it a constant default; or add it nullable, fill it, and set NOT NULL as for "
            "not-null-scan.",
        ),
        Hazard(
            "data-loss", Level.FAIL, 0,
            "All rows of {table} are deleted; nothing brings them back.",
            "Accept this if it is intended.",
        ),
        Hazard(
            "rewrite", Level.WARN, 16,
            "Every row of {table} is written anew while nobody can {what} it.",
            "For a new type, identity or stored column: add a column without it, fill it by a "
            "no-transaction file, and exchange the two in a later deploy. Otherwise accept this "
            "for a quiet hour.",
        ),
        Hazard(
            "not-null-scan", Level.WARN, 1, f"{_READ_ALL}.",
            "Validate the constraint in a file of its own.",
        ),
        Hazard(
            "constraint-scan", Level.WARN, 1, f"{_READ_ALL}.",
            "Add the constraint NOT VALID, and validate it in a file of its own.",
        ),
        Hazard(
            "scan-under-lock", Level.WARN, 1, f"{_READ_ALL}.",
            "For a domain: put a CHECK on the column of each table instead, NOT VALID first.",
        ),
        Hazard(
            "index-blocks-writes", Level.WARN, 4,
            "Nobody can write {table} while the index {subject} is built.",
            "Build it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "constraint-builds-index", Level.WARN, 4,
            "Nobody can read or write {table} while the index of {subject} is built.",
            "Build a unique index concurrently, then make it the constraint's.",
        ),
        Hazard(
            "exclusion", Level.WARN, 4,
            "Nobody can read or write {table} while the index of {subject} is built.",
            "It cannot be built concurrently: accept this for a quiet hour.",
        ),
        Hazard(
            "index-rebuilt", Level.WARN, 4,
            "The index {subject} is built again while nobody can read or write {table}.",
            "Create the new index concurrently, drop the old one, then make the change.",
        ),
        Hazard(
            "index-drop", Level.WARN, 0,
            "Dropping {subject} locks {table} against reads, behind every query that runs.",
            "Drop it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "detach-locks-parent", Level.WARN, 0,
            "Detaching {subject} locks {table} against reads, behind every query that runs.",
            "Detach it concurrently, in a no-transaction file.",
        ),
        Hazard(
            "partition-locks-parent", Level.NOTE, 0,
            "Creating {subject} as a partition locks {table} against reads for a moment.",
            "Create it as a table and attach it.",
        ),
        Hazard(
            "backfill", Level.WARN, 8, f"{_ROWS_CHANGED}.",
            "Change them in batches that are committed one by one, in a no-transaction file.",
        ),
        Hazard(
            "backfill-under-lock", Level.WARN, 16,
            f"{_ROWS_CHANGED}, while {{subject}} stays locked.",
            "Put it into a file of its own, in batches that are committed one by one.",
        ),
        Hazard(
            "work-under-lock", Level.WARN, 1,
            "{subject} stays locked against reads while this statement works on {table}.",
            "Put the quick change of {subject} last, or into a file of its own.",
        ),
        Hazard(
            "several-scans", Level.NOTE, 0,
            "Several statements read all of {table} under one lock.",
            "Combine them: one ALTER TABLE can have several actions.",
        ),
        Hazard(
            "many-locks", Level.WARN, 0,
            f"More than {MANY_LOCKS} tables are locked at once: the server's lock table is finite.",
            "Use one file for each batch of tables.",
        ),
        Hazard(
            "drop", Level.WARN, 0,
            "{table} is gone: the running code may still use it.", _DEPLOY_FIRST,
        ),
        Hazard(
            "drop-column", Level.WARN, 0,
            "{subject} is gone: the running code may still use it.", _DEPLOY_FIRST,
        ),
        Hazard(
            "rename", Level.WARN, 0,
            "{subject}: the running code uses the old name.",
            "A table: create a view of the old name in the same file. A column: add one, write "
            "both, and drop the old one in a later deploy.",
        ),
        Hazard(
            "default-dropped", Level.WARN, 0,
            "{subject} is NOT NULL and loses its default: INSERTs of the running code may not "
            "name it.",
            "Drop the default in a later deploy than the code that names the column.",
        ),
        Hazard(
            "security", Level.WARN, 0,
            "Row security of {table} is weaker or different: {subject}.",
            "Accept this if it is intended.",
        ),
        Hazard(
            "fk-without-index", Level.NOTE, 0,
            "{subject} has no index: a DELETE in the referenced table reads all of {table}.",
            "Create an index on the referencing columns concurrently.",
        ),
        Hazard(
            "nullable", Level.NOTE, 0,
            "{subject} may be NULL from now on: the running code may not expect it.",
            "Deploy code that reads NULL first.",
        ),
        Hazard(
            "type-change", Level.NOTE, 0, "{subject}; no row is written anew.",
            "Check that the running code reads and writes the new type.",
        ),
        Hazard(
            "query-breaks", Level.FAIL, 0,
            "{subject}.",
            "Deploy code that does not send it first; in a later deploy accept this.",
        ),
        Hazard(
            "result-shape", Level.WARN, 0,
            "{subject}: sessions that have prepared it fail with 0A000, cached plan must not "
            "change result type.",
            "Name the columns in the statement; or recycle the pool after the deploy, and prepare "
            "nothing behind a transaction pooler (psycopg: prepare_threshold=None).",
        ),
        Hazard(
            "accepts-nothing", Level.WARN, 0,
            "The file accepts {subject}, and does nothing of the kind.",
            "Remove the line.",
        ),
        Hazard("type", Level.NOTE, 0, "{subject}.", "Use the other type."),
    )
}  # fmt: skip
# Of one statement and table only the first is told: the others are parts of it.
_PRECEDENCE = ("required-column", "rewrite", "not-null-scan", "constraint-scan", "scan-under-lock")
_FK_WEIGHT, _REINDEX_WEIGHT = 8, 4
_TYPES = (
    ("json", "use jsonb: json has no equality"),
    ("character(", "use text: char(n) pads with blanks"),
    ("money", "use numeric: money depends on the server's locale"),
    ("timestamp without time zone", "use timestamptz"),
    ("timestamp(", "use timestamptz"),
)


class Circumstances(NamedTuple):
    """What the level of a finding depends on beside the file."""

    major: int
    sizes: Sizes
    large: int
    """Bytes times weight above which a finding fails."""
    existing: Collection[int] | None = None
    """The relations that other sessions know; None: all that were there when the file began."""


class Finding(NamedTuple):
    """A hazard of a file. `recipe` is the SQL of files that make the same change without it."""

    name: str
    level: Level
    version: str
    path: str
    line: int
    table: str
    size: Size | None
    sentence: str
    remedy: str
    recipe: Files = ()
    accepted: str = ""
    """The reason, if the file accepts it."""
    queries: tuple[str, ...] = ()
    """The application's statements that it is about, the most frequent first."""


class Blocked(NamedTuple):
    """A table that was there and that a file locks: against writes, or against reads as well."""

    table: str
    size: Size | None
    reads: bool


class FileReport(NamedTuple):
    """What a pending file does; of one that was not run, nothing is known."""

    version: str
    transactional: bool
    ran: bool
    at_most: bool = False
    """Whether files before it hold locks, so that it may need weaker ones itself."""
    findings: tuple[Finding, ...] = ()
    blocked: tuple[Blocked, ...] = ()


class Rehearsal(NamedTuple):
    """What the pending files do, in order."""

    files: tuple[FileReport, ...]
    server: str
    """Its version."""
    sizes_from: str
    """Where the sizes are from; empty if none is known."""
    is_plan: bool
    """Whether all files ran in one transaction: what a later one locks is an upper bound."""
    queries: Queries = Queries()

    def findings(self, level: Level, *, accepted: bool = False) -> list[Finding]:
        """The findings of this level that are, or are not, accepted."""
        return [
            one
            for file in self.files
            for one in file.findings
            if one.level is level and bool(one.accepted) is accepted
        ]

    @property
    def matters(self) -> bool:
        """Whether there is a finding that warns or fails."""
        return self.fails("warn")

    def fails(self, fail_on: str) -> bool:
        """Whether there are findings of the level `fail` or, if that is given, `warn`."""
        levels = {"fail": [Level.FAIL], "warn": [Level.FAIL, Level.WARN]}.get(fail_on, [])
        return any(self.findings(level) for level in levels)


class _Seen(NamedTuple):
    """A hazard as a rule sees it."""

    name: str
    line: int
    relation: int
    subject: str = ""
    what: str = ""
    recipe: Files = ()
    weight: int = 0
    """If it is not the hazard's."""


def blocked(file: FileObservation, given: Circumstances) -> list[Blocked]:
    """The tables that other sessions have to wait for while the file runs."""
    strongest: dict[int, Mode] = {}
    for step in file.steps:
        for oid in step.after.locks:
            strongest[oid] = max(strongest.get(oid, Mode.ACCESS_SHARE), file.mode(step.after, oid))
    tables = [
        (relation, mode)
        for oid, mode in strongest.items()
        if (relation := file.start.relations.get(oid))
        and relation.kind in TABLES
        and mode.blocks_writes
        and (given.existing is None or oid in given.existing)
    ]
    return sorted(
        Blocked(one.name, given.sizes.of(recipes.qualified(one)), mode.blocks_reads)
        for one, mode in tables
        if one.parent not in strongest
    )


def find(file: FileObservation, given: Circumstances) -> list[Finding]:
    """The findings of a file, by line; one a hazard and table."""
    seen = [
        *(one for step in file.steps for one in _Statement(file, step, given).findings()),
        *_WholeFile(file, given).findings(),
    ]
    kept: dict[tuple[str, int, str], _Seen] = {}
    for one in _strongest(seen):
        by_subject = one.subject if not HAZARDS[one.name].weight else ""
        kept.setdefault((one.name, one.relation, by_subject), one)
    findings = [_finding(one, file, given) for one in _by_parent([*kept.values()], file)]
    return sorted(
        (*(one for one in findings if one), *_of_queries(file)),
        key=lambda one: (one.line, -one.level, one.name),
    )


def with_acceptances(
    findings: Sequence[Finding], accepted: Mapping[str, str], version: str, path: str
) -> tuple[Finding, ...]:
    """The findings of a file, and what it accepts of them or in vain; by name and reason."""
    hazard, names = HAZARDS["accepts-nothing"], {one.name for one in findings}
    return (
        *(one._replace(accepted=accepted.get(one.name, "")) for one in findings),
        *(
            Finding(
                hazard.name, hazard.level, version, path, 1, "", None,
                hazard.sentence.format(subject=name), hazard.remedy,
            )
            for name in accepted
            if name not in names
        ),
    )  # fmt: skip


def require_known(migrations: Iterable[Migration]) -> None:
    """Raise FilesError for files that accept what is no hazard."""
    unknown = [
        f"{one.path}: {name}"
        for one in migrations
        for name in one.accepted()
        if name not in HAZARDS
    ]
    if unknown:
        listed = "".join(f"\n  {one}" for one in unknown)
        raise FilesError(
            f"these files accept what is not the name of a hazard:{listed}",
            changed_nothing=True,
            next_step=f"The names are {', '.join(sorted(HAZARDS))}.",
        )


def _strongest(seen: Iterable[_Seen]) -> list[_Seen]:
    """Without those that are a part of another finding of the same statement and table."""
    seen = [*seen]
    ranks: dict[tuple[int, int], int] = {}
    for one in seen:
        if one.name in _PRECEDENCE:
            key, rank = (one.line, one.relation), _PRECEDENCE.index(one.name)
            ranks[key] = min(rank, ranks.get(key, rank))
    return [
        one
        for one in seen
        if one.name not in _PRECEDENCE
        or _PRECEDENCE.index(one.name) == ranks[one.line, one.relation]
    ]


def _by_parent(seen: list[_Seen], file: FileObservation) -> list[_Seen]:
    """One finding for a partitioned table instead of one for each of its partitions."""
    kept: dict[tuple[str, int, int], _Seen] = {}
    for one in seen:
        relation = file.start.relations[one.relation]
        found = file.end.relations.get(one.relation, relation)
        parent = relation.parent if relation.parent == found.parent else None
        root = parent if parent in file.start.relations else None
        if root is None or one.name in ("drop", "detach-locks-parent"):
            kept[one.name, one.line, hash(one)] = one
        else:
            kept.setdefault((one.name, one.line, root), one._replace(relation=root))
    own = {(one.name, one.line, one.relation) for key, one in kept.items() if key[2] == hash(one)}
    return [one for key, one in kept.items() if key[2] == hash(one) or key not in own]


def _finding(one: _Seen, file: FileObservation, given: Circumstances) -> Finding | None:
    hazard, relation = HAZARDS[one.name], file.start.relations[one.relation]
    size = given.sizes.of(recipes.qualified(relation))
    level = _level(hazard, one.weight or hazard.weight, size, given.large)
    if level is None:
        return None
    words = {"table": relation.name, "subject": one.subject, "what": one.what or "read or write"}
    return Finding(
        one.name, level, file.version, file.path, one.line, relation.name, size,
        hazard.sentence.format(**words), hazard.remedy.format(**words), one.recipe,
    )  # fmt: skip


def _of_queries(file: FileObservation) -> Iterator[Finding]:
    line = file.steps[0].line if file.steps else 1
    for one in changes(file.queries_before, file.queries_after):
        hazard = HAZARDS["query-breaks" if one.fails else "result-shape"]
        yield Finding(
            hazard.name, hazard.level, file.version, file.path, line, "", None,
            hazard.sentence.format(subject=one.words), hazard.remedy, queries=one.texts,
        )  # fmt: skip


def _level(hazard: Hazard, weight: int, size: Size | None, large: int) -> Level | None:
    """None for what does not matter because the table is known to be small."""
    if not hazard.weight or size is None:
        return hazard.level
    if size.bytes < LISTED_BYTES:
        return None
    return Level.FAIL if size.bytes * weight >= large else Level.WARN


class _Statement:
    """The findings of one statement: what it locks, reads, writes and builds."""

    def __init__(self, file: FileObservation, step: Step, given: Circumstances) -> None:
        self._file, self._step, self._given = file, step, given
        self._before, self._after = step.before, step.after
        self._first = step.keywords[0] if step.keywords else ""

    def findings(self) -> Iterator[_Seen]:
        """All of them; a part of another one is among them."""
        if self._step.concurrent:
            return
        yield from self._rewrites()
        yield from self._builds()
        yield from self._changes()
        yield from self._scans()
        yield from self._work_under_lock()
        yield from self._drops_of_indexes()
        yield from self._partitions()

    def _seen(self, name: str, relation: int, subject: str = "", **more: Any) -> _Seen:
        return _Seen(name, self._step.line, relation, subject)._replace(**more)

    def _existed(self, oid: int) -> bool:
        return _existed(self._file, self._given, oid)

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

    def _rewrites(self) -> Iterator[_Seen]:
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
        added = [
            one
            for key, one in self._after.columns.items()
            if key[0] == oid and key not in self._before.columns
        ]
        if len(added) != 1 or added[0].identity or added[0].generated or not added[0].default:
            return ()
        if "nextval(" in added[0].default or added[0].not_null:
            return ()
        return recipes.column(self._before, self._after.relations[oid], added[0])

    def _builds(self) -> Iterator[_Seen]:
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
                yield self._seen("index-rebuilt", one.relation, one.name)
            else:
                yield self._index(one, table)

    def _index(self, one: Index, table: Relation) -> _Seen:
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
        recipe = recipes.partitioned_index(parent, self._after.relations[parent.relation], parts)
        return self._seen("index-blocks-writes", table.oid, parent.name, recipe=recipe)

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

    def _changes(self) -> Iterator[_Seen]:
        held = [
            self._file.start.relations[oid].name for oid in self._held(Mode.SHARE_ROW_EXCLUSIVE)
        ]
        for oid in self._backfilled:
            name = "backfill-under-lock" if held else "backfill"
            yield self._seen(name, oid, ", ".join(held))

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
            and self._before.locks[oid] - self._file.start.locks.get(oid, frozenset())
        ]

    def _scans(self) -> Iterator[_Seen]:
        built = {one.relation for one in self._built}
        for oid in self._scanned:
            now, mode = self._after.relations[oid], self._mode(oid)
            if oid in self._new_files or oid in self._backfilled or not mode.blocks_writes:
                continue
            if now.kind == "m" and not mode.blocks_reads:
                continue
            what = "read or write" if mode.blocks_reads else "write"
            if nullable := self._not_null_scanned(oid):
                recipe = recipes.not_null(now, nullable[0], self._given.major)
                yield self._seen("not-null-scan", oid, what=what, recipe=recipe)
            elif oid not in built:
                yield from self._other_scan(oid, what)

    def _not_null_scanned(self, oid: int) -> list[Column]:
        """The columns whose NOT NULL was checked: new, or valid only now (18)."""
        validated = {
            (oid, number)
            for one in self._validated(oid)
            if one.kind == "n"
            for number in one.columns
        }
        made = self._made_not_null(oid)
        known = [self._after.columns[key] for key in validated if key in self._before.columns]
        return made or known

    def _validated(self, oid: int) -> list[Constraint]:
        """The constraints of a table that are valid now, and were not, or not there."""
        return [
            one
            for key, one in self._after.constraints.items()
            if one.valid
            and oid in (one.relation, one.referenced)
            and not (key in self._before.constraints and self._before.constraints[key].valid)
        ]

    def _other_scan(self, oid: int, what: str) -> Iterator[_Seen]:
        validated = [one for one in self._validated(oid) if one.kind in "cf"]
        own = [one for one in validated if one.relation == oid]
        if own:
            weight = _FK_WEIGHT if own[0].kind == "f" else 1
            recipe = self._recipe_of_constraint(own[0])
            yield self._seen("constraint-scan", oid, what=what, recipe=recipe, weight=weight)
        # Whether a key's referenced table is read, the planner decides.
        elif not validated:
            yield self._scan_under_lock(oid, what)

    def _recipe_of_constraint(self, one: Constraint) -> Files:
        table = self._after.relations[one.relation]
        if one.kind == "f" and table.kind == "p" and self._given.major < 18:
            return ()
        return recipes.constraint(table, one)

    def _scan_under_lock(self, oid: int, what: str) -> _Seen:
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
        if now.parent and not before.parent and now.bound_check:
            recipe = recipes.attach(self._after.relations[now.parent], now)
            return self._seen("scan-under-lock", oid, what=what, recipe=recipe)
        return self._seen("scan-under-lock", oid, what=what)

    def _work_under_lock(self) -> Iterator[_Seen]:
        works_on = {*self._rewritten, *(one.relation for one in self._built)} | {
            oid for oid in self._scanned if self._mode(oid).blocks_writes
        }
        held = self._held(Mode.ACCESS_EXCLUSIVE)
        for oid in works_on:
            names = [self._file.start.relations[one].name for one in held if one not in works_on]
            if names:
                yield self._seen("work-under-lock", oid, ", ".join(names))

    def _drops_of_indexes(self) -> Iterator[_Seen]:
        names = {(one.relation, one.name) for one in self._after.indexes.values()}
        for oid, one in self._before.indexes.items():
            gone = oid in self._file.start.indexes and oid not in self._after.indexes
            there = self._existed(one.relation) and one.relation in self._after.relations
            if gone and there and self._first == "DROP" and (one.relation, one.name) not in names:
                table = self._before.relations[one.relation]
                recipe = recipes.drop_index(table, one)
                yield self._seen("index-drop", table.oid, one.name, recipe=recipe)

    def _partitions(self) -> Iterator[_Seen]:
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

    def _locks_reads(self, oid: int) -> bool:
        return self._existed(oid) and self._mode(oid).blocks_reads


class _WholeFile:
    """The findings that compare a file's start with its end; what it takes back is none."""

    def __init__(self, file: FileObservation, given: Circumstances) -> None:
        self._file, self._given = file, given
        self._start, self._end = file.start, file.end

    def findings(self) -> Iterator[_Seen]:
        """All of them."""
        yield from self._relations()
        yield from self._old_columns()
        yield from self._new_columns()
        yield from self._security()
        yield from self._foreign_keys()
        yield from self._totals()

    def _existed(self, oid: int) -> bool:
        return _existed(self._file, self._given, oid)

    def _line(self, changed: Iterable[bool]) -> int:
        """The line of the last statement for which it is true."""
        lines = [step.line for step, yes in zip(self._file.steps, changed, strict=True) if yes]
        return lines[-1] if lines else 1

    def _relations(self) -> Iterator[_Seen]:
        for oid, was in self._start.relations.items():
            if was.kind not in "rpmvf" or not self._existed(oid):
                continue
            now = self._end.relations.get(oid)
            line = self._line(
                _name(step.before, oid) != _name(step.after, oid) for step in self._file.steps
            )
            if now is None:
                yield _Seen("drop", line, oid)
            elif now.name != was.name:
                yield _Seen("rename", line, oid, f"{was.name} is {now.name} now")

    def _old_columns(self) -> Iterator[_Seen]:
        for key, was in self._start.columns.items():
            if key[0] not in self._end.relations or not self._existed(key[0]):
                continue
            now = self._end.columns.get(key)
            if now != was:
                line = self._line_of_column(key)
                yield from self._changed_column(line, was, now)

    def _line_of_column(self, key: tuple[int, int]) -> int:
        return self._line(
            step.before.columns.get(key) != step.after.columns.get(key) for step in self._file.steps
        )

    def _changed_column(self, line: int, was: Column, now: Column | None) -> Iterator[_Seen]:
        oid = was.relation
        name = f"{self._start.relations[oid].name}.{was.name}"
        if now is None:
            yield _Seen("drop-column", line, oid, name)
            return
        if now.name != was.name:
            yield _Seen("rename", line, oid, f"{name} is {now.name} now")
        if now.type != was.type and not self._is_rewritten(oid):
            yield _Seen("type-change", line, oid, f"{name} was {was.type} and is {now.type}")
        if was.default and not now.default and now.not_null and not now.identity:
            yield _Seen("default-dropped", line, oid, name)
        if was.not_null and not now.not_null:
            yield _Seen("nullable", line, oid, name)

    def _is_rewritten(self, oid: int) -> bool:
        return self._start.relations[oid].node != self._end.relations[oid].node

    def _new_columns(self) -> Iterator[_Seen]:
        for key, one in self._end.columns.items():
            if key in self._start.columns or not self._existed(key[0]):
                continue
            table, line = self._end.relations[key[0]], self._line_of_column(key)
            name = f"{table.name}.{one.name}"
            if one.not_null and one.default is None and not one.identity and not one.generated:
                yield _Seen("required-column", line, table.oid, name)
            for prefix, advice in _TYPES:
                if one.type == prefix or (
                    prefix.endswith("(")
                    and one.type.startswith(prefix)
                    and "with time zone" not in one.type
                ):
                    yield _Seen("type", line, table.oid, f"{name} is {one.type}: {advice}")

    def _security(self) -> Iterator[_Seen]:
        for oid, was in self._start.relations.items():
            now = self._end.relations.get(oid)
            if now and self._existed(oid) and was.row_security and not now.row_security:
                yield _Seen("security", self._line(
                    step.before.relations[oid].row_security
                    and oid in step.after.relations
                    and not step.after.relations[oid].row_security
                    for step in self._file.steps
                ), oid, "it is switched off")  # fmt: skip
        for key, policy in self._start.policies.items():
            after = self._end.policies.get(key)
            there = policy.relation in self._end.relations and self._existed(policy.relation)
            if there and after != policy:
                line = self._line(
                    step.before.policies.get(key) != step.after.policies.get(key)
                    for step in self._file.steps
                )
                change = "changed" if after else "gone"
                yield _Seen("security", line, policy.relation, f"policy {policy.name} is {change}")

    def _foreign_keys(self) -> Iterator[_Seen]:
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
                yield _Seen("fk-without-index", line, one.relation, one.name)

    def _totals(self) -> Iterator[_Seen]:
        locked = [
            oid for oid in self._end.locks
            if self._existed(oid) and self._file.mode(self._end, oid).blocks_reads
        ]  # fmt: skip
        if len(locked) > MANY_LOCKS:
            yield _Seen("many-locks", self._file.steps[-1].line, locked[0])
        for oid in self._start.relations:
            lines = [step.line for step in self._file.steps if self._reads_all(step, oid)]
            if len(lines) > 1:
                yield _Seen("several-scans", lines[1], oid)

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


def _existed(file: FileObservation, given: Circumstances, oid: int) -> bool:
    """Whether it is a table that other sessions knew before."""
    relation = file.start.relations.get(oid)
    return bool(
        relation
        and (relation.kind in TABLES or relation.kind == "v")
        and (given.existing is None or oid in given.existing)
    )


def _name(catalog: Catalog, oid: int) -> str | None:
    relation = catalog.relations.get(oid)
    return relation.name if relation else None
