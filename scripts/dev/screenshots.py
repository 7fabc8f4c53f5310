#!/usr/bin/env python3
"""Photographs the status page in all its states, and a fleet's report:
`scripts/dev/screenshots.py DIRECTORY`.

Needs Debian's Chromium (`apt install chromium`), or CHROMIUM. `--docs` writes the two pictures of
the documentation, and makes them small with pngquant.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from lib.fleet.page import page as fleet_page  # noqa: E402
from lib.report.page import page  # noqa: E402
from scripts.dev.fleet_documents import reports  # noqa: E402
from scripts.dev.status_documents import NOW, states  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
# Without a sandbox of its own, so that it runs as root in a container; it opens our pages only.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
WIDTHS = (320, 1280)
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
SHOWN = "pending"
"""The state that README shows, light and dark."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium: Playwright's own is not downloaded."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def photograph(
    chromium: Browser, html: str, path: Path, *, width: int, scheme: Scheme, **more: Any
) -> None:
    """Write the picture of a page."""
    with chromium.new_context(
        viewport={"width": width, "height": more.pop("height", 800)},
        color_scheme=scheme,
    ) as context:
        tab = context.new_page()
        tab.set_content(html)
        tab.screenshot(path=path, **more)


def main() -> None:
    """Photograph all states, or draw the pictures of the documentation."""
    parser = argparse.ArgumentParser(description="Photograph the status page in all its states.")
    parser.add_argument("directory", type=Path, nargs="?", default=ROOT / "docs")
    parser.add_argument("--docs", action="store_true", help="only the pictures of docs/")
    parser.add_argument("--only", help="only states with this in their name")
    options = parser.parse_args()
    options.directory.mkdir(exist_ok=True)
    with browser() as chromium:
        if options.docs:
            _photograph_for_docs(chromium, options.directory)
        else:
            _photograph_all(chromium, options.directory, options.only or "")


def _photograph_all(chromium: Browser, directory: Path, only: str) -> None:
    for name, html in pages().items():
        for width in WIDTHS if only in name else ():
            for scheme in SCHEMES:
                path = directory / f"{name}-{width}-{scheme}.png"
                photograph(chromium, html, path, width=width, scheme=scheme, height=1000)


def pages() -> dict[str, str]:
    """All pages, by the name of what they show."""
    shown = {name: page(document, NOW) for name, document in states().items()}
    fleets = {name: fleet_page(document, NOW) for name, document in reports().items()}
    return shown | {f"fleet-{name}": html for name, html in fleets.items()}


def _photograph_for_docs(chromium: Browser, directory: Path) -> None:
    for scheme in SCHEMES:
        path = directory / f"status-page-{scheme}.png"
        photograph(chromium, pages()[SHOWN], path, width=1100, height=860, scheme=scheme)
        subprocess.run(["pngquant", "--force", "--ext=.png", "--strip", str(path)], check=True)


if __name__ == "__main__":
    main()
