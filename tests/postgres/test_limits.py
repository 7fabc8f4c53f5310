"""The limits of a run's session: which are set, to what, and which a server does not have."""

import math

import pytest

from lib.errors import ServerError
from lib.history import History
from lib.postgres.limits import EXPECTED_LIMITS, OPTIONAL_LIMITS, SessionLimits
from tests.kit import HISTORY, config

CHECK, IDLE = sorted(EXPECTED_LIMITS)


def of(*limits: str) -> History:
    """The history of a server that has these limits."""
    return HISTORY._replace(limits=frozenset(limits))


class Limits:
    """The limits of a run with some time left, and what it tells of them."""

    def __init__(self, seconds_left: float = math.inf, **environ: str) -> None:
        self.told: list[str] = []
        self.limits = SessionLimits(config(**environ), lambda: seconds_left, self.told.append)

    def settings(self, history: History | None, *, stays_idle: bool = False) -> dict[str, str]:
        """What is set, by its name."""
        statements = self.limits.as_sql(history, stays_idle=stays_idle).split("; ")
        words = (one.removeprefix("SET LOCAL ").rstrip(";").split(" = ") for one in statements)
        return {name: value.strip("'") for name, value in words}


@pytest.mark.parametrize(
    ("seconds_left", "timeout", "expected"),
    [
        (math.inf, "0", "0ms"),
        (math.inf, "90s", "90000ms"),
        (2.5, "0", "2500ms"),
        (2.5, "90s", "2500ms"),
        (120.0, "90s", "90000ms"),
        (0.0, "90s", "1ms"),
        (-1.0, "0", "1ms"),
    ],
)
def test_a_statement_may_take_what_is_set_and_what_is_left(
    seconds_left: float, timeout: str, expected: str
) -> None:
    limits = Limits(
        seconds_left, MIGRATION_STATEMENT_TIMEOUT=timeout, MIGRATION_LOCK_TIMEOUT="250ms"
    )
    assert limits.settings(None) == {"lock_timeout": "250ms", "statement_timeout": expected}


def test_only_limits_that_the_server_has_are_set() -> None:
    optional = set(Limits().settings(of(*OPTIONAL_LIMITS))) - set(Limits().settings(None))
    assert optional == OPTIONAL_LIMITS
    assert Limits().settings(of(IDLE, "another")).keys() - Limits().settings(of()).keys() == {IDLE}


def test_a_transaction_that_stays_idle_is_not_ended_for_it() -> None:
    settings = Limits().settings(of(*OPTIONAL_LIMITS))
    assert settings[IDLE] == "60000ms"
    assert Limits().settings(of(*OPTIONAL_LIMITS), stays_idle=True) == settings | {IDLE: "0ms"}
    assert IDLE not in Limits().settings(of(CHECK), stays_idle=True)


def test_for_a_session_they_are_set_beyond_the_transaction() -> None:
    sql = Limits().limits.as_sql(of(IDLE), scope="SESSION")
    assert f"SET {IDLE} = '60000ms';" in sql
    assert "LOCAL" not in sql


def test_a_limit_that_is_missing_is_told_once() -> None:
    limits = Limits()
    for _ in range(2):
        limits.limits.drop_missing(of(CHECK))
    [told] = limits.told
    assert told.startswith(
        f"this server does not let a session set {IDLE} (it has no such setting)"
    )


def test_a_limit_that_the_server_refuses_is_told_once_and_not_set_again() -> None:
    limits, history = Limits(), of(*OPTIONAL_LIMITS)
    refused = ServerError("42501", f'permission denied to set parameter "{CHECK}"')
    assert not limits.limits.drop_refused(history, ServerError("42501", "permission denied"))
    assert limits.limits.drop_refused(history, refused)
    assert not limits.limits.drop_refused(history, refused)
    assert limits.settings(history).keys() & EXPECTED_LIMITS == {IDLE}
    limits.limits.drop_missing(history)
    [told] = limits.told
    assert told.startswith(f"this server does not let a session set {CHECK} (permission denied")
