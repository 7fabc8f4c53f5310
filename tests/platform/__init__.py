"""Tests on what the platforms themselves run; they need more than every machine has, and CI must have it."""

import os
from typing import NoReturn

import pytest


def impossible(reason: str) -> NoReturn:
    """Skip the test; in CI fail, where nothing may be left out without anybody noticing."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
