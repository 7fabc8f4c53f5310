"""Who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A module imports from its own line's package and from the lines above it.
FLOORS = """
restore_point
errors printable quoting retry
printed
tool_tables
imported
settings
source
activity observation sizes
history
identity remarks
plan queries refusals shared_numbers takeover
consent
diagnosis drift events guard hazards restoring validation
comparison importers
postgres
runner
scratch
adopt checkpoint proof rehearsal
report
webhook
web
fleet
aws vercel
cli
""".strip().splitlines()
# What runs on a Python without the driver: the commands on files alone, and all that they import.
PURE = (
    "cli.main cli.offline cli.process cli.scratch comparison "
    "consent diagnosis drift errors events fleet.inventory fleet.outcome guard hazards.judging "
    "history identity observation plan printable printed queries quoting refusals remarks "
    "restore_point restoring sizes "
    "report.document report.drift report.github report.page report.page_graphics report.page_style "
    "report.queries report.rehearsal report.text "
    "settings.assistant settings.config settings.database_url settings.environment "
    "settings.reach settings.redactor shared_numbers "
    "source.extensions source.git source.migration source.numbering source.other_tools "
    "source.pull_request source.rules validation web.accept web.auth"
).split()
MODULES = sorted((ROOT / "lib").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(part: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if part in names.split())


def package(path: Path) -> str:
    return path.relative_to(ROOT / "lib").with_suffix("").parts[0]


def test_every_module_is_on_a_floor() -> None:
    assert {package(path) for path in MODULES} == {*" ".join(FLOORS).split(), "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_what_is_below_it(path: Path) -> None:
    if path == ROOT / "lib" / "__init__.py":
        return
    own = package(path)
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("lib.")}
    above = {part for part in parts - {own, "VERSION", "ROOT"} if floor(part) >= floor(own)}
    assert not above


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_what_calls_it(path: Path) -> None:
    assert not {
        name for name in imported(path) if name.split(".")[0] in ("api", "scripts", "tests")
    }


@pytest.mark.parametrize(
    ("library", "package_"), [("psycopg", "postgres"), ("boto3", "aws"), ("botocore", "aws")]
)
def test_a_library_is_known_in_one_package(library: str, package_: str) -> None:
    users = {
        package(path)
        for path in MODULES
        if library in {name.split(".")[0] for name in imported(path)}
    }
    assert users == {package_}


def test_of_the_command_line_four_modules_know_the_database() -> None:
    parts = "postgres runner scratch adopt checkpoint proof rehearsal fleet.pool fleet.worker"
    below = tuple(f"lib.{part}" for part in parts.split())
    cli = [path for path in MODULES if package(path) == "cli"]
    users = {path.stem for path in cli if any(name.startswith(below) for name in imported(path))}
    assert users == {"commands", "fleet", "observing", "proving"}


@pytest.mark.parametrize("module", PURE)
def test_the_core_loads_no_driver(module: str) -> None:
    code = f"import lib.{module}, sys; print('psycopg' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"


def test_modules_of_a_package_do_not_import_each_other_in_a_circle() -> None:
    graph = {path: {name for name in imported(path) if name.startswith("lib.")} for path in MODULES}
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, [str(one.relative_to(ROOT)) for one in (*trail, path)]
        if path not in done:
            for name in graph[path] & names.keys():
                visit(names[name], (*trail, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


def test_a_run_that_observes_nothing_loads_no_observer() -> None:
    code = (
        "import lib.cli.commands, sys; "
        "print({'lib.hazards', 'lib.observation', 'lib.postgres.catalog'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "set()\n"
