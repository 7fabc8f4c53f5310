"""What the documentation says, tried: `documents.py` says how, `situations.py` in which situation.

Each section (`##`) is tried by itself, in a copy of the project and on a database of its own. What
cannot be run, and all names and links, are looked up.
"""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import psycopg
import pytest
import yaml  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.session import Session

from scripts.adopting.owners import PAGES as ADOPTED
from scripts.embedded import Embedded
from tests.conftest import ROOT, Database, Server
from tests.documents import (
    BLOCKS,
    NOT_RUN,
    PAGES,
    SANDBOX,
    SECTIONS,
    VENV,
    Block,
    Place,
    anchor,
    blocks_of,
    name_of,
    prose_of,
)
from tests.kit import history, kinds, wait_until_gone
from tests.platform import vercel
from tests.platform.cache import CACHE
from tests.situations import SITUATIONS, ordinary, repository


@pytest.fixture
def place(project: Path, tmp_path: Path, server: Server, migrated: Database) -> Iterator[Place]:
    """A copy of the project and a database that is current."""
    root = Path(shutil.copytree(project, tmp_path / "project"))
    for file in ROOT.iterdir():
        # In a worktree `.git` is a file, and git in the copy would change that one's index.
        if (
            file.is_file()
            and file.name != ".git"
            and (file.name == ".env.test" or not file.name.startswith(".env"))
        ):
            shutil.copy(file, root)
    (root / "scripts" / "sandbox").write_text(SANDBOX)
    if VENV:
        (root / ".venv").symlink_to(VENV)
    (tmp_path / ".curlrc").write_text("no-progress-meter\n")
    with ExitStack() as stack:
        place = Place(root, server, migrated, stack)
        place.use(migrated)
        yield place
    if (root / ".sandbox").exists():
        data = (root / ".sandbox" / "postgres").resolve()
        wait_until_gone(data)
        Embedded(data).drop()


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_does_what_it_says(section: str, place: Place) -> None:
    with SITUATIONS.get(section, ordinary)(place):
        for block in SECTIONS[section]:
            place.follow(block)


