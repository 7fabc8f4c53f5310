"""In which order the pool works, what it tries again, and when it stops: the work only answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

import pytest

from lib.fleet.inventory import Tenant, read_inventory
from lib.fleet.journal import Journal, read_journal
from lib.fleet.order import Order, Tolerance
from lib.fleet.outcome import Outcome
from lib.fleet.pool import Pool
from lib.fleet.report import Ending, Header
from lib.fleet.text import Progress

BUSY = Outcome("", "busy", retry=True)
FAILED = Outcome("", "migration_failed")
MIGRATED, CURRENT, PENDING = (Outcome("", name) for name in ("migrated", "current", "pending"))


class Carried:
    """An order for these tenants, one after the other, carried out by answers alone.

    `waves` has the number of each tenant's wave; each has its answers in turn, the last one from
    then on.
    """

    def __init__(
        self,
        directory: Path,
        waves: Mapping[str, int],
        answers: Mapping[str, Sequence[Outcome]],
        action: str = "migrate",
        tolerated: int = 1,
        concurrency: int = 1,
        stop_at: str = "",
    ) -> None:
        rows = [
            {"tenant": name, "url": f"postgresql://h/{name}", "wave": wave}
            for name, wave in waves.items()
        ]
        inventory = read_inventory("\n".join(map(json.dumps, rows)))
        self.done: list[str] = []
        self.together: list[int] = []
        """How many tenants were given to the work at a time."""
        self.told: list[Progress] = []
        self._answers = {name: list(found) for name, found in answers.items()}
        self._stop, self._stop_at = Event(), stop_at
        tolerance = Tolerance(tolerated, is_percentage=False)
        order = Order("r", action, "ci", "003-x", inventory, concurrency, 2, tolerance)
        with Journal(directory / "r", Header.of(order, "")) as journal:
            pool = Pool(self._work, tell=self.told.append, stop=self._stop)
            self.ending: Ending = pool(order, journal)
        self.records = read_journal(directory / "r").records

    @property
    def migrated(self) -> list[str]:
        """Which tenants a migration was tried for."""
        return [one.removeprefix("migrate ") for one in self.done if one.startswith("migrate")]

    def _work(self, action: str, tenants: Sequence[Tenant]) -> Iterator[Outcome]:
        self.together.append(len(tenants))
        for tenant in tenants:
            self.done.append(f"{action} {tenant.name}")
            if tenant.name == self._stop_at:
                self._stop.set()
            answers = self._answers.get(tenant.name, [MIGRATED, CURRENT])
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            yield found._replace(tenant=tenant.name)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.fleet.pool.PAUSES", (0.0, 0.0))


def test_what_was_changed_or_has_failed_is_looked_at_and_no_other(tmp_path: Path) -> None:
    answers = {"a": [MIGRATED, CURRENT], "b": [CURRENT], "c": [FAILED, PENDING]}
    found = Carried(tmp_path, dict.fromkeys("abc", 1), answers)
    assert found.done == ["migrate a", "migrate b", "status a", "migrate c", "status c"]
    assert [(one.action, one.outcome.tenant, one.outcome.outcome) for one in found.records] == [
        ("migrate", "a", "migrated"),
        ("migrate", "b", "current"),
        ("status", "a", "current"),
        ("migrate", "c", "migration_failed"),
        ("status", "c", "pending"),
    ]
    assert (found.told[-1].done, found.told[-1].failed, found.told[-1].ended) == (3, 1, True)


def test_a_look_is_looked_at_once(tmp_path: Path) -> None:
    found = Carried(tmp_path, dict.fromkeys("ab", 0), {"a": [PENDING], "b": [CURRENT]}, "status")
    assert found.done == ["status a", "status b"]


def test_what_is_worth_another_try_is_tried_twice_more_after_the_others(tmp_path: Path) -> None:
    answers = {"a": [BUSY], "b": [BUSY, CURRENT]}
    found = Carried(tmp_path, dict.fromkeys("abc", 1), answers, tolerated=2)
    assert found.migrated == ["a", "b", "c", "a", "b", "a"]
    assert "status a" not in found.done
    assert found.told[-1].failed == 1


@pytest.mark.parametrize(("second", "ran"), [("b", ["a", "b"]), ("c", ["a", "b", "c"])])
def test_one_that_fails_more_than_is_tolerated_ends_its_cluster(
    tmp_path: Path, second: str, ran: list[str]
) -> None:
    """At once, whether others were given to the work with it or not."""
    found = Carried(tmp_path, dict.fromkeys("abcd", 1), {"a": [FAILED], second: [FAILED]})
    assert found.migrated == ran
    assert f"status {second}" in found.done


def test_few_tenants_are_spread_over_all_threads(tmp_path: Path) -> None:
    looked_at = {name: [CURRENT] for name in "abc"}
    found = Carried(tmp_path, dict.fromkeys("abc", 1), looked_at, "status", concurrency=3)
    assert found.together == [1, 1, 1]
    found = Carried(tmp_path / "2", dict.fromkeys("abc", 1), looked_at, "status")
    assert found.together == [2, 1]


def test_an_error_of_the_work_itself_ends_the_run(tmp_path: Path) -> None:
    nothing: Sequence[Outcome] = ()
    with pytest.raises(IndexError):
        Carried(tmp_path, {"a": 1}, {"a": nothing})


@pytest.mark.parametrize(
    ("waves", "ran", "stopped_after"),
    [
        ({"a": 0, "b": 1}, ["a"], 0),
        ({"a": 0}, ["a"], None),
        ({"a": 1, "b": 2}, ["a", "b"], None),
        ({"b": 0, "a": 1}, ["b", "a"], None),
    ],
)
def test_only_canaries_that_are_not_current_hold_the_other_waves_back(
    tmp_path: Path, waves: dict[str, int], ran: list[str], stopped_after: int | None
) -> None:
    found = Carried(tmp_path, waves, {"a": [FAILED]})
    assert found.migrated == ran
    assert (found.ending.stopped_after, found.ending.interrupted) == (stopped_after, False)


def test_canaries_that_a_look_finds_pending_hold_the_other_waves_back(tmp_path: Path) -> None:
    found = Carried(tmp_path, {"a": 0, "b": 1}, {"a": [MIGRATED, PENDING]})
    assert (found.done, found.ending.stopped_after) == (["migrate a", "status a"], 0)


def test_a_stopped_run_looks_at_what_was_in_hand_and_begins_no_other(
    tmp_path: Path,
) -> None:
    found = Carried(tmp_path, {"a": 0, "b": 0, "c": 1}, {}, stop_at="a")
    assert found.done == ["migrate a", "status a"]
    assert (found.ending.interrupted, found.ending.stopped_after) == (True, None)
