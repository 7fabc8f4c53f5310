"""The engine of a fleet that needs no other: threads of this process, a pool for each cluster.

The waves are one after the other. A cluster has as many tenants at work as the order says, and no
more, because its threads are its own. What is worth another try is tried again after the others.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import NamedTuple

from lib.fleet.inventory import Tenant, Wave, chunks
from lib.fleet.journal import Journal
from lib.fleet.order import Order
from lib.fleet.outcome import LOOKED, Outcome
from lib.fleet.report import Ending, Record
from lib.fleet.text import Progress

CLUSTERS_TOGETHER = 40
PAUSES = (2.0, 10.0)
"""Before what is worth another try is tried again, in seconds."""
TICK_SECONDS = 0.2

Work = Callable[[str, Sequence[Tenant]], Iterator[Outcome]]
"""`Worker.outcomes`, without a deadline."""


class _Fleet(NamedTuple):
    """What all waves of an order share."""

    order: Order
    journal: Journal
    work: Work
    stop: Event
    began: float

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.began


class Pool:
    """Carries an order out in this process."""

    def __init__(self, work: Work, *, tell: Callable[[Progress], None], stop: Event) -> None:
        """`tell` is called five times a second. `stop` ends it after the tenants in hand."""
        self._work, self._tell, self._stop = work, tell, stop

    def __call__(self, order: Order, journal: Journal) -> Ending:
        """Carry the order out, and write into the journal what becomes of each tenant."""
        fleet = _Fleet(order, journal, self._work, self._stop, time.monotonic())
        *others, last = order.waves
        for wave in (*others, last):
            all_fine = self._run(_Wave(wave, fleet))
            if self._stop.is_set():
                return Ending(fleet.seconds, interrupted=True)
            if order.is_required(wave) and not all_fine and wave is not last:
                return Ending(fleet.seconds, stopped_after=wave.number)
        return Ending(fleet.seconds)

    def _run(self, wave: "_Wave") -> bool:
        """Work on a wave until it is done. Whether all its tenants are fine then."""
        with ThreadPoolExecutor(min(len(wave.clusters), CLUSTERS_TOGETHER)) as threads:
            futures = [threads.submit(cluster.run) for cluster in wave.clusters]
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, TICK_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._tell(wave.progress(ended=not waiting))
            except BaseException:
                self._stop.set()
                raise
        return wave.all_fine


class _Wave:
    """A wave that is worked on, and what has become of its tenants."""

    def __init__(self, wave: Wave, fleet: _Fleet) -> None:
        self.fleet = fleet
        self.clusters = [_Cluster(self, name, tenants) for name, tenants in wave.clusters.items()]
        self._wave, self._began = wave, time.monotonic()

    @property
    def all_fine(self) -> bool:
        """Whether nobody has to do anything about any of its tenants."""
        return all(cluster.all_fine for cluster in self.clusters)

    def progress(self, *, ended: bool) -> Progress:
        """How far it is."""
        done = sum(len(cluster.outcomes) for cluster in self.clusters)
        failed = sum(len(cluster.failed) for cluster in self.clusters)
        seconds = time.monotonic() - self._began
        return Progress(self._wave.number, done, failed, self._wave.databases, seconds, ended)

    def write(self, cluster: str, action: str, outcome: Outcome) -> None:
        """Write an outcome into the journal."""
        record = Record(outcome, self._wave.number, cluster, action, self.fleet.seconds)
        self.fleet.journal.add(record)


class _Cluster:
    """The tenants of a wave that share a limit of connections. Its threads share it."""

    def __init__(self, wave: _Wave, name: str, tenants: tuple[Tenant, ...]) -> None:
        self._wave, self._name, self._tenants = wave, name, tenants
        self._tolerated = wave.fleet.order.tolerated(len(tenants))
        self.outcomes: dict[str, Outcome] = {}
        self.failed: set[str] = set()

    @property
    def all_fine(self) -> bool:
        """Whether all tenants were reached, and none failed."""
        return len(self.outcomes) == len(self._tenants) and not self.failed

    def run(self) -> None:
        """Work on all tenants, and again on those that are worth another try."""
        order, waiting = self._wave.fleet.order, self._tenants
        for pause in (0.0, *PAUSES):
            if not waiting or self._ends(pause):
                return
            size = min(order.chunk, math.ceil(len(waiting) / order.concurrency))
            with ThreadPoolExecutor(order.concurrency) as threads:
                list(threads.map(self._work_on, chunks(waiting, size)))
            waiting = tuple(one for one in waiting if self._is_worth_a_retry(one))

    def _ends(self, pause: float = 0.0) -> bool:
        """Whether no other tenant may begin: too many have failed, or the fleet is stopped."""
        return len(self.failed) > self._tolerated or self._wave.fleet.stop.wait(pause)

    def _is_worth_a_retry(self, tenant: Tenant) -> bool:
        return tenant.name in self.outcomes and self.outcomes[tenant.name].retry

    def _work_on(self, tenants: tuple[Tenant, ...]) -> None:
        """Do what is ordered for some tenants, then look at those that it has changed or failed."""
        self._do(self._wave.fleet.order.action, tenants)
        unsure = [tenant for tenant in tenants if self._is_unsure(tenant)]
        if unsure and self._wave.fleet.order.action == "migrate":
            self._look_at(unsure)

    def _is_unsure(self, tenant: Tenant) -> bool:
        outcome = self.outcomes.get(tenant.name)
        return outcome is not None and not (outcome.outcome in LOOKED or outcome.retry)

    def _do(self, action: str, tenants: Sequence[Tenant]) -> None:
        if self._ends():
            return
        for outcome in self._wave.fleet.work(action, tenants):
            self._wave.write(self._name, action, outcome)
            self.outcomes[outcome.tenant] = outcome
            (self.failed.discard if outcome.fine else self.failed.add)(outcome.tenant)
            if self._ends():
                return

    def _look_at(self, tenants: Sequence[Tenant]) -> None:
        """The look at tenants that were in hand, even when the fleet is stopped meanwhile."""
        for outcome in self._wave.fleet.work("status", tenants):
            self._wave.write(self._name, "status", outcome)
            if not outcome.fine:
                self.failed.add(outcome.tenant)
