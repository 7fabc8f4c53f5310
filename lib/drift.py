"""Drift: how a schema differs from what the migrations have made of it. Pure.

What is expected is what was expected before a run, and what that run has changed: the difference
between the schemas before and after it. So what was changed by hand stays drift, whatever runs
later, until a migration changes the same object or `drift --accept` takes it in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import FilesError, OnwardError, SchemaDrift
from lib.history import AppliedMigration, History
from lib.printed import read_printed

RULES = 1
"""The version of the query that reads definitions, and of `normal`: others are not comparable."""
KINDS_OF_STRICT = ("comment", "owner", "privileges")
_LONGEST_DEFINITION = 400
_MAX_DOCUMENT_BYTES = 100_000_000
_NAMES_SHOWN = 5
_NOT_STORED = "what this and later migrations changed was not stored"
_SAVE = "scripts/migrate.py drift --json > schema.json"

Definitions = Mapping[str, str]
"""By kind and name, such as `column public.orders.total`."""


class Drift(StrEnum):
    """What is known of a schema."""

    NONE = "none"
    FOUND = "found"
    UNKNOWN = "unknown"


class Difference(NamedTuple):
    """An object that is not as expected; None is one that is not there."""

    name: str
    was: str | None
    now: str | None


class Schema(NamedTuple):
    """The definitions of a database, or those that are expected of it."""

    postgres: int
    """The server's major version."""
    objects: Definitions
    rules: int = RULES
    gap: str = ""
    """The first migration whose changes are not known; empty if all are."""

    @property
    def hash(self) -> str:
        """Equal where the objects are: owners, privileges and comments are not part of it."""
        objects = {name: self.objects[name] for name in self.objects if not _is_strict(name)}
        text = json.dumps([self.postgres, self.rules, objects], sort_keys=True)
        return sha256(text.encode()).hexdigest()[:16]

    def is_comparable(self, other: Schema) -> bool:
        """Whether the same objects would have the same definitions in both."""
        return (self.postgres, self.rules) == (other.postgres, other.rules)

    def plus(self, before: Schema, after: Schema) -> Schema:
        """What is expected after a run that has found one schema and left the other."""
        objects = {**self.objects}
        for change in _changes(before.objects, after.objects):
            if change.now is None:
                objects.pop(change.name, None)
            else:
                objects[change.name] = change.now
        return self._replace(objects=objects)

    def within(self, names: Collection[str]) -> Schema:
        """This schema's objects of these names alone."""
        objects = {name: self.objects[name] for name in names if name in self.objects}
        return self._replace(objects=objects)

    def differences(self, found: Schema, *, strict: bool = False) -> tuple[Difference, ...]:
        """What is not as this schema expects it; `strict` includes owners and the like."""
        return tuple(
            change
            for change in _changes(self.objects, found.objects)
            if strict or not _is_strict(change.name)
        )


class Verdict(NamedTuple):
    """What comparing a schema with what is expected of it has found."""

    drift: Drift
    differences: tuple[Difference, ...] = ()
    """Where drift is unknown, they may also be what a migration has changed."""
    reason: str = ""
    """Why drift is unknown."""
    since: str = ""
    """The first migration whose changes are not known, if that is why."""


class Mark(NamedTuple):
    """What the history says of drift without its document: as of the last run or acceptance."""

    drift: Drift
    as_of: datetime | None = None
    hash: str | None = None
    """Of the expected schema."""
    begun: str = ""
    """The file whose statements may have changed the schema since, each in its own transaction."""


def judge(expected: Schema | None, found: Schema, *, strict: bool = False) -> Verdict:
    """Compare what is there with what is expected, which is None where nothing is stored."""
    if expected is None:
        return Verdict(Drift.UNKNOWN, reason="no run has stored what the schema should be")
    if not expected.is_comparable(found):
        return Verdict(Drift.UNKNOWN, reason=_not_comparable(expected, found))
    differences = expected.differences(found, strict=strict)
    if expected.gap:
        return Verdict(Drift.UNKNOWN, differences, _NOT_STORED, since=expected.gap)
    return Verdict(Drift.FOUND if differences else Drift.NONE, differences)


def judge_against(saved: Schema, found: Schema, file: str, *, strict: bool) -> Verdict:
    """Compare what is there with a saved schema. Raises FilesError if they are not comparable."""
    if not saved.is_comparable(found):
        raise FilesError(
            f"{file}: {_not_comparable(saved, found)}",
            changed_nothing=True,
            next_step="Save it again from a server of the same major version, with the same "
            f"version of Onward:\n  {_SAVE}",
        )
    differences = saved.differences(found, strict=strict)
    return Verdict(Drift.FOUND if differences else Drift.NONE, differences)


def mark_of(history: History) -> Mark:
    """What the history says of drift. Unknown where the document does not cover all migrations."""
    holder, gap = holder_of(history)
    if holder is None:
        return Mark(Drift.UNKNOWN)
    stored = _read_mark(holder.drift or "")
    return stored._replace(drift=Drift.UNKNOWN) if gap else stored


def holder_of(history: History) -> tuple[AppliedMigration | None, str]:
    """The row with the document, and the first migration that it does not cover, if any.

    That is the file that was begun and has not come to its row, or the first row behind.
    """
    rows = sorted(history.rows, key=lambda row: row.id)
    holder = next((row for row in reversed(rows) if row.drift), None)
    if holder is None:
        return None, ""
    behind = (row.version for row in rows if row.id > holder.id)
    return holder, _read_mark(holder.drift or "").begun or next(behind, "")


def mark_text(drift: Drift, schema: Schema, at: str) -> str:
    """A mark as the history keeps it; `at` is the time in ISO format."""
    return json.dumps({"drift": drift, "asOf": at, "hash": schema.hash})


