"""`evocodec deploy`: what a Prefect server must know before it can run campaigns: the two work pools, the deployments.

`local` makes process pools where there are none. `aws` makes the `gpu` pool one of ECS tasks, by
infra/gpu_job_template.json filled with what the CloudFormation stack says of itself. The deployments are prefect.yaml's
either way. Deploying again brings everything up to date and changes nothing else.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

import httpx
from rich.console import Console

from codec.errors import BadInputError, EvocodecError
from flows.local import DEPLOY_FILE, POOLS, prefect_api

TEMPLATE = DEPLOY_FILE.parent / "infra" / "gpu_job_template.json"
DEFAULT_SERVER = "http://127.0.0.1:4200/api"
NEEDED_OUTPUTS = (
    "ClusterArn",
    "GpuCapacityProviderStrategy",
    "GpuExecutionRoleArn",
    "GpuRepositoryUri",
    "GpuTaskRoleArn",
    "ImageTag",
    "LogGroupGpu",
    "SecurityGroupId",
    "SubnetIds",
)

NO_IMAGE = "-"  # what the stack says while its ImageTag is empty


def deploy_command(
    target: Literal["local", "aws"], console: Console, *, server: str, stack: str, image_tag: str
) -> None:
    """Raises BadInputError where the server or the stack cannot be used, EvocodecError where registering failed."""
    outputs = stack_outputs(stack) if target == "aws" else {}
    api_url = server or outputs.get("PrefectApiUrl", "") or DEFAULT_SERVER
    template = filled_template(stack, outputs, image_tag) if target == "aws" else None
    _require_answer(api_url, target)
    with prefect_api(api_url):
        asyncio.run(_create_pools(api_url, template))
    _register(api_url)
    made_of = "ECS tasks" if template else "processes"
    console.print(f"{api_url}: work pools {' and '.join(POOLS)} ({made_of} for gpu), deployments registered")


def stack_outputs(stack: str) -> dict[str, str]:
    """The outputs of a CloudFormation stack. Raises BadInputError with the remedy where they cannot be had."""
    import boto3  # type: ignore[import-untyped]
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        NoRegionError,
    )

    try:
        found = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    except NoRegionError as error:
        raise BadInputError("no AWS region: set AWS_REGION, or AWS_PROFILE to a profile that has one") from error
    except NoCredentialsError as error:
        raise BadInputError("no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret") from error
    except ClientError as error:
        if "does not exist" in str(error):
            raise BadInputError(f"no stack {stack!r} in this account and region: deploy infra/evocodec.yaml") from error
        raise BadInputError(f"the stack {stack!r} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise BadInputError(f"AWS cannot be asked about the stack {stack!r}: {error}") from error
    if not found["StackStatus"].endswith("_COMPLETE") or found["StackStatus"] == "ROLLBACK_COMPLETE":
        raise BadInputError(f"the stack {stack!r} is {found['StackStatus']}: wait for it, or deploy it again")
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}


def filled_template(stack: str, outputs: Mapping[str, str], image_tag: str) -> dict[str, Any]:
    """The `gpu` pool's base job template for this stack. Raises BadInputError where an output is missing."""
    missing = [name for name in NEEDED_OUTPUTS if not outputs.get(name)]
    if missing:
        raise BadInputError(f"the stack {stack!r} has no output {', '.join(missing)}: update it to infra/evocodec.yaml")
    tag = image_tag or outputs["ImageTag"]
    if tag == NO_IMAGE:
        raise BadInputError(f"the stack {stack!r} has no image yet: push one, and update the stack with ImageTag")
    template: dict[str, Any] = copy.deepcopy(json.loads(TEMPLATE.read_text()))
    properties = template["variables"]["properties"]
    log_group = outputs["LogGroupGpu"]
    region = outputs["ClusterArn"].split(":")[3]
    values = {
        "cluster": outputs["ClusterArn"],
        "family": log_group.strip("/").replace("/", "-"),  # /NAME/gpu is the log group of the family NAME-gpu
        "image": f"{outputs['GpuRepositoryUri']}:{tag}",
        "task_role_arn": outputs["GpuTaskRoleArn"],
        "execution_role_arn": outputs["GpuExecutionRoleArn"],
        "capacity_provider_strategy": _strategy(stack, outputs["GpuCapacityProviderStrategy"]),
        "subnets": outputs["SubnetIds"].split(","),
        "security_groups": outputs["SecurityGroupId"].split(","),
        # The group is the stack's: the task's role need not be allowed to make one.
        "cloudwatch_logs_options": {"awslogs-group": log_group, "awslogs-create-group": "false"},
        "env": properties["env"]["default"] | {"AWS_REGION": region, "AWS_DEFAULT_REGION": region},
    }
    for name, value in values.items():
        properties[name]["default"] = value
    return template


def _strategy(stack: str, text: str) -> list[dict[str, Any]]:
    """The output is JSON as ECS takes it: [{"capacityProvider": …, "weight": …, "base": …}, …]."""
    try:
        return [
            {
                "capacityProvider": str(item["capacityProvider"]),
                "weight": int(item.get("weight", 1)),
                "base": int(item.get("base", 0)),
            }
            for item in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(
            f"the stack {stack!r}: GpuCapacityProviderStrategy is not a JSON list of capacity providers: {text!r}"
        ) from error


def _require_answer(api_url: str, target: str) -> None:
    remedy = "start one with `evocodec up`" if target == "local" else "open the tunnel to it, see infra/README.md"
    try:
        if httpx.get(f"{api_url}/health", timeout=10).json() is True:
            return
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        pass
    raise BadInputError(f"no Prefect server answers at {api_url}: {remedy}, or name it with --server")


async def _create_pools(api_url: str, gpu_template: dict[str, Any] | None) -> None:
    """Process pools where there is none; `gpu` by the template where one is given, also over an older one."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    async with get_client() as client:
        for pool in POOLS:
            template = gpu_template if pool == "gpu" else None
            wanted = "ecs" if template else "process"
            try:
                found = await client.read_work_pool(pool)
            except ObjectNotFound:
                base = template or ProcessWorker.get_default_base_job_template()
                await client.create_work_pool(WorkPoolCreate(name=pool, type=wanted, base_job_template=base))
                continue
            if template is None:
                continue  # whatever its owner made of it
            if found.type != wanted:
                raise BadInputError(
                    f"the work pool {pool!r} at {api_url} is of type {found.type}, not {wanted}, and a type cannot be "
                    f"changed: delete it with `prefect work-pool delete {pool}`, or use another server"
                )
            await client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))


def _register(api_url: str) -> None:
    environment = os.environ | {"PREFECT_API_URL": api_url, "PREFECT_CLI_PROMPT": "false", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        env=environment,
        cwd=DEPLOY_FILE.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines() or [f"code {done.returncode}"]
        raise EvocodecError(f"the deployments could not be registered at {api_url}: {lines[-1].strip()}")
