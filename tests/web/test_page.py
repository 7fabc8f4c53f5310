"""The status as a page: who gets it, with which headers, and that it is the status of all."""

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from lib.report.page import page
from lib.report.page_style import STYLE
from tests.conftest import ROOT, Database
from tests.kit import OURS, Write, history
from tests.web.instance import MIGRATE, STATUS, Reply, Silent, Start, untouched

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HTML = {"Accept": BROWSER}
POLICY = {
    "default-src": "'none'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def title(response: Any) -> str:
    """The title of a page, which must be one by its headers too."""
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    found = re.search(r"<title>(.*?)</title>", response.text)
    assert found
    return found[1]


def test_a_browser_gets_the_page_and_all_others_get_json(start: Start, migrated: Database) -> None:
    instance = start(migrated)
    assert title(instance.status(headers=HTML)) == "Up to date · test · Onward"
    for accept in ("*/*", "application/json", "", "text/html;q=0.5, application/json"):
        response = instance("GET", STATUS, headers={"Accept": accept})
        assert response.json()["state"] == "current"
        assert response.headers["vary"] == "Accept"
        assert "content-security-policy" not in response.headers
    assert history(migrated) == OURS


def test_the_root_is_the_page_unless_json_is_asked_for(start: Start, database: Database) -> None:
    instance = start(database)
    for headers in ({}, HTML, {"Accept": "*/*"}):
        assert title(instance("GET", "/", headers=headers)) == "3 pending · test · Onward"
    asked = instance("GET", "/", headers={"Accept": "application/json"})
    assert asked.json()["state"] == "pending"
    assert untouched(database)


def test_the_pages_own_link_leads_to_json(start: Start, migrated: Database) -> None:
    instance = start(migrated)
    for path in (STATUS, "/"):
        assert 'href="?format=json"' in instance("GET", path, headers=HTML).text
        found = instance("GET", f"{path}?format=json", headers=HTML)
        assert found.json() == instance("GET", STATUS).json()


def test_the_page_may_load_nothing_but_its_own_style(start: Start, migrated: Database) -> None:
    response = start(migrated)("GET", STATUS, headers=HTML)
    policy = dict(
        one.strip().split(" ", 1) for one in response.headers["content-security-policy"].split(";")
    )
    [style] = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == POLICY | {"style-src": f"'sha256-{digest}'"}
    assert style == STYLE


def test_require_current_holds_for_the_page(
    start: Start, database: Database, migrated: Database
) -> None:
    for path in (STATUS, "/"):
        pending = start(database)("GET", f"{path}?require=current", headers=HTML)
        assert (pending.status_code, title(pending)) == (503, "3 pending · test · Onward")
        assert start(migrated)("GET", f"{path}?require=current", headers=HTML).status_code == 200


def test_a_summary_is_a_page_without_names(start: Start, migrated: Database) -> None:
    response = start(migrated, MIGRATION_STATUS="summary")("GET", STATUS, headers=HTML)
    assert title(response) == "Up to date · test · Onward"
    assert "3 applied" in response.text
    for hidden in (*OURS, migrated.name):
        assert hidden not in response.text


def test_where_the_status_is_off_there_is_no_page(start: Start, migrated: Database) -> None:
    instance = start(migrated, MIGRATION_STATUS="off")
    for path in (STATUS, "/", "/x"):
        response = instance("GET", path, headers=HTML)
        assert (response.status_code, title(response)) == (404, "Not found · Onward")
        assert instance("GET", path).json()["error"]["code"] == "not_found"


@pytest.mark.slow
def test_an_unreachable_database_is_a_page_that_says_so(silent: Silent, start: Start) -> None:
    response = start(silent.database)("GET", STATUS, headers=HTML)
    assert (response.status_code, title(response)) == (503, "Unreachable · Onward")
    assert response.headers["retry-after"] == "5"
    assert response.headers["x-request-id"]
    assert "somewhere" not in response.text


def test_what_is_not_configured_is_a_page_that_says_so(start: Start, migrated: Database) -> None:
    response = start(migrated, POSTGRES_URL="canary://nowhere")("GET", STATUS, headers=HTML)
    assert (response.status_code, title(response)) == (503, "Not configured · Onward")


def test_a_head_request_has_the_headers_of_the_page(wired: Callable[..., Reply]) -> None:
    for path in (STATUS, "/"):
        got, head = (wired(method, path, f"Accept: {BROWSER}") for method in ("GET", "HEAD"))
        assert (head.status, head.body) == (200, b"")
        for name in ("content-type", "content-security-policy", "vary", "cache-control"):
            assert head.header(name) == got.header(name)
        assert got.header("cache-control") == "no-store"


def test_the_emergency_route_answers_in_json_alone(start: Start, migrated: Database) -> None:
    response = start(migrated)("POST", MIGRATE, headers=HTML)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
    assert "vary" not in response.headers


def test_page_and_json_are_of_one_read(start: Start, database: Database, migrations: Write) -> None:
    instance = start(database, migrations({"001-a.sql": "CREATE TABLE a ()"}))
    instance("GET", STATUS)
    before = len(instance.log())
    migrations({"002-b.sql": "CREATE TABLE b ()"})
    for path in (STATUS, "/"):
        assert title(instance("GET", path, headers=HTML)) == "1 pending · test · Onward"
    assert (before, instance.log()) == (1, [])
    assert title(instance.status(headers=HTML)) == "2 pending · test · Onward"


def test_a_page_is_made_once_as_long_as_its_status_is_shared(
    start: Start, migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(document: dict[str, Any], now: datetime) -> str:
        made.append(document["state"])
        return page(document, now)

    monkeypatch.setattr("lib.report.page.page", noted)
    instance = start(migrated)
    first, second = (instance("GET", path, headers=HTML).text for path in (STATUS, "/"))
    assert (first == second, made) == (True, ["current"])
    instance.status(headers=HTML)
    assert made == ["current"] * 2
    assert history(migrated) == OURS


def test_what_a_history_holds_is_text_on_the_page(start: Start, migrated: Database) -> None:
    migrated.execute(
        "INSERT INTO schema_migrations (version, name) VALUES (%s, %s)",
        ["003-<script>alert(1)</script>", "<img src=x onerror=alert(1)>"],
    )
    response = start(migrated)("GET", STATUS, headers=HTML)
    assert title(response) == "Ahead · test · Onward"
    assert "003-&lt;script&gt;alert(1)&lt;/script&gt;" in response.text
    assert not re.search("<script|<img", response.text)


def test_no_cold_start_and_no_json_loads_the_page(migrated: Database) -> None:
    code = (
        "import sys; from starlette.testclient import TestClient; from lib.vercel import app\n"
        "client = TestClient(app)\n"
        "def loaded(): return 'lib.report.page' in sys.modules\n"
        f"print(loaded(), client.get({STATUS!r}).status_code, loaded(), end=' ')\n"
        "print(client.get('/').status_code, loaded())"
    )
    environ = {"POSTGRES_URL": migrated.url, "MIGRATION_ENV": "test"}
    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, text=True
    )
    assert printed.splitlines()[-1] == "False 200 False 200 True"
