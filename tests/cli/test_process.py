"""The process: `.env` files, where it is started, streams, signals, arguments.

A test that runs a command ends by looking at the database.
"""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lib import VERSION
from lib.cli.main import main
from tests.conftest import Cli, Completed, Database, Here
from tests.kit import (
    CANARY,
    FIVE,
    ONE,
    TWO,
    Write,
    bundle,
    contents,
    environment,
    recorded,
    tables,
    words,
)

# Each of them starts processes.
pytestmark = pytest.mark.slow

# The files .env.local and .env


@pytest.fixture
def team(project: Path, tmp_path: Path) -> Path:
    """A copy of the bundle in which a test can put `.env` files."""
    return bundle(project, tmp_path / "team", ONE)


def test_env_local_comes_before_env_and_the_two_are_never_mixed(
    team: Path, database: Database, migrated: Database
) -> None:
    before = contents(migrated)
    (team / ".env.local").write_text(f"# mine\nexport DATABASE_URL='{database.url}' # this one\n")
    (team / ".env").write_text(f'MIGRATION_DATABASE_URL="{migrated.url}"\nMIGRATION_ENV=sandbox\n')
    result = Cli(team, team)()
    assert result.code == 0, words(result)
    assert "(from DATABASE_URL)" in result.out
    assert "Environment: sandbox" in result.out
    assert recorded(database) == ["001-one"]
    assert contents(migrated) == before


def test_env_counts_where_env_local_names_no_database(team: Path, database: Database) -> None:
    (team / ".env.local").write_text("MIGRATION_ENV=mine\n")
    (team / ".env").write_text(f"DATABASE_URL={database.url}\nMIGRATION_ENV=theirs\n")
    assert Cli(team, team)().code == 0
    assert database.execute("SELECT environment FROM schema_migrations") == [("mine",)]


