"""The report of a fleet as a page for people, in the style of the status page. Pure.

It answers "are all tenants done?". It needs no script, and nothing from elsewhere.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from lib.printable import count
from lib.report.page import ago, exactly, fact, head, text
from lib.report.page_graphics import icon, symbols
from lib.report.page_style import STYLE_SOURCE

_POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; img-src data:"
_CLUSTERS_OPEN = 25  # of a wave; more are folded
_AGAIN = "The same command again goes on where this run ended."


class _View(NamedTuple):
    """The verdict: how it looks, its words, and what to do about it."""

    tone: str
    icon: str
    title: str
    advice: str


def page(document: Mapping[str, Any], now: datetime) -> str:
    """The page of a report's document. `now` is what times are relative to."""
    view = _view(document)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n'
        f"{head(view.title, document['environment'], view.icon, view.tone)}{policy}</head>\n"
        f'<body class="{view.tone}">\n{symbols()}\n'
        f"<header>\n{''.join(_summary(document, view))}</header>\n"
        f"<main>\n{''.join(_sections(document, now))}</main>\n"
        f"<footer>\n<p>As of {exactly(now.astimezone(UTC))}.</p>\n</footer>\n</body>\n</html>\n"
    )


def _view(document: Mapping[str, Any]) -> _View:
    fine = document["current"] + document["ahead"]
    all_ = document["databases"]
    if document["success"]:
        return _View("good", "check", f"All {count(all_, 'database')} current", "Nothing to do.")
    title = f"{fine:,} of {count(all_, 'database')} current"
    if document["state"] == "running":
        return _View("wait", "clock", title, "A run is under way.")
    if document["behind"] or document["stoppedAfterWave"] is not None:
        return _View("bad", "cross", title, _why(document))
    return _View("wait", "bang", title, _why(document))


def _why(document: Mapping[str, Any]) -> str:
    if document["state"] == "killed":
        return f"The run was killed, or its machine stopped. {_AGAIN}"
    if document["state"] == "interrupted":
        return f"The run was stopped. {_AGAIN}"
    if (wave := document["stoppedAfterWave"]) is not None:
        return f"Wave {wave} had to be current before another one began, and is not."
    return f"What to do is beside each error. {_AGAIN}"


def _summary(document: Mapping[str, Any], view: _View) -> Iterator[str]:
    where = (document["environment"], document["head"])
    yield f'<p class="where">{" · ".join(f"<bdi>{text(one)}</bdi>" for one in where)}</p>\n'
    yield f"<h1>{icon(view.icon)}<span>{view.title}</span></h1>\n<p>{view.advice}</p>\n"


def _sections(document: Mapping[str, Any], now: datetime) -> Iterator[str]:
    yield f"<dl>\n{''.join(_facts(document, now))}</dl>\n"
    if document["errors"]:
        yield f"<h2>Errors</h2>\n{_errors(document)}"
    for wave in document["waves"]:
        yield from _wave(wave)


def _facts(document: Mapping[str, Any], now: datetime) -> Iterator[str]:
    began = datetime.fromisoformat(document["began"])
    yield fact("Databases", f"{document['current'] + document['ahead']:,} current", _rest(document))
    yield fact("Migrated by this run", f"{document['migrated']:,}")
    rate = document["databases"] - document["notReached"]
    seconds = document["seconds"]
    yield fact("Duration", _duration(seconds), f"{rate / seconds:.1f} a second" if seconds else "")
    yield fact(
        "Run",
        f"<bdi>{text(document['run'])}</bdi>",
        f"began {ago((now - began).total_seconds())} {exactly(began)}",
    )


def _rest(counts: Mapping[str, Any]) -> str:
    """What is not current, in words."""
    named = (("ahead", "of them ahead"), ("behind", "behind"), ("notReached", "not reached"))
    return (
        ", ".join(f"{counts[key]:,} {words}" for key, words in named if counts[key]) or "no other"
    )


def _errors(document: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_kind(error)}<br><span class="quiet">{_tenants(error)}</span></th>'
        f'<td class="red">{icon("cross")} {error["databases"]:,}</td>'
        f"<td>{text(_sentence(error['nextStep']))}</td></tr>\n"
        for error in document["errors"]
    )
    return _table("Errors", ("Error", "Databases", "Next step"), rows, " errors")


def _kind(error: Mapping[str, Any]) -> str:
    parts = (error["code"].replace("_", " ").capitalize(), error["version"], error["sqlstate"])
    return " · ".join(f"<bdi>{text(part)}</bdi>" for part in parts if part)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _tenants(error: Mapping[str, Any]) -> str:
    rest = error["databases"] - len(error["tenants"])
    more = f" and {rest:,} more" if rest else ""
    return ", ".join(f"<bdi>{text(name)}</bdi>" for name in error["tenants"]) + more


def _wave(wave: Mapping[str, Any]) -> Iterator[str]:
    rows = "".join(map(_cluster, wave["clusters"]))
    title = f"Wave {wave['wave']}"
    table = _table(title, ("Cluster", "State", "Databases", "Rate"), rows)
    state = " open" if len(wave["clusters"]) <= _CLUSTERS_OPEN or _is_unwell(wave) else ""
    heading = f"{count(wave['databases'], 'database')}, {_rest(wave)}"
    yield f"<h2>{title}</h2>\n<details{state}>\n<summary>{heading}</summary>\n{table}</details>\n"


def _is_unwell(counts: Mapping[str, Any]) -> bool:
    return bool(counts["behind"] or counts["notReached"])


def _cluster(cluster: Mapping[str, Any]) -> str:
    if cluster["behind"]:
        colour, mark = "red", "cross"
    else:
        colour, mark = ("amber", "clock") if cluster["notReached"] else ("green", "check")
    fine = cluster["current"] + cluster["ahead"]
    return (
        f'<tr><th scope="row"><bdi>{text(cluster["cluster"])}</bdi></th>'
        f'<td class="{colour}">{icon(mark)} {_rest(cluster) if _is_unwell(cluster) else "Current"}'
        f"</td><td>{fine:,} of {cluster['databases']:,}</td>"
        f"<td>{cluster['rate']:.1f} a second</td></tr>\n"
    )


def _table(caption: str, columns: tuple[str, ...], rows: str, kind: str = "") -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in columns)
    return (
        f'<table class="fleet{kind}">\n<caption class="hidden">{caption}</caption>\n'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
