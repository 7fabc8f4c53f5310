"""The public status as a page for people: one HTML document of what the JSON says. Pure.

It needs no script, and nothing from elsewhere.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import quote

from lib.drift import Drift
from lib.plan import State
from lib.printable import count, visible
from lib.report.page_graphics import Scale, Timeline, duration, favicon, icon, symbols
from lib.report.page_style import STYLE, TONES

# What a version usually is: the same as text, in an id and in a URL. So rows are made fast.
_PLAIN = re.compile("[A-Za-z0-9._-]+")
_OPEN_ROWS = 25  # of applied migrations; the years behind them are folded
_UNITS = (
    (365 * 86_400, "year"),
    (30 * 86_400, "month"),
    (86_400, "day"),
    (3_600, "hour"),
    (60, "minute"),
    (1, "second"),
)


class _View(NamedTuple):
    """A state of the whole: how it looks, its words, and what to do about it."""

    tone: str
    icon: str
    title: str
    advice: str


_DEPLOY = (
    "The next deploy applies what is pending. If you cannot deploy: <code>POST /api/migrate</code> "
    "with the secret."
)
_UNDER_WAY = "A run is under way. Reload to see how far it is."
_VIEWS = {
    State.CURRENT: _View("good", "check", "Up to date", "Nothing to do."),
    State.PENDING: _View("wait", "clock", "Pending", _DEPLOY),
    State.AHEAD: _View(
        "info",
        "ahead",
        "Ahead",
        "The database has migrations that this deployment has no files of, as after a rollback of "
        "the code. If this code works with the newer schema, there is nothing to do; else deploy "
        "the newer code again.",
    ),
    State.CONFLICT: _View(
        "bad",
        "cross",
        "Conflict",
        "Files and history disagree, so that no run applies anything. "
        "<code>scripts/migrate.py validate</code> says why, and what to do.",
    ),
}
_DRIFTED = _View("wait", "bang", "Up to date, with drift", "All migrations are applied.")
_LOG = "The log of this deployment has the reason."
_FAILURES = {
    "database_unavailable": _View(
        "bad",
        "bang",
        "Unreachable",
        "A database that sleeps needs a few seconds: reload. If it stays so, the log of this "
        "deployment has the reason.",
    ),
    "history_hidden": _View("bad", "bang", "History hidden", _LOG),
    "invalid_files": _View("bad", "bang", "Invalid files", ""),
    "not_configured": _View("bad", "bang", "Not configured", ""),
    "not_found": _View("none", "gone", "Not found", "Nothing is published at this address."),
    "method_not_allowed": _View("none", "gone", "Method not allowed", ""),
}
_FAILURE = _View("bad", "bang", "Error", _LOG)

_DRIFT = (
    "The schema is not as the migrations left it. <code>scripts/migrate.py drift</code> names what "
    "differs."
)
_DRIFT_MARKS = {
    Drift.NONE: ("green", "check"),
    Drift.FOUND: ("red", "bang"),
    Drift.UNKNOWN: ("quiet", "gone"),
}
_SECTIONS = (
    ("Conflicts", (State.MODIFIED, State.MISSING, State.OUT_OF_ORDER)),
    ("Pending", (State.PENDING,)),
)
_APPLIED = (State.APPLIED, State.AHEAD)
_MARKS = {
    State.APPLIED: ("green", "check"),
    State.PENDING: ("amber", "clock"),
    State.AHEAD: ("blue", "ahead"),
}
_CONFLICT_MARK = ("red", "cross")
_COLUMNS = "".join(
    f'<th scope="col">{title}</th>' for title in ("Migration", "State", "Applied, UTC", "Duration")
)
_NONE = '<td class="none">–</td>'

Entry = Mapping[str, Any]
"""One of the document's `migrations`."""


def page(document: Mapping[str, Any], now: datetime) -> str:
    """The page of a public status, or of an error. `now` is what times are relative to."""
    view = _view(document)
    top = head(view.title, document.get("environment"), view.icon, view.tone)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{top}</head>\n'
        f'<body class="{view.tone}">\n{symbols()}\n'
        f"<header>\n{''.join(_summary(document, view))}</header>\n"
        f"<main>\n{''.join(_sections(document, now))}</main>\n"
        f"<footer>\n<p>As of {exactly(now.astimezone(UTC))}. "
        '<a href="?format=json">The same as JSON</a></p>\n</footer>\n</body>\n</html>\n'
    )


def _view(document: Mapping[str, Any]) -> _View:
    if "error" not in document:
        return _status_view(document)
    error = document["error"]
    view = _FAILURES.get(error["code"], _FAILURE)
    said = "" if error["message"].casefold() == view.title.casefold() else text(error["message"])
    return view._replace(advice=f"{said} {view.advice}".strip())


