"""The status page, as text: every state, every value, and what nobody's value can do to it."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import pytest

from lib.report.document import iso
from lib.report.page import page
from lib.report.page_graphics import Scale, Timeline, duration
from lib.report.page_style import STYLE
from scripts.dev.status_documents import NOW, Document, applied, entry, states, status

STATES = states()
_VOID = {"meta", "link"}
_CLOSED = {"path", "rect", "line", "use"}  # written as `<path/>`
# All that a page is made of: what comes from a history adds nothing to it.
ELEMENTS = set(
    "html head meta title link style body header main footer h1 h2 h3 p span bdi code a time "
    "strong dl div dt dd figure figcaption details summary table caption thead tbody tr th td "
    "svg symbol path use rect line text".split()
)


class Read(HTMLParser):
    """A page as a parser sees it. Fails if a tag is not closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open += [] if tag in _VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert tag in _CLOSED

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [
            found[attribute] or ""
            for one, found in self.elements
            if one == tag and attribute in found
        ]


def read(document: Document, now: Any = NOW) -> Read:
    return Read(page(document, now))


def heading(document: Document) -> str:
    found = re.search(r"<h1>.*?<span>(.*?)</span></h1>", page(document, NOW))
    assert found
    return found[1]


# Every state.


@pytest.mark.parametrize("name", STATES)
def test_every_page_is_sound_and_made_of_the_same_elements(name: str) -> None:
    found = read(STATES[name])
    assert {tag for tag, _ in found.elements} <= ELEMENTS
    assert Counter(tag for tag, _ in found.elements)["h1"] == 1
    ids = Counter(value for _, attributes in found.elements if (value := attributes.get("id")))
    assert {one for one, count in ids.items() if count > 1} == set()


@pytest.mark.parametrize("name", STATES)
def test_no_page_has_a_script_a_style_attribute_or_a_request(name: str) -> None:
    text = page(STATES[name], NOW)
    found = Read(text)
    for _, attributes in found.elements:
        assert not [one for one in attributes if one.startswith("on") or one in ("style", "src")]
    targets = [one for tag in ("a", "link", "use") for one in found.values(tag, "href")]
    assert {re.match(r"#|\?format=json$|data:image/svg", one) is not None for one in targets} == {
        True
    }
    assert text.count("<style>") == 1
    assert f"<style>{STYLE}</style>" in text
    assert "url(" not in STYLE


@pytest.mark.parametrize("name", STATES)
def test_the_title_carries_the_state(name: str) -> None:
    assert f"<title>{heading(STATES[name])} · " in page(STATES[name], NOW)


def test_the_icon_carries_the_state() -> None:
    icons = {one: Read(page(STATES[one], NOW)).values("link", "href")[0] for one in STATES}
    different = ("current", "pending", "ahead", "conflict", "unreachable", "off")
    assert len({icons[one] for one in different}) == len(different)


@pytest.mark.parametrize(
    ("name", "title", "advice"),
    [
        ("current", "Up to date", "Nothing to do."),
        ("pending", "2 pending", "The next deploy applies what is pending."),
        ("running", "2 pending", "A run is under way."),
        ("ahead", "Ahead", "deploy the newer code again"),
        ("conflict", "Conflict", "scripts/migrate.py validate"),
        ("drift", "Up to date, with drift", "scripts/migrate.py drift"),
        ("summary", "2 pending", "POST /api/migrate"),
        ("unreachable", "Unreachable", "The database is unavailable. A database that sleeps"),
        ("not-configured", "Not configured", "Its log names the variable."),
        ("internal", "Error", "Internal error. The log of this deployment has the reason."),
        ("off", "Not found", "Nothing is published at this address."),
    ],
)
def test_a_state_is_said_in_words_with_what_to_do(name: str, title: str, advice: str) -> None:
    assert heading(STATES[name]) == title
    assert advice in read(STATES[name]).words


def test_a_run_under_way_does_not_hide_a_conflict() -> None:
    running = {"version": None, "since": None}
    assert "migrate.py validate" in read(STATES["conflict"] | {"running": running}).words


def test_an_error_without_words_of_its_own_has_those_of_its_answer() -> None:
    document = {"success": False, "error": {"code": "new_one", "message": "It is <new>."}}
    assert heading(document) == "Error"
    assert "It is <new>. The log" in read(document).words


def test_an_error_shows_nothing_but_its_words() -> None:
    assert {tag for tag, _ in read(STATES["unreachable"]).elements} & {"dl", "table", "h2"} == set()


