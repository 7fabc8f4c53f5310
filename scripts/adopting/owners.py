"""Who owns which file of this repository: the teams that adopt it, or its maintainers.

Each tracked file is in one of these tables, which a test holds.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ON_VERCEL = ("alone", "client", "next", "python")
SHAPES = (*ON_VERCEL, "sam")
PAGES = "docs/onward"
"""Where a team has the documentation: its own `docs/` may be published."""

PAGE = "public/index.html"
"""Vercel publishes a directory, which must not be empty; a team that has one needs no page."""


class Part(NamedTuple):
    """Files that a team gets: the shapes of repository, and whether Vercel's build needs them."""

    files: str
    shapes: tuple[str, ...] = SHAPES
    deployed: bool = False


class Shipped(NamedTuple):
    """One file as a team gets it."""

    path: str
    source: Path
    content: bytes
    mode: int


TEAMS = (
    Part("api/*.py", ON_VERCEL, deployed=True),
    Part("lib/**/*.py", deployed=True),
    Part("migrations/000-create-migration-table.sql", deployed=True),
    Part(PAGE, ("alone", "python"), deployed=True),
    Part("scripts/check_functions.py", deployed=True),
    Part("scripts/migrate.py", deployed=True),
    Part("scripts/in_venv.py", deployed=True),
    Part("scripts/run_pip.py", deployed=True),
    Part("scripts/setup", deployed=True),
    Part("scripts/locks/runtime.txt", deployed=True),
    Part("scripts/locks/aws.txt", ("sam",)),
    Part("scripts/locks/sandbox.txt"),
    Part("scripts/adopt.py"),
    Part("scripts/adopting/*.py"),
    Part("scripts/demo.py"),
    Part("scripts/embedded.py"),
    Part("scripts/rehearse_branch.py"),
    Part("scripts/sandbox"),
    Part("scripts/sandbox.py"),
    Part("scripts/scratch.py"),
    Part("scripts/bundle.py", ("sam",)),
    Part("scripts/fleet.py"),
    Part("scripts/invoke.py", ("sam",)),
    Part("infra/fleet.asl.json", ("sam",)),
    Part("template-fleet.yaml", ("sam",)),
    Part("template.yaml", ("sam",)),
    Part(".github/actions/rehearse/action.yml"),
    Part(".github/workflows/migrations.yml"),
    Part("docs/adopting.md"),
    Part("docs/checkpoints.md"),
    Part("docs/drift.md"),
    Part("docs/before-it-ships.md"),
    Part("docs/environments.md"),
    Part("docs/existing-database.md"),
    Part("docs/exit-codes.md"),
    Part("docs/fleet.md"),
    Part("docs/hazards.md"),
    Part("docs/history.md"),
    Part("docs/importing.md"),
    Part("docs/no-transaction.md"),
    Part("docs/on-call.md"),
    Part("docs/production-lambda.md"),
    Part("docs/production-vercel.md"),
    Part("docs/pull-request.svg"),
    Part("docs/pull-requests.md"),
    Part("docs/reference.md"),
    Part("docs/rolling-back.md"),
    Part("docs/routes.md"),
    Part("docs/security.md"),
    Part("docs/upgrading.md"),
    Part("docs/writing-migrations.md"),
    Part("CHANGELOG.md"),
    Part("LICENSE"),
    Part("README.md"),
)

# A history has the checksum of a migration, and the modules of `adopting` name a checkout's paths.
_AS_THEY_ARE = ("migrations/", "scripts/adopting/", "LICENSE")
_MOVED = re.compile(
    "|".join(
        re.escape(part.files) for part in TEAMS if part.files.startswith(("docs/", "template"))
    )
)
_NOT_A_TEAMS = re.compile(
    r"<!-- For Onward's own repository\. -->.*?<!-- Until here\. -->\n*", re.S
)
_LINK = re.compile(r"\[([^]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")

# Added to a team's own file of that name.
MERGED = ("AGENTS.md", "requirements.txt", "vercel.json")
_LINKED = (*(part.files for part in TEAMS), *MERGED)

MAINTAINERS = (
    ".ci/*",
    ".env.test",
    ".gitattributes",
    ".gitignore",
    ".vercelignore",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docker-compose.test.yml",
    "docs/README.md",
    "docs/design.md",
    "docs/status-page-*.png",
    "migrations/001-create-users-table.sql",
    "migrations/002-add-reset-token-fields.sql",
    "mypy.ini",
    "pytest.ini",
    "requirements-dev.txt",
    "ruff.toml",
    "scripts/dev/*.py",
    "scripts/lock",
    "scripts/locks/dev.txt",
    "scripts/locks/sandbox.in",
    "scripts/locks/uv.txt",
    "scripts/test",
    "tests/**/*.py",
    "tests/ddl_truth.*",
    "tests/platform/localstack.txt",
)


def shipped(checkout: Path, shape: str) -> list[Shipped]:
    """The files of a checkout that a repository of this shape gets whole. Reads only."""
    parts = [part for part in TEAMS if shape in part.shapes]
    sources = {source for part in parts for source in checkout.glob(part.files)}
    return [_shipped(source.relative_to(checkout).as_posix(), source) for source in sorted(sources)]


def _shipped(name: str, source: Path) -> Shipped:
    return Shipped(
        place(name), source, adapted(name, source.read_bytes()), source.stat().st_mode & 0o777
    )


def place(name: str) -> str:
    """Where a team has a file of the checkout."""
    if name.startswith("template"):
        return name.replace("template", "template.onward", 1)
    if name in ("CHANGELOG.md", "LICENSE", "README.md"):
        return f"{PAGES}/{name}"
    return re.sub(r"^docs/", f"{PAGES}/", name)


def adapted(name: str, content: bytes) -> bytes:
    """The content as a team gets it: paths that are others there are others in it, in messages and
    in links; and pages without what is for Onward's own repository.
    """
    if name.startswith(_AS_THEY_ARE):
        return content
    text = _MOVED.sub(lambda found: place(found[0]), content.decode())
    if name.endswith(".md"):
        text = _NOT_A_TEAMS.sub("", text)
        text = _LINK.sub(lambda found: _link(name, *found.groups("")), text)
    return text.encode()


def _link(page: str, label: str, target: str, heading: str) -> str:
    """A link as it is from the page's place; only its label if a team has no such file."""
    if not target or ":" in target:
        return f"[{label}]({target}{heading})"
    name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    if name in (place(known) for known in _LINKED):
        name = next(known for known in _LINKED if place(known) == name)
    if name not in _LINKED:
        return label
    there = posixpath.relpath(place(name), posixpath.dirname(place(page)) or ".")
    return f"[{label}]({there}{heading})"


def not_deployed(shape: str) -> Iterator[str]:
    """Lines for a .vercelignore: what the build does without, and nothing of the team's own."""
    yield from ("/.venv", "/.sandbox", f"/{PAGES}")
    for part in TEAMS:
        path = place(part.files)
        if shape in part.shapes and not part.deployed and not path.startswith((PAGES, ".github")):
            yield f"/{path.removesuffix('/*.py')}"