@pytest.mark.parametrize("variable", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_a_database_in_the_environment_switches_the_files_urls_off(
    team: Path, database: Database, migrated: Database, variable: str
) -> None:
    before = contents(migrated)
    (team / ".env.local").write_text(
        f"MIGRATION_DATABASE_URL={migrated.url}\nPOSTGRES_URL={migrated.url}\n"
    )
    result = Cli(team, team)(env={variable: database.url})
    assert result.code == 0
    assert f"(from {variable})" in result.out
    assert recorded(database) == ["001-one"]
    assert contents(migrated) == before


def test_a_broken_env_file_is_named_and_its_content_is_not_shown(
    team: Path, database: Database
) -> None:
    (team / ".env.local").write_bytes(
        b"POSTGRES_URL=postgresql://postgres:" + CANARY.encode() + b"\xff@localhost/x\n"
    )
    result = Cli(team, team)(url=database.url)
    assert result.code == 2
    assert ".env.local cannot be read as UTF-8 text" in result.err
    assert CANARY not in result.out + result.err
    (team / ".env.local").write_text(f"POSTGRES_URL=postgresql://postgres:a@{CANARY}@localhost/x\n")
    result = Cli(team, team)("--json")
    assert result.code == 2
    assert "POSTGRES_URL" in result.err
    assert CANARY not in result.out + result.err
    assert contents(database) == ([], [])


# Where it is started


def test_it_runs_from_another_directory_and_through_a_link(
    team: Path, tmp_path: Path, database: Database
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "migrate").symlink_to(team / "scripts" / "migrate.py")
    linked = Cli(team, team)
    linked.script = elsewhere / "migrate"
    result = linked(url=database.url, env={"MIGRATION_DIR": ""}, cwd=elsewhere)
    assert result.code == 0
    assert recorded(database) == ["001-one"]
    (team / "other").mkdir()
    (team / "other" / "002-two.sql").write_text("SELEC 2;")
    shutil.copy(team / "migrations" / "001-one.sql", team / "other")
    assert (
        str(team / "other" / "002-two.sql")
        in linked(url=database.url, env={"MIGRATION_DIR": "other"}, cwd=elsewhere).err
    )
    inside = linked(url=database.url, env={"MIGRATION_DIR": "other"}, cwd=team)
    assert "FAILED other/002-two.sql:1:1" in inside.err
    assert recorded(database) == ["001-one"]


def test_a_python_without_the_requirements_hands_over_to_the_venvs(
    project: Path, tmp_path: Path, database: Database
) -> None:
    team = bundle(project, tmp_path / "team", ONE)
    (team / ".venv").symlink_to(sys.prefix)
    cli = Cli(team, team)
    result = subprocess.run(
        [sys.executable, "-S", str(cli.script)],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert recorded(database) == ["001-one"]


def test_a_venv_that_cannot_run_here_says_what_to_do(
    project: Path, tmp_path: Path, database: Database
) -> None:
    team = bundle(project, tmp_path / "team", ONE)
    python = team / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_bytes(b"\x7fELF of another machine")
    python.chmod(0o755)
    cli = Cli(team, team)
    result = subprocess.run(
        [sys.executable, "-S", cli.script],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "scripts/setup" in result.stderr
    assert contents(database) == ([], [])


def test_a_venv_that_lacks_the_requirements_too_says_what_to_do(
    project: Path, tmp_path: Path, database: Database
) -> None:
    team = bundle(project, tmp_path / "team", ONE)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", team / ".venv"], check=True)
    cli = Cli(team, team)
    for python in ([team / ".venv" / "bin" / "python"], [sys.executable, "-S"]):
        result = subprocess.run(
            [*python, cli.script],
            env=environment(cli, database.url),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert result.returncode == 2
        assert "No module named 'psycopg'" in result.stderr
        assert "scripts/setup" in result.stderr
    assert contents(database) == ([], [])


def without_packages(cli: Cli, *arguments: str, **environ: str) -> Completed:
    """The command in a Python that has only its own library."""
    result = subprocess.run(
        [sys.executable, "-I", "-S", str(cli.script), *arguments],
        env={"MIGRATION_DIR": str(cli.directory / "migrations"), "PATH": os.environ["PATH"]}
        | environ,
        cwd=cli.directory,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Completed(result.returncode, result.stdout, result.stderr)


def test_commands_on_files_alone_need_no_driver(cli: Cli, migrations: Write) -> None:
    directory = migrations(ONE)
    assert without_packages(cli, "--version").out == f"onward {VERSION}\n"
    assert "\ncommands:\n" in without_packages(cli, "--help").out
    for arguments in (("create", "two"), ("new", "three"), ("renumber", "001-one")):
        result = without_packages(cli, *arguments)
        assert (result.code, result.err) == (0, "")
    for path in directory.iterdir():
        path.write_text(path.read_text().replace("-- migrate: draft\n", ""))
    result = without_packages(cli, "validate", "--json")
    assert (result.code, json.loads(result.out)["success"]) == (0, True)
    assert sorted(path.stem for path in directory.iterdir()) == [
        "002-two",
        "003-three",
        "004-one",
    ]


@pytest.mark.parametrize("arguments", [("status",), ("validate",), ("renumber", "001-one"), ()])
def test_a_command_that_meets_a_database_hands_over_to_the_venv(
    project: Path, tmp_path: Path, database: Database, arguments: tuple[str, ...]
) -> None:
    team = bundle(project, tmp_path / "team", {**TWO, "003-late.sql": "SELECT 3;"})
    cli = Cli(team, team)
    lacking = without_packages(cli, *arguments, POSTGRES_URL=database.url)
    assert (lacking.code, "No module named 'psycopg'" in lacking.err) == (2, True)
    assert "Traceback" not in lacking.err
    (team / ".venv").symlink_to(sys.prefix)
    result = without_packages(cli, *arguments, POSTGRES_URL=database.url)
    assert (result.code, result.err) == (0, "")
    assert recorded(database) == (None if arguments else ["001-one", "002-two", "003-late"])


def test_a_python_without_the_requirements_says_what_to_do(
    cli: Cli, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    result = subprocess.run(
        [sys.executable, "-S", str(cli.script), "--json"],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 2
    assert "psycopg" in result.stderr
    assert "scripts/setup" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(result.stdout)["success"] is False
    assert contents(database) == ([], [])


def test_strict_warnings_of_python_find_nothing(
    cli: Cli, migrations: Write, database: Database
) -> None:
    directory = migrations({**TWO, "003-fails.sql": "SELECT nothing;"})
    for arguments, code in (
        (("status",), 0),
        (("baseline", "1"), 0),
        ((), 1),
        (("validate",), 0),
        (("repair", "001-one"), 0),
        (("create", "four"), 0),
        (("nonsense",), 2),
    ):
        result = subprocess.run(
            [sys.executable, "-W", "error", str(cli.script), *arguments],
            env=environment(cli, database.url),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert "Warning" not in result.stderr
        assert "Exception ignored" not in result.stderr
    assert recorded(database) == ["001-one", "002-two"]
    assert (directory / "004-four.sql").exists()


# Streams


def test_colour_is_for_terminals_and_no_color_switches_it_off(
    cli: Cli, migrations: Write, database: Database
) -> None:
    migrations(ONE)

    def on_a_terminal(*arguments: str, **more: str) -> str:
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, str(cli.script), *arguments],
            env=environment(cli, database.url, **more),
            stdin=its,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        printed = b""
        try:
            while chunk := os.read(ours, 4096):
                printed += chunk
        except OSError:  # how a terminal says that the other end is gone
            pass
        os.close(ours)
        process.wait()
        return printed.decode()

    assert "\033[32m✅ Applied: 001-one" in on_a_terminal()
    assert "\033[31m❌" in on_a_terminal("nonsense")
    assert "\033" not in on_a_terminal("status", NO_COLOR="1")
    shown = on_a_terminal("status", NO_COLOR="")
    assert "\033" in shown
    assert re.search(r"UTC\) - \d+ms, (just now|\d+ s ago)", shown)
    assert "\033" not in cli("status", url=database.url).out
    assert recorded(database) == ["001-one"]


def test_a_stdout_that_knows_no_emoji_gets_the_rest(
    cli: Cli, migrations: Write, database: Database
) -> None:
    migrations({"001-one.sql": "DO $$ BEGIN RAISE NOTICE 'größer 😀'; END $$;"})
    narrow = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    result = cli(url=database.url, env=narrow)
    assert (result.code, result.err) == (0, "")
    assert "? Applied: 001-one" in result.out
    migrations({"002-two.sql": "SELECT größer;"})
    result = cli("--json", url=database.url, env=narrow)
    assert result.code == 1
    assert json.loads(result.out)["error"]["message"] == 'column "größer" does not exist'
    assert recorded(database) == ["001-one"]


@pytest.mark.parametrize("arguments", [(), ("--json",), ("status",), ("--help",), ("nonsense",)])
def test_a_reader_that_has_left_changes_neither_the_run_nor_its_exit_code(
    cli: Cli, migrations: Write, database: Database, arguments: tuple[str, ...]
) -> None:
    migrations({**FIVE, "006-fails.sql": "SELECT nothing;"} if not arguments else FIVE)
    ours, its = os.pipe()
    os.close(ours)
    result = subprocess.run(
        [sys.executable, str(cli.script), *arguments],
        env=environment(cli, database.url),
        stdout=its,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    os.close(its)
    assert result.returncode == {(): 1, ("nonsense",): 2}.get(arguments, 0)
    assert "Traceback" not in result.stderr
    assert "Broken" not in result.stderr
    runs = arguments in ((), ("--json",))
    assert recorded(database) == ([f"00{n}-f{n}" for n in range(1, 6)] if runs else None)


def test_a_reader_of_the_first_line_only_gets_it(
    cli: Cli, migrations: Write, database: Database
) -> None:
    migrations(FIVE)
    process = subprocess.Popen(
        [sys.executable, str(cli.script)],
        env=environment(cli, database.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline().startswith(b"Database: ")
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 0
    assert len(recorded(database) or []) == 5


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"]
)
@pytest.mark.parametrize("arguments", ["", "--json"])
def test_a_stream_that_is_closed_or_full_does_not_stop_a_run(
    cli: Cli, migrations: Write, database: Database, closed: str, arguments: str
) -> None:
    migrations({**TWO, "003-fails.sql": "SELECT nothing;"})
    result = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f'"$0" -W error "$1" {arguments} {closed}',
            sys.executable,
            str(cli.script),
        ],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if "2>" in closed and ">&-" in closed:
        assert "FAILED" not in result.stdout, "the words of a closed stderr are not for stdout"
    assert (recorded(database), tables(database)) == (["001-one", "002-two"], ["one", "two"])


def test_a_build_that_applies_nothing_can_be_interrupted_too(cli: Cli, migrations: Write) -> None:
    """A deploy that somebody cancels has not passed."""
    migrations(ONE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me:{CANARY}@127.0.0.1:{silent.getsockname()[1]}/x"
        process = subprocess.Popen(
            [sys.executable, str(cli.script), "--json"],
            env=environment(cli, url, VERCEL_ENV="preview", MIGRATION_ENVIRONMENTS="production"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        with silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate()
    assert (process.returncode, json.loads(out)["error"]["code"]) == (143, "interrupted")
    assert "Skipped" not in err
    assert CANARY not in out + err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_what_is_kept_and_exits_by_its_signal(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, code: int
) -> None:
    migrations({**ONE, "002-sleeps.sql": "CREATE TABLE two (); SELECT pg_sleep(60);"})
    process = subprocess.Popen(
        [sys.executable, str(cli.script), "--json"],
        env=environment(cli, database.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    asleep = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event = 'PgSleep'"
    )
    while database.execute(asleep) != [(1,)]:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    document = json.loads(out)
    assert process.returncode == code
    assert (document["error"]["code"], document["remaining"]) == ("interrupted", ["002-sleeps"])
    assert f"❌ interrupted by {number.name}" in err
    assert "Applied in this run: 001-one." in err
    assert "Traceback" not in err
    while database.execute(asleep) != [(0,)]:
        time.sleep(0.02)
    assert (recorded(database), tables(database)) == (["001-one"], ["one"])


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def starting(tmp_path: Path, module: str, line: str) -> dict[str, str]:
    """An environment in which this is run where a module is imported, that is found before the one
    of its name.
    """
    (tmp_path / "first").mkdir(exist_ok=True)
    (tmp_path / "first" / f"{module}.py").write_text(f"import os, signal\n{line}\n")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "first")}


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", ["datetime", "psycopg"])
def test_a_signal_while_it_starts_is_one_line_and_its_code(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, code: int, module: str
) -> None:
    migrations(ONE)
    env = starting(cli.directory, module, f"os.kill(os.getpid(), {int(number)})")
    for arguments in ((), ("--json",)):
        result = subprocess.run(
            [sys.executable, str(cli.script), *arguments],
            env=env | environment(cli, database.url),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        words = (
            f"❌ interrupted by {number.name}: nothing was started\n"
            f"(exit {code}, docs/exit-codes.md#exit-codes)\n"
        )
        assert (result.returncode, result.stderr) == (code, words)
        assert (json.loads(result.stdout)["error"]["code"] if arguments else result.stdout) in (
            "interrupted",
            "",
        )
    assert recorded(database) is None


@pytest.mark.parametrize("script", ["bundle.py", "check_functions.py", "invoke.py", "sandbox.py"])
def test_ctrl_c_while_another_script_starts_shows_no_traceback(cli: Cli, script: str) -> None:
    env: dict[str, str] = {}
    for module in ("argparse", "ast", "psycopg"):
        env |= starting(cli.directory, module, "os.kill(os.getpid(), signal.SIGINT)")
    result = subprocess.run(
        [sys.executable, str(cli.script.with_name(script)), "--help"],
        env=env,
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "late", ["atexit.register(strike)", "late = type('Late', (), {'__del__': strike})()"]
)
def test_a_signal_behind_the_end_changes_nothing(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, late: str
) -> None:
    migrations(ONE)
    script = (
        "import atexit, os, sys; from lib.cli.process import run_process\n"
        f"def strike(*_, kill=os.kill, process=os.getpid()): kill(process, {int(number)})\n"
        f"sys.argv = ['migrate.py', '--json']; {late}; sys.exit(run_process())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(cli, database.url),
        cwd=cli.script.parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, json.loads(result.stdout)["success"]) == (0, True)
    assert "Traceback" not in result.stderr
    assert recorded(database) == ["001-one"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("file", "code", "outcome"),
    [(ONE, 0, None), ({"001-fails.sql": "SELECT nothing;"}, 1, "migration_failed")],
)
def test_a_signal_while_the_end_is_told_does_not_cut_it_short(
    cli: Cli,
    migrations: Write,
    database: Database,
    number: signal.Signals,
    file: Any,
    code: int,
    outcome: str | None,
) -> None:
    """The words go to a pipe that is full, so that the run stands still in the middle of them."""
    migrations(file)
    ours, its = os.pipe()
    os.set_blocking(its, False)
    with suppress(BlockingIOError):
        while True:
            os.write(its, b"." * 512)
    os.set_blocking(its, True)
    process = subprocess.Popen(
        [sys.executable, str(cli.script), "--json"],
        env=environment(cli, database.url),
        stdout=its,
        stderr=subprocess.PIPE,
    )
    os.close(its)
    assert process.stderr
    with process.stderr as words, os.fdopen(ours, "rb") as out:
        said = b""
        while b"applied successfully" not in said and b"Next:" not in said:
            said += words.readline()
        process.send_signal(number)
        document = json.loads(out.read().lstrip(b"."))
        assert b"interrupted" not in words.read()
    assert process.wait() == code
    assert document.get("error", {}).get("code") == outcome
    assert recorded(database) == (["001-one"] if code == 0 else [])


# The command line itself

COMMANDS = ("status", "validate", "create", "renumber", "check", "baseline", "repair")
# With a connection to it, the exit code would be 5.
NOWHERE = "postgresql://postgres@127.0.0.1:1/app"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("status", "--chek"),
        ("--prod",),
        ("status", "--che"),
        ("create",),
        ("baseline",),
        ("repair",),
        ("repair", "a", "b"),
        ("--check",),
        ("--json=1",),
        ("",),
    ],
)
def test_a_wrong_command_line_is_2_in_words_and_in_the_document(
    here: Here, migrations: Write, database: Database, arguments: tuple[str, ...]
) -> None:
    migrations(ONE)
    result = here(*arguments, url=database.url)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("❌ ")
    assert " --help\n(exit 2, docs/exit-codes.md#exit-codes)\n" in result.err
    document = json.loads(here("--json", *arguments, url=database.url).out)
    assert (document["success"], document["error"]["code"]) == (False, "usage")
    assert contents(database) == ([], [])


@pytest.mark.parametrize("word", ["apply", "up", "migrate"])
def test_other_tools_words_for_a_run_are_a_run(
    here: Here, migrations: Write, database: Database, word: str
) -> None:
    migrations(ONE)
    assert here("--json", word, "status", url=database.url).code == 2
    assert here(word, "--check", url=database.url).code == 2
    assert contents(database) == ([], [])
    document = json.loads(here("--json", word, url=database.url).out)
    assert [one["version"] for one in document["applied"]] == ["001-one"]
    assert recorded(database) == ["001-one"]


def test_new_is_create_and_help_is_help(
    here: Here, migrations: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = migrations(ONE)
    assert here("new", "add orders").code == 0
    assert sorted(path.stem for path in directory.iterdir()) == ["001-one", "002-add-orders"]
    printed = []
    for arguments in (["help"], ["--help"], ["help", "new"], ["create", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments, {})
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2] == printed[3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("down",), "docs/rolling-back.md"),
        (("rollback", "1"), "docs/rolling-back.md"),
        (("--json", "undo"), "docs/rolling-back.md"),
        (("--dry-run",), "scripts/migrate.py status shows what is pending"),
        (("up", "--dry-run"), "scripts/migrate.py status shows what is pending"),
        (("stauts",), "Did you mean `scripts/migrate.py status`?"),
        (("migrat",), "Did you mean `scripts/migrate.py migrate`?"),
        (("renumer", "x"), "Did you mean `scripts/migrate.py renumber`?"),
        (("zzz",), "there is no command 'zzz'\nNext: Nothing was changed. To list"),
        (("--production", "status"), "unrecognized arguments: --production"),
        (("validate", "--allow-out-of-order"), "unrecognized arguments: --allow-out-of-order"),
        (("create", "x", "--production"), "unrecognized arguments: --production"),
        (("baseline", "1", "--allow-nonempty"), "unrecognized arguments: --allow-nonempty"),
    ],
)
def test_a_word_that_means_nothing_here_is_answered_with_what_does(
    here: Here, migrations: Write, database: Database, arguments: tuple[str, ...], said: str
) -> None:
    directory = migrations(ONE)
    result = here(*arguments, url=database.url)
    assert (result.code, said in result.err) == (2, True), result.err
    assert contents(database) == ([], [])
    assert [path.stem for path in directory.iterdir()] == ["001-one"]


def test_help_reads_like_a_manual_page(cli: Cli) -> None:
    for columns in ("40", "300"):
        result = cli("--help", url=NOWHERE, env={"COLUMNS": columns})
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 80
    headings = [line for line in result.out.splitlines() if re.fullmatch(r"[a-z ]+:", line)]
    assert headings == ["commands:", "options:", "environment:", "exit codes:", "examples:"]
    manual, examples = result.out.split("examples:\n")
    assert len([line for line in examples.splitlines() if "scripts/migrate.py" in line]) == 3
    source = "".join(
        (cli.script.parent.parent / "lib" / name).read_text()
        for name in ("settings/config.py", "settings/environ.py", "errors.py")
    )
    for variable in set(re.findall(r'"(MIGRATION_\w+|[A-Z_]+_URL\w*)"', source)):
        assert variable in manual, "a variable that decides something is in the manual"
    for code in (1, 2, 3, 4, 5, 6, 7, 8, 70, 130, 143):
        assert re.search(rf"^  (\d+, )?{code}\b", manual, re.MULTILINE), code
    for command in COMMANDS:
        assert f"\n  {command} " in manual


@pytest.mark.parametrize(
    "command", ["status", "validate", "create", "renumber", "baseline", "repair"]
)
def test_each_command_has_a_help_of_its_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"], {"POSTGRES_URL": NOWHERE})
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith(f"usage: scripts/migrate.py {command} [-h] [--json]")
    assert "--allow-" not in out
    assert ("--production" in out) == (command in ("baseline", "repair"))
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_one_line(cli: Cli) -> None:
    result = cli("--version", url=NOWHERE)
    assert (result.code, result.out, result.err) == (0, f"onward {VERSION}\n", "")


def test_times_of_an_older_history_are_in_the_servers_zone_not_the_users(
    database: Database, cli: Cli, migrations: Write
) -> None:
    migrations({"001-old.sql": "SELECT 1"})
    database.execute(f"ALTER DATABASE \"{database.name}\" SET timezone = 'America/New_York'")
    database.execute(
        "CREATE TABLE schema_migrations (id SERIAL PRIMARY KEY, version VARCHAR(255) UNIQUE NOT "
        "NULL,"
        " name VARCHAR(255) NOT NULL, applied_at TIMESTAMP, execution_time_ms INTEGER, checksum "
        "VARCHAR(64))"
    )
    database.execute(
        "INSERT INTO schema_migrations (version, name, applied_at) VALUES ('001-old', 'Old', "
        "'2025-07-01 08:00:00')"
    )
    result = cli("status", "--json", url=database.url, env={"PGTZ": "Asia/Tokyo"})
    assert json.loads(result.out)["lastMigration"]["appliedAt"] == "2025-07-01T12:00:00.000Z"
    assert database.execute("SELECT applied_at::text FROM schema_migrations") == [
        ("2025-07-01 08:00:00",)
    ]


@pytest.mark.parametrize(
    "entry",
    ["api/migrate.py", "api/migration-status.py", "lib/aws/__init__.py", "scripts/migrate.py"],
)
def test_a_start_turns_the_collector_on_again_and_waits_for_no_parser(
    project: Path, entry: str
) -> None:
    look = (
        f"import gc, runpy, sys; runpy.run_path({str(project / entry)!r}); "
        "print(gc.isenabled(), *sys.modules)"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "MIGRATION_ENV": "test"}
    command = [sys.executable, "-c", look]
    enabled, *modules = subprocess.run(
        command, env=environ, check=True, capture_output=True, text=True
    ).stdout.split()
    assert enabled == "True"
    assert "psycopg" in modules
    assert "argparse" not in modules
