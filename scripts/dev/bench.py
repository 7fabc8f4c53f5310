#!/usr/bin/env python3
"""Times scripts/migrate.py and both routes beside psql, other runners and bare scripts.

See `scripts/dev/bench.py --help`. A figure is the median of whole processes. All take turns in each
round, so what slows the machine down slows all alike. A run counts only if it did what its files
say.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.dev.measure import (  # noqa: E402
    MADE,
    Failed,
    Route,
    Sample,
    database,
    delayed,
    large_file,
    query,
    run,
    server,
    small_files,
)
from scripts.dev.peers import (  # noqa: E402
    HANDLERS,
    ONE_ROW,
    ONWARD,
    PEERS,
    PSQL,
    PSYCOPG,
    READ,
    Tool,
    install,
    installed,
)
from scripts.embedded import EmbeddedError  # noqa: E402

DESCRIPTION = """\
Time Onward beside psql, other runners and bare scripts: medians, and ratios to
the first line of each table. Requires the packages of requirements-dev.txt.

benchmarks:
  nothing-pending  10 files, all applied; beside a script that imports psycopg,
                   connects and reads one row
  files            small files, all pending; psql runs the same SQL
  large-file       one file with data: time and peak memory; `psycopg` sends it
                   whole, `one row` does not read it
  cold-start       a process that imports a handler and answers the first
                   status request, beside one that imports psycopg and reads
                   one row
  growth           cost of one more file, pending or applied, beside reading and
                   hashing it
