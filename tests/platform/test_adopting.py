"""The repositories of docs/adopting.md: each made as the page says, built by `vercel build`, and
its functions run.

The one with Next.js installs that by npm and takes minutes: it is built where ONWARD_TEST_NEXT is
set.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Database
from tests.kit import OURS, history
from tests.platform import vercel
from tests.platform.test_vercel import FUNCTIONS, STATUS
from tests.platform.vercel import WAYS, Built, Tools

pytestmark = pytest.mark.timeout(900)

ALONE, CLIENT, NEXT = "Alone", "Beside a client with its own build", "Beside a Next.js application"
LAYOUT = "export default ({ children }) => <html><body>{children}</body></html>;\n"
PAGE = "export default () => <h1>Orders</h1>;\n"
ROUTE = "export const GET = () => Response.json([]);\n"
WRITE = """
import { mkdirSync, writeFileSync } from "node:fs";
mkdirSync("dist/assets", { recursive: true });
writeFileSync("dist/index.html", "<h1>Orders</h1>");
writeFileSync("dist/assets/app.js", "");
"""
# What a team has before it adopts the bundle. No function of ours may take it along.
BESIDE = {".github/workflows/ci.yml": "", "src/orders.js": "", "lib/orders.js": ""}
TEAMS: dict[str, dict[str, Any]] = {
    ALONE: {**BESIDE, ".env": "", "README.md": ""},
    CLIENT: {
        **BESIDE,
        "package.json": {"name": "client", "private": True, "scripts": {"build": "node build.mjs"}},
        "build.mjs": WRITE,
    },
    NEXT: {
        **BESIDE,
        "package.json": {
            "name": "next-application",
            "private": True,
            "dependencies": {"next": "16.4.6", "react": "19.3.1", "react-dom": "19.3.1"},
        },
        "app/layout.jsx": LAYOUT,
        "app/page.jsx": PAGE,
        "app/api/orders/route.js": ROUTE,
        "public/robots.txt": "",
    },
}
BUILT = [ALONE, CLIENT, *([NEXT] if os.environ.get("ONWARD_TEST_NEXT") else [])]


def block(shape: str, language: str) -> str:
    """What the page has for a shape of repository."""
    page = (ROOT / "docs" / "adopting.md").read_text()
    (section,) = re.findall(
        rf"^## {re.escape(shape)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
    )
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(found)


def repository(shape: str, place: Path) -> Path:
    """A team's repository that has adopted the bundle as the page says."""
    onward, root = vercel.checkout(place / "onward"), place / "repository"
    for name, content in TEAMS[shape].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    subprocess.run(["sh", "-ec", block(shape, "sh")], cwd=root, check=True)
    (root / "vercel.json").write_text(block(shape, "json"))
    shutil.copytree(onward / ".vercel", root / ".vercel")
    return root


def test_the_project_alone_is_the_one_that_is_here() -> None:
    assert block(ALONE, "json") == (ROOT / "vercel.json").read_text()


@pytest.mark.parametrize("shape", BUILT)
def test_a_repository_of_this_shape_builds_migrates_and_answers(
    tools: Tools, tmp_path: Path, database: Database, shape: str
) -> None:
    built = vercel.build(tools, repository(shape, tmp_path), database.url)
    assert built.code == 0, built.log
    assert history(database) == OURS
    assert (
        published(built)
        == {ALONE: {"index.html"}, CLIENT: {"index.html", "assets/app.js"}, NEXT: {"robots.txt"}}[
            shape
        ]
    )
    assert set(FUNCTIONS) | ({"api/orders", "index"} if shape == NEXT else set()) <= set(
        built.functions
    )
    for function in FUNCTIONS:
        assert taken_along(built, function) == {
            "api",
            "lib",
            "migrations",
            "vc__handler__python.py",
        }
    for way in WAYS:
        task = tmp_path / way / "task"
        with vercel.running(
            tools.python, built, FUNCTIONS[1], task, way, POSTGRES_URL=database.url
        ) as send:
            reply = send("GET", STATUS)
        assert (reply.status, reply.document["state"]) == (200, "current")
        assert [one["version"] for one in reply.document["migrations"]] == OURS


def test_the_file_that_the_page_appends_is_installed_for_a_function(
    tools: Tools, tmp_path: Path, database: Database
) -> None:
    root = repository(ALONE, tmp_path)
    (root / "api" / "orders.py").write_text("import xmltodict\nfrom lib.vercel import app\n")
    with (root / "requirements.txt").open("a") as file:
        file.write("xmltodict==1.0.4\n")
    built = vercel.build(tools, root, database.url)
    assert (built.code != 0, "No module named 'xmltodict'" in built.log) == (True, True), built.log
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]

    (more,) = re.findall(
        r"write `sh scripts/setup runtime( [^`]*)`", (ROOT / "docs" / "adopting.md").read_text()
    )
    settings = json.loads((root / "vercel.json").read_text())
    settings["installCommand"] += more
    (root / "vercel.json").write_text(json.dumps(settings))
    shutil.rmtree(root / ".vercel" / "output", ignore_errors=True)
    built = vercel.build(tools, root, database.url)
    assert built.code == 0, built.log
    assert "api/orders" in built.functions
    assert history(database) == OURS


def published(built: Built) -> set[str]:
    """The static files, without those that Next.js makes itself."""
    return {name for name in built.published if not re.match(r"_next/|(404|500)\.", name)}


def taken_along(built: Built, function: str) -> set[str]:
    """What of the project is in a function: folders, and files at the root."""
    return {name.partition("/")[0] for name in built.bundle(function)} - {"_vendor"}


def test_a_client_that_does_not_build_has_migrated_nothing(
    tools: Tools, tmp_path: Path, database: Database
) -> None:
    root = repository(CLIENT, tmp_path)
    (root / "build.mjs").write_text("throw new Error('no client today');\n")
    built = vercel.build(tools, root, database.url)
    assert (built.code != 0, "no client today" in built.log, built.functions) == (True, True, [])
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_with_a_stock_gitignore_the_build_fails_and_one_line_mends_it(
    tools: Tools, tmp_path: Path, database: Database
) -> None:
    root, clone = repository(CLIENT, tmp_path), tmp_path / "clone"

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), "-c", "core.excludesFile=/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    git("init")
    (root / ".gitignore").write_text("build/\ndist/\nlib/\nlib64/\n")
    assert (
        git("check-ignore", "-v", "lib/settings/config.py")
        == ".gitignore:3:lib/\tlib/settings/config.py\n"
    )
    git("add", "--all")
    git("checkout-index", "--all", f"--prefix={clone}/")
    built = vercel.build(tools, clone, database.url)
    assert (built.code != 0, "No module named 'lib'" in built.log, built.functions) == (
        True,
        True,
        [],
    )
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]

    (root / ".gitignore").write_text("build/\ndist/\nlib/\nlib64/\n!/lib/\n")
    assert git("check-ignore", "-v", "lib/settings/config.py") == ""
    git("add", "--all")
    assert "lib/settings/config.py" in git("ls-files", "lib").splitlines()
