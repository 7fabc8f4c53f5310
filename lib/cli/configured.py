"""The settings of a command, with its options; and the consent that it may need."""

from __future__ import annotations

from types import SimpleNamespace

from lib.cli.output import Terminal
from lib.consent import Change, require_consent
from lib.events import Emit
from lib.guard import require_confirmed_production
from lib.report.text import consent_text, event_text
from lib.settings.assistant import CONSENT_VARIABLE
from lib.settings.config import Config, read_config
from lib.settings.environ import env_file_with


def config_of(options: SimpleNamespace, terminal: Terminal) -> Config:
    """The Config of a command that only reads. Raises ConfigError, FilesError."""
    config = read_config(terminal.environ)
    return config._replace(
        allow_out_of_order=config.allow_out_of_order or options.allow_out_of_order,
        allow_nonempty=config.allow_nonempty or options.allow_nonempty,
    )


def config_to_write(options: SimpleNamespace, terminal: Terminal, change: Change) -> Config:
    """The Config of a command that writes. Raises WrongEnvironment, before connecting.

    The log of a change that a coding assistant makes begins with the words that it was given.
    """
    config = config_of(options, terminal)
    require_confirmed_production(config, confirmed=options.production)
    return with_consent(config, options, terminal, change)


def with_consent(
    config: Config, options: SimpleNamespace, terminal: Terminal, change: Change
) -> Config:
    """The Config, if nobody or a person has to allow the change. Raises WrongEnvironment."""
    if config.assistant:
        if file := env_file_with(CONSENT_VARIABLE):
            terminal.info(f"⚠️  {CONSENT_VARIABLE} in {file} is ignored: consent is for one command")
        require_consent(config, change._replace(command=_command_line(options)))
        terminal.info(consent_text(config.assistant))
    return config


def _command_line(options: SimpleNamespace) -> str:
    import shlex  # noqa: PLC0415 - a build does not need it

    return shlex.join(["scripts/migrate.py", *options.arguments])


def emit_to(terminal: Terminal, config: Config) -> Emit:
    """What shows the events of a run."""
    return lambda event: terminal.info(event_text(config, event))