def _status_view(document: Mapping[str, Any]) -> _View:
    """Of a status: its state, and what else there is to do."""
    view = _VIEWS[State(document["state"])]
    if document["state"] == State.PENDING:
        advice = _UNDER_WAY if document.get("running") else view.advice
        return view._replace(title=_pending_count(document), advice=advice)
    if document["state"] == State.CURRENT and document.get("drift") == Drift.FOUND:
        return _DRIFTED
    return view


def head(title: str, environment: str | None, mark: str, tone: str) -> str:
    """What a page has in its head: title, icon and style."""
    title = " · ".join(text(one) for one in (title, environment, "Onward") if one)
    return (
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{title}</title>\n"
        f'<link rel="icon" href="{favicon(mark, *TONES[tone])}">\n'
        f"<style>{STYLE}</style>\n"
    )


def _summary(document: Mapping[str, Any], view: _View) -> Iterator[str]:
    """What is read from two metres, and what to do about it."""
    names = (document.get(name) for name in ("environment", "database", "pgVersion"))
    where = " · ".join(f"<bdi>{text(name)}</bdi>" for name in names if name)
    if where:
        yield f'<p class="where">{where}</p>\n'
    yield f"<h1>{icon(view.icon)}<span>{view.title}</span></h1>\n"
    if view.advice:
        yield f"<p>{view.advice}</p>\n"
    if document.get("drift") == Drift.FOUND:
        yield f"<p>{_DRIFT}</p>\n"


def _sections(document: Mapping[str, Any], now: datetime) -> Iterator[str]:
    if "error" in document:
        return
    yield f"<dl>\n{''.join(_facts(document, now))}</dl>\n"
    if entries := document.get("migrations"):
        yield from _lists(document, entries, now)


def _facts(document: Mapping[str, Any], now: datetime) -> Iterator[str]:
    yield fact("Migrations", f"{document['appliedMigrations']} applied", _pending_count(document))
    if "lastMigration" in document:
        yield _last_fact(document["lastMigration"], now)
    if "running" in document:
        yield _running_fact(document["running"], now)
    if "drift" in document:
        drift = document["drift"]
        colour, mark = _DRIFT_MARKS[drift]
        words = f'<span class="{colour}">{icon(mark)}</span> {text(drift).capitalize()}'
        yield fact("Drift", words, _when(document["driftAsOf"], now, "as of "))


def _pending_count(document: Mapping[str, Any]) -> str:
    return f"{document['pendingMigrations'] or 'none'} pending"


def _last_fact(last: Mapping[str, Any] | None, now: datetime) -> str:
    if not last:
        return fact("Last migration", "None")
    return fact("Last migration", _Names.of(last["version"]).link, _when(last["appliedAt"], now))


def _running_fact(running: Mapping[str, Any] | None, now: datetime) -> str:
    if not running:
        return fact("Running now", "Nothing")
    version = running["version"]
    words = f"<bdi>{text(version)}</bdi>" if version else "A run"
    mark = f'<span class="amber">{icon("clock")}</span>'
    return fact("Running now", f"{mark} {words}", _when(running["since"], now, "started "))


def fact(term: str, words: str, more: str = "") -> str:
    """One of the facts at the top; all three are HTML."""
    return f"<div><dt>{term}</dt><dd><strong>{words}</strong>{more}</dd></div>\n"


def _when(moment: str | None, now: datetime, prefix: str = "") -> str:
    """How long ago, and when exactly."""
    if not moment:
        return ""
    found = datetime.fromisoformat(moment)
    return f"{prefix}{ago((now - found).total_seconds())} {exactly(found)}"