def test_every_situation_has_its_section() -> None:
    assert set(SITUATIONS) <= set(SECTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ scripts/migrate.py rollback\n```",
        "```console\n$ scripts/unheard-of\n```",
        "```console\n$ scripts/migrate.py status\nPending Migrations (1):\n```",
        "```console\n$ scripts/migrate.py status --check\n$ echo $?\n8\n```",
        "```console\n$ curl -f https://app.example/api/status\n```",
        "```text\n✅ 1 migration applied successfully\n```",
        "```sql\n-- migrations/003-orders.sql\nCREATE TABLE orders (id BIGNT);\n```",
        "```sql\nSELECT * FROM orders;\n```",
    ],
)
def test_what_a_section_should_not_say_is_found(text: str, place: Place, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{text}\n")
    [block] = blocks_of(page)
    with pytest.raises((AssertionError, psycopg.Error)):
        place.follow(block)
    assert history(place.database)[-1] == "002-add-reset-token-fields"


# What cannot be run is looked at


# The words of Vercel's CLI that stand here; where it is installed, it is asked about them.
VERCEL = {
    "curl": [],
    "env add": ["--sensitive"],
    "env ls": [],
    "inspect": ["--logs"],
    "link": [],
    "redeploy": [],
    "rollback": [],
}


def commands_of(page: Path) -> Iterator[str]:
    """All commands: typed, in a workflow, and in the prose."""
    for block in blocks_of(page):
        if block.language == "console":
            yield from (command for command, _ in block.steps)
        if block.language == "yaml":
            yield from re.findall(r"^\s*(?:- )?run: (.*)", block.text, re.MULTILINE)
    for span in re.findall(r"`([^`\n]+)`", prose_of(page)):
        if span.startswith((*NOT_RUN, "scripts/migrate.py ", "scripts/sandbox", "aws ", "docker ")):
            yield re.sub(r"[\[\]]", "", span)


COMMANDS = sorted({(name_of(page), command) for page in PAGES for command in commands_of(page)})


@pytest.mark.parametrize(
    ("page", "command"), [one for one in COMMANDS if one[1].split()[0] in ("aws", "sam", "docker")]
)
def test_a_command_that_cannot_be_run_is_written_as_its_program_wants_it(
    page: str, command: str
) -> None:
    program, *words = shlex.split(command)
    {"aws": aws, "sam": sam, "docker": docker_command}[program](words)


def aws(words: Sequence[str]) -> None:
    if words in ([], ["lambda", "invoke"]):  # the program itself, and what we advise against
        return
    service = Session().get_service_model(words[0])
    operation = {xform_name(name, "-"): name for name in service.operation_names}[words[1]]
    shape = service.operation_model(operation).input_shape
    known = {
        f"--{xform_name(name, '-')}" for name in (shape.members if shape else ())
    } | AWS_OPTIONS
    assert {word for word in words if word.startswith("--")} <= known


# What AWS's CLI adds to what the service takes.
AWS_OPTIONS = {"--query", "--port", "--protocol", "--source-group", "--private-dns-enabled"}


def sam(words: Sequence[str]) -> None:
    if (
        words[:1] != ["deploy"] or "--template-file" not in words
    ):  # `sam build`, which we advise against
        return
    assert (ROOT / words[words.index("--template-file") + 1]).is_file()
    template = (ROOT / "template.yaml").read_text()
    given = [word.partition("=")[0] for word in words if re.match(r"[A-Z]\w+=", word)]
    assert [name for name in given if not re.search(rf"^  {name}:$", template, re.MULTILINE)] == []


def docker_command(words: Sequence[str]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.test.yml").read_text())
    service = compose["services"]["postgres-test"]
    if words[0] == "compose":
        assert words[words.index("-f") + 1] == "docker-compose.test.yml"
    else:
        user, database = (service["environment"][name] for name in ("POSTGRES_USER", "POSTGRES_DB"))
        assert words[:7] == ["exec", service["container_name"], "psql", "-U", user, "-d", database]


@pytest.mark.parametrize(
    ("page", "command"), [one for one in COMMANDS if re.match(r"scripts/|\.ci/", one[1])]
)
def test_a_command_of_ours_is_there_and_has_the_options_that_are_written(
    page: str, command: str
) -> None:
    script, *words = shlex.split(command.replace("…", ""))
    path = ROOT / script
    assert os.access(path, os.X_OK), f"{script} is written as a command, and is not executable"
    assert path.read_text().startswith("#!"), (
        f"{script} is written as a command, and no #! line says of what"
    )
    if script in ("scripts/test", "scripts/setup", ".ci/run"):
        named = [word for word in words if word.startswith("tests/")]
        assert all((ROOT / word).exists() for word in named)
        chosen = words[words.index("-k") + 1 :] if "-k" in words else []
        assert all(f"def {name}(" in (ROOT / named[0]).read_text() for name in chosen)
        return
    subcommand = (
        [words[0]]
        if script in ("scripts/migrate.py", "scripts/fleet.py")
        and words
        and not words[0].startswith("-")
        else []
    )
    program = script if script.endswith(".py") else f"{script}.py"
    code, printed = help_of(program, *subcommand)
    assert code == 0, f"`{command}`: {printed}"
    assert [word for word in words if word.startswith("--") and word not in printed] == []


@cache
def help_of(script: str, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / script), *words, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("page", "command"), [one for one in COMMANDS if one[1].startswith("vercel ")]
)
def test_vercels_cli_has_what_is_written(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    name = next((name for name in VERCEL if words[: len(name.split())] == name.split()), None)
    assert name is not None or words == ["build"], f"`{command}` is not among VERCEL"
    assert {word for word in words if word.startswith("--")} <= set(VERCEL.get(name or "", []))


@pytest.mark.slow
def test_vercels_cli_knows_what_we_know_of_it() -> None:
    cli = CACHE / f"vercel-{vercel.CLI}" / "node_modules" / "vercel" / "dist" / "index.js"
    if not (cli.exists() and shutil.which("node")):
        pytest.skip("Vercel's CLI is not installed; tests/platform installs it")
    for name, options in VERCEL.items():
        command = ["node", str(cli), *name.split(), "--help"]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        said = result.stdout + result.stderr
        assert f"vercel {name.replace(' ls', ' list')}" in said
        assert [option for option in options if option not in said] == []


# Names, links, blocks


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose_of(page))):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        if link.startswith(("https://", "http://")):
            continue
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> list[str]:
    return [anchor(heading) for heading in re.findall(r"^#+ (.*)", prose_of(page), re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_setting_that_is_named_exists(page: Path) -> None:
    words = [word for span in re.findall(r"`([^`\n]+)`", page.read_text()) for word in span.split()]
    paths = [
        word
        for word in words
        if re.fullmatch(r"(?:scripts|lib|api|tests|docs|\.ci)/[\w./-]*", word)
    ]
    assert [
        path for path in paths if not path.startswith(ADOPTED) and not (ROOT / path).exists()
    ] == []
    assert set(re.findall(r"\bMIGRATION_[A-Z_]+\b", page.read_text())) <= settings()


def settings() -> set[str]:
    """The variables of ours that the code reads."""
    code = "".join(
        path.read_text() for folder in ("lib", "scripts") for path in (ROOT / folder).rglob("*.py")
    )
    return set(re.findall(r"\bMIGRATION_[A-Z_]+\b", code))


def test_every_setting_is_documented() -> None:
    written = "".join(page.read_text() for page in PAGES)
    assert [name for name in sorted(settings()) if name not in written] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_a_blocks(page: Path) -> None:
    assert len(re.findall("^ *```", page.read_text(), re.MULTILINE)) == 2 * len(
        list(blocks_of(page))
    )


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_every_block_can_be_read(block: Block) -> None:
    assert block.language not in ("bash", "shell", "zsh"), (
        f"{block.where}: `console` and `sh` would be run"
    )
    if block.language == "json":
        json.loads(block.text)
    if block.language == "yaml":
        yaml.safe_load(block.text)
    if block.language == "console":
        assert block.steps


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if f"{page.name})" not in contents] == []


# Exit codes and answers


def rows_of(page: str) -> list[list[str]]:
    """The cells of its tables."""
    lines = (ROOT / page).read_text().splitlines()
    return [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def test_every_exit_code_is_documented_and_no_other() -> None:
    documented = [
        int(code)
        for code, *_ in rows_of("docs/exit-codes.md")
        if code.isdigit() and int(code) < 200
    ]
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM)}
    errors = {kind.exit_code for kind in kinds()} | signals
    _, said = help_of("scripts/migrate.py")
    helped = re.findall(r"^  (\d+(?:, \d+)*) {2,}", said.partition("exit codes:")[2], re.MULTILINE)
    assert sorted(documented) == documented
    assert (
        set(documented)
        == {0, 8, 9} | errors
        == {int(code) for codes in helped for code in codes.split(", ")}
    )


