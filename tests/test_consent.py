"""What a coding assistant may change, and what it must ask a person for.

A persistent database is the test's own by a host's name that none has, and the address of the
test's server beside it: the host decides, and the connection is real. Each test ends by looking at
the database.
"""

import json
import re
from pathlib import Path

import pytest

from lib.cli.main import main
from lib.consent import require_scratch_consent
from lib.errors import WrongEnvironment
from lib.settings.assistant import MARKERS, Marker, find_assistant
from lib.web.service import Service
from scripts.embedded import find_programs
from tests.conftest import Cli, Completed, Database, Here
from tests.kit import (
    CANARY,
    ONE,
    TWO,
    Capture,
    Write,
    bundle,
    by_name,
    contents,
    parsed,
    recorded,
    tables,
)

HOST = "db-1.example"
ASSISTANT = {"CLAUDECODE": "1"}
WORDS = "Yes, apply 001 and 002 to the database on db-1."
CONSENT = {**ASSISTANT, "MIGRATION_CONSENT": WORDS}
CHANGED = {"001-one.sql": "CREATE TABLE one (id int); -- a comment\n"}
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": (),
    "baseline": ("baseline", "2"),
    "repair": ("repair", "001-one"),
}


@pytest.fixture
def persistent(here: Here, migrations: Write, database: Database) -> Database:
    """A persistent database on which a person has applied 001; 002 is pending."""
    migrations(ONE)
    assert here(url=database.url).code == 0
    migrations(TWO)
    return by_name(database, HOST)


def applied_by(database: Database) -> list[tuple[str, str]]:
    found = database.execute("SELECT version, applied_by FROM schema_migrations ORDER BY id")
    return [(version, by) for version, by in found]


def is_refused(result: Completed, reason: str = "MIGRATION_CONSENT is not set") -> None:
    assert (result.code, result.out.count("✅")) == (3, 0)
    assert f"changes this database only with a person's consent: {reason}" in result.err
    assert "Nothing was changed. Ask the person this question" in result.err


# Refused


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_an_assistant_changes_no_persistent_database_unasked(
    here: Here, migrations: Write, persistent: Database, command: tuple[str, ...]
) -> None:
    if "repair" in command:
        migrations(CHANGED)
    before = contents(persistent)
    is_refused(here(*command, url=persistent.url, env=ASSISTANT))
    assert contents(persistent) == before
    assert here(*command, url=persistent.url).code == 0
    assert contents(persistent) != before


def test_the_refusal_has_the_question_and_the_line_ready_to_use(
    here: Here, persistent: Database
) -> None:
    before = contents(persistent)
    result = here("--allow-nonempty", url=persistent.url, env=ASSISTANT)
    said = re.sub(r":\d+ \(address [\d.]+\)", "", result.err)
    assert said == (
        "❌ a coding assistant (Claude Code, known by CLAUDECODE) changes this database only with "
        "a person's consent: MIGRATION_CONSENT is not set\n"
        f"  Database: {persistent.name} on {HOST} (from POSTGRES_URL)\n"
        "  Environment: development (from MIGRATION_ENV)\n"
        "Next: Nothing was changed. Ask the person this question, with what "
        "`scripts/migrate.py status` shows:\n"
        f"    May I apply the pending migrations to {persistent.name} on {HOST} "
        "(environment development)?\n"
        "  If the answer allows it, run this with the answer word for word:\n"
        '    MIGRATION_CONSENT="<the person\'s words>" scripts/migrate.py --allow-nonempty\n'
        "(exit 3, docs/on-call.md#exit-3-wrong-environment)\n"
    )
    assert contents(persistent) == before


@pytest.mark.parametrize(
    ("command", "question"),
    [
        (("baseline", "2"), "May I record the migrations up to 002 as applied, without running"),
        (("repair", "001-one"), "May I record the changed file of 001-one as applied in "),
        (("repair", "it's"), "scripts/migrate.py repair 'it'\"'\"'s'"),
    ],
)
def test_the_question_is_about_the_command(
    here: Here, persistent: Database, command: tuple[str, ...], question: str
) -> None:
    before = contents(persistent)
    result = here(*command, "--json", url=persistent.url, env=ASSISTANT)
    error = json.loads(result.out)["error"]
    assert (result.code, error["code"]) == (3, "wrong_environment")
    assert question in error["nextStep"]
    assert f"{persistent.name} on {HOST}" in error["message"]
    assert contents(persistent) == before


