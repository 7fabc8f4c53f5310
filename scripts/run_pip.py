"""Runs pip for this Python: its own, else the one that every Python has to install pip with.

`.venv` contains no pip, because to install pip takes longer than to install what Onward needs.
Without arguments it only checks that there is one; then the exit code is 0, else 1.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Become pip."""
    command = find_pip()
    if command is None:
        print(f"{sys.executable} has neither pip nor ensurepip", file=sys.stderr)
        return 1
    if arguments:
        os.execv(command[0], [*command, *arguments])  # noqa: S606
    return 0


def find_pip() -> list[str] | None:
    """A command that is pip, and installs for this Python."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if wheel := next(_wheels(), None):
        return [sys.executable, str(wheel / "pip")]
    # In an environment: the Python that it was created with may have what a distribution packages.
    base: str = getattr(sys, "_base_executable", sys.executable)
    if base != sys.executable and _runs(base, "-m", "pip", "--version"):
        return [base, "-m", "pip", f"--python={sys.executable}"]
    return None


def _wheels() -> Iterator[Path]:
    if configured := sysconfig.get_config_var("WHEEL_PKG_DIR"):  # where a distribution has its own
        yield from Path(configured).glob("pip-*.whl")
    if ensurepip := importlib.util.find_spec("ensurepip"):
        yield from (Path(str(ensurepip.origin)).parent / "_bundled").glob("pip-*.whl")


def _runs(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    # pip must not find a module of scripts/ where it looks for one of its own.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1:]))