# What it shows.


def test_all_that_the_document_says_is_on_the_page() -> None:
    document = STATES["running"] | {"drift": "unknown"}
    words = read(document).words
    for name in ("environment", "database", "pgVersion"):
        assert document[name] in words
    for said in (
        "57 applied", "2 pending", "Unknown", "41 seconds ago", "6 days ago",
        "2026-11-20 13:03:54 UTC", "2026-11-26 18:29:31 UTC", "As of 2026-11-26 18:30:12 UTC",
    ):  # fmt: skip
        assert said in words
    for one in document["migrations"]:
        assert one["version"] in words


def test_a_summary_shows_no_names() -> None:
    found = read(STATES["summary"])
    assert "57 applied" in found.words
    for hidden in ("neondb", "058-add-orders", "Last migration", "Running", "Drift", "16.4"):
        assert hidden not in found.words


def rows(document: Document) -> Iterator[tuple[str, str]]:
    """Version and state, from top to bottom."""
    text = page(document, NOW)
    for row in re.findall(r'<tr id="(.*?</tr>)', text, re.DOTALL):
        cell = re.search(r"</svg> ([^<]+)</td>", row)
        assert cell
        yield row.partition('"')[0], cell[1]


def test_conflicts_and_pending_come_first_and_then_the_newest() -> None:
    found = list(rows(STATES["conflict"]))
    assert found[:5] == [
        ("057-add-region-to-audit-events", "Modified"),
        ("056-late-file", "Out of order"),
        ("060-gone", "Missing"),
        ("059-index-orders-by-user", "Pending"),
        ("056-add-total-to-addresses", "Applied"),
    ]
    assert len(found) == len(STATES["conflict"]["migrations"])
    numbers = [version for version, _ in found[4:]]
    assert numbers == sorted(numbers, reverse=True)


def test_the_pending_one_that_runs_says_so() -> None:
    assert list(rows(STATES["running"]))[:2] == [
        ("058-add-orders", "Running now"),
        ("059-index-orders-by-user", "Pending"),
    ]


def test_of_one_time_the_highest_number_comes_first_and_what_has_none_last() -> None:
    entries = [entry("001-a"), *(entry(f"00{n}-b", "applied", NOW) for n in (2, 3, 4))]
    found = [version[:3] for version, _ in rows(status("current", entries))]
    assert found == ["004", "003", "002", "001"]
    assert "Time unknown" in read(status("current", entries)).words


def test_each_version_has_an_anchor_that_its_own_link_names() -> None:
    found = read(STATES["many"])
    ids, links = found.values("tr", "id"), found.values("a", "href")
    assert len(ids) == 300
    assert {f"#{one}" for one in ids} == set(links) - {"?format=json"}
    hostile = read(STATES["hostile"])
    targets = {unquote(one) for one in hostile.values("a", "href")} - {"?format=json"}
    assert {f"#{one}" for one in hostile.values("tr", "id")} == targets


def test_where_there_are_bars_their_scale_is_said() -> None:
    assert page(STATES["conflict"], NOW).count("The bars show how long each one took") == 2
    assert "The bars" not in page(STATES["fresh"], NOW)


def test_a_name_is_shown_where_it_does_not_only_repeat_the_version() -> None:
    entries = [entry("001-add-orders", "applied", NOW), entry("002-b", "applied", NOW)]
    words = read(status("current", [entries[0], entries[1] | {"name": "Second"}])).words
    assert ("Add Orders" in words, "Second" in words) == (False, True)


def test_older_years_are_folded_once_enough_is_open() -> None:
    def folded(count: int) -> list[bool]:
        return [
            one == ""
            for one in re.findall(
                r"<details( open)?>", page(status("current", applied(count)), NOW)
            )
        ]

    assert folded(300) == [False, True, True, True]
    assert not any(folded(20))


def test_every_table_has_a_caption_and_heads_of_columns_and_rows() -> None:
    text = page(STATES["conflict"], NOW)
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        assert re.search(r"<caption class=\"hidden\">\w", table)
        assert table.count('<th scope="col">') == 4
        assert table.count("<tr") - 1 == table.count('<th scope="row">')


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "just now"), (0.4, "just now"), (1, "1 second ago"), (59, "59 seconds ago"),
     (60, "1 minute ago"), (7_300, "2 hours ago"), (86_400 * 3, "3 days ago"),
     (86_400 * 45, "1 month ago"), (86_400 * 800, "2 years ago")],
)  # fmt: skip
def test_the_last_migration_says_how_long_ago_it_was(seconds: float, words: str) -> None:
    entries = [entry("001-a", "applied", NOW - timedelta(seconds=seconds))]
    assert f"{words} 2" in read(status("current", entries)).words