def exactly(moment: datetime) -> str:
    """A moment in UTC as HTML."""
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def ago(seconds: float) -> str:
    """So many seconds in words."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{count(int(seconds // size), unit)} ago"
    return "just now"


def _lists(document: Mapping[str, Any], entries: Sequence[Entry], now: datetime) -> Iterator[str]:
    """What needs attention, what is pending, then what is applied, the newest first."""
    rows = _Rows.of(document, entries)
    for title, states in _SECTIONS:
        if found := [entry for entry in entries if entry["state"] in states]:
            yield f"<h2>{title}</h2>\n{rows.note(found)}{rows.table(title, found)}"
    yield from _timeline(entries, now)
    # What was applied at one time is in the order of its numbers, the highest first.
    applied = [entry for entry in reversed(entries) if entry["state"] in _APPLIED]
    if applied:
        yield f"<h2>Applied</h2>\n{rows.note(applied)}"
        yield from _years(rows, sorted(applied, key=_newness, reverse=True))


def _timeline(entries: Sequence[Entry], now: datetime) -> Iterator[str]:
    moments = [entry["appliedAt"] for entry in entries if entry["appliedAt"]]
    if moments:
        timeline = Timeline.of(moments, now)
        # The picture's own label says the same to a screen reader.
        caption = f'<figcaption aria-hidden="true">{timeline.sentence}</figcaption>'
        yield f"<h2>Timeline</h2>\n<figure>{timeline.svg()}{caption}</figure>\n"


def _newness(entry: Entry) -> str:
    return entry["appliedAt"] or ""


def _years(rows: "_Rows", newest_first: Sequence[Entry]) -> Iterator[str]:
    shown = 0
    for year, found in groupby(newest_first, key=lambda entry: _newness(entry)[:4]):
        entries = list(found)
        title = year or "Time unknown"
        state = " open" if shown < _OPEN_ROWS else ""
        heading = f'<h3>{title}</h3> <span class="quiet">{count(len(entries), "migration")}</span>'
        table = rows.table(f"Applied, {title}", entries)
        yield f"<details{state}>\n<summary>{heading}</summary>\n{table}</details>\n"
        shown += len(entries)


class _Rows(NamedTuple):
    """How entries are shown as rows: the scale of their bars, and the version that runs now."""

    scale: Scale
    running: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any], entries: Iterable[Entry]) -> "_Rows":
        durations = (entry["executionTimeMs"] for entry in entries)
        scale = Scale.of(one for one in durations if one is not None)
        return cls(scale, (document["running"] or {}).get("version"))

    def note(self, entries: Iterable[Entry]) -> str:
        """What the bars of these entries mean, if they have any."""
        if all(entry["executionTimeMs"] is None for entry in entries):
            return ""
        return f'<p class="note">{self.scale.sentence}</p>\n'

    def table(self, caption: str, entries: Iterable[Entry]) -> str:
        """A table of entries; its caption is for screen readers, below a heading that says it."""
        return (
            f'<table>\n<caption class="hidden">{caption}</caption>\n'
            f"<thead><tr>{_COLUMNS}</tr></thead>\n"
            f"<tbody>\n{''.join(map(self._row, entries))}</tbody>\n</table>\n"
        )

    def _row(self, entry: Entry) -> str:
        version, state = entry["version"], entry["state"]
        names = _Names.of(version)
        running = state == State.PENDING and version == self.running
        return (
            f'<tr id="{names.id}"><th scope="row">{names.link}{_name(entry)}</th>'
            f"{_state_cell(state, running=running)}{_applied_cell(entry)}"
            f"{self._duration_cell(entry['executionTimeMs'])}</tr>\n"
        )

    def _duration_cell(self, milliseconds: int | None) -> str:
        if milliseconds is None:
            return _NONE
        return f"<td><span>{duration(milliseconds)}</span>{self.scale.bar(milliseconds)}</td>"


@cache
def _state_cell(state: str, *, running: bool) -> str:
    colour, mark = _MARKS.get(State(state), _CONFLICT_MARK)
    words = "Running now" if running else state.replace("_", " ").capitalize()
    return f'<td class="{colour}">{icon(mark)} {words}</td>'


def _applied_cell(entry: Entry) -> str:
    moment = entry["appliedAt"]
    if not moment:
        return _NONE
    return f'<td><time datetime="{moment}">{moment[:10]} {moment[11:16]}</time></td>'


def _name(entry: Entry) -> str:
    """The name, where it does not only repeat the version."""
    version, name = entry["version"], entry["name"]
    if name.replace(" ", "-").casefold() == version.partition("-")[2].casefold():
        return ""
    return f' <span class="quiet"><bdi>{text(name)}</bdi></span>'


class _Names(NamedTuple):
    """A version as an id, which has no white space, in a URL and as text."""

    id: str
    fragment: str
    text: str

    @classmethod
    def of(cls, version: str) -> "_Names":
        """Those of a version, whatever is in it."""
        if _PLAIN.fullmatch(version):
            return cls(version, version, version)
        anchor = "-".join(visible(version).split())
        return cls(escape(anchor), quote(anchor), text(version))

    @property
    def link(self) -> str:
        """The text, linked to the row that has the id."""
        return f'<a href="#{self.fragment}"><bdi>{self.text}</bdi></a>'


def text(raw: str) -> str:
    """The text as HTML, with what cannot be seen made visible."""
    return raw if _PLAIN.fullmatch(raw) else escape(visible(raw))
