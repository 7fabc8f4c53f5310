"""Whether two databases have the same objects, on servers of one major version or of two. Pure.

Across major versions, only the kinds of objects are compared whose definitions the servers print
alike, which a test proves. Of the others nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from lib.drift import KINDS_OF_STRICT, Difference, Schema

OLDEST_PROVED, NEWEST_PROVED = 14, 18
# The versions that print a kind in another way than the one before. PostgreSQL 15 gives the schema
# public another owner, 16 leaves out needless table names in views, 17 has one more privilege.
_CHANGED_IN = {
    "view": (16,),
    "materialized view": (16,),
    "owner of": (15,),
    "privileges on": (15, 17),
}
_KINDS_OF_TWO_WORDS = (
    "materialized view",
    "foreign table",
    "owner of",
    "privileges on",
    "comment on",
)


class Comparison(NamedTuple):
    """What comparing two schemas has found."""

    compared: int
    """The number of objects."""
    differences: tuple[Difference, ...]
    not_compared: Mapping[str, int]
    """Kinds that these two versions print differently, and the number of objects of each."""


def compare(
    made: Schema,
    found: Schema,
    *,
    without_tables: Collection[str] = (),
    strict: Collection[str] = (),
) -> Comparison:
    """Compare what files have made with what is found elsewhere.

    `without_tables`, qualified and quoted where they need it, are left out with all that hangs on
    them. `strict` are those of the kinds in KINDS_OF_STRICT that count too.
    """
    names = [
        name
        for name in made.objects.keys() | found.objects.keys()
        if not name.startswith(KINDS_OF_STRICT) or name.startswith(tuple(strict))
    ]
    left_out = set(_left_out({**found.objects, **made.objects}, without_tables))
    names = sorted({*names} - left_out)
    compared = [name for name in names if prints_alike(kind_of(name), made, found)]
    differences = made.within(compared).differences(found.within(compared), strict=True)
    not_compared = Counter(map(kind_of, sorted({*names} - {*compared})))
    return Comparison(len(compared), differences, not_compared)


def kind_of(name: str) -> str:
    """The kind in an object's name: `materialized view` for `materialized view public.sums`."""
    two = next((kind for kind in _KINDS_OF_TWO_WORDS if name.startswith(f"{kind} ")), "")
    return two or name.partition(" ")[0]


def prints_alike(kind: str, one: Schema, other: Schema) -> bool:
    """Whether objects of this kind have the same definition in both where they are the same."""
    older, newer = sorted((one.postgres, other.postgres))
    if older == newer:
        return True
    is_proved = older >= OLDEST_PROVED and newer <= NEWEST_PROVED
    return is_proved and not any(older < at <= newer for at in _CHANGED_IN.get(kind, ()))


def _left_out(objects: Mapping[str, str], tables: Collection[str]) -> Iterator[str]:
    """The names of the objects that are one of these tables, or hang on one."""
    left_out = {name for name in objects if any(_hangs_on(name, objects[name], t) for t in tables)}
    yield from left_out
    for schema in {table.partition(".")[0] for table in tables}:
        rest = (_place(name) for name in objects.keys() - left_out)
        if not any(place.startswith(f"{schema}.") for place in rest):
            yield from (f"{kind} {schema}" for kind in ("schema", "owner of", "privileges on"))


def _hangs_on(name: str, definition: str, table: str) -> bool:
    place = _place(name)
    if place == table or place.startswith(f"{table}."):
        return True
    if kind_of(name) == "index":
        return f" ON {table} USING " in definition
    bare, own = place.replace('"', ""), table.replace('"', "")
    return bare.startswith(f"{own}_") and bare.endswith("_seq")


def _place(name: str) -> str:
    return name.removeprefix(kind_of(name)).lstrip()
