"""Whether a coding assistant runs this, and the consent that it was given. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from lib.settings.environ import is_set, value_of

CONSENT_VARIABLE = "MIGRATION_CONSENT"
CONSENT_PLACEHOLDER = "<the person's words>"
# A refusal, a switch that a program set, and the placeholder, pasted as it is. A person may well
# answer the question by "yes".
_NO_WORDS = frozenset(
    [
        "",
        *"0 1 t f n true false no on off".split(),
        CONSENT_PLACEHOLDER.strip("<>"),
    ]
)
_AROUND_WORDS = " \t\r\n.,!?\"'<>"


class Marker(NamedTuple):
    """A variable that an assistant sets in the processes that it starts."""

    variable: str
    assistant: str
    source: str
    value: str = ""
    """The only value that counts; empty: any, unless it is that of a switch that is off."""


# Not in this list: what is set in a person's terminal too, such as TERM_PROGRAM, CURSOR_TRACE_ID
# and REPL_ID, and what a person sets to configure a tool, such as CODEX_HOME and CLINE_API_KEY.
MARKERS = (
    Marker("CLAUDECODE", "Claude Code", "https://code.claude.com/docs/en/env-vars"),
    Marker("CODEX_THREAD_ID", "Codex", "https://github.com/openai/codex/pull/10096"),
    # Versions of Codex before that variable, in their sandbox.
    Marker(
        "CODEX_SANDBOX",
        "Codex",
        "https://github.com/openai/codex/blob/main/codex-rs/core/src/spawn.rs",
    ),
    Marker(
        "CODEX_SANDBOX_NETWORK_DISABLED",
        "Codex",
        "https://github.com/openai/codex/blob/main/codex-rs/core/src/spawn.rs",
    ),
    Marker("GEMINI_CLI", "Gemini CLI", "https://geminicli.com/docs/tools/shell"),
    Marker(
        "QWEN_CODE",
        "Qwen Code",
        "https://github.com/QwenLM/qwen-code/blob/main/docs/tools/shell.md",
    ),
    Marker(
        "CURSOR_AGENT",
        "Cursor",
        "https://forum.cursor.com/t/cursor-terminal-documentation-missing-non-interactive-agent-"
        "shell-configuration-guidance/151935",
    ),
    # The terminal, and the cloud agent that runs it.
    Marker(
        "COPILOT_CLI",
        "GitHub Copilot",
        "https://github.com/github/copilot-cli/blob/main/changelog.md",
    ),
    Marker(
        "CLINE_ACTIVE",
        "Cline",
        "https://github.com/cline/cline/blob/main/src/hosts/vscode/terminal/"
        "VscodeTerminalRegistry.ts",
    ),
    Marker(
        "OPENCODE",
        "opencode",
        "https://github.com/anomalyco/opencode/blob/dev/packages/opencode/src/index.ts",
    ),
    Marker(
        "GOOSE_TERMINAL",
        "goose",
        "https://block.github.io/goose/docs/guides/environment-variables",
    ),
    Marker(
        "CRUSH",
        "Crush",
        "https://github.com/charmbracelet/crush/blob/main/internal/shell/shell.go",
    ),
    Marker("AUGMENT_AGENT", "Augment", "https://docs.augmentcode.com/cli/reference"),
    # A team's own program may name itself in this variable of OpenRouter's.
    Marker(
        "OR_APP_NAME",
        "Aider",
        "https://github.com/Aider-AI/aider/blob/main/aider/llm.py",
        value="Aider",
    ),
    # The convention for all others.
    Marker(
        "AI_AGENT",
        "a tool that sets this variable",
        "https://github.com/vercel/vercel/tree/main/packages/detect-agent",
    ),
)


class Assistant(NamedTuple):
    """A coding assistant that runs a command, and the variable that tells."""

    name: str
    variable: str
    consent: str
    """The words of MIGRATION_CONSENT, without white space around them."""

    @property
    def missing_consent(self) -> str:
        """Why the words are not a person's consent; empty if they may be."""
        if not self.consent:
            return f"{CONSENT_VARIABLE} is not set"
        if self.consent.strip(_AROUND_WORDS).lower() in _NO_WORDS:
            return f"{CONSENT_VARIABLE} is {self.consent!r}, but it must be the person's own answer"
        return ""


def find_assistant(environ: Mapping[str, str]) -> Assistant | None:
    """The assistant that started this process; None for a person, CI or a platform.

    A deployed function and a build on Vercel are nobody's child process, so their platform's
    variables win. CI does not: assistants run there too.
    """
    if _is_deployed(environ):
        return None
    for marker in MARKERS:
        if _is_marked(environ, marker):
            consent = value_of(environ, CONSENT_VARIABLE)
            return Assistant(marker.assistant, marker.variable, consent)
    return None


def _is_deployed(environ: Mapping[str, str]) -> bool:
    on_vercel = is_set(environ, "VERCEL") and value_of(environ, "VERCEL_DEPLOYMENT_ID")
    function = ("AWS_LAMBDA_FUNCTION_NAME", "LAMBDA_TASK_ROOT")
    return bool(on_vercel) or all(value_of(environ, name) for name in function)


def _is_marked(environ: Mapping[str, str], marker: Marker) -> bool:
    if marker.value:
        return value_of(environ, marker.variable) == marker.value
    return is_set(environ, marker.variable)
