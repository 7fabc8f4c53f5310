"""Who gets the page, and who JSON."""

import pytest

from lib.web.accept import prefers_html

BROWSERS = [
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7",
    "text/html, application/json;q=0.9",
    "text/*;q=0.6, */*;q=0.5",
    "TEXT/HTML ; Q=0.5",
    "text/html;level=1;q=0.7, application/json;q=0.2",
    "*/*, application/json;q=0",
    "text/html, */*",
    "text/*, */*",
]
PROGRAMS = [
    "application/json",
    "application/json, text/plain, */*",
    "application/json, text/html;q=0.9",
    "text/html;q=0.1, application/*",
    "text/html;q=0, */*",
    "text/html;q=nan, application/json;q=0.001",
    "text/html;q=2, */*;q=0.1",
]
NEITHER = [
    "",
    "*/*",
    "text/html, application/json",
    "image/png",
    ",;,q=,;q=1",
    "text/html;q=x",
    "\u00fc/\u00e4",
]


@pytest.mark.parametrize("accept", BROWSERS)
def test_who_ranks_html_higher_gets_the_page(accept: str) -> None:
    assert prefers_html(accept, otherwise=False)


@pytest.mark.parametrize("accept", PROGRAMS)
def test_who_ranks_json_higher_gets_json(accept: str) -> None:
    assert not prefers_html(accept, otherwise=True)


@pytest.mark.parametrize("accept", NEITHER)
def test_who_ranks_neither_higher_gets_what_the_address_is_for(accept: str) -> None:
    assert [prefers_html(accept, otherwise=one) for one in (True, False)] == [True, False]
