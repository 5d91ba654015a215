"""A laboratory on AWS, all of it on loopback: moto, the stand-in agent, a Prefect server, the real ECS worker."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from running import EVOCODEC, clean_environment

from flows.local import free_port, prefect_api

AGENT = Path(__file__).with_name("agent.py")
REGION = "us-east-1"
STACK = "evocodec"
BUCKET = f"{STACK}-123456789012-{REGION}"
QUEUE = f"{STACK}-ecs-events"
START_SECONDS = 180
PR_SET_PDEATHSIG = 1


def within(seconds: float, condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails where there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def stack_template(cluster: str, subnet: str, security_group: str, **changed: str) -> str:
    """A stack of the real one's outputs; what they name is made by hand, as moto needs it."""
    role = "arn:aws:iam::123456789012:role"
    outputs = {
        "ClusterArn": cluster,
        "BucketName": BUCKET,
        "StoreUri": f"s3://{BUCKET}/store",
        "GpuTaskRoleArn": f"{role}/{STACK}-gpu-task",
        "GpuExecutionRoleArn": f"{role}/{STACK}-gpu-execution",
        "GpuRepositoryUri": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{STACK}/gpu",
        "ImageTag": "v7",
        "EventQueueName": QUEUE,
        "LogGroupGpu": f"/{STACK}/gpu",
        "SubnetIds": subnet,
        "SecurityGroupId": security_group,
        "GpuCapacityProviderStrategy": json.dumps(
            [
                {"capacityProvider": f"{STACK}-gpu-spot", "weight": 1, "base": 0},
                {"capacityProvider": f"{STACK}-gpu-on-demand", "weight": 0, "base": 0},
            ]
        ),
    } | changed
    return json.dumps(
        {
            "Resources": {"Events": {"Type": "AWS::SQS::Queue"}},
            "Outputs": {name: {"Value": value} for name, value in outputs.items() if value},
        }
    )


def end_with_parent() -> None:
    """Whoever kills the tests leaves nothing running."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Cloud:
    """Its parts are processes; each can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port(None)
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        self.aws_url = ""
        self.orders = ""
        self.cluster = ""

    # Environments

    def aws_environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.aws_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def environment(self) -> dict[str, str]:
        """Of a person, or a worker, who may use both AWS and the Prefect server."""
        return (
            clean_environment()
            | self.aws_environment()
            | {
                "PREFECT_HOME": str(self.folder / "prefect"),
                "PREFECT_API_URL": self.api_url,
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
                "NO_COLOR": "1",
            }
        )

    def client(self, service: str) -> Any:
        environment = self.aws_environment()
        return boto3.client(
            service,
            endpoint_url=self.aws_url,
            region_name=REGION,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )

    # Parts

    def start_aws(self) -> None:
        process = self._spawn("agent", [str(AGENT)], clean_environment(), stdout=subprocess.PIPE)
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        self.aws_url, self.orders = addresses["aws"], addresses["orders"]
        self.client("s3").create_bucket(Bucket=BUCKET)
        self.client("sqs").create_queue(QueueName=QUEUE)
        self.cluster = self.client("ecs").create_cluster(clusterName=STACK)["cluster"]["clusterArn"]
        image = self.client("ec2").describe_images()["Images"][0]["ImageId"]
        launched = self.client("ec2").run_instances(ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)
        document = json.dumps({"instanceId": launched["Instances"][0]["InstanceId"]})
        self.client("ecs").register_container_instance(cluster=STACK, instanceIdentityDocument=document)
        self.client("cloudformation").create_stack(StackName=STACK, TemplateBody=self.stack())

    def stack(self, **changed: str) -> str:
        ec2 = self.client("ec2")
        subnet = ec2.describe_subnets()["Subnets"][0]
        groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}])
        return stack_template(self.cluster, subnet["SubnetId"], groups["SecurityGroups"][0]["GroupId"], **changed)

    def start_server(self) -> None:
        environment = self.environment() | {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder / 'prefect.db'}",
            "PREFECT_API_DATABASE_TIMEOUT": "60",
        }
        server = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self._spawn("server", server, environment)
        within(START_SECONDS, self.answers, "the Prefect server answers")

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def keep_files_in(self, folder: Path) -> None:
        """A task's tmpfs, which here is one of this machine's folders."""
        with prefect_api(self.api_url), get_client(sync_client=True) as client:
            template = client.read_work_pool("gpu").base_job_template
            template["variables"]["properties"]["env"]["default"] |= {"HOME": str(folder), "PREFECT_HOME": str(folder)}
            client.update_work_pool("gpu", WorkPoolUpdate(base_job_template=template))

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [EVOCODEC, "deploy", "--target", "aws", "--server", self.api_url, *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120)

    def start_worker(self, pool: str, kind: str) -> None:
        worker = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", kind]
        environment = self.environment() | {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "2",
            "PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": QUEUE,
            "PREFECT_CLIENT_MAX_RETRIES": "8",
        }
        self._spawn(f"worker-{pool}", worker, environment)

    def kill(self, name: str) -> None:
        part = self.parts.pop(name)
        os.killpg(part.pid, signal.SIGKILL)
        part.wait()

    def stop(self) -> None:
        for part in self.parts.values():
            os.killpg(part.pid, signal.SIGTERM)
        for part in self.parts.values():
            try:
                part.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(part.pid, signal.SIGKILL)
                part.wait()

    def _spawn(
        self, name: str, arguments: list[str], environment: dict[str, str], stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.parts[name] = process
        return process

    # What a test asks of the agent

    def order(self, path: str) -> None:
        httpx.post(f"{self.orders}{path}", timeout=30).raise_for_status()

    def tasks(self) -> list[dict[str, Any]]:
        return list(httpx.get(f"{self.orders}/tasks", timeout=30).json())

    def running(self) -> list[dict[str, Any]]:
        return [task for task in self.tasks() if task["status"] == "RUNNING"]

    def all_over(self) -> bool:
        return all(task["status"] == "STOPPED" for task in self.tasks())
