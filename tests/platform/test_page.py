"""The status page and the report of a fleet in Debian's Chromium: all states, widths and schemes,
and axe-core's rules.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from lib.fleet.page import page as fleet_page
from lib.web.result import ApiResult
from lib.web.service import Service
from scripts.dev.fleet_documents import reports
from scripts.dev.screenshots import CHROMIUM, SCHEMES, WIDTHS, Scheme, browser
from scripts.dev.status_documents import NOW, Document, states
from tests.platform.cache import cached, said
from tests.web.instance import STATUS, serving

pytestmark = pytest.mark.timeout(300)  # axe-core reads each of 300 rows

AXE = "4.14.1"  # axe-core of npm
STATES = states()
FLEETS = reports()
# Rules on which the whole page passes, besides those of WCAG.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def install(place: Path) -> None:
    (place / "package.json").write_text(json.dumps({"dependencies": {"axe-core": AXE}}))
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    said("npm", "install", *options, cwd=place)


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    if not shutil.which("npm"):
        pytest.skip("npm is needed for axe-core")
    package = cached(f"axe-core-{AXE}", install) / "node_modules" / "axe-core"
    return (package / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("chromium is needed: apt install chromium")
    with browser() as found:
        yield found


class Shown(Service):
    """An instance whose status is a given document: no database has all states at once."""

    def __init__(self) -> None:
        super().__init__({})
        self.document: Document = {}

    async def public_status(self) -> ApiResult:
        return ApiResult(503 if "error" in self.document else 200, self.document)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shown, str]]:
    service = Shown()
    with serving(service) as port:
        yield service, f"http://127.0.0.1:{port}"


class Visit:
    """Opens pages in a tab, and notes what the browser complains of and asks for."""

    def __init__(self, chromium: Browser, served: tuple[Shown, str]) -> None:
        self._chromium = chromium
        self._service, self.address = served
        self._contexts: list[Any] = []
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def __call__(
        self,
        state: str,
        *,
        width: int = 1280,
        scheme: Scheme = "light",
        anchor: str = "",
        **more: Any,
    ) -> Page:
        self._service.document = STATES[state]
        return self.open(f"{STATUS}{anchor}", width=width, scheme=scheme, **more)

    def open(self, path: str, *, width: int = 1280, scheme: Scheme = "light", **more: Any) -> Page:
        """A tab with what is at this path."""
        context = self._chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **more
        )
        self._contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.goto(f"{self.address}{path}")
        return tab

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(chromium: Browser, served: tuple[Shown, str]) -> Iterator[Visit]:
    """`visit("pending", width=320)` is the tab. Fails if a page asked for anything but itself."""
    visit = Visit(chromium, served)
    yield visit
    visit.close()
    outside = [one for one in visit.asked if not one.startswith((visit.address, "data:"))]
    assert outside == []


class Opened(Visit):
    """Opens reports of fleets, which are files."""

    def __init__(self, chromium: Browser, directory: Path) -> None:
        super().__init__(chromium, (Shown(), f"file://{directory}"))
        self._directory = directory

    def report(self, kind: str, **more: Any) -> Page:
        """A tab with the report of this kind."""
        (self._directory / "report.html").write_text(fleet_page(FLEETS[kind], NOW))
        return self.open("/report.html", **more)


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Opened]:
    """`opened.report("behind")` is the tab. Fails if a page asked for anything but itself."""
    opened = Opened(chromium, tmp_path)
    yield opened
    opened.close()
    assert [one for one in opened.asked if not one.startswith((opened.address, "data:"))] == []


def unfold(tab: Page) -> None:
    """Open all years."""
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing(visit: Visit, axe: str, state: str) -> None:
    require_accessible(visit(state, bypass_csp=True), axe)


@pytest.mark.parametrize("kind", FLEETS)
def test_axe_finds_nothing_in_the_report_of_a_fleet(opened: Opened, axe: str, kind: str) -> None:
    require_accessible(opened.report(kind, bypass_csp=True), axe)


def require_accessible(tab: Page, axe: str) -> None:
    unfold(tab)
    tab.evaluate(axe)
    for width, scheme in zip(WIDTHS, reversed(SCHEMES), strict=True):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme)
        found = tab.evaluate("tags => axe.run({runOnly: tags})", TAGS)
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        assert len(found["passes"]) > 10


@pytest.mark.parametrize("state", STATES)
def test_a_page_fits_any_width_asks_for_nothing_else_and_logs_nothing(
    visit: Visit, state: str
) -> None:
    require_it_fits(visit(state))
    # An answer with 503 is an error to the console, whatever it says.
    assert [one for one in visit.complaints if "status of 503" not in one] == []
    assert [one for one in visit.asked if not one.startswith("data:")] == [
        f"{visit.address}{STATUS}"
    ]


@pytest.mark.parametrize("kind", FLEETS)
def test_the_report_of_a_fleet_fits_any_width_and_logs_nothing(opened: Opened, kind: str) -> None:
    tab = opened.report(kind)
    require_it_fits(tab)
    assert tab.evaluate("document.scripts.length") == 0
    assert opened.complaints == []


def require_it_fits(tab: Page) -> None:
    unfold(tab)
    for width in (320, 375, 640, 768, 1024, 1280, 2560):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.locator("h1").is_visible()


def test_what_a_history_holds_runs_nowhere_and_is_shown_as_it_is(visit: Visit) -> None:
    tab = visit("hostile")
    assert tab.locator("tr[id]").count() == len(STATES["hostile"]["migrations"])
    assert tab.locator("script, img, b").count() == 0
    assert "001-<script>alert(1)</script>" in tab.locator("main").inner_text()
    # The invisible sign does not turn what comes after it.
    assert "003-\\u202egnp.sql" in tab.locator("main").inner_text()


def test_a_script_that_got_into_a_page_would_not_run(visit: Visit) -> None:
    tab = visit("current")
    tab.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.ran=1\" id=p>x</p>');"
        "document.body.appendChild(Object.assign(document.createElement('script'), "
        "{textContent: 'window.ran = 1'}))"
    )
    tab.locator("#p").click()
    assert tab.evaluate("window.ran") is None
    assert len([one for one in visit.complaints if "Content Security Policy" in one]) == 2


def test_light_and_dark_follow_the_system(visit: Visit) -> None:
    def paper(scheme: Scheme) -> str:
        return str(
            visit("current", scheme=scheme).evaluate(
                "getComputedStyle(document.body).backgroundColor"
            )
        )

    assert (paper("light"), paper("dark")) == ("rgb(255, 255, 255)", "rgb(19, 21, 24)")


def test_three_hundred_rows_are_one_line_each_on_a_wide_screen(visit: Visit) -> None:
    tab = visit("many")
    assert tab.locator("tr[id]").count() == 300
    unfold(tab)
    heights = tab.evaluate("[...document.querySelectorAll('tr[id]')].map(one => one.offsetHeight)")
    assert max(heights) <= 40


def test_the_address_of_a_version_opens_its_year(visit: Visit) -> None:
    oldest = STATES["many"]["migrations"][0]["version"]
    tab = visit("many", anchor=f"#{oldest}")
    row = tab.locator("tr:target")
    assert (row.get_attribute("id"), row.is_visible()) == (oldest, True)
    assert not visit("many").locator(f"tr[id='{oldest}']").is_visible()


def test_years_open_by_the_keyboard(visit: Visit) -> None:
    tab = visit("many")
    summary = tab.locator("details:not([open]) summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details[open]").count() == 2
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_print_has_what_is_folded_and_no_band(visit: Visit) -> None:
    tab = visit("many")
    tab.emulate_media(media="print")
    # checkVisibility() is false for what a closed year hides.
    shown = "[...document.querySelectorAll('tr[id]')].filter(one => one.checkVisibility()).length"
    assert tab.evaluate(shown) == 300
    assert tab.evaluate("getComputedStyle(document.querySelector('header')).backgroundColor") == (
        "rgba(0, 0, 0, 0)"
    )


def test_the_link_leads_to_the_json_of_the_same_address(visit: Visit) -> None:
    tab = visit("pending")
    tab.get_by_role("link", name="The same as JSON").click()
    assert json.loads(tab.locator("pre").inner_text()) == STATES["pending"]
