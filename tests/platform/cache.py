"""What the tests install themselves is kept between runs, below ONWARD_TEST_CACHE."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("ONWARD_TEST_CACHE") or Path.home() / ".cache" / "onward-tests")


def cached(
    name: str, make: Callable[[Path], None], sound: Callable[[Path], bool] = Path.exists
) -> Path:
    """A directory of the cache, made whole or not at all, by one process at a time; again if it is
    not sound.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    place, draft = CACHE / name, CACHE / f"{name}.new"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not sound(place):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
    return place


def said(*command: str, cwd: Path | None = None) -> str:
    """What a command prints. Raises OSError with all of it if it fails."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(
            f"{command[0]} exited with {result.returncode}:\n{result.stdout}{result.stderr}"
        )
    return result.stdout.strip()
