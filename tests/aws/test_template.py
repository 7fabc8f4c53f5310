"""What template.yaml makes, read as it is written."""

from typing import Any

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


def template() -> dict[str, Any]:
    """The functions by name, their common properties under `Globals`, and what the outputs are."""
    document = yaml.load((ROOT / "template.yaml").read_text(), Tagged)
    functions = {name: resource["Properties"] for name, resource in document["Resources"].items()}
    outputs = {name: output["Value"] for name, output in document["Outputs"].items()}
    return functions | {"Globals": document["Globals"]["Function"], "Outputs": outputs}


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
