"""The fleet's state machine, read by AWS's own language service and by asl-validator."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.platform.cache import cached, said

PACKAGES = {"amazon-states-language-service": "1.16.1", "asl-validator": "4.0.0"}
MACHINE = ROOT / "infra" / "fleet.asl.json"
LINT = """
const { getLanguageService, TextDocument } = require("amazon-states-language-service");
const validate = require("asl-validator");
const { readFileSync } = require("node:fs");
const text = readFileSync(process.argv[2], "utf8");
const service = getLanguageService({});
const document = TextDocument.create("file:///machine.asl.json", "asl", 1, text);
service.doValidation(document, service.parseJSONDocument(document)).then(found => {
    for (const one of found) console.log(`${one.range.start.line + 1}: ${one.message}`);
    const { errors } = validate(JSON.parse(text), { checkPaths: true, checkArn: true });
    for (const one of errors) console.log(`${one["Error code"]}: ${JSON.stringify(one)}`);
});
"""


def install(place: Path) -> None:
    (place / "package.json").write_text(json.dumps({"dependencies": PACKAGES}))
    (place / "lint.js").write_text(LINT)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    said("npm", "install", *options, cwd=place)


@pytest.fixture(scope="session")
def lint() -> partial[str]:
    """`lint(path)` is what both say of a state machine."""
    if not shutil.which("npm"):
        pytest.skip("node and npm are needed to read a state machine")
    name = "-".join(["asl", *PACKAGES.values()])
    return partial(said, "node", str(cached(name, install) / "lint.js"))


def test_nobody_finds_anything_in_the_machine(lint: partial[str]) -> None:
    assert lint(str(MACHINE)) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        ('"Next": "Count"', '"Next": "Counts"', "Counts"),
        ('"MaxConcurrency": 1,', '"MaxConcurrency": "one",', "MaxConcurrency"),
        ("$.cluster.tolerated", "cluster.tolerated", "ToleratedFailureCountPath"),
        ("arn:aws:states:::lambda:invoke", "lambda:invoke", "Migrate a chunk/Resource"),
        ('"MaxAttempts": 4', '"MaxAttempts": 4.5', 'Expected "integer"'),
    ],
    ids=["state", "type", "path", "resource", "retry"],
)
def test_what_is_wrong_in_a_machine_is_found(
    lint: partial[str], tmp_path: Path, right: str, wrong: str, finding: str
) -> None:
    broken = tmp_path / "broken.asl.json"
    assert right in MACHINE.read_text()
    broken.write_text(MACHINE.read_text().replace(right, wrong))
    assert finding in lint(str(broken))
