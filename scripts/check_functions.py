#!/usr/bin/env python3
"""Vercel's build command runs this before it migrates: will every function of `api/` be found, and
run?

Vercel looks for functions without importing them. One that cannot be imported builds green and
answers 500, and one without a plain `app` builds green and is not there: both on a database that is
migrated already.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until `main` deals with it: Ctrl-C shows no traceback

import ast
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.cli.output import Terminal
from lib.errors import FilesError, Interrupted

REMEDY = (
    "The database was not touched. Mend it, or name in requirements.txt what it imports, and "
    "deploy again; "
    "a module that is no function has a name with _ first."
)


def main() -> int:
    """Look at all functions; the exit code is 0, or 2 for one that would not run."""
    terminal = Terminal(os.environ, as_json=False)
    functions = [
        path
        for path in sorted((ROOT / "api").rglob("*.py"))
        if _is_function(path.relative_to(ROOT))
    ]
    try:
        problems = [problem for path in functions for problem in _problems(path)]
    except KeyboardInterrupt:
        interrupted = Interrupted("interrupted; the database was not touched", exit_code=130)
        return terminal.fail(interrupted)
    if problems:
        return terminal.fail(
            FilesError("\n  ".join(["these functions would not run:", *problems]), next_step=REMEDY)
        )
    terminal.info(
        "✅ Functions that can be imported: "
        f"{', '.join(str(path.relative_to(ROOT)) for path in functions)}"
    )
    return 0


def _is_function(path: Path) -> bool:
    """Vercel's own rule: a name that begins with _ or . is none, be it a file's or a folder's."""
    return not any(part.startswith(("_", ".")) for part in path.parts)


def _problems(path: Path) -> Iterator[str]:
    shown = path.relative_to(ROOT)
    try:
        if not any(map(_is_entry, ast.parse(path.read_bytes()).body)):
            yield f"{shown} has no plain top-level `app`"
        _import(path)
    except (Exception, SystemExit) as error:
        yield f"{shown} cannot be imported: {type(error).__name__}: {error}{_place(error)}"


def _is_entry(statement: ast.stmt) -> bool:
    """What Vercel takes for a function: it reads the file's own statements, nothing inside an `if`
    or a `try`.
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
    """By its path, as Vercel's runtime does: `migration-status` is a file's name and no module's."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # noqa: S101 - there is one for every path that ends in .py
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _place(error: BaseException) -> str:
    """Where in the project it was raised; a syntax error says that itself."""
    frames = [
        (Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)
    ]
    ours = [f" ({path.relative_to(ROOT)}:{line})" for path, line in frames if _is_ours(path)]
    return ours[-1] if ours else ""


def _is_ours(path: Path) -> bool:
    return (
        path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__)
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
