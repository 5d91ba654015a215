"""The GPU pool's job template, and `evocodec deploy`: what it fills in, and one clear line for each failure."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator

import boto3
import pytest
from cloud import REGION, STACK, Cloud, stack_template
from rich.console import Console
from running import Evocodec, aws_stand_in

from codec.errors import BadInputError
from flows.commands.deploy import TEMPLATE, deploy_command, filled_template
from flows.local import LocalLab

CLUSTER = f"arn:aws:ecs:{REGION}:123456789012:cluster/{STACK}"
NOBODY = "http://127.0.0.1:9/api"  # the port of `discard`: nothing listens


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    with aws_stand_in() as url:
        yield url


@pytest.fixture
def aws(aws_url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def create_stack(aws_url: str, name: str, **changed: str) -> dict[str, str]:
    client = boto3.client(
        "cloudformation",
        endpoint_url=aws_url,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_stack(StackName=name, TemplateBody=stack_template(CLUSTER, "subnet-1,subnet-2", "sg-1", **changed))
    outputs = client.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
    return {output["OutputKey"]: output["OutputValue"] for output in outputs}


def test_the_committed_template_is_what_the_installed_prefect_aws_gives(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(TEMPLATE.with_name("job_template.py")), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed == TEMPLATE.read_text(), "run: python infra/job_template.py > infra/gpu_job_template.json"


def test_a_filled_template_gives_the_worker_what_the_stack_has(aws_url: str) -> None:
    """Read by prefect-aws's own models, as a worker reads it."""
    from prefect_aws.workers.ecs_worker import ECSJobConfiguration, ECSVariables

    template = filled_template(STACK, create_stack(aws_url, "filled"), "v7")
    defaults = {
        name: field["default"] for name, field in template["variables"]["properties"].items() if "default" in field
    }
    variables = ECSVariables.model_validate({k: v for k, v in defaults.items() if k in ECSVariables.model_fields})
    assert (variables.launch_type, variables.match_latest_revision_in_family) == ("EC2", True)
    assert [item.capacityProvider for item in variables.capacity_provider_strategy] == [
        f"{STACK}-gpu-spot",
        f"{STACK}-gpu-on-demand",
    ]
    assert variables.cluster == CLUSTER
    assert variables.family == f"{STACK}-gpu"
    assert variables.image == f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{STACK}/gpu:v7"
    assert variables.cloudwatch_logs_options["awslogs-group"] == f"/{STACK}/gpu"
    assert defaults["subnets"] == ["subnet-1", "subnet-2"]
    assert defaults["security_groups"] == ["sg-1"]
    assert not {name for name in variables.env if "KEY" in name or "SECRET" in name}
    assert set(template["job_configuration"]) == set(ECSJobConfiguration.json_template())


@pytest.mark.parametrize(
    ("stack", "changed", "words"),
    [
        ("", {}, "no stack 'none' in this account and region: deploy infra/evocodec.yaml"),
        ("partial", {"LogGroupGpu": "", "SecurityGroupId": ""}, "no output LogGroupGpu, SecurityGroupId: update it"),
        ("unbuilt", {"ImageTag": "-"}, "has no image yet: push one, and update the stack with ImageTag"),
        ("garbled", {"GpuCapacityProviderStrategy": "spot"}, "GpuCapacityProviderStrategy is not a JSON list"),
        ("whole", {}, f"no Prefect server answers at {NOBODY}: open the tunnel"),
        ("own", {"PrefectApiUrl": f"{NOBODY}/own"}, f"no Prefect server answers at {NOBODY}/own: open the tunnel"),
    ],
)
def test_a_failure_is_one_line_with_the_remedy(
    aws_url: str,
    aws: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    stack: str,
    changed: dict[str, str],
    words: str,
) -> None:
    for name, value in aws.items():
        monkeypatch.setenv(name, value)
    if stack:
        create_stack(aws_url, stack, **changed)
    with pytest.raises(BadInputError) as raised:
        deploy_command("aws", Console(), server="" if stack == "own" else NOBODY, stack=stack or "none", image_tag="")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_region_the_command_says_so(evocodec: Evocodec, aws: dict[str, str]) -> None:
    environment = {name: value for name, value in aws.items() if name != "AWS_DEFAULT_REGION"}
    done = evocodec("deploy", "--target", "aws", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("evocodec: no AWS region: set AWS_REGION")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow  # a lab beside the one of tests/flows
def test_a_pool_of_another_type_is_not_replaced(
    evocodec: Evocodec, lab: LocalLab, aws_url: str, aws: dict[str, str]
) -> None:
    create_stack(aws_url, "typed")
    done = evocodec("deploy", "--target", "aws", "--stack", "typed", "--server", lab.api_url, **aws)
    assert done.returncode == 2
    assert "the work pool 'gpu' at" in done.stderr
    assert "prefect work-pool delete gpu" in done.stderr


@pytest.mark.slow
def test_deploying_again_brings_the_pool_up_to_date(cloud: Cloud) -> None:
    import httpx

    assert cloud.deploy("--image-tag", "v8").returncode == 0
    template = httpx.get(f"{cloud.api_url}/work_pools/gpu", timeout=10).json()["base_job_template"]
    assert template["variables"]["properties"]["image"]["default"].endswith("/gpu:v8")
    cloud.keep_files_in(cloud.folder / "tmp")
    deployments = httpx.post(f"{cloud.api_url}/deployments/filter", json={}, timeout=10).json()
    assert len(deployments) == 4
    assert json.dumps(template).count("AWS_SECRET") == 0
