"""What a file does to a database, statement by statement: its locks, scans and catalog. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import NamedTuple, TypeVar

TABLES = "rpmf"  # relkind: table, partitioned table, materialized view, foreign table
STORED = "rm"  # those that have rows of their own


class Mode(IntEnum):
    """The mode of a lock on a relation, from the weakest to the strongest."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def blocks_writes(self) -> bool:
        """Whether INSERT, UPDATE and DELETE of other sessions wait."""
        return self >= Mode.SHARE

    @property
    def blocks_reads(self) -> bool:
        """Whether SELECT of other sessions waits, too."""
        return self is Mode.ACCESS_EXCLUSIVE


class Relation(NamedTuple):
    """A table, view, index or sequence. Names are quoted where SQL needs it."""

    oid: int
    schema: str
    base_name: str
    kind: str
    node: int
    parent: int | None
    """The partitioned table that it is a partition of."""
    bound: str | None
    """As a partition, its FOR VALUES."""
    bound_check: str | None
    """The same as a condition on its rows."""
    row_security: bool
    forced: bool
    """Whether row security is the owner's, too."""
    scans: int
    """Sequential scans by this session so far; only differences mean something."""
    changes: int
    """Rows inserted, updated and deleted by this session so far."""

    @property
    def name(self) -> str:
        """Qualified unless it is in public."""
        return self.base_name if self.schema == "public" else f"{self.schema}.{self.base_name}"


class OwnedSequence(NamedTuple):
    """A sequence that a column owns, of an identity or not."""

    schema: str
    name: str
    options: str
    """Other than its type, as CREATE SEQUENCE has them."""


class Column(NamedTuple):
    """A column of a table."""

    relation: int
    number: int
    name: str
    type: str
    not_null: bool
    default: str | None
    identity: str
    generated: str
    collation: str
    """If it is not that of the type."""
    sequence: OwnedSequence | None = None


class Constraint(NamedTuple):
    """A constraint of a table. `definition` is without NOT VALID."""

    oid: int
    relation: int
    referenced: int
    name: str
    kind: str
    valid: bool
    index_oid: int
    columns: tuple[int, ...]
    definition: str


class Index(NamedTuple):
    """An index of a table. A node that was there before means that nothing was built."""

    oid: int
    relation: int
    name: str
    node: int
    valid: bool
    unique: bool
    columns: tuple[int, ...]
    definition: str


class Policy(NamedTuple):
    """A row security policy."""

    oid: int
    relation: int
    name: str
    definition: str


class Object(NamedTuple):
    """What is not a relation, or a property of one: a function, a value, a privilege."""

    kind: str
    key: str
    """Its oid, or what it is made of; two objects of one kind have different ones."""
    relation: int
    """The relation that it belongs to; 0 if none."""
    name: str
    value: str


Objects = Mapping[tuple[str, str], Object]


class Catalog(NamedTuple):
    """The relations of the user's schemas at one moment, each part by its key."""

    relations: Mapping[int, Relation]
    columns: Mapping[tuple[int, int], Column]
    constraints: Mapping[int, Constraint]
    indexes: Mapping[int, Index]
    policies: Mapping[int, Policy]
    locks: Mapping[int, frozenset[Mode]]
    """The locks that this transaction holds, also on relations that it has dropped."""
    lock_timeout: int = 0
    """In milliseconds; 0: none."""

    def with_part(self, part: Catalog, scope: Collection[int]) -> Catalog:
        """This catalog, in which the relations of `scope` are as in the part, or gone."""
        columns = {key: one for key, one in self.columns.items() if key[0] not in scope}
        return Catalog(
            {**_without(self.relations, scope), **part.relations},
            {**columns, **part.columns},
            {**_without_of(self.constraints, scope), **part.constraints},
            {**_without_of(self.indexes, scope), **part.indexes},
            {**_without_of(self.policies, scope), **part.policies},
            part.locks,
            part.lock_timeout,
        )

    def columns_of(self, relation: int) -> list[Column]:
        """The columns of a table, in their order."""
        return [one for one in self.columns.values() if one.relation == relation]


class Step(NamedTuple):
    """One statement that ran, between two moments."""

    line: int
    text: str
    keywords: tuple[str, ...]
    concurrent: bool
    """Whether it runs CONCURRENTLY, in transactions of its own."""
    before: Catalog
    after: Catalog


class Query(NamedTuple):
    """A statement that a database runs, with parameters for its values."""

    text: str
    calls_a_minute: float


class Parsed(NamedTuple):
    """What the server says of a statement that it has parsed, and not run."""

    error: str = ""
    """Why it cannot be parsed, with the SQLSTATE."""
    columns: tuple[tuple[str, int, int], ...] = ()
    """Name, type and type modifier of each column of its result."""


class FileObservation(NamedTuple):
    """A file that ran, and what was seen of its statements."""

    version: str
    path: str
    transactional: bool
    start: Catalog
    steps: tuple[Step, ...]
    objects_before: Objects
    objects_after: Objects
    queries_before: Mapping[Query, Parsed] = {}
    """What the server said of the application's statements before the file ran."""
    queries_after: Mapping[Query, Parsed] = {}

    @property
    def end(self) -> Catalog:
        """The catalog after the last statement."""
        return self.steps[-1].after if self.steps else self.start

    @property
    def schemas(self) -> dict[str, str]:
        """The names of the schemas at the start, and what each is called at the end."""
        return {
            one.name: self.objects_after.get(key, one).name
            for key, one in self.objects_before.items()
            if one.kind == "schema"
        }

    def mode(self, moment: Catalog, oid: int) -> Mode:
        """The strongest lock on a relation since this file began.

        If an earlier file of the same transaction holds it already, that is an upper bound.
        """
        held = moment.locks.get(oid, frozenset())
        return max(self.taken(moment, oid) or held, default=Mode.ACCESS_SHARE)

    def taken(self, moment: Catalog, oid: int) -> frozenset[Mode]:
        """The locks on a relation that no earlier file of the same transaction has held."""
        return moment.locks.get(oid, frozenset()) - self.start.locks.get(oid, frozenset())


P = TypeVar("P", Constraint, Index, Policy)


def _without(parts: Mapping[int, Relation], scope: Collection[int]) -> dict[int, Relation]:
    return {key: one for key, one in parts.items() if key not in scope}


def _without_of(parts: Mapping[int, P], scope: Collection[int]) -> dict[int, P]:
    return {key: one for key, one in parts.items() if one.relation not in scope}
