"""Drift as text for people and as a JSON document. Pure."""

from collections.abc import Iterator
from typing import Any

from lib.drift import (
    WAYS,
    Difference,
    Drift,
    Mark,
    Schema,
    Verdict,
    holder_of,
    schema_document,
    summary,
)
from lib.errors import SchemaDrift
from lib.history import History
from lib.printable import hanging
from lib.report.document import iso
from lib.report.text import exit_text

_LEFT_BY_MIGRATIONS = "as the migrations left it"
_MISSING, _WITHOUT_DEFINITION = "not there", "there"
_REFRESH = """\
To expect the schema as it is now:
  scripts/migrate.py drift --refresh"""
_MAY_BE_MIGRATIONS = "What differs may be what those migrations changed, or was changed by hand:"


def drift_text(history: History, verdict: Verdict, *, saved: str = "") -> str:
    """What `drift` says; `saved` is the file that the schema was compared with."""
    return "\n".join(_lines(history, verdict, saved))


def drift_dict(mark: Mark, verdict: Verdict, found: Schema | None = None) -> dict[str, Any]:
    """What was found, and the schema itself, to compare others with."""
    document: dict[str, Any] = {
        "drift": str(verdict.drift),
        "driftAsOf": iso(mark.as_of),
        "reason": verdict.reason or None,
        "unknownSince": verdict.since or None,
        "differences": [
            {"object": one.name, "was": one.was, "is": one.now} for one in verdict.differences
        ],
    }
    return document | {"schema": schema_document(found)} if found else document


def drift_warnings(verdict: Verdict | None) -> list[str]:
    """The same in short, for `validate`; nothing where there is no drift, or it was not asked."""
    if verdict is None or verdict.drift is Drift.NONE:
        return []
    return ["\n".join([summary(verdict), *map(difference_text, verdict.differences)])]


def accepted_text(verdict: Verdict) -> str:
    """What `drift --accept` and `drift --refresh` say."""
    lines = [f"✅ The schema is expected to be as it is now{_counted(verdict)}"]
    return "\n".join([*lines, *map(difference_text, verdict.differences)])


def drift_exit_text() -> str:
    """The last line of a `drift --check` that fails."""
    return exit_text(SchemaDrift(""))


def _lines(history: History, verdict: Verdict, saved: str) -> Iterator[str]:
    expected = f"as in {saved}" if saved else _LEFT_BY_MIGRATIONS
    if verdict.drift is Drift.NONE:
        holder = holder_of(history)[0]
        last = f" (up to {holder.version})" if holder and not saved else ""
        yield f"✅ No drift: the schema is {expected}{last}"
        return
    if verdict.drift is Drift.UNKNOWN:
        words = summary(verdict)
        yield hanging(f"⚠️  {words[0].upper()}{words[1:]}")
        if verdict.differences:
            yield _MAY_BE_MIGRATIONS
    else:
        yield f"⚠️  The schema is not {expected}{_counted(verdict)}:"
    yield from map(difference_text, verdict.differences)
    if not saved:
        yield f"Next: {_REFRESH if verdict.drift is Drift.UNKNOWN else WAYS}"


def _counted(verdict: Verdict) -> str:
    count = len(verdict.differences)
    return f" ({count} {'difference' if count == 1 else 'differences'})" if count else ""


def difference_text(one: Difference, was: str = "was:", now: str = "is: ") -> str:
    """An object that differs, and its two definitions."""
    return f"  {one.name}\n    {was} {_shown(one.was)}\n    {now} {_shown(one.now)}"


def _shown(definition: str | None) -> str:
    if definition is None:
        return _MISSING
    return (definition or _WITHOUT_DEFINITION).strip().replace("\n", "\n         ")
