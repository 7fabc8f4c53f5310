"""Public status documents of all states, for the screenshots and the tests of the page. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from lib.errors import ConfigError, DatabaseUnavailable, OnwardError
from lib.report.document import error_document, iso
from lib.web.result import error_result
from scripts.demo import past

NOW = datetime(2026, 11, 26, 18, 30, 12, 455_000, UTC)

Document = dict[str, Any]


def status(state: str, migrations: list[Document], **more: Any) -> Document:
    """A public status document; what is not given follows from the migrations."""
    rows = [one for one in migrations if one["appliedAt"]]
    last = max(rows, key=lambda one: str(one["appliedAt"]), default=None)
    return {
        "success": True,
        "environment": "production",
        "database": "neondb",
        "pgVersion": "PostgreSQL 16.4",
        "state": state,
        "appliedMigrations": len(rows),
        "pendingMigrations": len(migrations) - len(rows),
        "lastMigration": last and {name: last[name] for name in ("version", "name", "appliedAt")},
        "drift": "none",
        "driftAsOf": last and last["appliedAt"],
        "running": None,
        "migrations": migrations,
        **more,
    }


def entry(
    version: str, state: str = "applied", at: datetime | None = None, milliseconds: int | None = 25
) -> Document:
    """One migration of a status document."""
    return {
        "version": version,
        "name": version.partition("-")[2].replace("-", " ").title(),
        "state": state,
        "appliedAt": iso(at),
        "executionTimeMs": milliseconds if at else None,
    }


def applied(count: int) -> list[Document]:
    """So many applied migrations of a product's three years."""
    return [
        entry(one.version, "applied", one.applied_at, one.milliseconds) for one in past(count, NOW)
    ]


def states() -> Mapping[str, Document]:
    """A document of each state."""
    some, pending = applied(57), [entry("058-add-orders", "pending")]
    pending.append(entry("059-index-orders-by-user", "pending"))
    yesterday = NOW - timedelta(days=1, hours=3)
    conflict = [
        *some[:-1],
        some[-1] | {"state": "modified"},
        entry("056-late-file", "out_of_order"),
        entry("060-gone", "missing", yesterday),
        pending[1],
    ]
    ahead = [*some, entry("058-add-orders", "ahead", yesterday, 46)]
    running = {"version": "058-add-orders", "since": iso(NOW - timedelta(seconds=41))}
    summary = status("pending", [*some, *pending])
    for name in ("database", "lastMigration", "drift", "driftAsOf", "running", "migrations"):
        del summary[name]
    return {
        "current": status("current", some),
        "pending": status("pending", [*some, *pending]),
        "running": status("pending", [*some, *pending], running=running),
        "ahead": status("ahead", ahead, drift="unknown"),
        "conflict": status("conflict", conflict),
        "drift": status("current", some, drift="found"),
        "fresh": status("pending", pending, driftAsOf=None, drift="unknown"),
        "empty": status("current", [], driftAsOf=None, drift="unknown"),
        "summary": summary | {"pgVersion": "PostgreSQL 16"},
        "many": status("current", applied(300)),
        "hostile": status("pending", [*hostile(), *pending]),
        "unreachable": error_result(DatabaseUnavailable("")).document,
        "not-configured": error_result(ConfigError("")).document,
        "internal": error_result(OnwardError("")).document,
        "off": error_document("not_found", "Not Found"),
    }


def hostile() -> list[Document]:
    """What a history may hold that somebody else has written."""
    names = (
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>&amp;",
        "\u202egnp.sql \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
        "x" * 255,
    )
    return [
        entry(f"{number:03}-{name}", "applied", NOW - timedelta(days=9 - number), 10**number)
        | {"name": f"Name {name}"}
        for number, name in enumerate(names, start=1)
    ]
