#!/usr/bin/env python3
"""Checks that Vercel will find every function in `api/` and that each can be imported.

Vercel's build command runs this before it migrates, because Vercel looks for functions without
importing them. A function that cannot be imported builds green and answers 500; one without a plain
`app` builds green and is missing. Both would be noticed only after the database is migrated.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import ast
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.in_venv import require

require("psycopg", "starlette")  # without these, no function of Onward's can be imported

from lib.cli.output import Terminal
from lib.errors import FilesError, Interrupted

REMEDY = (
    "The database was not touched. Fix the file, or add the missing dependency to "
    "requirements.txt, and deploy again. Prefix a helper module with _."
)


def main() -> int:
    """Check all functions. The exit code is 0, or 2 if one would fail."""
    terminal = Terminal(os.environ, as_json=False)
    files = sorted((ROOT / "api").rglob("*.py"))
    functions = [path for path in files if _is_function(path.relative_to(ROOT))]
    try:
        problems = [problem for path in functions for problem in _problems(path)]
    except KeyboardInterrupt:
        interrupted = Interrupted("interrupted; the database was not touched", exit_code=130)
        return terminal.fail(interrupted)
    if problems:
        return terminal.fail(
            FilesError(
                "\n  ".join(["these functions would fail at runtime:", *problems]), next_step=REMEDY
            )
        )
    names = ", ".join(str(path.relative_to(ROOT)) for path in functions)
    terminal.info(f"✅ Functions that can be imported: {names}")
    return 0


def _is_function(path: Path) -> bool:
    """Vercel's own rule: no file or folder on the path has a name that begins with _ or a dot."""
    return not any(part.startswith(("_", ".")) for part in path.parts)


def _problems(path: Path) -> Iterator[str]:
    shown = path.relative_to(ROOT)
    try:
        if not any(map(_is_entry_point, ast.parse(path.read_bytes()).body)):
            yield f"{shown} has no plain top-level `app`"
        _import(path)
    except (Exception, SystemExit) as error:
        yield f"{shown} cannot be imported: {type(error).__name__}: {error}{_place(error)}"


def _is_entry_point(statement: ast.stmt) -> bool:
    """Whether Vercel takes the statement for a function. It reads the file's top-level statements
    only, nothing inside an `if` or a `try`.
    """
    match statement:
        case ast.Assign(targets=targets):
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.ImportFrom(names=aliases):
            names = [alias.asname or alias.name for alias in aliases]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            names = [name]
        case ast.ClassDef(name=name):
            return name.lower() == "handler"
        case _:
            return False
    return not {"app", "application"}.isdisjoint(names)


def _import(path: Path) -> None:
    """Import it by its path, as Vercel's runtime does: no module can be named
    `migration-status`.
    """
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # noqa: S101 - there is one for every path that ends in .py
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _place(error: BaseException) -> str:
    """Where in the project it was raised; the text of a syntax error names that itself."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if _is_in_project(path) and path != Path(__file__):
            return f" ({path.relative_to(ROOT)}:{frame.lineno})"
    return ""


def _is_in_project(path: Path) -> bool:
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
