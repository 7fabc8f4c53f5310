"""Which values can be a bearer secret, and which only say where one is."""

import base64
import secrets
import uuid

import pytest

from lib.errors import ConfigError
from lib.web.auth import bearer_secret

PLACEHOLDERS = [
    "secretsmanager:onward#migration-secret",
    "secretsmanager:rds!db-4f1c9a52-7c1e-4a0e-9d52",
    "SecretsManager:onward#migration-secret",
    "ssm:/onward/production/migration-secret",
    "arn:aws:secretsmanager:eu-west-1:123456789012:secret:onward-AbCdEf",
    "arn:aws:ssm:eu-west-1:123456789012:parameter/onward/secret",
    "{{resolve:secretsmanager:onward:SecretString:migration-secret}}",
    "{{resolve:ssm-secure:/onward/migration-secret}}",
    "op://Production/Onward migration/credential",
    "vault:secret/data/onward#migration-secret",
    "projects/acme/secrets/migration-secret/versions/latest",
    "gcp-secret://projects/acme/secrets/onward",
    "file:///run/secrets/onward-migration-secret",
    "https://vault.example/v1/secret/onward",
    "postgresql://app:password@db.example:5432/app",
    "@Microsoft.KeyVault(SecretUri=https://acme.vault.azure.net/secrets/onward)",
    "ENC[AES256_GCM,data:p673w==,iv:YY=,aad:UQ=,tag:A=]",
    "${MIGRATION_SECRET_OF_PRODUCTION_2026}",
    "${MIGRATION_SECRET:-insert-the-secret-here}",
    "onward-${ENVIRONMENT}-secret-of-the-route",
    "$MIGRATION_SECRET_OF_PRODUCTION_2026",
    "%MIGRATION_SECRET_OF_PRODUCTION_2026%",
    "$(openssl rand -hex 32 | tr -d '\\n')",
    "$(aws secretsmanager get-secret-value\n  --secret-id onward)",
    "`openssl rand -hex 32 | tr -d newline`",
    "{{ secrets.MIGRATION_SECRET_OF_PRODUCTION }}",
    "${{ secrets.MIGRATION_SECRET_OF_PRODUCTION }}",
    "<insert the output of openssl rand -hex 32>",
    "[insert the output of openssl rand -hex 32]",
    "!Ref MigrationSecretOfTheProduction",
    "!Sub '${AWS::StackName}-migration-secret'",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_text_that_says_where_a_secret_is_is_none(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^MIGRATION_SECRET is a reference or a placeholder"
    ) as refused:
        bearer_secret("MIGRATION_SECRET", text)
    assert text not in refused.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must have 32 to 1024 bytes"),
        ("0123456789abcdef0123456789abcde", "must have 32 to 1024 bytes"),
        ("0123456789abcdef" * 65, "must have 32 to 1024 bytes"),
        ("x" * 64, "must have at least 10 different characters"),
        ("012345678" * 8, "must have at least 10 different characters"),
        ("changeme" * 8, "must have at least 10 different characters"),
        ("é" * 32, "must have at least 10 different characters"),
    ],
)
def test_a_short_a_long_or_a_monotonous_text_is_none(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^MIGRATION_SECRET_PREVIOUS {problem}") as refused:
        bearer_secret("MIGRATION_SECRET_PREVIOUS", text)
    assert "openssl rand -hex 32" in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef" * 2,
        "0123456789abcdef" * 64,
        "sk_live_51H8xK2eZvKYlo2C9aQ7b3TzD",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvbndhcmQifQ.4fK2-_9xQ7b3TzD1",
        "correct horse battery staple, and one more",
        "Zürich-Köln-Ærø-Ñandú-47-und-zurück",
        "q}x{$p7(w)!k<2>%r[5]t@u&v*z^y~s=n",
        'k#9:F"v{2}m(8)$t<Q>%w!&e[z]`p^|c~',
    ],
)
def test_what_somebody_has_generated_is_one(text: str) -> None:
    assert bearer_secret("MIGRATION_SECRET", text) == text.encode()


def test_the_bytes_of_a_secret_count_and_not_its_characters() -> None:
    wide = "àáâãäåæçèéêëìíîï"
    assert bearer_secret("MIGRATION_SECRET", wide) == wide.encode()
    for text in (wide[:-1], wide * 33):
        with pytest.raises(ConfigError, match="must have 32 to 1024 bytes"):
            bearer_secret("MIGRATION_SECRET", text)


def test_a_secret_need_not_be_text() -> None:
    """As Python has a variable whose bytes are no UTF-8."""
    secret = b"\xff\xfe" + secrets.token_bytes(64).hex().encode()
    assert bearer_secret("MIGRATION_SECRET", secret.decode(errors="surrogateescape")) == secret


def test_what_generators_make_is_one() -> None:
    for _ in range(1000):
        made = [
            secrets.token_hex(32),
            secrets.token_urlsafe(32),
            base64.b64encode(secrets.token_bytes(32)).decode(),
        ]
        for text in (*made, f"{uuid.uuid4()}{uuid.uuid4()}"):
            assert bearer_secret("MIGRATION_SECRET", text) == text.encode()
