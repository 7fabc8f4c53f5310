"""LocalStack in one process, without Docker: run by its own Python, `tests/platform/localstack.py`
starts it.

Two things are put in its place. A function's instance is the real runtime client, in the zip that
was deployed. And LocalStack does not write the results of a Distributed Map: here they are written
in the form that AWS documents.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from localstack.runtime.main import main
from localstack.services.lambda_.invocation import plugins, version_manager
from localstack.services.lambda_.invocation.lambda_models import InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor
from localstack.services.stepfunctions.asl.component.state.state_execution.state_map.iteration.itemprocessor.distributed_item_processor_worker import (  # noqa: E501
    DistributedItemProcessorWorker,
)
from localstack.services.stepfunctions.asl.component.state.state_execution.state_map.result_writer.resource_eval.resource_eval_s3 import (  # noqa: E501
    ResourceEvalS3,
)
from localstack.services.stepfunctions.asl.eval.program_state import ProgramError
from localstack.services.stepfunctions.backend.execution import Execution

from tests.platform.lambda_runtime import Function

PYTHON = Path(os.environ["ONWARD_FUNCTION_PYTHON"])
AWS = {
    "AWS_ENDPOINT_URL": f"http://{os.environ['GATEWAY_LISTEN']}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
}


class Instance(RuntimeExecutor):  # type: ignore[misc]
    """One execution environment of a function."""

    def start(self, env_vars: dict[str, str]) -> None:
        version = self.function_version
        version.config.code.prepare_for_execution()
        self._function = Function(
            PYTHON,
            Path(version.config.code.get_unzipped_code_location()),
            {**AWS, **version.config.environment},
            handler=version.config.handler,
        )
        self._function.timeout = version.config.timeout
        self._function.__enter__()

    def stop(self) -> None:
        self._function.__exit__()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        result = self._function.invoke(json.loads(payload["payload"] or "{}"))
        answer = result.payload
        if result.error:
            answer = {"errorType": result.error, **answer}
        encoded = json.dumps(answer).encode()
        return InvocationResult(payload["invoke-id"], encoded, bool(result.error), result.log)

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        return ""

    def get_logs(self) -> str:
        return ""

    @classmethod
    def prepare_version(cls, function_version: Any) -> None:
        function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: Any) -> None:
        """Nothing: a new configuration shares the code of the one before."""


children: dict[str, list[dict[str, Any]]] = {}
"""What came of each item, by the ARN of its Map Run."""
evaluate, write_manifest = (
    DistributedItemProcessorWorker._eval_job,
    ResourceEvalS3._handle_put_object,
)


def evaluate_and_keep(worker: Any, env: Any, job: Any) -> None:
    """Run one item and remember what came of it."""
    evaluate(worker, env, job)
    state = env.program_state()
    child = {"Input": json.dumps(job.job_input), "InputDetails": {"Included": True}}
    if isinstance(state, ProgramError):
        error = {name: state.error.get(name.lower()) for name in ("Error", "Cause")}
        child |= {**error, "Status": "FAILED"}
    else:
        child |= {"Output": json.dumps(job.job_output), "Status": "SUCCEEDED"}
    children.setdefault(worker._map_run_record.map_run_arn, []).append(child)


def write_results(env: Any, resource: Any, credentials: Any) -> None:
    """The manifest, with the files that AWS writes beside it."""
    write_manifest(env, resource, credentials)
    written = env.stack[-1]
    bucket, key = written["ResultWriterDetails"]["Bucket"], written["ResultWriterDetails"]["Key"]
    store = ResourceEvalS3._get_s3_client(resource, credentials)
    manifest = json.loads(store.get_object(Bucket=bucket, Key=key)["Body"].read())
    for status, files in manifest["ResultFiles"].items():
        found = [one for one in children.get(written["MapRunArn"], ()) if one["Status"] == status]
        if found:
            name = key.replace("manifest.json", f"{status}_0.json")
            body = json.dumps(found).encode()
            store.put_object(Bucket=bucket, Key=name, Body=body)
            files.append({"Key": name, "Size": len(body)})
    store.put_object(Bucket=bucket, Key=key, Body=json.dumps(manifest).encode())


plugins.DockerRuntimeExecutorPlugin.load = lambda *_, **__: Instance
DistributedItemProcessorWorker._eval_job = evaluate_and_keep
ResourceEvalS3._handle_put_object = staticmethod(write_results)
# Notifications and metrics, for services that need more packages, or time.
Execution.publish_execution_status_change_event = lambda _: None
version_manager.record_cw_metric_invocation = lambda **_: None
version_manager.record_cw_metric_error = lambda **_: None

if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    main()
