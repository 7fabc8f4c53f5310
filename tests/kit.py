"""URLs and helpers that the tests of the settings share."""

import traceback

from lib.settings.config import Config, read_config
from lib.settings.database_url import DatabaseURL, parse_url

LOCAL = "postgresql://me:secret@localhost/app"


NEON = "postgresql://me:secret@ep-cool-1{}.eu-central-1.aws.neon.tech/neondb?sslmode=require"


SUPABASE = "postgres://postgres.{}:secret@aws-0-eu-central-1.pooler.supabase.com:{}/postgres"


CANARY = "kanarie7"


def config(**environ: str) -> Config:
    return read_config({"DATABASE_URL": LOCAL, **environ})


def parsed(url: str, **environ: str) -> DatabaseURL:
    return parse_url("DATABASE_URL", url, environ)


def parameters(url: str, **environ: str) -> dict[str, str]:
    return dict(parsed(url, **environ).parameters)


def everything(error: BaseException) -> str:
    """All that a careless printer could show of an error."""
    chain = [error, error.__cause__, error.__context__]
    return "".join(traceback.format_exception(error)) + "".join(
        f"{one} {one!r} {getattr(one, '__dict__', '')}" for one in chain
    )