# Values that were not made for a page.


def test_no_value_becomes_markup() -> None:
    names = ("environment", "database", "pgVersion")
    document = STATES["hostile"] | dict.fromkeys(names, '"><script>alert(1)</script>')
    text = page(document, NOW)
    found = Read(text)
    assert ("<script" in text, "<img" in text) == (False, False)
    assert {tag for tag, _ in found.elements} <= ELEMENTS
    assert "001-<script>alert(1)</script>" in found.words
    assert "002-\"'><img src=x onerror=alert(1)>&amp;" in found.words
    assert found.values("tr", "id")[2:4] == [
        "004-" + "x" * 255,
        "003-\\u202egnp.sql-\u05e9\u05dc\u05d5\u05dd-\u0645\u0631\u062d\u0628\u0627",
    ]


def test_what_turns_the_direction_of_writing_is_shown_and_does_nothing() -> None:
    text = page(STATES["hostile"], NOW)
    assert "\u202e" not in text
    assert "<bdi>003-\\u202egnp.sql" in text


def test_a_running_version_of_an_unknown_file_is_escaped_too() -> None:
    running = {"version": "<b>x</b>", "since": None}
    assert "<b>" not in page(STATES["pending"] | {"running": running}, NOW)
    assert "A run" in read(STATES["pending"] | {"running": {"version": None, "since": None}}).words


# The scale and the timeline.


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_000, "1.0 s"), (59_940, "59.9 s"), (59_999, "59.9 s"),
     (60_000, "1 min 0 s"),     (163_400, "2 min 43 s"), (7_380_000, "2 h 3 min")],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_it_is_read_in(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def width(bar: str) -> float:
    found = re.search(r'<rect width="([\d.]+)%"', bar)
    assert found
    return float(found[1])


def test_within_two_orders_the_scale_is_linear_and_says_so() -> None:
    scale = Scale.of([10, 500, 1000])
    assert [width(scale.bar(one)) for one in (10, 500, 1000)] == [1.0, 50.0, 100.0]
    assert scale.sentence.endswith("on a scale from 0 ms to 1.0 s.")


def test_over_two_orders_the_scale_is_logarithmic_and_says_so() -> None:
    scale = Scale.of([10, 100, 10_000])
    assert [width(scale.bar(one)) for one in (10, 100, 10_000)] == [1.0, 33.3, 100.0]
    assert scale.sentence.endswith("on a logarithmic scale from 10 ms to 10.0 s.")


@pytest.mark.parametrize("durations", [[], [0], [0, 0, 100_000], [-5, 7], [2**31, 1]])
def test_every_duration_has_a_bar_that_fits(durations: list[int]) -> None:
    scale = Scale.of(durations)
    assert all(1 <= width(scale.bar(one)) <= 100 for one in [0, *durations])


def test_the_timeline_counts_by_month_or_of_a_short_history_by_day() -> None:
    long = Timeline.of(["2024-11-30T23:59:59.000Z", "2025-01-01T00:00:00.000Z"], NOW)
    assert (long.unit, long.last - long.first) == ("month", 24)
    short = Timeline.of([str(iso(NOW - timedelta(days=n))) for n in (91, 3, 3)], NOW)
    assert (short.unit, short.last - short.first) == ("day", 91)
    assert short.sentence == (
        "3 migrations by day, from 27 Aug 2026 to now: at most 2 in one day, 23 Nov 2026."
    )


@pytest.mark.parametrize(
    "moments",
    [["0001-01-01T00:00:00.000Z"], ["2026-11-26T18:30:12.455Z"], ["9999-12-31T00:00:00.000Z"],
     ["0001-01-01T00:00:00.000Z", "9999-12-31T00:00:00.000Z"]],
)  # fmt: skip
def test_a_timeline_of_any_length_fits_and_has_few_labels(moments: list[str]) -> None:
    svg = Timeline.of(moments, NOW).svg()
    for x, width_ in re.findall(r'<rect x="([\d.-]+)%" .*?width="([\d.]+)%"', svg):
        assert 0 <= float(x) <= float(x) + float(width_) <= 100.01
    assert svg.count("<text") <= 7
