"""Makes findings of what was seen: which of them count, their levels, what a file accepts. Pure.

Everything is decided from what was observed. Of the text only the first keywords count: an empty
table that is truncated looks like one that is rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lib.errors import FilesError
from lib.hazards import recipes
from lib.hazards.findings import Blocked, Circumstances, Finding
from lib.hazards.objects import ObjectChanges
from lib.hazards.old_names import OldNames
from lib.hazards.seen import Seen
from lib.hazards.statement import Statement
from lib.hazards.table import HAZARDS, Hazard, Level
from lib.hazards.whole_file import WholeFile
from lib.observation import TABLES, Catalog, FileObservation, Mode, Step
from lib.queries import QueryChange, changes
from lib.sizes import LISTED_BYTES, Size
from lib.source.lexer import tokens, upper
from lib.source.migration import Migration

# Of one statement and table only the first is told: the others are parts of it.
_PRECEDENCE = (
    "required-column", "rewrite", "not-null-scan", "constraint-scan", "scan-under-lock",
    "work-under-lock",
)  # fmt: skip


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
        and (given.known is None or oid in given.known.relations)
    ]
    return sorted(
        Blocked(one.name, given.sizes.of(recipes.qualified(one)), mode.blocks_reads)
        for one, mode in tables
        if one.parent not in strongest
    )


def find(file: FileObservation, given: Circumstances) -> list[Finding]:
    """The findings of a file, by line; one a hazard and table."""
    seen = [
        *(one for step in file.steps for one in Statement(file, step, given).findings()),
        *OldNames(file, given).findings(),
        *WholeFile(file, given).findings(),
        *ObjectChanges(file, given).findings(),
    ]
    kept: dict[tuple[str, int, str], Seen] = {}
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


def _strongest(seen: Iterable[Seen]) -> list[Seen]:
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


def _by_parent(seen: Sequence[Seen], file: FileObservation) -> list[Seen]:
    """One finding for a partitioned table instead of one for each of its partitions."""
    parents = [_parent(one, file) for one in seen]
    told = {
        (one.name, one.line, one.relation) for one, up in zip(seen, parents, strict=True) if not up
    }
    found = []
    for one, parent in zip(seen, parents, strict=True):
        if not parent:
            found.append(one)
        elif (key := (one.name, one.line, parent)) not in told:
            told.add(key)
            found.append(one._replace(relation=parent))
    return found


def _parent(one: Seen, file: FileObservation) -> int | None:
    """The partitioned table that a finding about one of its partitions is told of."""
    was = file.start.relations.get(one.relation)
    now = file.end.relations.get(one.relation, was)
    if not (was and now) or one.name in ("drop", "detach-locks-parent"):
        return None
    return was.parent if was.parent == now.parent and was.parent in file.start.relations else None


def _finding(one: Seen, file: FileObservation, given: Circumstances) -> Finding | None:
    hazard, relation = HAZARDS[one.name], file.start.relations.get(one.relation)
    table = relation.name if relation else ""
    size = given.sizes.of(recipes.qualified(relation)) if relation else None
    level = _level(hazard, one.weight or hazard.weight, size, given.large)
    if level is None:
        return None
    words = {"table": table, "subject": one.subject, "what": one.what or "read or write"}
    remedy = hazard.remedy if one.recipe else hazard.otherwise or hazard.remedy
    return Finding(
        one.name, level, file.version, file.path, one.line, table, size,
        hazard.sentence.format(**words), remedy.format(**words), one.recipe,
    )  # fmt: skip


def _of_queries(file: FileObservation) -> Iterator[Finding]:
    for one in changes(file.queries_before, file.queries_after):
        hazard = HAZARDS["query-breaks" if one.fails else "result-shape"]
        line = _line_of_query(file, one)
        yield Finding(
            hazard.name, hazard.level, file.version, file.path, line, "", None,
            hazard.sentence.format(subject=one.words), hazard.remedy, queries=one.texts,
        )  # fmt: skip


def _line_of_query(file: FileObservation, change: QueryChange) -> int:
    """The line of the last statement that changed what the query names; else of the first."""
    words = {_folded(token[0]) for token in tokens(change.texts[0])}
    lines = [step.line for step in file.steps if _changes_names(step, words, change)]
    first = file.steps[0].line if file.steps else 1
    return lines[-1] if lines else first


def _changes_names(step: Step, words: Collection[str], change: QueryChange) -> bool:
    """Whether a table or view of these names is changed: itself, or its columns.

    A query fails for a column that it names, and has another result for any.
    """
    named = {oid for oid, one in step.before.relations.items() if _folded(one.base_name) in words}
    before, after = (_shapes(moment, named) for moment in (step.before, step.after))
    if not change.fails:
        return before != after
    return any(_folded(name) in words for _, name, _ in before - after)


def _shapes(moment: Catalog, relations: Collection[int]) -> set[tuple[object, str, str]]:
    """The names of relations and columns, with schemas and types."""
    there = (moment.relations[oid] for oid in relations if oid in moment.relations)
    columns = (one for one in moment.columns.values() if one.relation in relations)
    return {
        *((one.oid, one.base_name, one.schema) for one in there),
        *(((one.relation, one.number), one.name, one.type) for one in columns),
    }


def _folded(word: str) -> str:
    """A word of SQL as it compares with others, with or without quotes."""
    return upper(word).strip('"')


def _level(hazard: Hazard, weight: int, size: Size | None, large: int) -> Level | None:
    """None for what does not matter because the table is known to be small."""
    if not hazard.weight or size is None:
        return hazard.level
    if size.bytes < LISTED_BYTES:
        return None
    return Level.FAIL if size.bytes * weight >= large else Level.WARN
