"""Repositories of each shape: adopted by `scripts/adopt.py`, built by the platform's own program,
their functions run; then changed by hand, upgraded, and built again.

One shape takes its turn where ONWARD_TURN is set. The one with Next.js installs that by npm.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from scripts.adopting.owners import SHAPES
from scripts.bundle import BundleError, Target, find_python
from tests.conftest import ROOT, Database
from tests.kit import history
from tests.platform import vercel
from tests.platform.pooler import in_turn
from tests.platform.test_vercel import FUNCTIONS, STATUS
from tests.platform.vercel import WAYS, Built, Tools

pytestmark = pytest.mark.timeout(900)

TABLE = "000-create-migration-table"
ORDERS = "001-add-orders"
LAYOUT = "export default ({ children }) => <html><body>{children}</body></html>;\n"
# What only the build's own `prebuild` writes.
PAGE = 'import made from "../made.json";\nexport default () => <h1>{made.title}</h1>;\n'
PREBUILD = (
    """node -e 'require("fs").writeFileSync("made.json", JSON.stringify({title: "Orders"}))'"""
)
ROUTE = "export const GET = () => Response.json([]);\n"
WRITE = """
import { mkdirSync, writeFileSync } from "node:fs";
mkdirSync("dist/assets", { recursive: true });
writeFileSync("dist/index.html", "<h1>Orders</h1>");
writeFileSync("dist/assets/app.js", "");
"""
# What a team has before it adopts Onward. No function of ours may take it along. Git's stock list
# for Python ignores `lib/`.
BESIDE = {
    ".github/workflows/ci.yml": "",
    ".gitignore": "dist/\nlib/\nnode_modules/\n.next/\n",
    "src/orders.js": "",
    "docs/index.md": "",
    "tests/orders.py": "",
}
TEAMS: dict[str, dict[str, Any]] = {
    "alone": {**BESIDE, "README.md": ""},
    "client": {
        **BESIDE,
        "package.json": {"name": "client", "private": True, "scripts": {"build": "node build.mjs"}},
        "build.mjs": WRITE,
    },
    "next": {
        **BESIDE,
        "package.json": {
            "name": "next-application",
            "private": True,
            "scripts": {"prebuild": PREBUILD, "build": "next build"},
            "dependencies": {"next": "16.4.6", "react": "19.3.1", "react-dom": "19.3.1"},
        },
        "app/layout.jsx": LAYOUT,
        "app/page.jsx": PAGE,
        "app/api/orders/route.js": ROUTE,
        "public/robots.txt": "",
    },
    "python": {
        **BESIDE,
        "api/orders.py": "import xmltodict\nfrom lib.vercel import app\n",
        "requirements.txt": "xmltodict==1.0.4\n",
    },
    "sam": {**BESIDE, "template.yaml": "Transform: AWS::Serverless-2016-10-31\nResources: {}\n"},
}
PUBLISHED = {
    "alone": {"index.html"},
    "client": {"index.html", "assets/app.js"},
    "next": {"robots.txt"},
    "python": {"index.html"},
}
CALL = """
import json, sys
from types import SimpleNamespace
from lib.aws import handler
context = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000, aws_request_id="1")
print(json.dumps(handler({"action": "migrate"}, context)))
"""


def repository(shape: str, place: Path) -> Path:
    """A team's repository before, which git knows."""
    for name, content in TEAMS[shape].items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
    git(place, "init", "-q")
    git(place, "add", "--all")
    return place


def git(root: Path, *words: str) -> None:
    command = ["git", "-C", str(root), "-c", "safe.directory=*", "-c", "core.excludesFile="]
    subprocess.run([*command, *words], check=True, capture_output=True)


