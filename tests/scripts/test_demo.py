"""The made-up migrations of `scripts/sandbox --demo`."""

from datetime import timedelta

import pytest

from lib.source.migration import load
from scripts.demo import MOST, YEARS, past
from scripts.dev.status_documents import NOW
from tests.kit import Write


@pytest.mark.parametrize("count", [1, 20, 300, MOST])
def test_there_are_as_many_as_asked_for_in_order_and_all_are_past(count: int) -> None:
    found = past(count, NOW)
    moments = [one.applied_at for one in found]
    assert len({one.version for one in found}) == count
    assert moments == sorted(moments)
    assert NOW - timedelta(days=YEARS * 366 + 7) < moments[0]
    assert moments[-1] < NOW
    assert min(one.milliseconds for one in found) >= 1


def test_the_same_number_gives_the_same_ones() -> None:
    assert past(50, NOW) == past(50, NOW)


def test_a_history_of_years_has_a_scale_of_more_than_two_orders() -> None:
    durations = [one.milliseconds for one in past(300, NOW)]
    assert max(durations) > 100 * min(durations)


def test_their_files_are_ones_that_a_run_takes(migrations: Write) -> None:
    found = past(300, NOW)
    loaded = load(migrations({f"{one.version}.sql": one.sql for one in found}))
    assert [one.version for one in loaded] == [one.version for one in found]