"""
UNITS = ((1e6, "µs"), (1e3, "ms"), (1, "s"))

Entrant = Callable[[], Sample]


@dataclass(frozen=True)
class Figure:
    """One cell of a table: medians, or the reason why there are none."""

    benchmark: str
    case: str
    tool: str
    seconds: float | None = None
    ratio: float | None = None
    peak_mb: float | None = None
    runs: Sequence[float] = ()
    problem: str = ""

    def __str__(self) -> str:
        if self.seconds is None:
            return self.problem.partition(":")[0]
        factor, unit = next(pair for pair in UNITS if self.seconds * pair[0] < 999 or pair[0] == 1)
        ratio = f" ({self.ratio:.2f} x)" if self.ratio else ""
        memory = f", {self.peak_mb:.0f} MB" if self.benchmark == "large-file" else ""
        return f"{self.seconds * factor:.3g} {unit}{ratio}{memory}"


class Bench:
    """The benchmarks, on one server. `figures` collects their results."""

    def __init__(self, options: argparse.Namespace, url: str, work: Path) -> None:
        self.figures: list[Figure] = []
        self._options, self._url, self._work = options, url, work
        self._tools = list(installed(options.peers))
        names = {tool.name for tool in self._tools}
        self.setting = {
            "postgres": query(url, "SHOW server_version").split()[0],
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "rounds": options.rounds,
            "not_installed": [tool.name for tool in (PSQL, *PEERS) if tool.name not in names],
        }

    def nothing_pending(self) -> None:
        """Time to find out that nothing is pending."""
        files = small_files(10)
        for milliseconds in self._options.latency:
            with ExitStack() as stack:
                route = stack.enter_context(delayed(self._url, milliseconds))
                urls = [stack.enter_context(database(self._url)) for _ in self._tools]
                entrants = {"one row": partial(self._script, ONE_ROW, route(urls[0]))}
                for tool, url in zip(self._tools, urls, strict=True):
                    entrants[tool.name] = partial(self._apply, tool, files, url, route)
                    if tool.name == PSQL.name:  # it keeps no history
                        select = [tool.program, "-qXc", "SELECT 1", route(url)]
                        entrants[tool.name] = partial(run, select, route(url), self._work)
                self._compare(
                    "nothing-pending", f"{milliseconds} ms round trip", entrants, "one row"
                )

    def files(self) -> None:
        """Time to apply small files and record each of them."""
        warm = True
        for milliseconds in self._options.latency:
            seen: list[tuple[int, Mapping[str, float]]] = []
            with delayed(self._url, milliseconds) as route:
                for count in self._options.files:
                    case = f"{_files(count)}, {milliseconds} ms"
                    slow = self._too_slow(case, count, seen)
                    tools = [tool for tool in self._tools if tool.name not in slow]
                    entrants = {
                        tool.name: partial(self._apply_afresh, tool, small_files(count), route)
                        for tool in tools
                    }
                    seen.append(
                        (count, self._compare("files", case, entrants, PSQL.name, warm=warm))
                    )
                    warm = False

    def large_file(self) -> None:
        """Time and peak memory for a file with much data."""
        files = [large_file(self._options.megabytes)]
        tools = [*(tool for tool in self._tools if tool.name in (PSQL.name, ONWARD.name)), PSYCOPG]
        with database(self._url) as url:
            entrants = {tool.name: partial(self._apply_afresh, tool, files) for tool in tools}
            entrants["one row"] = partial(self._script, ONE_ROW, url)
            self._compare("large-file", f"{self._options.megabytes} MB", entrants, PSQL.name)

    def cold_start(self) -> None:
        """Time of a new process that imports a handler and answers its first request."""
        files = small_files(10)
        with database(self._url) as url:
            self._apply(ONWARD, files, url)
            directory = self._written(ONWARD, files)
            entrants = {
                name: partial(self._script, script, url, directory)
                for name, script in HANDLERS.items()
            }
            self._compare("cold-start", "first answer", entrants, "plain handler")

    def growth(self) -> None:
        """Cost of one more file, pending or applied."""
        base, medians = "reading, hashing", []
        for count in self._options.growth:
            files = small_files(count)
            with database(self._url) as url:
                entrants = {
                    base: partial(self._script, READ, url, self._written(ONWARD, files)),
                    "nothing pending": partial(self._apply, ONWARD, files, url),
                    "all pending": partial(self._apply_afresh, ONWARD, files),
                }
                medians.append(self._compare("growth", _files(count), entrants, base))
        if more := self._options.growth[-1] - self._options.growth[0]:
            slopes = {
                name: (medians[-1][name] - medians[0][name]) / more
                for name in medians[0]
                if name in medians[-1]
            }
            for name, slope in slopes.items():
                # With too few files the measured slope of the base may be zero or less.
                ratio = slope / slopes[base] if slopes.get(base, 0) > 0 else None
                self.figures.append(Figure("growth", "each file more", name, slope, ratio))

    def _compare(
        self,
        benchmark: str,
        case: str,
        entrants: Mapping[str, Entrant],
        base: str,
        *,
        warm: bool = True,
    ) -> dict[str, float]:
        """Run all in turns and record the figures.

        Returns the median seconds of those that did not fail.
        """
        print(f"bench: {benchmark}, {case}", file=sys.stderr)
        samples, problems = self._take_turns(entrants, warm=warm)
        medians = {
            name: statistics.median(sample.seconds for sample in samples[name]) for name in samples
        }
        for name in entrants:
            figure = Figure(benchmark, case, name, problem=problems.get(name, ""))
            if name in medians:
                ratio = medians[name] / medians[base] if base in medians else None
                peak = statistics.median(sample.peak_mb for sample in samples[name])
                runs = [sample.seconds for sample in samples[name]]
                figure = replace(
                    figure, seconds=medians[name], ratio=ratio, peak_mb=peak, runs=runs
                )
            self.figures.append(figure)
        return medians

    def _take_turns(
        self, entrants: Mapping[str, Entrant], *, warm: bool
    ) -> tuple[dict[str, list[Sample]], dict[str, str]]:
        """The samples and the problems of each entrant.

        An entrant that fails once does not run again. A round to warm up does not count.
        """
        samples: dict[str, list[Sample]] = {name: [] for name in entrants}
        problems: dict[str, str] = {}
        started = time.monotonic()
        for number in range(-1 if warm else 0, self._options.rounds):
            if number > 0 and time.monotonic() - started > 4 * self._options.limit:
                break
            for name in list(samples):
                try:
                    sample = entrants[name]()
                    samples[name] += [sample] if number >= 0 else []
                except Failed as error:
                    problems[name] = f"failed: {error}"
                    del samples[name]
        return samples, problems

    def _too_slow(
        self, case: str, count: int, seen: Sequence[tuple[int, Mapping[str, float]]]
    ) -> set[str]:
        """The peers that would take longer than the limit, by what fewer files took.

        Records in the figures that they are left out.
        """
        if len(seen) < 2:
            return set()
        (fewer, before), (some, last) = seen[-2:]
        slow = set()
        for name in (tool.name for tool in PEERS if tool.name in last and tool.name in before):
            expected = forecast(count, (fewer, before[name]), (some, last[name]))
            if expected > self._options.limit:
                slow.add(name)
                self.figures.append(
                    Figure("files", case, name, problem=f"left out: about {expected:.0f} s a run")
                )
        return slow

    def _apply_afresh(self, tool: Tool, files: Sequence[str], route: Route = str) -> Sample:
        with database(self._url) as url:
            return self._apply(tool, files, url, route)

    def _apply(self, tool: Tool, files: Sequence[str], url: str, route: Route = str) -> Sample:
        directory = self._written(tool, files)
        sample = run(tool.arguments(directory, route(url)), route(url), directory)
        if (made := query(url, MADE)) != len(files):
            raise Failed(f"it made {made} of {len(files)} things")
        return sample

    def _written(self, tool: Tool, files: Sequence[str]) -> Path:
        """The directory with these files in the tool's own format."""
        directory = self._work / f"{tool.name}-{len(files)}-{len(files[0])}"
        if not directory.exists():
            tool.write(directory, files)
        return directory

    def _script(self, script: str, url: str, directory: Path | None = None) -> Sample:
        return run([sys.executable, "-c", script], url, directory or self._work)