def test_every_answer_is_documented_and_no_other() -> None:
    documented = [
        (int(status), code)
        for status, code, *_ in rows_of("docs/exit-codes.md")
        if len(status) == 3 and status.isdigit() and int(status) >= 200
    ]
    statuses = [status for status, _ in documented]
    known = (
        {(kind.http_status, kind.code) for kind in kinds()} | {(500, "internal")} | set(refusals())
    )
    assert (sorted(statuses), set(documented)) == (statuses, known)
    messages = {kind.code: kind.public_message for kind in kinds()}
    assert len(set(messages.values())) == len(messages)  # each code has words of its own


def refusals() -> Iterator[tuple[int, str]]:
    """The status and code of each refusal that is written in the code of the routes."""
    for module in (ROOT / "lib" / "web").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.Call(
                    ast.Name("RequestRefused"),
                    [ast.Constant(int(status)), ast.Constant(str(code)), *_],
                ):
                    yield status, code
                case ast.Dict(keys) if all(
                    isinstance(key, ast.Constant) and type(key.value) is int for key in keys
                ):
                    yield from ast.literal_eval(node).items()


# The sandbox with Docker


def test_the_container_is_what_env_test_names() -> None:
    service = yaml.safe_load((ROOT / "docker-compose.test.yml").read_text())["services"][
        "postgres-test"
    ]
    assert service["image"] == "postgres:16"
    assert service["environment"] == {
        "POSTGRES_DB": "codescribe_test",
        "POSTGRES_USER": "test_user",
        "POSTGRES_PASSWORD": "test_password",
    }
    [port] = service["ports"]
    assert re.fullmatch(r"(?:127\.0\.0\.1:)?5433:5432", port)
    [memory] = service["tmpfs"]
    assert memory.startswith("/var/lib/postgresql/data:")
    url = "postgresql://test_user:test_password@localhost:5433/codescribe_test"
    assert f"POSTGRES_URL={url}" in (ROOT / ".env.test").read_text().splitlines()


@pytest.mark.slow
def test_env_test_is_committed_and_read_only_by_those_who_ask_for_it(place: Place) -> None:
    place.environ = {}
    repository(place)
    assert place.shell(["git ls-files .env.test", "scripts/migrate.py"])[0] == (0, ".env.test\n")
    code, said = place.shell(["scripts/migrate.py"])[0]
    assert (code, "no database URL is set" in said) == (2, True)
