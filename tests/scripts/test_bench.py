"""The benchmarks: what they say, that they count nobody who failed, and that they clean up. How
fast is not tested.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg.pq import PGconn, PollingStatus

from scripts.dev.bench import forecast
from scripts.dev.measure import database
from tests.conftest import ROOT, Completed, Server
from tests.kit import until

pytestmark = pytest.mark.slow

TINY = ("--rounds", "1", "--files", "1", "--latency", "0", "--growth", "1,2", "--megabytes", "1")
DBMATE = "node_modules/@dbmate/linux-x64/bin/dbmate"
NODE_PG_MIGRATE = "node_modules/.bin/node-pg-migrate"
# Runs dbmate's files, which are SQL but for comments.
SIMPLE = """
import os, pathlib, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    for file in sorted(pathlib.Path(sys.argv[3]).iterdir()):
        connection.execute(file.read_bytes())
"""


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    script = str(project / "scripts" / "dev" / "bench.py")
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, script, *arguments], env=environ, stdout=pipe, stderr=pipe, text=True
    )


def bench(project: Path, server: Server, *arguments: str) -> Completed:
    """Run it to its end on the tests' server, and look whether it left a database or showed the
    password.
    """
    process = start(project, "--url", server.url, *arguments)
    out, err = process.communicate()
    assert databases(server, process) == []
    assert str(urlsplit(server.url).password) not in out + err
    return Completed(process.returncode, out, err)


def databases(server: Server, process: subprocess.Popen[str]) -> list[Any]:
    """Those that it has made and not dropped."""
    return server.admin.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
        [f"onward_bench_{process.pid}_"],
    )


def peers(folder: Path, programs: Mapping[str, str]) -> tuple[str, str]:
    """A folder with stand-ins for other runners."""
    for name, text in programs.items():
        program = folder / name
        program.parent.mkdir(parents=True)
        program.write_text(text)
        program.chmod(0o755)
    return "--peers", str(folder)


def test_all_is_measured_and_told_as_one_document(
    project: Path, server: Server, tmp_path: Path
) -> None:
    result = bench(project, server, *TINY, "--json", *peers(tmp_path, {}))
    assert result.code == 0, result.err
    document = json.loads(result.out)
    figures = {
        (figure["benchmark"], figure["case"], figure["tool"]): figure
        for figure in document["figures"]
    }
    growth = ("reading, hashing", "nothing pending", "all pending")
    assert list(figures) == [
        *(("nothing-pending", "0 ms round trip", tool) for tool in ("one row", "psql", "onward")),
        *(("files", "1 file, 0 ms", tool) for tool in ("psql", "onward")),
        *(("large-file", "1 MB", tool) for tool in ("psql", "onward", "psycopg", "one row")),
        *(
            ("cold-start", "first answer", tool)
            for tool in ("plain handler", "Vercel route", "Lambda handler")
        ),
        *(
            ("growth", case, tool)
            for case in ("1 file", "2 files", "each file more")
            for tool in growth
        ),
    ]
    measured = [figure for figure in figures.values() if figure["case"] != "each file more"]
    assert {figure["problem"] for figure in figures.values()} == {""}
    assert all(
        figure["runs"] == [figure["seconds"]] and figure["seconds"] > 0 for figure in measured
    )
    floor, ours = (
        figures["nothing-pending", "0 ms round trip", tool] for tool in ("one row", "onward")
    )
    assert (floor["ratio"], ours["ratio"]) == (1, ours["seconds"] / floor["seconds"])
    psql, one_row = (figures["large-file", "1 MB", tool] for tool in ("psql", "one row"))
    assert 0 < psql["peak_mb"] < one_row["peak_mb"] / 2, (
        "it is the process that is measured, not who started it"
    )
    assert document["rounds"] == 1
    assert document["not_installed"] == [
        "dbmate",
        "node-pg-migrate",
        "postgres-migrations",
        "yoyo",
        "alembic",
    ]


def test_the_tables_are_markdown_and_a_round_trip_can_take_time(
    project: Path, server: Server, tmp_path: Path
) -> None:
    sizes = ("--rounds", "2", "--files", "1", "--latency", "0,1")
    result = bench(project, server, "files", *sizes, *peers(tmp_path, {}))
    assert result.code == 0, result.err
    machine, _, head, line, psql, onward, _, *notes = result.out.splitlines()
    assert "rounds" in machine
    assert [cell.strip() for cell in head.split("|")] == [
        "",
        "files",
        "1 file, 0 ms",
        "1 file, 1 ms",
        "",
    ]
    assert set(line) == set("|- ")
    assert psql.startswith("| psql   |") and psql.count("(1.00 x)") == 2
    assert onward.startswith("| onward |") and onward.count(" x)") == 2
    assert notes[0] == "- dbmate: not installed"


def test_a_peer_that_fails_or_does_nothing_has_no_figure(
    project: Path, server: Server, tmp_path: Path
) -> None:
    programs = {
        DBMATE: '#!/bin/sh\necho "cannot use $DATABASE_URL" >&2\nexit 3',
        NODE_PG_MIGRATE: "#!/bin/sh\nexit 0",
    }
    result = bench(
        project, server, "nothing-pending", "files", *TINY, "--json", *peers(tmp_path, programs)
    )
    assert result.code == 0, result.err
    failed = [figure for figure in json.loads(result.out)["figures"] if figure["problem"]]
    assert {(figure["seconds"], figure["ratio"], *figure["runs"]) for figure in failed} == {
        (None, None)
    }
    for figure, count in zip(failed, (10, 10, 1, 1), strict=True):
        if figure["tool"] == "dbmate":
            assert figure["problem"].startswith(
                "failed: exit 3, cannot use postgresql://postgres:***@"
            )
        else:
            assert figure["problem"] == f"failed: it made 0 of {count} things"


def test_a_peer_that_would_take_too_long_is_left_out(
    project: Path, server: Server, tmp_path: Path
) -> None:
    sizes = (
        "--rounds",
        "1",
        "--files",
        "1,2,3",
        "--latency",
        "0",
        "--limit",
        "0.001",
    )  # no process is as fast
    simple = peers(tmp_path, {DBMATE: f"#!{sys.executable}\n{SIMPLE}"})
    result = bench(project, server, "files", *sizes, "--json", *simple)
    assert result.code == 0, result.err
    figures = [figure for figure in json.loads(result.out)["figures"] if figure["tool"] == "dbmate"]
    assert [figure["problem"].partition(":")[0] for figure in figures] == ["", "", "left out"]
    assert [bool(figure["seconds"]) for figure in figures] == [True, True, False]


def test_a_connection_interrupted_in_its_making_delays_no_clean_up(
    server: Server,
) -> None:
    def interrupted() -> None:
        connection = PGconn.connect_start(f"{server.url}?sslmode=disable".encode())
        while connection.connect_poll() != PollingStatus.READING:
            pass
        select.select([connection.socket], [], [])  # the server asks who it is, and waits
        raise KeyboardInterrupt

    limited = urlsplit(server.url)._replace(query="options=-c%20statement_timeout%3D10s").geturl()
    with pytest.raises(KeyboardInterrupt), database(limited) as made:
        interrupted()
    name = urlsplit(made).path[1:]
    assert server.admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]) == []


def test_what_more_files_will_take_goes_by_what_fewer_took() -> None:
    assert forecast(99, (1, 0.5), (9, 4.5)) == 49.5
    assert forecast(99, (1, 0.5), (9, 0.4)) == 0.4


def test_a_failure_of_ours_is_the_exit_code(server: Server, tmp_path: Path) -> None:
    for folder in ("api", "lib", "scripts"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "scripts" / "migrate.py").write_text("import sys; sys.exit('broken')")
    result = bench(tmp_path, server, "files", *TINY)
    assert result.code == 1
    assert "- files, 1 file, 0 ms, onward: failed: exit 1, broken" in result.out.splitlines()


def test_an_interrupted_run_leaves_no_database(
    project: Path, server: Server, tmp_path: Path
) -> None:
    process = start(project, "--url", server.url, *peers(tmp_path, {}))
    until(lambda: databases(server, process))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert databases(server, process) == []


def test_without_a_server_it_says_so(project: Path) -> None:
    process = start(project, "--url", "postgresql://postgres:canary-password@127.0.0.1:1/postgres")
    out, err = process.communicate()
    assert (process.returncode, out) == (5, "")
    assert err.startswith("bench: ") and "canary-password" not in err
