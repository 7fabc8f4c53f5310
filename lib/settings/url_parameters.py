"""The parameters of a database URL: which are obeyed, dropped or refused. Pure.

libpq refuses a URL with a parameter that it does not know, and hosting providers add those of other
drivers. These are dropped, unless the SQL would do something else without them.
"""

import re
from collections.abc import Iterable

from lib.errors import ConfigError

_LIBPQ_PARAMETERS = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout dbname
    fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives
    keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
    max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port replication require_auth requirepeer
    scram_client_key scram_server_key ssl_max_protocol_version ssl_min_protocol_version sslcert
    sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation
    sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user
    """.split()
)
# asyncpg, pgx, lib/pq and postgres.js send what they do not know to the server, as a setting of the
# session; other drivers have names of their own for some. libpq refuses them all, and without them
# the SQL would do something else.
_SETTINGS = r"""(?ix)
    allow_\w+ | array_nulls | back\w+ | bytea_output | check_\w+ | client_\w+ | commit_\w+
  | compute_\w+ | constraint_exclusion | cpu_\w+ | createrole_\w+ | currentschema | cursor_\w+
  | datestyle | deadlock_\w+ | debug_\w+ | default_(?!query_exec_mode)\w+ | dynamic_\w+
  | effective_\w+ | enable_\w+ | escape_string_\w+ | event_triggers | exit_on_error
  | extension_\w+ | extra_float_digits | file_copy_method | force_parallel_mode
  | from_collapse_limit | geqo\w* | gin_\w+ | hash_mem_multiplier | icu_\w+
  | idle_(?:in_transaction_)?session_timeout | ignore_(?:checksum|system)_\w+ | intervalstyle
  | io_\w+ | jit\w* | join_\w+ | lc_\w+ | lo_compat_privileges | local_preload_libraries
  | lock_timeout | log_\w+ | logical_\w+ | maintenance_\w+ | max_(?:parallel|stack)_\w+
  | md5_\w+ | min_(?:messages|parallel_\w+) | output_plugin_\w+ | parallel_\w+
  | password_encryption | plan_cache_mode | post_auth_delay | quote_all_identifiers
  | random_page_cost | readonly(?:mode)? | recursive_\w+ | restrict_\w+ | role | row_security
  | scram_iterations | (?:schema_)?search_path | searchpath | seq_page_cost | session_\w+
  | standard_conforming_strings | statement_timeout | stats_\w+ | synchron\w+
  | tcp_keepalives_\w+ | temp_\w+ | timezone\w* | trace_\w+ | track_\w+ | transaction_\w+
  | transform_\w+ | update_process_title | vacuum_\w+ | wal_\w+ | work_mem
  | xml(?:binary|option) | zero_damaged_pages
"""
_QUALIFIED_SETTING = r"\w+\.\w+|\w+\[.*"  # shop.tenant; options[search_path]
_SETTING_ADVICE = (
    "Remove it from the URL. On a direct connection, Postgres' own form works: "
    "options=-c%20NAME%3DVALUE. MIGRATION_SCHEMA names the history's schema; "
    "MIGRATION_LOCK_TIMEOUT and MIGRATION_STATEMENT_TIMEOUT set the limits."
)
SERVICE_ADVICE = "Name the database in a URL: Onward cannot show what a service file contains."
_REFUSED_PARAMETERS = {
    "service": SERVICE_ADVICE,
    "servicefile": SERVICE_ADVICE,
    "database": "The database's name is the URL's path: postgresql://user@host/database.",
    "unix_sock": "Write the directory of a socket as host=/run/postgresql.",
    "targetservertype": "Use Postgres' own form, target_session_attrs=primary.",
}
_WITHOUT_TLS = ("disable", "allow", "prefer")


def select_parameters(variable: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of the pairs that libpq takes.

    Raises ConfigError for one that can be neither obeyed nor dropped; the error names the parameter
    only if its name is one of a known list, since the text may be a part of a password.
    """
    selected: dict[str, str] = {}
    wants_tls = False
    for name, value in pairs:
        if problem := _problem(name, value):
            what, remedy = problem
            raise ConfigError(f"{variable} has {what}", next_step=remedy)
        if name in _LIBPQ_PARAMETERS and value:
            selected[name] = value
        wants_tls = wants_tls or (name, value) == ("ssl", "true")
    if wants_tls and selected.setdefault("sslmode", "require") in _WITHOUT_TLS:
        raise ConfigError(
            f"{variable} has both ssl=true and an sslmode that does not require TLS",
            next_step="Keep one of them.",
        )
    return selected


def _problem(name: str, value: str) -> tuple[str, str] | None:
    """Why a parameter can be neither obeyed nor dropped, and what to do."""
    if advice := _REFUSED_PARAMETERS.get(name.lower()):
        return f"the parameter {name}, which Onward does not support", advice
    if name in _LIBPQ_PARAMETERS or (name, value) in (("schema", "public"), ("ssl", "true")):
        return None
    if name.lower().startswith("ssl"):
        return (
            "an ssl parameter that libpq does not know",
            "Use sslmode and sslrootcert, such as sslmode=verify-full&sslrootcert=system.",
        )
    setting = _setting_in_words(name)
    return (setting, _SETTING_ADVICE) if setting else None


def _setting_in_words(name: str) -> str:
    """A parameter that other drivers send to the server as a setting; empty for any other."""
    if name == "schema":
        return "a schema parameter other than public, which Postgres does not know"
    if re.fullmatch(_SETTINGS, name):
        return f"the parameter {name}, a session setting that libpq does not take from a URL"
    if re.fullmatch(_QUALIFIED_SETTING, name):
        return "a parameter that other drivers send as a session setting"
    return ""
