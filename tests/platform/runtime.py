"""What a function on Lambda runs on: an interpreter with the runtime client, and the zip of
`scripts/bundle.py`.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from scripts.bundle import BundleError, Target, find_python
from tests.conftest import ROOT
from tests.kit import SECRET
from tests.platform.lambda_runtime import Function

# What Lambda's own Python has: the runtime client and boto3, and what these need.
PACKAGES = (
    "awslambdaric|simplejson|snapshot-restore-py"
    "|boto3|botocore|jmespath|python-dateutil|s3transfer|six|urllib3"
)


@dataclass(frozen=True)
class Runtime:
    """An interpreter with the runtime client, and the zip for it, also unpacked."""

    python: Path
    bundle: Path
    zipped: Path

    @contextmanager
    def function(
        self,
        url: str,
        directory: Path | None = None,
        *,
        handler: str = "lib.aws.handler",
        **environ: str,
    ) -> Iterator[Function]:
        """The deployed function; ends with the block."""
        files = {"MIGRATION_DIR": str(directory)} if directory else {}
        environ = {
            "MIGRATION_ENV": "test",
            "MIGRATION_SECRET": SECRET,
            "DATABASE_URL": url,
            **files,
            **environ,
        }
        with Function(self.python, self.bundle, environ, handler=handler) as function:
            yield function


def made_runtime(
    target: Target, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> Runtime:
    """The runtime of a Python, made once for all tests."""
    place = made_once(f"lambda-{target.minor}", partial(_make, target))
    return Runtime(place / "python" / "bin" / "python", place / "bundle", place / "onward.zip")


def _make(target: Target, place: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("what is built for Lambda runs on Linux only")
    try:
        python = find_python(target)
    except BundleError as error:
        pytest.skip(str(error))
    client = place / "client.txt"
    locked = (ROOT / "scripts" / "locks" / "dev.txt").read_text()
    client.write_text(
        "".join(
            one[0]
            for one in re.finditer(rf"^(?:{PACKAGES})==(?:.*\\\n)+.*\n", locked, re.MULTILINE)
        )
    )
    environment = place / "python"
    _run(python, "-m", "venv", "--without-pip", str(environment))
    pip = (python, "-m", "pip", "--python", str(environment / "bin" / "python"))
    _run(*pip, "install", "-q", "--require-hashes", "--only-binary=:all:", "-r", str(client))
    zipped = place / "onward.zip"
    wanted = ("--python", target.minor, "--arch", target.architecture, "--output", str(zipped))
    _run(sys.executable, str(ROOT / "scripts" / "bundle.py"), *wanted)
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(place / "bundle")


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
