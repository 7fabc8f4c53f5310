"""What the tests of a fleet share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.tenants import Fleet, Tenants, tenants


@pytest.fixture(scope="package", name="tenants")
def all_tenants() -> Iterator[Tenants]:
    """The databases of a server that is thrown away."""
    with tenants() as found:
        yield found


@pytest.fixture
def fleet(project: Path, tmp_path: Path, tenants: Tenants) -> Fleet:
    """`fleet.run()` migrates the tenants of `fleet.inventory(...)`."""
    return Fleet(project, tmp_path, tenants)
