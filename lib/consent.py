"""What a coding assistant may change: what is disposable, and what a person consented to. Pure."""

from typing import NamedTuple, Self

from lib.errors import WrongEnvironment
from lib.history import History
from lib.identity import last_migrated_as
from lib.refusals import where
from lib.settings.assistant import CONSENT_PLACEHOLDER, CONSENT_VARIABLE, Assistant
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.settings.reach import Reach

# Where a coding assistant may change a database on a private network.
_ASSISTANTS_ENVIRONMENTS = frozenset(["development", "ci"])


class Change(NamedTuple):
    """What a command would do: in words before a database's name, and as a command line."""

    words: str
    command: str

    @classmethod
    def run(cls) -> Self:
        """What a run does."""
        return cls("apply the pending migrations to", "scripts/migrate.py")

    @classmethod
    def baseline(cls, number: int) -> Self:
        """What a baseline of the files up to a number does."""
        return cls(
            f"record the migrations up to {number:03} as applied, without running them, in",
            f"scripts/migrate.py baseline {number:03}",
        )

    @classmethod
    def expect_schema(cls, *, refresh: bool) -> Self:
        """What `drift --accept` and `drift --refresh` do."""
        option = "refresh" if refresh else "accept"
        return cls(
            "record the schema as it is now, with all changes by hand, as expected in",
            f"scripts/migrate.py drift --{option}",
        )

    @classmethod
    def rehearse(cls) -> Self:
        """What a rehearsal does."""
        return cls(
            "apply the pending migrations, observed statement by statement, to",
            "scripts/migrate.py rehearse",
        )

    @classmethod
    def plan(cls) -> Self:
        """What a plan does."""
        return cls("run the pending migrations, and roll them back, in", "scripts/migrate.py plan")

    @classmethod
    def repair(cls, version: str) -> Self:
        """What a repair of a version does."""
        return cls(
            f"record the changed file of {version} as applied in",
            f"scripts/migrate.py repair {version}",
        )


def require_consent(config: Config, change: Change, history: History | None = None) -> None:
    """Raise WrongEnvironment if a coding assistant would make a change that nobody consented to.

    Once before connecting; and again with the history, whose mark may say that a database on a
    private network is not a developer's or CI's.
    """
    if config.assistant and not _is_an_assistants(config, history):
        require_words(
            config.assistant,
            change,
            f"{config.url.label} (environment {config.environment})",
            place=where(config),
            look="scripts/migrate.py status",
        )


def require_scratch_consent(assistant: Assistant | None, server: DatabaseURL) -> None:
    """Raise WrongEnvironment if a coding assistant would make databases on a server that is neither
    on this machine nor on a private network, and nobody consented to that.
    """
    if assistant and server.reach is Reach.ANYWHERE:
        words = "make databases, and drop them again, on the server of"
        require_words(
            assistant,
            Change(words, "scripts/migrate.py COMMAND --scratch URL"),
            server.label,
            place="",
            look="scripts/migrate.py validate",
        )


def require_words(
    assistant: Assistant, change: Change, target: str, *, place: str, look: str
) -> None:
    """Raise WrongEnvironment unless the assistant has a person's words for the change.

    The message has the question to ask about the target; `place` says where that is, and `look` is
    the command that shows what the change would be.
    """
    if not assistant.missing_consent:
        return
    raise WrongEnvironment(
        f"a coding assistant ({assistant.name}, known by {assistant.variable}) changes this "
        f"database only with a person's consent: {assistant.missing_consent}{place}",
        changed_nothing=True,
        next_step=f"Ask the person this question, with what `{look}` shows:"
        f"\n    May I {change.words} {target}?"
        "\nIf the answer allows it, run this with the answer word for word:"
        f'\n    {CONSENT_VARIABLE}="{CONSENT_PLACEHOLDER}" {change.command}',
    )


def _is_an_assistants(config: Config, history: History | None) -> bool:
    """Whether an assistant may change this database unasked: it is disposable, by all we know."""
    reach = config.url.reach
    environments = {config.environment, (history and last_migrated_as(history)) or "ci"}
    return reach is Reach.THIS_MACHINE or (
        reach is Reach.PRIVATE and environments <= _ASSISTANTS_ENVIRONMENTS
    )
