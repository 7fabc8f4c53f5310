"""The report of a fleet as a page: what it says, and that nothing in it is taken for HTML."""

import pytest

from lib.fleet.page import page
from lib.report.page_style import STYLE_SOURCE
from scripts.dev.fleet_documents import HOSTILE, reports
from scripts.dev.status_documents import NOW

PAGES = {kind: page(document, NOW) for kind, document in reports().items()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("current", ["All 1,603 databases current", "Nothing to do."]),
        ("behind", ["1,569 of 1,603 databases current", "Migration failed", "34 behind"]),
        ("canary", ["Wave 0 had to be current", "1,600 not reached"]),
        ("interrupted", ["The run was stopped.", "The same command again"]),
        ("killed", ["The run was killed", "The same command again"]),
        ("running", ["A run is under way."]),
        ("one", ["All 1 database current"]),
    ],
)
def test_the_page_answers_whether_all_tenants_are_done(kind: str, words: list[str]) -> None:
    for word in words:
        assert word in PAGES[kind]


@pytest.mark.parametrize("kind", PAGES)
def test_every_page_allows_no_script_and_only_its_own_style(kind: str) -> None:
    assert PAGES[kind].count("<script") == 0
    assert f"default-src 'none'; style-src {STYLE_SOURCE}" in PAGES[kind]
    assert "http://" not in PAGES[kind].replace("http://www.w3.org/2000/svg", "")


def test_what_a_name_holds_is_text() -> None:
    assert HOSTILE not in PAGES["hostile"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in PAGES["hostile"]
