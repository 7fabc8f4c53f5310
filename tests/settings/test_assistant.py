import pytest

from lib.settings.assistant import CONSENT_PLACEHOLDER, MARKERS, Marker, find_assistant
from tests.kit import config

VERCEL = {"VERCEL": "1", "VERCEL_DEPLOYMENT_ID": "dpl_1", "VERCEL_ENV": "preview"}
LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": "f",
    "LAMBDA_TASK_ROOT": "/var/task",
    "MIGRATION_ENV": "qa",
}


@pytest.mark.parametrize("marker", MARKERS, ids=lambda marker: marker.variable)
def test_each_assistant_is_known_by_its_variable(marker: Marker) -> None:
    found = find_assistant({marker.variable: marker.value or "1"})
    assert found
    assert (found.name, found.variable) == (marker.assistant, marker.variable)
    assert marker.source.startswith("https://")
    for off in ("", " ", "0", "false"):
        assert find_assistant({marker.variable: off}) is None


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TERM_PROGRAM": "vscode", "CURSOR_TRACE_ID": "1", "VSCODE_PID": "1"},
        {"REPL_ID": "1", "REPLIT_ENVIRONMENT": "production"},
        {"CODEX_HOME": "/home/me/.codex", "CLINE_API_KEY": "k", "ANTHROPIC_API_KEY": "k"},
        {"GEMINI_API_KEY": "k", "GEMINI_MODEL": "m", "GOOSE_PROVIDER": "p"},
        {"OR_APP_NAME": "our own application", "AGENT": "ssh"},
        {"CI": "true", "GITHUB_ACTIONS": "true"},
    ],
)
def test_what_a_persons_terminal_or_ci_has_tells_of_no_assistant(environ: dict[str, str]) -> None:
    assert find_assistant(environ) is None
    assert config(**environ).applied_by == ("build" if "CI" in environ else "cli")


@pytest.mark.parametrize("platform", [VERCEL, LAMBDA])
def test_a_platforms_own_variables_win_over_an_assistants(platform: dict[str, str]) -> None:
    found = config(CLAUDECODE="1", **platform)
    assert (found.assistant, found.deploying, found.applied_by) == (None, True, "build")


@pytest.mark.parametrize(
    "environ",
    [
        {"CI": "1"},
        {"VERCEL": "1", "VERCEL_ENV": "preview", "CI": "1"},
        {"VERCEL_DEPLOYMENT_ID": "dpl_1"},
        {"AWS_LAMBDA_FUNCTION_NAME": "f", "MIGRATION_ENV": "qa"},
    ],
)
def test_an_assistants_variable_wins_over_ci_and_half_a_platform(environ: dict[str, str]) -> None:
    found = config(CLAUDECODE="1", **environ)
    assert found.assistant
    assert (found.deploying, found.applied_by) == (False, "assistant")


@pytest.mark.parametrize(
    "words",
    [
        "Yes, apply 003 to the development database.",
        "yes",
        "OK.",
        "yes please",
        "  go ahead with neondb  ",
        "ja, 003 auf die Entwicklungsdatenbank",
        "可以，请执行",
        "not ok? no: fine",
    ],
)
def test_a_persons_sentence_may_be_consent(words: str) -> None:
    found = find_assistant({"CLAUDECODE": "1", "MIGRATION_CONSENT": words})
    assert found
    assert (found.consent, found.missing_consent) == (words.strip(), "")


@pytest.mark.parametrize(
    "words",
    [
        *"1 0 true True FALSE no N on No. ...".split(),
        *('"no"', " no! ", "' '"),
        *(CONSENT_PLACEHOLDER, CONSENT_PLACEHOLDER.strip("<>")),
    ],
)
def test_a_switch_or_the_placeholder_is_no_consent(words: str) -> None:
    found = find_assistant({"CLAUDECODE": "1", "MIGRATION_CONSENT": words})
    assert found
    assert "must be the person's own answer" in found.missing_consent


@pytest.mark.parametrize("words", ["", " ", "\t\n"])
def test_white_space_is_no_consent(words: str) -> None:
    found = find_assistant({"CLAUDECODE": "1", "MIGRATION_CONSENT": words})
    assert found
    assert found.missing_consent == "MIGRATION_CONSENT is not set"
