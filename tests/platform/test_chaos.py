"""Runs that are killed and cut off, over servers that come and go: in the end each file has had its
effect once.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scripts.embedded import Embedded
from tests.conftest import Database
from tests.kit import history, tables, until
from tests.platform.pooler import Pooler
from tests.platform.runners import Runner
from tests.proxy import COMMIT_AHEAD, Hold, Proxy, cut_after, cut_before

SECONDS = float(os.environ.get("ONWARD_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("ONWARD_CHAOS_SEED") or random.randrange(2**32))
# The machine does not crash, so nothing need be on its disk; but what was committed has to outlive
# the server.
SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=60")
EFFECT = "UPDATE counter SET n = n + 1; INSERT INTO effects (file) VALUES ('{name}');"
TABLES = (
    "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0); "
    "CREATE TABLE effects (id serial, file text);"
)
PAUSE = "SELECT pg_sleep(0.05);"
KINDS = {
    "data": EFFECT,
    "slow": PAUSE + EFFECT + PAUSE,
    "table": EFFECT + "CREATE TABLE t{number} AS SELECT generate_series(1, 20000) AS i;",
    # What may be begun more than once has no effect but the index, on the table of the file before
    # it.
    "index": "-- migrate: no-transaction\n"
    + PAUSE
    + "CREATE INDEX CONCURRENTLY IF NOT EXISTS t{before}_i ON t{before} (md5(i::text));"
    + PAUSE,
}
# As many in a row as are sent ahead, and an index behind its table.
ORDER = ("data", "slow", "data", "data", "slow", "data", "table", "index")
# Done, failed, busy, unavailable, unknown, partly applied, ended by a signal: but never a conflict
# or a fault of ours.
ENDS = {0, 1, 4, 5, 6, 7, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL}
AT_MOST = 5
INDEXES = (
    "SELECT indexrelid::regclass::text, indisvalid FROM pg_index"
    " WHERE indexrelid::regclass::text ~ '^t[0-9]+_i'"
)
ELSE = (
    "SELECT pid, application_name FROM pg_stat_activity WHERE datname = 'chaos'"
    " AND pid <> pg_backend_pid()"
)


class World:
    """A server, a pooler and proxies on the way to it, files that are added, runs that come and
    go.
    """

    def __init__(self, stack: ExitStack, kind: type[Pooler], place: Path, directory: Path) -> None:
        self.random = random.Random(SEED)
        self.events: Counter[str] = Counter()
        self.ends: Counter[int] = Counter()
        self.windows = 0
        """How often files were sent ahead."""
        self.runners: list[tuple[Runner, list[str]]] = []
        self.place, self.migrations = place, directory / "migrations"
        self.migrations.mkdir()
        self._numbers, self._logs = count(1), (directory / f"log{number}" for number in count())
        self.postgres = stack.enter_context(Embedded(place, settings=SETTINGS))
        self.postgres.create_database("chaos")
        self.database = Database("chaos", self.postgres.url("chaos"))
        self.pooler = stack.enter_context(kind(self.database.url, pool=4))
        ports = urlsplit(self.database.url).port or 0, self.pooler.port
        self.proxies = [stack.enter_context(Proxy("127.0.0.1", port)) for port in ports]
        ways = (self.pooler.url, *(proxy.url for proxy in self.proxies))
        self.urls = [self.database.url, *(way(self.database.url) for way in ways)]

    @property
    def versions(self) -> list[str]:
        return sorted(path.stem for path in self.migrations.glob("*.sql"))

    def recorded(self) -> set[str]:
        made = self.database.execute("SELECT to_regclass('schema_migrations')") != [(None,)]
        return set(history(self.database)) if made else set()

    def next_files(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self._next_file()

    def _next_file(self) -> None:
        """Whole at once, and after all those before it."""
        number = next(self._numbers)
        kind = ORDER[(number - 1) % len(ORDER)]
        name = f"{number:04}-{kind}"
        draft = self.migrations / "draft"
        draft.write_text(KINDS[kind].format(name=name, number=number, before=number - 1))
        draft.rename(draft.with_name(f"{name}.sql"))

    def next_run(self) -> None:
        if len(self.runners) < AT_MOST:
            files, url = self.versions, self.random.choice(self.urls)
            wait = self.random.choice(("0", "1s", "30s"))
            self.runners.append(
                (Runner(url, self.migrations, next(self._logs), MIGRATION_WAIT=wait), files)
            )

    def kill(self) -> None:
        if self.runners:
            self.random.choice(self.runners)[0].signal(
                self.random.choice((signal.SIGKILL, signal.SIGTERM))
            )

    def cut(self) -> None:
        self.random.choice(self.proxies).cut()

    def cut_at_a_message(self) -> None:
        pattern = self.random.choice(
            ("RETURNING id", COMMIT_AHEAD, "pg_try_advisory", "counter", "CONCURRENTLY", "SELECT 1")
        )
        action = self.random.choice((cut_before, cut_after, Hold(0.3, cut_client=True)))
        self.random.choice(self.proxies).when(pattern, action)

    def terminate_a_session(self) -> None:
        pids = [pid for pid, name in self.database.execute(ELSE) if name.startswith("onward")]
        if pids:
            self.database.execute("SELECT pg_terminate_backend(%s)", [self.random.choice(pids)])

    def break_off_a_build(self) -> None:
        """The next one to be seen within a second."""
        end = time.monotonic() + 1
        while time.monotonic() < end and not self.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index"
        ):
            time.sleep(0.01)

    def restart_the_pooler(self) -> None:
        self.pooler.end(kill=self.random.choice((True, False)))
        self.pooler.start()

    def restart_the_server(self) -> None:
        self.postgres.stop()
        self.postgres.start()

    def crash_the_server(self) -> None:
        postmaster = int((self.place / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        self.restart_the_server()

    def take_leave(self, *, all_of_them: bool = False) -> None:
        """See off the runs that have ended."""
        for runner, files in self.runners[:]:
            if runner.running and not all_of_them:
                continue
            recorded = self.recorded()
            assert runner.code in ENDS, runner.output
            # What a run says it has applied, it has applied once, and it is there.
            assert len(runner.applied) == len(set(runner.applied)), runner.output
            assert set(files if runner.code == 0 else runner.applied) <= recorded, runner.output
            self.ends[runner.code] += 1
            self.windows += runner.output.count("sent together")
            runner.log.unlink()
            self.runners.remove((runner, files))

    def rage(self) -> None:
        """One thing after the other."""
        weights = {
            self.next_files: 3,
            self.next_run: 10,
            self.kill: 4,
            self.cut: 1,
            self.cut_at_a_message: 3,
            self.terminate_a_session: 1,
            self.break_off_a_build: 1,
            self.restart_the_pooler: 0.5,
            self.restart_the_server: 0.5,
            self.crash_the_server: 0.5,
        }
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            (event,) = self.random.choices(list(weights), list(weights.values()))
            event()
            self.events[event.__name__] += 1
            time.sleep(self.random.uniform(0, 0.1))
            self.take_leave()

    def calm(self) -> None:
        """Nobody but us is left, and nothing stands in a run's way."""
        for runner, _ in self.runners:
            runner.signal(signal.SIGKILL)
        self.take_leave(all_of_them=True)
        self.pooler.end()
        until(lambda: self.database.execute(ELSE) == [])


