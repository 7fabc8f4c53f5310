"""The faults of test_faults.py that meet files sent ahead: where the run cannot know what became of
them it looks, plans again and goes on, so it tells exactly what is recorded.

Cuts at a COMMIT, interrupts and kills at many points are in postgres/test_ahead.py.
"""

import os
import signal

import pytest

from scripts.embedded import Embedded
from tests.conftest import Server
from tests.kit import nothing_is_left_running, until
from tests.proxy import COMMIT_AHEAD, Hold, Proxy, proxied, roll_back
from tests.stage import (
    FOUR,
    WAIT,
    MakeStage,
    Stage,
    own,
    stages,
    stop,
    window,
)

__all__ = ["own", "stages", "window"]  # fixtures

pytestmark = pytest.mark.slow

ALL = list(FOUR)
ONE = ALL[0]
IS_THERE = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
# The server waits for the rest of what is sent ahead.
WAITS_FOR_MORE = "state = 'active' AND wait_event = 'ClientRead'"


@pytest.fixture
def standing(own: Embedded, stages: MakeStage) -> Stage:
    """A window on that server."""
    server = Server(own.url(), f"ahead_{os.urandom(4).hex()}", "own")
    return stages("command", server, server.create(), versions=FOUR)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_after_a_restart_of_the_server_the_run_goes_on(
    own: Embedded, standing: Stage, number: signal.Signals
) -> None:
    standing.files(second=WAIT)
    running = standing.start()
    standing.wait()
    stop(own, number)
    own.start()
    standing.open()
    outcome = standing.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", ALL)
    assert "was lost after 001-one to 004-four were sent" in outcome.said
    standing.settled(*ALL)


def test_so_it_does_where_the_server_is_gone_at_a_commit(own: Embedded, standing: Stage) -> None:
    with proxied(standing.server.url) as proxy:
        commit = Hold()
        proxy.at_nth(2, COMMIT_AHEAD, commit)
        running = standing.start(proxy.url(standing.database.url))
        until(commit.reached.is_set)
        stop(own, signal.SIGINT)
        own.start()
        outcome = standing.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", ALL)
    standing.settled(*ALL)


def test_a_file_that_ends_its_session_each_time_fails_and_is_named(window: Stage) -> None:
    window.files(second="SELECT pg_terminate_backend(pg_backend_pid()) FROM gate;")
    outcome = window.run()
    assert (outcome.code, outcome.error["version"]) == ("migration_failed", ALL[1])
    assert (outcome.applied, outcome.remaining) == ([ONE], ALL[1:])
    window.settled(ONE)
    window.completes()


def test_a_statement_that_is_too_slow_is_told_as_without_it(window: Stage) -> None:
    window.files(second=WAIT)
    outcome = window.run(MIGRATION_STATEMENT_TIMEOUT="700ms")
    assert (outcome.code, outcome.error["sqlstate"]) == ("migration_failed", "57014")
    assert (outcome.applied, outcome.remaining) == ([ONE], ALL[1:])
    assert "MIGRATION_STATEMENT_TIMEOUT" in outcome.said
    window.settled(ONE)
    window.completes()


def test_what_a_frozen_run_has_sent_is_applied_and_told_when_it_wakes(window: Stage) -> None:
    window.files(second=WAIT)
    running = window.start()
    window.wait()
    running.freeze()
    window.open()
    until(lambda: window.recorded == ALL)
    running.send(signal.SIGCONT)
    outcome = window.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", ALL)
    window.settled(*ALL)


def test_each_file_is_told_by_one_run_where_another_comes_while_one_is_frozen(
    window: Stage,
) -> None:
    window.files(second=WAIT)
    frozen = window.start()
    window.wait()
    frozen.freeze()
    other = window.start()
    until(lambda: "another run holds the lock" in other.said)
    window.open()
    outcome = window.finish(other)
    frozen.send(signal.SIGCONT)
    woken = window.finish(frozen)
    assert (outcome.code, woken.code) == ("ok", "ok")
    assert sorted([*woken.applied, *outcome.applied]) == ALL
    window.settled(*ALL)


def test_after_a_kill_a_file_that_has_nobody_looked_for_lets_the_others_follow(
    window: Stage,
) -> None:
    window.files(second=f"SET LOCAL client_connection_check_interval = 0; {WAIT}")
    running = window.start()
    window.wait()
    running.kill()
    window.open()
    nothing_is_left_running(window.server, window.database)
    recorded = window.recorded
    assert ALL[: len(recorded)] == recorded != ALL[:1]
    window.settled(*recorded)
    window.completes()


def test_a_commit_that_comes_back_as_a_rollback_is_tried_again(window: Stage, proxy: Proxy) -> None:
    proxy.at_nth(2, COMMIT_AHEAD, roll_back)
    outcome = window.run(proxy.url(window.database.url))
    assert (outcome.code, outcome.applied) == ("ok", ALL)
    window.settled(*ALL)


@pytest.mark.parametrize("second", [None, signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_the_server_has_not_begun(
    window: Stage, proxy: Proxy, second: signal.Signals | None
) -> None:
    """Here the connection to the server stays open, and all of it would still arrive."""
    commit = Hold()
    proxy.at_nth(2, COMMIT_AHEAD, commit)
    running = window.start(proxy.url(window.database.url))
    until(commit.reached.is_set)
    waiting = window.wait(WAITS_FOR_MORE)
    running.send(signal.SIGTERM)
    until(lambda: not window.server.admin.execute(IS_THERE, [waiting]))
    if second:
        running.send(second)
    outcome = window.finish(running, by=signal.SIGTERM)
    commit.release()
    nothing_is_left_running(window.server, window.database)
    assert outcome.applied == [ONE] == window.recorded
    assert outcome.remaining == ALL[1:]
    window.settled(ONE)
    window.completes()
