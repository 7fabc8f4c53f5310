"""A fleet in words. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from lib.fleet.order import Order
from lib.fleet.report import ErrorGroup, Report, Tally
from lib.printable import count

_NAMED = 5
_SECONDS_A_DATABASE = 0.15
"""Of a run with little to apply, and of the look after it, on a server near by."""
_CPU_SECONDS = 0.01
"""Of this process for a database: its threads share one processor."""


class Progress(NamedTuple):
    """How far a wave is."""

    wave: int
    done: int
    failed: int
    total: int
    seconds: float
    """Since the wave began."""
    ended: bool = False


def plan_text(order: Order) -> str:
    """What a run would do."""
    return "\n".join(_plan_lines(order))


def _plan_lines(order: Order) -> Iterator[str]:
    yield f"{count(len(order.inventory.tenants), 'database')} in {count(len(order.waves), 'wave')}"
    for wave in order.waves:
        required = ", must be current before another wave begins" if order.is_required(wave) else ""
        yield ""
        yield f"Wave {wave.number}: {count(wave.databases, 'database')}{required}"
        for name, tenants in wave.clusters.items():
            connections = min(order.concurrency, len(tenants))
            yield (
                f"  {name}: {count(len(tenants), 'database')}, {connections} at a time, "
                f"{2 * connections} connections at most"
            )
    yield ""
    yield (
        f"Estimate: {_duration(estimate(order))}, at {_SECONDS_A_DATABASE:g} s a database and "
        "without the time of its statements"
    )


def estimate(order: Order) -> float:
    """About how many seconds a run takes in this process, without its statements."""
    return sum(
        max(
            wave.databases * _CPU_SECONDS,
            *(
                len(tenants) / min(order.concurrency, len(tenants)) * _SECONDS_A_DATABASE
                for tenants in wave.clusters.values()
            ),
        )
        for wave in order.waves
    )


def started_text(order: Order) -> str:
    """What is about to happen, and where."""
    what = "Migrating" if order.action == "migrate" else "Looking at"
    clusters = {tenant.cluster for tenant in order.inventory.tenants}
    return (
        f"Environment: {order.environment}\n"
        f"{what} {count(len(order.inventory.tenants), 'database')} on "
        f"{count(len(clusters), 'cluster')} to {order.head}\n"
        f"Run: {order.run}"
    )


def report_text(report: Report) -> str:
    """The verdict, and a paragraph for each kind of error."""
    return "\n".join(_report_lines(report))


def _report_lines(report: Report) -> Iterator[str]:
    mark = "✅" if report.success else "⚠️ " if report.running else "❌"
    seconds = report.ending.seconds if report.ending else report.total.seconds
    yield f"{mark} {verdict(report)} ({seconds:.1f} s)"
    if remark := remark_of(report):
        yield f"   {remark}"
    for wave, clusters in report.clusters.items():
        for name, tally in clusters.items():
            if not tally.all_fine:
                yield f"   wave {wave}, {name}: {_missing(tally)} of {tally.databases:,}"
    for group in report.errors:
        yield f"❌ {group_text(group)}: {_names(group)}"
        yield f"   Next: {group.next_step}"


def verdict(report: Report) -> str:
    """The sums in one sentence."""
    total = report.total
    fine = total.current + total.ahead
    ahead = f", {total.ahead:,} of them ahead" if total.ahead else ""
    verb = "is" if 1 in (fine, total.databases) else "are"
    return (
        f"{fine:,} of {count(total.databases, 'database')} {verb} current"
        f"{ahead}; {total.migrated:,} migrated now, {total.behind:,} behind, "
        f"{total.not_reached:,} not reached"
    )


def remark_of(report: Report) -> str:
    """How the run ended, where it did not come to its end; empty where it did."""
    if report.success:
        return ""
    if report.running:
        return "The run goes on."
    if report.ending is None:
        return "The run was killed, or its machine stopped: the same command again goes on."
    if report.ending.interrupted:
        return "The run was stopped: the same command again goes on."
    if report.ending.stopped_after is not None:
        return (
            f"No other wave was begun after wave {report.ending.stopped_after}, which had to be "
            "current."
        )
    return ""


def group_text(group: ErrorGroup) -> str:
    """The kind of error, and how many databases have it."""
    where = " ".join(part for part in (group.version, group.sqlstate) if part)
    return f"{len(group.tenants):,} x {group.code}{' ' if where else ''}{where}"


def _names(group: ErrorGroup) -> str:
    rest = len(group.tenants) - _NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(group.tenants[:_NAMED]) + more


def _missing(tally: Tally) -> str:
    found = ((tally.behind, "behind"), (tally.not_reached, "not reached"))
    return ", ".join(f"{number:,} {word}" for number, word in found if number)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def progress_text(progress: Progress) -> str:
    """How far a wave is, in numbers."""
    _, done, failed, total, seconds, ended = progress
    rate = done / seconds if seconds else 0.0
    left = f", about {_duration((total - done) / rate)} left" if rate and not ended else ""
    return f"{done:,} of {total:,} done, {failed:,} failed, {rate:.1f}/s{left}"


def exit_text(exit_code: int) -> str:
    """The last line of a command that does not exit with 0."""
    return f"(exit {exit_code}, docs/fleet.md#exit-codes)"


def plan_dict(order: Order) -> dict[str, Any]:
    """What a run would do, as a JSON document."""
    return {
        "success": True,
        "environment": order.environment,
        "head": order.head,
        "databases": len(order.inventory.tenants),
        "estimateSeconds": round(estimate(order), 1),
        "waves": [
            {
                "wave": wave.number,
                "databases": wave.databases,
                "required": order.is_required(wave),
                "clusters": [
                    {"cluster": name, "databases": len(tenants)}
                    for name, tenants in wave.clusters.items()
                ],
            }
            for wave in order.waves
        ],
    }