@pytest.mark.parametrize("words", ["1", "true", "no", "<the person's words>", "", "  "])
def test_a_switch_is_no_consent(here: Here, persistent: Database, words: str) -> None:
    before = contents(persistent)
    result = here(url=persistent.url, env=ASSISTANT | {"MIGRATION_CONSENT": words})
    is_refused(
        result,
        f"MIGRATION_CONSENT is {words!r}, but it must be the person's own answer"
        if words.strip()
        else "MIGRATION_CONSENT is not set",
    )
    assert contents(persistent) == before


def test_an_assistant_is_refused_before_anything_is_connected_to(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    url = f"postgresql://me:{CANARY}@nowhere.example/app"
    assert "cannot connect" in here(url=url, env=CONSENT).err
    is_refused(here(url=url, env=ASSISTANT))
    assert contents(database) == ([], [])


@pytest.mark.slow
def test_consent_in_an_env_file_is_ignored_and_the_log_says_so(
    project: Path, tmp_path: Path, database: Database
) -> None:
    place = bundle(project, tmp_path / "team", ONE)
    (place / ".env.local").write_text(
        f"POSTGRES_URL={by_name(database, HOST).url}\nMIGRATION_CONSENT='{WORDS}'\n"
    )
    result = Cli(place, place)(env=ASSISTANT)
    is_refused(result)
    assert "⚠️  MIGRATION_CONSENT in .env.local is ignored: consent is for one" in result.out
    assert contents(database) == ([], [])


# Consented


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_with_a_persons_words_it_does_what_it_was_asked_to(
    here: Here, migrations: Write, persistent: Database, command: tuple[str, ...]
) -> None:
    if "repair" in command:
        migrations(CHANGED)
    result = here(*command, url=persistent.url, env=CONSENT)
    assert result.code == 0
    assert result.out.startswith(
        f"Run by a coding assistant: Claude Code (CLAUDECODE)\nConsent: {WORDS}\n"
    )
    assert applied_by(persistent)[:1] == [("001-one", "cli")]
    if "repair" not in command:
        assert applied_by(persistent)[1:] == [("002-two", "assistant")]
    assert tables(persistent) == (["one"] if command else ["one", "two"])


@pytest.mark.slow
def test_a_process_is_refused_then_applies_with_consent(
    cli: Cli, migrations: Write, database: Database
) -> None:
    persistent = by_name(database, HOST)
    migrations(TWO)
    is_refused(cli(url=persistent.url, env=ASSISTANT))
    assert contents(database) == ([], [])
    result = cli("--json", url=persistent.url, env=CONSENT)
    assert (result.code, json.loads(result.out)["success"]) == (0, True)
    assert f"Consent: {WORDS}\n" in result.err
    assert applied_by(database) == [("001-one", "assistant"), ("002-two", "assistant")]
    status = json.loads(cli("status", "--json", url=persistent.url).out)
    assert {one["appliedBy"] for one in status["migrations"]} == {"assistant"}


def test_the_words_are_redacted_as_all_output(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    words = f"Apply it; the password is {CANARY}\n::error::and this is no command"
    environ = CONSENT | {"MIGRATION_CONSENT": words, "PGPASSWORD": CANARY}
    result = here(url=by_name(database, HOST).url, env=environ)
    assert result.code == 0
    assert "Consent: Apply it; the password is ***\n  \\x3a:error::and" in result.out
    assert recorded(database) == ["001-one"]


# Free


@pytest.mark.parametrize("command", [("status",), ("validate",), ("status", "--json")])
def test_reading_is_free(here: Here, persistent: Database, command: tuple[str, ...]) -> None:
    before = contents(persistent)
    assert here(*command, url=persistent.url, env=ASSISTANT).code == 0
    assert contents(persistent) == before


@pytest.mark.parametrize("environment", ["development", "staging"])
def test_a_database_on_this_machine_is_free(
    here: Here, migrations: Write, database: Database, environment: str
) -> None:
    migrations(ONE)
    result = here(url=database.url, env={**ASSISTANT, "MIGRATION_ENV": environment})
    assert result.code == 0
    assert result.out.startswith("Run by a coding assistant: Claude Code (CLAUDECODE)\nDatabase")
    assert applied_by(database) == [("001-one", "assistant")]


@pytest.mark.parametrize("environment", ["development", "ci"])
def test_a_private_network_is_free_for_development_and_ci(
    here: Here, migrations: Write, database: Database, environment: str
) -> None:
    migrations(ONE)
    environ = {**ASSISTANT, "CI": "1", "MIGRATION_ENV": environment}
    assert here(url=by_name(database, "postgres").url, env=environ).code == 0
    assert applied_by(database) == [("001-one", "assistant")]


@pytest.mark.parametrize("environment", ["staging", "preview", "production"])
def test_a_private_network_is_not_free_for_other_environments(
    here: Here, migrations: Write, database: Database, environment: str
) -> None:
    migrations(ONE)
    environ = {**ASSISTANT, "MIGRATION_ENV": environment}
    url = by_name(database, "postgres").url
    is_refused(here("--production", url=url, env=environ))
    assert contents(database) == ([], [])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_private_network_is_not_free_where_a_mark_says_otherwise(
    here: Here, migrations: Write, database: Database, command: tuple[str, ...]
) -> None:
    migrations(ONE)
    assert here(url=database.url, env={"MIGRATION_ENV": "staging"}).code == 0
    migrations(TWO | (CHANGED if "repair" in command else {}))
    private = by_name(database, "postgres")
    before = contents(database)
    refused = here(*command, url=private.url, env=ASSISTANT)
    assert "❌ this database was last migrated as staging" in refused.err
    [claim] = re.findall(r"set (MIGRATION_CLAIM)=(.*)$", refused.err, re.MULTILINE)
    environ = dict([claim])
    is_refused(here(*command, url=private.url, env=ASSISTANT | environ))
    assert contents(database) == before
    assert here(*command, url=private.url, env=CONSENT | environ).code == 0
    assert contents(database) != before


def test_of_several_hosts_all_must_be_free(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    for hosts in (f"localhost,{HOST}", f"{HOST},localhost", f"postgres,{HOST}"):
        is_refused(here(url=by_name(database, hosts).url, env=ASSISTANT))
    assert contents(database) == ([], [])


# Beside the other guards


@pytest.mark.parametrize("marker", MARKERS, ids=lambda marker: marker.variable)
def test_an_assistant_in_ci_is_an_assistant(
    here: Here, persistent: Database, marker: Marker
) -> None:
    before = contents(persistent)
    environ = {"CI": "true", marker.variable: marker.value or "1"}
    result = here(url=persistent.url, env=environ)
    is_refused(result)
    assert f"({marker.assistant}, known by {marker.variable})" in result.err
    assert contents(persistent) == before


def test_consent_does_not_replace_the_option_for_production(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    persistent = by_name(database, HOST)
    environ = {"CI": "1", "MIGRATION_ENV": "production"}
    for arguments, given, said in (
        ((), CONSENT, "this would change production from outside a deploy"),
        (("--production",), ASSISTANT, "only with a person's consent"),
    ):
        result = here(*arguments, url=persistent.url, env=given | environ)
        assert (result.code, said in result.err) == (3, True)
        assert contents(database) == ([], [])
    assert here("--production", url=persistent.url, env=CONSENT | environ).code == 0
    assert applied_by(database) == [("001-one", "assistant")]


def test_consent_does_not_replace_a_claim(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    assert here(url=database.url, env={"MIGRATION_ENV": "production", "CI": "1"}).code == 0
    migrations(TWO)
    before = contents(database)
    result = here(url=by_name(database, HOST).url, env=CONSENT)
    assert (result.code, "last migrated as production" in result.err) == (3, True)
    assert contents(database) == before


def test_the_upgrade_check_reports_it_as_any_refusal(here: Here, persistent: Database) -> None:
    before = contents(persistent)
    check = ("status", "--upgrade-check", "--json")
    result = here(*check, url=persistent.url, env=ASSISTANT)
    document = json.loads(result.out)
    assert (result.code, [one["code"] for one in document["problems"]]) == (
        3,
        ["wrong_environment"],
    )
    assert here(*check, url=persistent.url, env=CONSENT).code == 0
    assert contents(persistent) == before


def test_where_the_environment_applies_nothing_nobody_is_asked(
    here: Here, persistent: Database
) -> None:
    before = contents(persistent)
    environ = ASSISTANT | {"MIGRATION_ENVIRONMENTS": "production"}
    result = here(url=persistent.url, env=environ)
    assert (result.code, "Skipped" in result.out) == (0, True)
    assert contents(persistent) == before


# The route


@pytest.mark.parametrize(
    ("platform", "status"),
    [
        ({"MIGRATION_ENV": "development"}, 409),
        ({"VERCEL": "1", "VERCEL_ENV": "development"}, 409),
        ({"VERCEL": "1", "VERCEL_ENV": "development", "VERCEL_DEPLOYMENT_ID": "dpl_1"}, 200),
    ],
)
def test_a_deployed_route_asks_nobody_and_a_local_one_does(
    migrations: Write,
    persistent: Database,
    capsys: Capture,
    platform: dict[str, str],
    status: int,
) -> None:
    before = recorded(persistent)
    environ = {"POSTGRES_URL": persistent.url, "MIGRATION_DIR": str(migrations({}))}
    result = Service(environ | ASSISTANT | platform).call("migrate", applied_by="api")
    assert result.status == status
    assert HOST not in json.dumps(result.document)
    capsys.readouterr()
    if status == 200:
        assert applied_by(persistent)[1:] == [("002-two", "api")]
    else:
        assert recorded(persistent) == before


# What it does not hinder


@pytest.mark.parametrize(
    "environ", [{}, {"CLAUDECODE": "0"}, CONSENT], ids=["unset", "switched off", "words made up"]
)
def test_an_assistant_that_wants_to_gets_past_it(
    migrations: Write, persistent: Database, capsys: Capture, environ: dict[str, str]
) -> None:
    """It hinders accidents, not intent: docs/security.md says so."""
    named = {"POSTGRES_URL": persistent.url, "MIGRATION_ENV": "development"}
    assert main((), named | {"MIGRATION_DIR": str(migrations({}))} | environ) == 0
    capsys.readouterr()
    assert recorded(persistent) == ["001-one", "002-two"]


def test_a_tunnel_to_a_persistent_database_is_on_this_machine(
    here: Here, persistent: Database, database: Database
) -> None:
    """A forwarded port is at localhost, whatever is at its other end."""
    assert here(url=database.url, env=ASSISTANT).code == 0
    assert applied_by(persistent)[1:] == [("002-two", "assistant")]


@pytest.mark.slow
def test_on_a_server_that_is_elsewhere_scratch_databases_are_asked_for(
    here: Here, migrations: Write, database: Database
) -> None:
    directory = migrations(ONE)
    url = by_name(database, HOST).url
    is_refused(here("checkpoint", "--scratch", url, env=ASSISTANT))
    assert [path.name for path in directory.iterdir()] == ["001-one.sql"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTGRES_BIN", str(find_programs()))
        assert here("checkpoint", "--scratch", database.url, env=ASSISTANT).code == 0
        assert here("checkpoint", "again", "--scratch", url, env=CONSENT).code == 0
    assert len(list(directory.iterdir())) == 3
    assert recorded(database) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "postgres"])
def test_on_this_machine_and_a_private_network_scratch_databases_are_free(host: str) -> None:
    assistant = find_assistant(ASSISTANT)
    assert assistant
    require_scratch_consent(assistant, parsed(f"postgresql://me@{host}/app"))
    with pytest.raises(WrongEnvironment):
        require_scratch_consent(assistant, parsed("postgresql://me@db.example.org/app"))
    require_scratch_consent(None, parsed("postgresql://me@db.example.org/app"))
