"""Runs a script in `.venv` if the Python that was called lacks what the script needs.

It must also run on an older Python, so that it can say that this is what is wrong.
"""

import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_EXIT_CODE = 2
_EXPLAINED_AT = f"(exit {_EXIT_CODE}, docs/exit-codes.md#exit-codes)"
# Once: what is called .venv/bin/python may be any program.
_HANDED_OVER = "ONWARD_RUNS_IN_VENV"
_REMEDY = """\
Use Python 3.11 or newer with the packages of requirements.txt. To create it in .venv:
  scripts/setup"""


def require(*packages: str) -> None:
    """Return if this Python is new enough and has the packages. Otherwise, `hand_over`."""
    try:
        if sys.version_info < (3, 11):  # noqa: UP036 - `python3` is older than that on many machines
            raise ImportError("it is too old")
        for package in packages:
            if not importlib.util.find_spec(package):
                raise ImportError(f"No module named {package!r}")
    except ImportError as missing:
        hand_over(missing)


def hand_over(missing: ImportError) -> None:
    """Run this command in `.venv` instead; if that cannot run it either, say so and exit."""
    run_in_venv()
    reason = " ".join(str(missing).split())
    message = f"{reason} (Python {sys.version.split()[0]}, {sys.executable})"
    print(f"❌ this Python cannot run Onward: {message}", file=sys.stderr)
    print(f"Next: {_REMEDY}\n{_EXPLAINED_AT}", file=sys.stderr)
    if "--json" in sys.argv:
        error = {"code": "internal", "message": message, "nextStep": _REMEDY}
        print(json.dumps({"success": False, "error": error}))
    sys.exit(_EXIT_CODE)


def run_in_venv() -> None:
    """Replace this process by the same command in `.venv`; return if it cannot, or is that."""
    python = str(ROOT / ".venv" / "bin" / "python")
    if os.environ.get(_HANDED_OVER) or not os.access(python, os.X_OK):
        return
    os.environ[_HANDED_OVER] = "1"
    with suppress(OSError):  # it is of another machine, mounted here for instance
        os.execv(python, [python, *sys.argv])  # noqa: S606
