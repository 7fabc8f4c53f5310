"""Texts that stand where a secret should be. Pure."""

import re

# Such texts stand in a repository or in its documentation, so many people know them: a reference
# that nothing has resolved, or what a shell, a template or a person should have replaced. Real
# passwords with punctuation look different.
_PLACEHOLDERS = (
    # A reference: secretsmanager:NAME, ssm:/NAME, op://VAULT/ITEM, arn:aws:...
    r"[a-z][a-z0-9+.-]+:[\w/.:@#!+=,~?&% -]+",
    r"projects/[^/]+/secrets/.+",
    # Something to replace within a text: ${NAME}, $(command), {{resolve:...}}
    r".*\$\{\w+(?:[:?+=-][^{}]*)?\}.*",
    r".*\$\(\w+(?: [^()]*)?\).*",
    r".*\{\{[^{}]*\}\}.*",
    # Nothing but something to replace: <secret>, [secret], `command`, %NAME%, $NAME
    r"<[^<>]+>",
    r"\[[^][]+\]",
    r"`[^`]+`",
    r"%\w+%",
    r"\$\w+",
    # !Ref NAME, @Microsoft.KeyVault(...), ENC[...]
    r"!\w+ .+",
    r"@[\w.]+\(.+\)",
    r"\w+\[.+\]",
)


def is_placeholder(text: str) -> bool:
    """Whether it only says where a secret is, or what is to be put in its place."""
    flags = re.IGNORECASE | re.DOTALL
    return any(re.fullmatch(pattern, text, flags) for pattern in _PLACEHOLDERS)
