"""What can be a bearer secret: long and varied enough, and not a text that only says where a secret
is. Pure.
"""

from __future__ import annotations

import re

from lib.errors import ConfigError

SHORTEST, LONGEST = 32, 1024
_VARIETY = 10  # different characters; 16 random bytes in hex have 14 on average
# Whoever knows a repository or its documentation knows such texts: a reference that nothing here
# has resolved, and what a shell, a template or a person should have replaced. Passwords with
# punctuation look otherwise.
_PLACEHOLDER = (
    r"(?is)[a-z][a-z0-9+.-]+:[\w/.:@#!+=,~?&% -]+"  # secretsmanager:NAME, ssm:/NAME, op://VAULT/ITEM, arn:aws:...
    r"|.*(?:\$\{\w+(?:[:?+=-][^{}]*)?\}|\$\(\w+(?: [^()]*)?\)|\{\{[^{}]*\}\}).*"  # ${NAME}, $(command), {{resolve:...}}
    r"|<[^<>]+>|\[[^][]+\]|`[^`]+`|%\w+%|\$\w+|!\w+ .+|@[\w.]+\(.+\)|\w+\[.+\]"  # <secret>, $NAME, !Ref NAME, ENC[...]
    r"|projects/[^/]+/secrets/.+"
)


def bearer_secret(variable: str, text: str) -> bytes:
    """The bytes of a variable's value that can be a secret. Raises ConfigError that names the
    variable alone.
    """
    secret = text.encode(errors="surrogateescape")
    if not SHORTEST <= len(secret) <= LONGEST:
        problem = f"must have {SHORTEST} to {LONGEST} bytes"
    elif len(set(text)) < _VARIETY:
        problem = f"must have {_VARIETY} different characters or more"
    elif re.fullmatch(_PLACEHOLDER, text):
        problem = "is a reference or a placeholder that nothing here resolves, not a secret"
    else:
        return secret
    raise ConfigError(
        f"{variable} {problem}; set it to the output of `openssl rand -hex 32`, for example"
    )