@pytest.fixture
def world(kind: type[Pooler], tmp_path: Path) -> Iterator[World]:
    place = Path(tempfile.mkdtemp(prefix="onward-chaos-"))
    try:
        with ExitStack() as stack:
            yield World(stack, kind, place, tmp_path)
    finally:
        shutil.rmtree(place)


@pytest.mark.timeout(SECONDS + 240)
def test_after_chaos_and_a_clean_run_each_file_has_had_one_effect(
    world: World, tmp_path: Path
) -> None:
    print(f"ONWARD_CHAOS_SEED={SEED} ONWARD_CHAOS_SECONDS={SECONDS:g}")  # noqa: T201 - to have it again
    (world.migrations / "0000-tables.sql").write_text(TABLES)
    world.rage()
    world.calm()
    told = f"{len(world.recorded())} of {len(world.versions)} files applied"
    print(dict(world.events), "exit codes", dict(world.ends), told)  # noqa: T201
    print(world.windows, "times files sent ahead")  # noqa: T201

    last = Runner(world.database.url, world.migrations, tmp_path / "last")
    assert last.code == 0, last.output
    assert world.windows + last.output.count("sent together")
    versions = world.versions
    assert history(world.database) == versions
    effects = [file for (file,) in world.database.execute("SELECT file FROM effects ORDER BY id")]
    assert effects == [
        version for version in versions if not version.endswith(("-tables", "-index"))
    ]
    assert world.database.execute("SELECT n FROM counter") == [(len(effects),)]
    made = {f"t{int(version[:4])}" for version in versions if version.endswith("-table")}
    assert set(tables(world.database)) == {"counter", "effects", *made}
    indexed = {f"t{int(version[:4]) - 1}_i" for version in versions if version.endswith("-index")}
    assert dict(world.database.execute(INDEXES)) == dict.fromkeys(indexed, True), (
        "no other, and no invalid one"
    )
    assert world.database.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []
    until(lambda: world.database.execute(ELSE) == [])
