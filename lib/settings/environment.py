"""Which environment this is, and what it may change. Pure."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from lib.errors import ConfigError
from lib.settings.environ import is_set, value_of

_ENVIRONMENT_VARIABLES = ("MIGRATION_ENV", "VERCEL_TARGET_ENV", "VERCEL_ENV")
_DEPLOY_VARIABLES = ("VERCEL_DEPLOYMENT_ID", "AWS_LAMBDA_FUNCTION_NAME")
# Under one of these names production would pass all guards for production.
_OTHER_NAMES_OF_PRODUCTION = ("prod", "prd", "live")
_NAME = r"(?a)[\w.-]{1,63}"


class Environment(NamedTuple):
    """The environment, and the variable that names it."""

    name: str
    source: str


def read_environment(environ: Mapping[str, str]) -> Environment:
    """The environment; `development` where nothing names one. Raises ConfigError.

    On a platform it is never guessed: there a missing name is an error.
    """
    on_vercel = is_set(environ, "VERCEL")
    # Vercel's functions run on Lambda, and have its variables too.
    on_lambda = bool(value_of(environ, "AWS_LAMBDA_FUNCTION_NAME")) and not on_vercel
    for variable in _ENVIRONMENT_VARIABLES[:1] if on_lambda else _ENVIRONMENT_VARIABLES:
        if value := value_of(environ, variable):
            _require_no_disguise(environ, variable, value)
            return Environment(_environment_name(variable, value), variable)
    if on_vercel:
        raise ConfigError(
            "cannot determine the environment: VERCEL is set, but neither VERCEL_TARGET_ENV nor "
            "VERCEL_ENV",
            next_step='Turn on "Automatically expose System Environment Variables" in the '
            "project's settings, or set MIGRATION_ENV.",
        )
    if on_lambda:
        raise ConfigError(
            "cannot determine the environment: on Lambda it must be set in MIGRATION_ENV",
            next_step="Set it in the function's configuration, for example to production.",
        )
    return Environment("development", "default")


def allowed_environments(environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """This environment, and those that MIGRATION_ENVIRONMENTS allows to apply migrations.

    None listed means that all may. Raises ConfigError.
    """
    setting = value_of(environ, "MIGRATION_ENVIRONMENTS")
    names = [name.strip() for name in setting.split(",") if name.strip()]
    if setting and not names:
        raise ConfigError(
            "MIGRATION_ENVIRONMENTS names no environment",
            next_step="Name at least one, or unset it to allow all.",
        )
    allowed = tuple(_environment_name("MIGRATION_ENVIRONMENTS", name) for name in names)
    return read_environment(environ).name, allowed


def read_claim(environ: Mapping[str, str]) -> str:
    """`environment@identity` of MIGRATION_CLAIM, empty where it is unset. Raises ConfigError.

    No error shows the value: it may be a secret that was set in the wrong variable.
    """
    claim = value_of(environ, "MIGRATION_CLAIM")
    if not claim:
        return ""
    environment, _, identity = claim.partition("@")
    if not (environment and identity):
        raise ConfigError(
            "MIGRATION_CLAIM must look like environment@identity",
            next_step="Copy the line that the refused run printed, or unset it.",
        )
    _require_full_name("MIGRATION_CLAIM", environment)
    return f"{environment.lower()}@{identity}"


def is_deploying(environ: Mapping[str, str]) -> bool:
    """Whether a platform or CI runs this, and not a person."""
    return is_set(environ, "CI") or any(value_of(environ, name) for name in _DEPLOY_VARIABLES)


def _require_no_disguise(environ: Mapping[str, str], variable: str, value: str) -> None:
    # Where MIGRATION_ENV=production is set for all of a project's environments, every preview
    # would pass for production.
    if variable != "MIGRATION_ENV" or value.lower() != "production":
        return
    platform = value_of(environ, "VERCEL_ENV").lower()
    if platform in ("preview", "development"):
        raise ConfigError(
            f"MIGRATION_ENV is production, but VERCEL_ENV is {platform}",
            next_step="Set MIGRATION_ENV for the Production environment only, or not at all.",
        )


def _environment_name(variable: str, name: str) -> str:
    _require_full_name(variable, name)
    if not re.fullmatch(_NAME, name):
        raise ConfigError(
            f"{variable} is {name!r}; a name has at most 63 letters, digits, dots, _ and -"
        )
    return name.lower()


def _require_full_name(variable: str, environment: str) -> None:
    name = environment.strip()
    if name.lower() in _OTHER_NAMES_OF_PRODUCTION:
        raise ConfigError(
            f"{variable} is {name}; the full name is production",
            next_step="Use production; set MIGRATION_ENV where the platform has another name.",
        )
