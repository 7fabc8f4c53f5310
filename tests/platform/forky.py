"""Programs that this machine's Debian does not have yet, from a later release in a directory of its
own.

It takes root, debootstrap and a minute to make. `python -m tests.platform.forky` makes it where it
is missing, and prints the command of its CPython.
"""

import hashlib
import os
import platform
import sys
import zipfile
from functools import cache
from pathlib import Path

from tests.platform.cache import CACHE, cached, said

SUITE = "forky"
PACKAGES = "python3.14,python3.14-venv,pgbouncer,odyssey"
# What must run there, and how that begins which it says of itself.
PROGRAMS = {
    "/usr/bin/python3.14": "Python 3.14.",
    "pgbouncer": "PgBouncer 1.26.",
    "odyssey": "odyssey 1.5.",
}
# Another one for each state of this module: what it made before may be in use.
PLACE = CACHE / f"{SUITE}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
# Beside its libraries, which are not this machine's, and on this machine's files. It is its own
# sys.executable, so what Python starts by that name is it again: a virtual environment, pip.
PYTHON = """#!/bin/sh
exec {loader} --argv0 "$0" --library-path {libraries} {place}/usr/bin/python3.14 "$@"
"""
WHEELS = "/usr/share/python-wheels/"
USELESS = ("var/cache/apt", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man")


@cache
def install() -> Path:
    """The root of the later release, made if it is missing or broken. Raises OSError where it
    cannot be made.
    """
    return cached(PLACE.name, _make, _sound)


def python() -> Path:
    """The command of its CPython."""
    return install() / "usr" / "local" / "bin" / "python3.14"


def _sound(place: Path) -> bool:
    """Whether all of it runs."""
    try:
        said(str(place / "usr" / "local" / "bin" / "python3.14"), "-m", "pip", "--version")
        _check(place)
    except OSError:
        return False
    return True


def _check(place: Path) -> None:
    for program, beginning in PROGRAMS.items():
        version = said("chroot", str(place), program, "--version")
        if not version.startswith(beginning):
            raise OSError(f"Debian {SUITE} is expected to have {beginning}x, and has {version}")


def _make(draft: Path) -> None:
    if os.geteuid() != 0:
        raise PermissionError(f"only root can install Debian {SUITE} into {PLACE}, by debootstrap")
    said("apt-get", "update", "--quiet=2")
    # In a mount namespace of its own, so that what it mounts ends with it. The script is that of
    # all later releases.
    command = (
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        SUITE,
        str(draft),
        _mirror(),
        "sid",
    )
    said("unshare", "--mount", *command)
    said("rm", "-rf", *(str(draft / name) for name in USELESS))
    _make_python(draft)
    _check(draft)


def _mirror() -> str:
    """Where this machine gets its own release from."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    sites = said(
        "apt-get",
        "indextargets",
        "--format",
        "$(CODENAME) $(SITE)",
        "Created-By: Packages",
        "COMPONENT: main",
    )
    found = [site for codename, site in map(str.split, sites.splitlines()) if codename == release]
    if not found:
        raise FileNotFoundError(
            f"apt's sources name no mirror of this machine's Debian, to install {SUITE} from"
        )
    return found[0]


def _make_python(draft: Path) -> None:
    """A command that runs on this machine's files, with pip; `venv` finds its pip too."""
    (libraries,) = draft.glob("usr/lib/*-linux-gnu")
    (loader,) = libraries.glob("ld-linux-*.so.*")
    (pip,) = draft.glob(f"{WHEELS[1:]}pip-*.whl")
    with zipfile.ZipFile(pip) as archive:
        archive.extractall(draft / "usr" / "local" / "lib" / "python3.14" / "dist-packages")
    for data in draft.glob("usr/lib/python3.14/_sysconfigdata_*.py"):
        data.write_text(data.read_text().replace(f"'{WHEELS}'", f"'{PLACE}{WHEELS}'"))
    command = draft / "usr" / "local" / "bin" / "python3.14"
    final = {
        name: PLACE / path.relative_to(draft)
        for name, path in (("loader", loader), ("libraries", libraries))
    }
    command.write_text(PYTHON.format(place=PLACE, **final))
    command.chmod(0o755)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{python()}\n")
    except OSError as problem:
        sys.exit(f"{SUITE}: {problem}")
