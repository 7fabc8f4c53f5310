"""Reports of fleets of all kinds, for the screenshots and the tests of the page. Pure."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from lib.fleet.outcome import Outcome
from lib.fleet.report import Ending, Entries, Header, Record, make_report, report_dict
from lib.report.document import iso
from scripts.dev.status_documents import NOW

_SIZES = {0: {"c1": 3}, 1: {f"c{number}.eu-west-1.example": 400 for number in range(1, 5)}}
HOSTILE = "<script>alert(1)</script>\u202e"


def reports() -> Mapping[str, dict[str, Any]]:
    """A report's document of each kind."""
    done = list(_records(_SIZES))
    return {
        "current": _report(_SIZES, done),
        "behind": _report(_SIZES, [_sick(number, one) for number, one in enumerate(done)]),
        "canary": _report(_SIZES, [_sick(0, done[0]), *done[1:3]], Ending(2.4, stopped_after=0)),
        "interrupted": _report(_SIZES, done[:700], Ending(30.1, interrupted=True)),
        "killed": _report(_SIZES, done[:700], None),
        "running": _report(_SIZES, done[:700], None, running=True),
        "one": _report({1: {"c1": 1}}, list(_records({1: {"c1": 1}})), Ending(0.2)),
        "many-clusters": _many_clusters(),
        "hostile": _hostile(),
    }


def _report(
    sizes: Mapping[int, Mapping[str, int]],
    records: list[Record],
    ending: Ending | None = Ending(95.3),  # noqa: B008 - it is a constant
    *,
    running: bool = False,
) -> dict[str, Any]:
    began = iso(NOW - timedelta(minutes=7)) or ""
    name = "20261126T182312455Z-1a2b3c4-x9k2"
    header = Header(name, "migrate", "production", "042-add-invoices", began, sizes)
    return report_dict(make_report(Entries(header, records, ending, running)))


def _records(sizes: Mapping[int, Mapping[str, int]]) -> Iterator[Record]:
    for wave, clusters in sizes.items():
        for cluster, size in clusters.items():
            for number in range(size):
                tenant = f"w{wave}-{cluster[:2]}-{number:04}"
                yield Record(
                    Outcome(tenant, "current", milliseconds=100),
                    wave,
                    cluster,
                    "migrate",
                    number / 17,
                )


def _sick(number: int, record: Record) -> Record:
    """Some of the tenants, with reasons of several kinds."""
    name = record.outcome.tenant
    if number % 97 == 0:
        failed = Outcome(name, "migration_failed", "041-unique-slugs", 1, 90, "23505", 12)
    elif number % 131 == 1:
        failed = Outcome(name, "database_unavailable", milliseconds=12, sqlstate="28P01")
    elif number % 501 == 2:
        failed = Outcome(name, "history_conflict", milliseconds=40)
    else:
        return record
    return record._replace(outcome=failed)


def _many_clusters() -> dict[str, Any]:
    sizes = {
        1: {f"ep-cool-name-{number:03}.eu-central-1.aws.neon.tech": 1 for number in range(120)}
    }
    return _report(sizes, list(_records(sizes)), Ending(12.0))


def _hostile() -> dict[str, Any]:
    sizes = {1: {HOSTILE: 2, "c" * 200: 1}}
    records = [
        Record(
            Outcome(HOSTILE, "migration_failed", HOSTILE, sqlstate="42P01"),
            1,
            HOSTILE,
            "migrate",
            1,
        ),
        Record(Outcome("t" * 200, "busy"), 1, "c" * 200, "migrate", 1),
    ]
    return _report(sizes, records, Ending(0.0))