def adopt(root: Path, checkout: Path = ROOT) -> str:
    """Run the one command of docs/adopting.md; returns what it prints."""
    command = [sys.executable, str(checkout / "scripts" / "adopt.py"), str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    git(root, "add", "--all")
    return result.stdout


def later(place: Path) -> Path:
    """A checkout of a made-up later version."""
    # Of what is hidden, `.github` is a team's.
    ignored = shutil.ignore_patterns(".[!g]*", ".git", "tests", "__pycache__")
    shutil.copytree(ROOT, place, ignore=ignored)
    init = place / "lib" / "__init__.py"
    init.write_text(re.sub(r'VERSION = "[^"]*"', 'VERSION = "99.0.0"', init.read_text()))
    (place / "lib" / "later.py").write_text("")
    return place


def change_by_hand(root: Path) -> None:
    """Add a migration, and edit a file of ours."""
    (root / "migrations" / f"{ORDERS}.sql").write_text("CREATE TABLE orders (id int);\n")
    with (root / "lib" / "printable.py").open("a") as file:
        file.write("# ours\n")


@pytest.mark.parametrize("shape", in_turn(SHAPES))
def test_it_is_adopted_built_run_changed_upgraded_and_built_again(
    tools: Tools, tmp_path: Path, database: Database, shape: str
) -> None:
    def assert_works(place: Path, versions: list[str]) -> None:
        if shape == "sam":
            assert_bundles(root, place, database, versions)
        else:
            assert_deploys(tools, root, place, database, shape, versions)

    root = repository(shape, tmp_path / "team")
    adopt(root)
    assert_works(tmp_path / "first", [TABLE])
    change_by_hand(root)
    said = adopt(root, later(tmp_path / "later"))
    assert "left      lib/printable.py" in said
    assert (root / "lib" / "printable.py").read_text().endswith("# ours\n")
    assert (root / "lib" / "later.py").exists()
    assert_works(tmp_path / "second", [TABLE, ORDERS])


def assert_deploys(
    tools: Tools, root: Path, place: Path, database: Database, shape: str, versions: list[str]
) -> None:
    """A build of what git has migrates, publishes the team's files, and its functions answer."""
    built = vercel.build(tools, vercel.checkout(place / "checkout", root), database.url)
    assert built.code == 0, built.log
    assert history(database) == versions
    assert published(built) == PUBLISHED[shape]
    own = {"next": {"api/orders", "index"}, "python": {"api/orders"}}.get(shape, set())
    assert set(FUNCTIONS) | own <= set(built.functions)
    for function in FUNCTIONS:
        expected = {"api", "lib", "migrations", "vc__handler__python.py"}
        assert taken_along(built, function) == expected
    for way in WAYS:
        task = place / way / "task"
        with vercel.running(
            tools.python, built, FUNCTIONS[1], task, way, POSTGRES_URL=database.url
        ) as send:
            reply = send("GET", STATUS)
        assert (reply.status, reply.document["state"]) == (200, "current")
        assert [one["version"] for one in reply.document["migrations"]] == versions


def published(built: Built) -> set[str]:
    """The static files, without those that Next.js makes itself."""
    return {name for name in built.published if not re.match(r"_next/|(404|500)\.", name)}


def taken_along(built: Built, function: str) -> set[str]:
    """What of the project is in a function: folders, and files at the root."""
    return {name.partition("/")[0] for name in built.bundle(function)} - {"_vendor"}


def assert_bundles(root: Path, place: Path, database: Database, versions: list[str]) -> None:
    """The zip that our templates name is built, checked, and migrates when it is invoked."""
    templates = [str(root / f"template.onward{name}.yaml") for name in ("", "-fleet")]
    subprocess.run([str(Path(sys.executable).with_name("cfn-lint")), *templates], check=True)
    try:
        python = find_python(Target("3.13", "x86_64"))
    except BundleError as error:
        pytest.skip(str(error))
    subprocess.run([sys.executable, str(root / "scripts" / "bundle.py")], check=True)
    zipped = root / "dist" / "onward-python3.13-x86_64.zip"
    assert f"CodeUri: dist/{zipped.name}" in (root / "template.onward.yaml").read_text()
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(place)
    environ = {"MIGRATION_ENV": "test", "DATABASE_URL": database.url, "PATH": os.environ["PATH"]}
    result = subprocess.run(
        [python, "-c", CALL], cwd=place, env=environ, capture_output=True, text=True, check=False
    )
    assert json.loads(result.stdout.splitlines()[-1])["success"], result.stderr
    assert history(database) == versions
    assert (root / "template.yaml").read_text() == TEAMS["sam"]["template.yaml"]


def test_a_client_that_does_not_build_has_migrated_nothing(
    tools: Tools, tmp_path: Path, database: Database
) -> None:
    root = repository("client", tmp_path / "team")
    (root / "build.mjs").write_text("throw new Error('no client today');\n")
    adopt(root)
    built = vercel.build(tools, vercel.checkout(tmp_path / "checkout", root), database.url)
    assert (built.code != 0, "no client today" in built.log, built.functions) == (True, True, [])
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]