def with_begun(mark: str, version: str) -> str:
    """The mark's text with a file that begins; as it is if nobody can read it."""
    if _read_mark(mark).hash is None:
        return mark
    return json.dumps({**json.loads(mark), "begun": version})


def _read_mark(text: str) -> Mark:
    try:
        document = json.loads(text)
        found = Drift(document["drift"]), datetime.fromisoformat(document["asOf"])
        return Mark(*found, str(document["hash"]), str(document.get("begun", "")))
    except (ValueError, KeyError, TypeError):
        return Mark(Drift.UNKNOWN)


def packed(schema: Schema) -> str:
    """The schema as the history keeps it: compressed, in ASCII."""
    import base64  # noqa: PLC0415 - a run with nothing pending needs neither
    import zlib  # noqa: PLC0415

    # Sorted, names that are alike are neighbours, and it is a tenth smaller.
    text = json.dumps(schema._asdict(), separators=(",", ":"), sort_keys=True)
    return base64.b85encode(zlib.compress(text.encode())).decode()


def unpacked(text: str | None) -> Schema | None:
    """What `packed` was given; None if this is nothing of that kind."""
    import base64  # noqa: PLC0415 - as in `packed`
    import zlib  # noqa: PLC0415

    try:
        compressed = base64.b85decode(text or "")
        content = zlib.decompressobj().decompress(compressed, _MAX_DOCUMENT_BYTES)
        document = json.loads(content)
        return schema_of(document)._replace(gap=str(document["gap"]))
    except (ValueError, KeyError, TypeError, zlib.error):
        return None


def schema_document(schema: Schema) -> dict[str, Any]:
    """The schema as part of a JSON document."""
    return {
        "postgres": schema.postgres,
        "rules": schema.rules,
        "hash": schema.hash,
        "objects": dict(sorted(schema.objects.items())),
    }


def schema_of(document: Mapping[str, Any]) -> Schema:
    """The schema of which this is the document. Raises KeyError, TypeError or ValueError."""
    objects = {str(name): str(text) for name, text in dict(document["objects"]).items()}
    return Schema(int(document["postgres"]), objects, int(document["rules"]))


def load_schema(file: str) -> Schema:
    """The schema in a saved `drift --json`. Raises FilesError."""
    return read_printed(
        Path(file),
        lambda document: schema_of(document["schema"]),
        error=FilesError,
        otherwise="is not what `drift --json` prints: it has no schema that can be read",
        next_step=f"Save it where the schema is as it should be:\n  {_SAVE}",
    )


def require_no_drift(verdict: Verdict) -> None:
    """Raise SchemaDrift for a schema that is known to differ."""
    if verdict.drift is Drift.FOUND:
        raise SchemaDrift(
            f"{summary(verdict)}; and MIGRATION_DRIFT is fail",
            changed_nothing=True,
            next_step=f"To see what was and what is:\n  scripts/migrate.py drift\n{WAYS}",
        )


def summary(verdict: Verdict) -> str:
    """A verdict in one sentence, with the first names of what differs."""
    if verdict.drift is Drift.UNKNOWN:
        since = f" since {verdict.since}" if verdict.since else ""
        return f"whether the schema has drifted is unknown{since}: {verdict.reason}"
    names = [one.name for one in verdict.differences]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"the schema is not as the migrations left it: {', '.join(names[:_NAMES_SHOWN])}{more}"


WAYS = """\
Undo the change, or write a migration that makes it, or accept the schema as it is:
  scripts/migrate.py drift --accept"""


def require_acceptable(verdict: Verdict) -> None:
    """Raise what forbids to accept the differences: that they are not known."""
    if verdict.drift is Drift.UNKNOWN:
        raise _other_option("accept", summary(verdict), "store the schema as it is", "refresh")


def require_refreshable(verdict: Verdict) -> None:
    """Raise what forbids to begin anew: that there are differences, which would be forgotten."""
    if verdict.drift is Drift.FOUND:
        raise _other_option("refresh", summary(verdict), "accept these differences", "accept")


def _other_option(option: str, why: str, what: str, other: str) -> OnwardError:
    return SchemaDrift(
        f"drift --{option} does not apply: {why}",
        changed_nothing=True,
        next_step=f"To {what}:\n  scripts/migrate.py drift --{other}",
    )


def normal(definition: str) -> str:
    """A definition in the form that is the same on every server of one major version.

    IN lists over varchar are printed in another form after a dump and restore. A long definition
    is cut, and ends with its digest.
    """
    import re  # noqa: PLC0415 - as in `packed`

    if "::character varying" in definition:
        one = r"E?'(?:[^']|'')*'::character varying"
        array = rf"\(ARRAY\[((?:{one}(?:, )?)+)\]\)::text\[\]"
        definition = re.sub(array, r"ARRAY[\1]", definition)
        definition = re.sub(rf"\(({one})\)::text", r"\1", definition)
    if len(definition) <= _LONGEST_DEFINITION:
        return definition
    digest = sha256(definition.encode()).hexdigest()[:12]
    return f"{definition[:_LONGEST_DEFINITION]}… ({len(definition)} characters, #{digest})"


def _changes(before: Definitions, after: Definitions) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now:
            yield Difference(name, was, now)


def _is_strict(name: str) -> bool:
    return name.startswith(KINDS_OF_STRICT)


def _not_comparable(saved: Schema, found: Schema) -> str:
    if saved.postgres != found.postgres:
        return f"stored by PostgreSQL {saved.postgres}, and this is PostgreSQL {found.postgres}"
    return "stored by another version of Onward, which reads definitions differently"
