"""What every test of the function needs."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.aws.instance import Request
from tests.platform.lambda_runtime import SOURCES


@pytest.fixture(params=SOURCES.values(), ids=list(SOURCES))
def request_by(request: pytest.FixtureRequest) -> Request:
    """Makes the event of a request, for each thing that can send one."""
    made: Request = request.param
    return made


@pytest.fixture(autouse=True)
def event_loop() -> Iterator[None]:
    """The loop that HTTP events run on, which nobody else would close."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