BENCHMARKS: dict[str, Callable[[Bench], None]] = {
    "nothing-pending": Bench.nothing_pending,
    "files": Bench.files,
    "large-file": Bench.large_file,
    "cold-start": Bench.cold_start,
    "growth": Bench.growth,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print. The exit code is 1 if anything but a peer failed, 5 without a server."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.install:
            install(options.peers)
        with (
            server(options.url) as url,
            tempfile.TemporaryDirectory(prefix="onward-bench-") as work,
        ):
            bench = Bench(options, url, Path(work))
            for name in options.benchmarks or BENCHMARKS:
                BENCHMARKS[name](bench)
    except (EmbeddedError, Failed, OSError, psycopg.Error, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1 if isinstance(error, Failed) else 5
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(
            json.dumps(
                bench.setting | {"figures": [asdict(figure) for figure in bench.figures]}, indent=1
            )
        )
    else:
        print("\n".join(_report(bench)))
    peers = {tool.name for tool in PEERS}
    return 1 if any(figure.problem and figure.tool not in peers for figure in bench.figures) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/dev/bench.py", description=DESCRIPTION, formatter_class=formatter
    )
    parser.add_argument(
        "benchmarks", nargs="*", type=_benchmark, metavar="benchmark", help="default: all"
    )
    parser.add_argument(
        "--url", help="superuser's URL of a server to use instead of an embedded one"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=ROOT / ".bench",
        metavar="DIR",
        help="directory of the other runners",
    )
    parser.add_argument(
        "--install", action="store_true", help="first install them there, with npm and pip"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=_count, default=5, help="default: 5")
    parser.add_argument(
        "--latency", type=_numbers, default=[0, 10], metavar="MS,...", help="round trips (0,10)"
    )
    parser.add_argument(
        "--files", type=_numbers, default=[1, 99, 999], metavar="N,...", help="default: 1,99,999"
    )
    parser.add_argument(
        "--growth",
        type=_numbers,
        default=[10, 100, 1000],
        metavar="N,...",
        help="default: 10,100,1000",
    )
    parser.add_argument(
        "--megabytes", type=_count, default=50, metavar="N", help="size of the large file (50)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=30,
        metavar="SECONDS",
        help="leave out peers that take longer for one run, and further rounds after four times "
        "as long (30)",
    )
    return parser.parse_args(arguments)


def _benchmark(name: str) -> str:
    if name not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(BENCHMARKS)}")
    return name


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _numbers(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",")})


def forecast(count: int, fewer: tuple[int, float], some: tuple[int, float]) -> float:
    """Seconds that `count` files will take, from two pairs of files and seconds.

    More files never take less time.
    """
    (fewer_files, fewer_seconds), (files, seconds) = fewer, some
    slope = max(0, seconds - fewer_seconds) / (files - fewer_files)
    return seconds + slope * (count - files)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _report(bench: Bench) -> Iterator[str]:
    """Markdown: a table for each benchmark, then what was left out and what failed."""
    setting = bench.setting
    yield (
        f"PostgreSQL {setting['postgres']}, Python {setting['python']}, {setting['machine']}; "
        f"medians of up to {setting['rounds']} rounds"
    )
    for benchmark in dict.fromkeys(figure.benchmark for figure in bench.figures):
        yield ""
        yield from _table(
            benchmark, [figure for figure in bench.figures if figure.benchmark == benchmark]
        )
    notes = [f"{f.benchmark}, {f.case}, {f.tool}: {f.problem}" for f in bench.figures if f.problem]
    notes += [f"{name}: not installed" for name in setting["not_installed"]]
    if notes:
        yield ""
        yield from (f"- {note}" for note in notes)


def _table(title: str, figures: Sequence[Figure]) -> Iterator[str]:
    cases = list(dict.fromkeys(figure.case for figure in figures))
    tools = list(dict.fromkeys(figure.tool for figure in figures))
    cells = {(figure.tool, figure.case): str(figure) for figure in figures}
    rows = [[title, *cases]]
    for tool in tools:
        rows.append([tool, *(cells.get((tool, case), "") for case in cases)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"| {' | '.join(padded)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
