import pytest

from lib.errors import ConfigError
from lib.settings.config import read_config
from lib.settings.environment import allowed_environments
from tests.kit import LOCAL, config, everything

# Which environment


@pytest.mark.parametrize(
    ("environ", "environment", "source"),
    [
        ({}, "development", "default"),
        (
            {"MIGRATION_ENV": "staging", "VERCEL_TARGET_ENV": "a", "VERCEL_ENV": "b"},
            "staging",
            "MIGRATION_ENV",
        ),
        (
            {"MIGRATION_ENV": " ", "VERCEL_TARGET_ENV": "qa", "VERCEL_ENV": "preview"},
            "qa",
            "VERCEL_TARGET_ENV",
        ),
        (
            {"VERCEL": "1", "VERCEL_TARGET_ENV": "", "VERCEL_ENV": "production"},
            "production",
            "VERCEL_ENV",
        ),
        ({"MIGRATION_ENV": "Production"}, "production", "MIGRATION_ENV"),
        ({"MIGRATION_ENV": "prod-eu"}, "prod-eu", "MIGRATION_ENV"),
        ({"VERCEL": "1", "MIGRATION_ENV": "a.b_c-1"}, "a.b_c-1", "MIGRATION_ENV"),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "MIGRATION_ENV": "production"},
            "production",
            "MIGRATION_ENV",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "VERCEL": "1", "VERCEL_ENV": "preview"},
            "preview",
            "VERCEL_ENV",
        ),
    ],
)
def test_the_environment_is_named_by_the_first_variable(
    environ: dict[str, str], environment: str, source: str
) -> None:
    found = config(**environ)
    assert (found.environment, found.environment_source) == (environment, source)
    assert found.production == (environment == "production")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"VERCEL": "1"},
            "the environment: VERCEL is set, but neither VERCEL_TARGET_ENV nor VERCEL_ENV",
        ),
        (
            {"VERCEL": "1", "VERCEL_ENV": " ", "AWS_LAMBDA_FUNCTION_NAME": "f"},
            "VERCEL is set, but neither",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f"},
            "cannot determine the environment: on Lambda it must be set in MIGRATION_ENV",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "VERCEL_ENV": "production"},
            "cannot determine the environment: on Lambda",
        ),
        (
            {"MIGRATION_ENV": "my prod"},
            "MIGRATION_ENV is 'my prod'; a name has at most 63 letters, digits, dots, _ and -",
        ),
        ({"VERCEL_TARGET_ENV": "größe"}, "VERCEL_TARGET_ENV is 'größe'; a name has at most"),
        ({"MIGRATION_ENV": " Prod "}, "MIGRATION_ENV is Prod; the full name is production"),
        ({"VERCEL_TARGET_ENV": "prd"}, "VERCEL_TARGET_ENV is prd; the full name is production"),
        ({"VERCEL": "1", "VERCEL_ENV": "LIVE"}, "VERCEL_ENV is LIVE; the full name is production"),
        (
            {"MIGRATION_ENV": "production", "VERCEL_ENV": "preview"},
            "is production, but VERCEL_ENV is preview",
        ),
        (
            {"MIGRATION_ENV": "Production", "VERCEL_ENV": "Development"},
            "is production, but VERCEL_ENV is development",
        ),
        (
            {"MIGRATION_ENVIRONMENTS": "preview, prod"},
            "MIGRATION_ENVIRONMENTS is prod; the full name is production",
        ),
        (
            {"MIGRATION_CLAIM": "Live @123/app"},
            "MIGRATION_CLAIM is Live; the full name is production",
        ),
        ({"MIGRATION_ENV": "x" * 64}, "a name has at most"),
    ],
)
def test_an_environment_is_never_guessed(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**environ)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("environ", "deploying"),
    [
        ({}, False),
        ({"VERCEL": "1", "VERCEL_ENV": "production"}, False),
        ({"CI": "false"}, False),
        ({"CI": ""}, False),
        ({"CI": "1"}, True),
        ({"CI": "woodpecker"}, True),
        ({"VERCEL_DEPLOYMENT_ID": "dpl_1"}, True),
        ({"VERCEL_DEPLOYMENT_ID": ""}, False),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f", "MIGRATION_ENV": "qa"}, True),
    ],
)
def test_a_platform_or_ci_is_told_from_a_person(environ: dict[str, str], deploying: bool) -> None:
    found = config(**environ)
    assert (found.deploying, found.applied_by) == (deploying, "build" if deploying else "cli")
    assert read_config({"DATABASE_URL": LOCAL, **environ}, applied_by="api").applied_by == "api"


# Whose database


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("", ""),
        (" ", ""),
        (" preview@123/app ", "preview@123/app"),
        ("Preview@123/App", "preview@123/App"),
        ("preview@123/a@b c/ep-cool-1", "preview@123/a@b c/ep-cool-1"),
    ],
)
def test_a_claim_is_an_environment_and_an_identity(claim: str, expected: str) -> None:
    assert config(MIGRATION_CLAIM=claim).claim == expected


@pytest.mark.parametrize(
    "claim", ["preview", "@", "preview@", " preview@ ", "@123/app", "kanarie7:123/app"]
)
def test_a_claim_of_half_a_pair_is_refused_and_not_shown(claim: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^MIGRATION_CLAIM must look like environment@identity$"
    ) as caught:
        config(MIGRATION_CLAIM=claim)
    assert "kanarie7" not in everything(caught.value)


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        ("", ()),
        (" ", ()),
        ("production", ("production",)),
        (" Production , qa-2 ", ("production", "qa-2")),
        ("production,,development,", ("production", "development")),
    ],
)
def test_environments_are_names_with_commas_between(
    environments: str, expected: tuple[str, ...]
) -> None:
    environ = {"MIGRATION_ENVIRONMENTS": environments, "VERCEL_ENV": "Preview"}
    assert config(**environ).environments == expected
    assert allowed_environments(environ) == ("preview", expected), "without any URL"


@pytest.mark.parametrize(
    "name", ["production development", "production;preview", "größe", "x" * 64]
)
def test_environments_with_what_cannot_be_a_name_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^MIGRATION_ENVIRONMENTS is '.*'; a name has at most"):
        config(MIGRATION_ENVIRONMENTS=f"production,{name}")
