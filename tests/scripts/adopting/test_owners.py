"""The table of files: complete, and enough for a team."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from scripts.adopting.owners import (
    MAINTAINERS,
    MERGED,
    ON_VERCEL,
    SHAPES,
    TEAMS,
    adapted,
    not_deployed,
    place,
    shipped,
)
from tests.conftest import ROOT


def tracked() -> list[str]:
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def test_every_tracked_file_is_a_teams_or_a_maintainers_and_not_both() -> None:
    patterns = [*(part.files for part in TEAMS), *MERGED, *MAINTAINERS]
    owned = Counter(str(path.relative_to(ROOT)) for one in patterns for path in ROOT.glob(one))
    assert {name: owned[name] for name in tracked() if owned[name] != 1} == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_examples_are_shipped_to_nobody(shape: str) -> None:
    migrations = [file.path for file in shipped(ROOT, shape) if file.path.startswith("migr")]
    assert migrations == ["migrations/000-create-migration-table.sql"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_page_that_a_message_names_is_a_teams(shape: str) -> None:
    files = {file.path: file.content.decode() for file in shipped(ROOT, shape)}
    code = [text for path, text in files.items() if not path.endswith(".md")]
    code = [text for text in code if "MAINTAINERS" not in text]
    named = {page for text in code for page in re.findall(r"(?<![\w/])docs/[\w./-]+\.md", text)}
    assert named
    assert named <= set(files)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_link_of_a_teams_pages_leads_to_a_file_that_it_has(shape: str) -> None:
    files = shipped(ROOT, shape)
    known = {file.path for file in files} | set(MERGED) | {place(part.files) for part in TEAMS}
    broken = []
    for file in files:
        if file.path.endswith(".md"):
            for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", file.content.decode()):
                target = (Path("/", file.path).parent / link).resolve().relative_to("/")
                broken += [] if str(target) in known else [f"{file.path}: {link}"]
    assert broken == []


def as_shipped(page: str) -> str:
    return adapted(page, (ROOT / page).read_bytes()).decode()


def test_every_script_that_a_teams_page_names_is_a_teams() -> None:
    teams = {str(path.relative_to(ROOT)) for part in TEAMS for path in ROOT.glob(part.files)}
    # The changelog is about all of Onward, and has no commands to type.
    pages = [name for name in (*teams, "AGENTS.md") if name.endswith(".md")]
    missing = [
        f"{page}: {script}"
        for page in pages
        if page != "CHANGELOG.md"
        for script in re.findall(r"\bscripts/[\w./-]*\w", as_shipped(page))
        if not any(name == script or name.startswith(f"{script}/") for name in teams)
    ]
    assert missing == []


@pytest.mark.parametrize("shape", ON_VERCEL)
def test_a_vercelignore_names_only_our_files_and_none_that_the_build_needs(shape: str) -> None:
    lines = list(not_deployed(shape))
    assert all(line.startswith("/") for line in lines)
    assert not {"/docs", "/tests", "/scripts", "/dist", "/pyproject.toml"} & set(lines)
    needed = [part.files for part in TEAMS if part.deployed]
    assert not [(name, line) for name in needed for line in lines if f"/{name}".startswith(line)]
