"""scripts/invoke.py before it calls AWS. On a real runtime: tests/platform/test_lambda.py."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Completed
from tests.kit import CANARY

WORDS = "Yes, migrate production now."


def invoke(*arguments: str, **environ: str) -> Completed:
    """Run it where AWS is a port that nobody listens on, as a coding assistant."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "invoke.py"), "onward-F", *arguments],
        env={
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_MAX_ATTEMPTS": "1",
            "PATH": os.environ["PATH"],
            "CLAUDECODE": "1",
            **environ,
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "Traceback" not in result.stderr
    return Completed(result.returncode, result.stdout, result.stderr)


@pytest.mark.parametrize("environ", [{}, {"CI": "1"}, {"MIGRATION_CONSENT": "1"}])
def test_an_assistant_invokes_no_migration_unasked(environ: dict[str, str]) -> None:
    result = invoke("--region", "eu-west-1", **environ)
    assert (result.code, result.out) == (3, "")
    assert "changes this database only with a person's consent: MIGRATION_CONSENT is" in result.err
    assert (
        "\n    May I apply the pending migrations to the database of the function onward-F?\n"
        in result.err
    )
    assert (
        '\n    MIGRATION_CONSENT="<the person\'s words>" '
        "scripts/invoke.py onward-F --region eu-west-1\n"
    ) in result.err
    assert result.err.endswith("(exit 3, docs/on-call.md#exit-3-wrong-environment)\n")


def test_the_refusal_of_an_invocation_is_one_json_document() -> None:
    result = invoke("--json")
    error = json.loads(result.out)["error"]
    assert (result.code, error["code"]) == (3, "wrong_environment")
    assert "May I apply" in error["nextStep"]


@pytest.mark.slow
def test_with_consent_or_to_read_it_invokes_the_function() -> None:
    words = f"{WORDS} The password is {CANARY}."
    consented = invoke(MIGRATION_CONSENT=words, PGPASSWORD=CANARY)
    assert (consented.code, "cannot connect to AWS Lambda" in consented.err) == (5, True)
    assert f"Consent: {WORDS} The password is ***.\n" in consented.out
    for action in ("status", "validate"):
        assert invoke("--action", action).code == 5


@pytest.mark.slow
def test_a_person_and_ci_invoke_it_as_before() -> None:
    for environ in ({"CLAUDECODE": ""}, {"CLAUDECODE": "", "CI": "1"}):
        result = invoke(**environ)
        assert (result.code, result.out) == (5, "")
