"""What template.yaml makes, read as it is written."""

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import ROOT


class Tagged(yaml.SafeLoader):  # type: ignore[misc]
    """Reads `!Ref X` as {"!Ref": "X"}."""


def tagged(loader: Any, suffix: str, node: yaml.Node) -> dict[str, Any]:
    found = (
        loader.construct_scalar(node)
        if node.id == "scalar"
        else loader.construct_sequence(node, deep=True)
    )
    return {f"!{suffix}": found}


Tagged.add_multi_constructor("!", tagged)


def read(name: str) -> Any:
    return yaml.load((ROOT / name).read_text(), Tagged)


def template() -> dict[str, Any]:
    """The functions by name, their common properties under `Globals`, and what the outputs are."""
    found = read("template.yaml")
    functions = {
        name: resource["Properties"]
        for name, resource in found["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    outputs = {name: output["Value"] for name, output in found["Outputs"].items()}
    return functions | {"Globals": found["Globals"]["Function"], "Outputs": outputs}


def test_strangers_cannot_use_up_the_instances_that_a_pipeline_invokes() -> None:
    found = template()
    common, outputs = found.pop("Globals"), found.pop("Outputs")
    public = [
        name
        for name, properties in found.items()
        if {"FunctionUrlConfig", "Events"} & set(properties)
    ]
    invoked = outputs["FunctionName"]["!Ref"]
    assert set(found) == {invoked, *public}
    assert invoked not in public
    assert outputs == {
        "FunctionName": {"!Ref": invoked},
        "Url": {"!GetAtt": f"{public[0]}Url.FunctionUrl"},
    }
    assert not {"FunctionUrlConfig", "ReservedConcurrentExecutions"} & set(common)
    reserved = {
        name: properties["ReservedConcurrentExecutions"] for name, properties in found.items()
    }
    assert reserved == {
        invoked: {"!If": ["ReservesConcurrency", 2, {"!Ref": "AWS::NoValue"}]},
        public[0]: {
            "!If": ["ReservesConcurrency", {"!Ref": "Concurrency"}, {"!Ref": "AWS::NoValue"}]
        },
    }


def test_only_the_function_that_asks_for_the_secret_has_it() -> None:
    found = template()
    variables = {
        name: set(found[name].get("Environment", {}).get("Variables", ())) for name in found
    }
    assert variables["Globals"] == {"MIGRATION_ENV", "MIGRATION_DATABASE_URL", "DATABASE_URL"}
    assert variables["PublicFunction"] == {"MIGRATION_SECRET", "MIGRATION_STATUS"}
    assert variables["Function"] == set()


def test_a_deploy_migrates_by_the_function_without_a_url() -> None:
    found = read("template.yaml")
    migrations = found["Resources"]["Migrations"]
    timeout = found["Globals"]["Function"]["Timeout"]
    assert migrations["Type"] == "Custom::Migrations"
    assert migrations["Properties"] == {
        "ServiceToken": {"!GetAtt": "Function.Arn"},
        "ServiceTimeout": timeout + 30,
        "Version": {"!Ref": "Version"},
    }
    condition = found["Conditions"][migrations["Condition"]]
    assert condition == {"!Not": [{"!Equals": [{"!Ref": "Version"}, "none"]}]}
    retries = found["Resources"]["Function"]["Properties"]["EventInvokeConfig"]
    assert retries == {"MaximumRetryAttempts": 0}


@pytest.mark.parametrize(
    ("version", "allowed"),
    [
        ("none", True),
        ("0123456789abcdef" * 4, True),
        ("", False),  # a command in the pipeline that printed nothing
        ("0123456789abcdef", False),
        ("v1.2.0", False),
        ("NONE", False),
    ],
)
def test_a_version_is_a_digest_or_none(version: str, allowed: bool) -> None:
    """A stack that is deployed without one, as before there was any, migrates nothing itself."""
    parameter = read("template.yaml")["Parameters"]["Version"]
    assert parameter["Default"] == "none"
    assert bool(re.fullmatch(parameter["AllowedPattern"], version)) is allowed
