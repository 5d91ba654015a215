"""What is deployed and what is not, on a server that speaks AWS's API: each part missing in turn."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import boto3
import botocore.loaders
import botocore.session
import pytest
from running import Evocodec, aws_stand_in

from flows.commands.doctor import Finding
from flows.commands.doctor_aws import QUOTAS, diagnose_aws

REGION = "eu-central-1"
ACCOUNT = "123456789012"
BUCKET = f"evocodec-{ACCOUNT}-{REGION}"
SECRET = "sk-ant-not-to-be-seen"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
SERVER_KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
# Reading the descriptions of nine services takes most of a diagnosis: once is enough for all tests.
LOADER = botocore.loaders.create_loader()
TEMPLATE = {
    "Parameters": {"Name": {"Type": "String", "Default": "evocodec"}},
    "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    "Outputs": {"BucketName": {"Value": BUCKET}, "EventQueueName": {"Value": "evocodec-ecs-events"}},
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws_stand_in() as url:
        yield url


class _Pools(BaseHTTPRequestHandler):
    """The one answer of a Prefect server that is asked for."""

    kinds: ClassVar[dict[str, str]] = {}
    asked_with: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        kind = self.kinds.get(self.path.rsplit("/", 1)[-1])
        self.asked_with.append(self.headers.get("Authorization"))
        self.send_response(200 if kind else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"type": kind}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def prefect() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pools) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@functools.cache
def client_of(service: str, endpoint: str) -> Any:
    return boto3.client(service, REGION, endpoint_url=endpoint, **SERVER_KEYS)


class Aws:
    """All that infra/evocodec.yaml makes, less what a test leaves out."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def client(self, service: str) -> Any:
        return client_of(service, self.endpoint)

    def deploy(self, *, without: str = "") -> None:
        parts: dict[str, Callable[[], object]] = {
            "stack": lambda: self.client("cloudformation").create_stack(
                StackName="evocodec", TemplateBody=json.dumps(TEMPLATE)
            ),
            "bucket": lambda: self.client("s3").create_bucket(
                Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
            ),
            "encryption": self._encrypt,
            "cluster": lambda: self.client("ecs").create_cluster(clusterName="evocodec"),
            "providers": self._providers,
            "image gpu": lambda: self._image("gpu"),
            "image loop": lambda: self._image("loop"),
            "event queue": lambda: self.client("sqs").create_queue(QueueName="evocodec-ecs-events"),
            "log gpu": lambda: self.client("logs").create_log_group(logGroupName="/evocodec/gpu"),
            "log loop": lambda: self.client("logs").create_log_group(logGroupName="/evocodec/loop"),
            "secret": lambda: self.client("secretsmanager").create_secret(
                Name="evocodec/model-keys", SecretString=json.dumps({"ANTHROPIC_API_KEY": SECRET})
            ),
        }
        needs = {"encryption": "bucket", "providers": "cluster"}
        for name, make in parts.items():
            if without not in (name, needs.get(name)):
                make()

    def _encrypt(self) -> None:
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        self.client("s3").put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]})

    def _providers(self) -> None:
        names = ["evocodec-gpu-spot", "evocodec-gpu-on-demand"]
        for name in names:
            self.client("ecs").create_capacity_provider(
                name=name, autoScalingGroupProvider={"autoScalingGroupArn": f"arn:aws:autoscaling:::{name}"}
            )
        self.client("ecs").put_cluster_capacity_providers(
            cluster="evocodec", capacityProviders=names, defaultCapacityProviderStrategy=[]
        )

    def _image(self, which: str) -> None:
        ecr = self.client("ecr")
        ecr.create_repository(repositoryName=f"evocodec/{which}")
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": f"sha256:{which}"}, "layers": []}
        ecr.put_image(repositoryName=f"evocodec/{which}", imageManifest=json.dumps(manifest), imageTag="v1")


@pytest.fixture
def aws(endpoint: str, prefect: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Nothing deployed yet, the quotas high enough, both pools there."""
    import httpx
    from moto.servicequotas.models import ServiceQuotasBackend

    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint, "PREFECT_API_URL": prefect}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", lambda path=None: LOADER)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    _Pools.kinds = {"cpu": "process", "gpu": "ecs"}
    # The server knows the quotas of VPC only.
    monkeypatch.setattr(
        ServiceQuotasBackend,
        "get_service_quota",
        lambda self, service_code, quota_code: {"QuotaCode": quota_code, "Value": 8.0},
    )
    yield Aws(endpoint)
    httpx.post(f"{endpoint}/moto-api/reset").raise_for_status()


def by_part(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.part: finding for finding in findings}


def test_all_is_well_where_all_is_deployed(aws: Aws, evocodec: Evocodec, endpoint: str, prefect: str) -> None:
    aws.deploy()
    environment = KEYS | {"AWS_ENDPOINT_URL": endpoint, "PREFECT_API_URL": prefect}
    found = diagnose_aws("evocodec", REGION)
    assert [finding for finding in found if not finding.ok] == []
    said = {finding.part: finding.text for finding in found}
    assert said["bucket"] == f"s3://{BUCKET}/store is encrypted and writable"
    assert said["quota spot"] == "8 vCPUs: 2 g4dn.xlarge at once"
    assert said["image gpu"] == "evocodec/gpu: v1"
    assert said["pool gpu"] == f"type ecs at {prefect}"
    assert "Contents" not in aws.client("s3").list_objects_v2(Bucket=BUCKET)
    result = evocodec("doctor", "--aws", "--region", REGION, **environment)
    assert result.returncode == 0, result.stdout
    assert SECRET not in result.stdout + result.stderr
    assert "evocodec/model-keys holds ANTHROPIC_API_KEY" in result.stdout
    for finding in found:
        assert f"{finding.part:<16} {finding.text}" in result.stdout


MISSING = {
    "stack": ("stack", "deploy infra/evocodec.yaml"),
    "bucket": ("bucket", "does not exist: deploy the stack again"),
    "cluster": ("cluster", "no active cluster 'evocodec'"),
    "providers": ("gpu capacity", "lacks evocodec-gpu-spot, evocodec-gpu-on-demand"),
    "image gpu": ("image gpu", "no repository evocodec/gpu"),
    "image loop": ("image loop", "no repository evocodec/loop"),
    "event queue": ("event queue", "no queue evocodec-ecs-events"),
    "log gpu": ("log gpu", "no log group /evocodec/gpu"),
    "log loop": ("log loop", "no log group /evocodec/loop"),
    "secret": ("model keys", "no secret evocodec/model-keys"),
}


@pytest.mark.parametrize("left_out", MISSING)
def test_what_is_missing_is_named_with_its_remedy(aws: Aws, left_out: str) -> None:
    aws.deploy(without=left_out)
    part, remedy = MISSING[left_out]
    bad = {name: finding for name, finding in by_part(diagnose_aws("evocodec", REGION)).items() if not finding.ok}
    assert set(bad) == {part} | ({"gpu capacity"} if left_out == "cluster" else set())
    assert remedy in bad[part].text
    assert "README" in bad[part].text
    assert "\n" not in bad[part].text


def test_a_bucket_that_is_not_encrypted_is_refused(aws: Aws) -> None:
    aws.deploy()
    aws.client("s3").delete_bucket_encryption(Bucket=BUCKET)
    assert "is not encrypted: deploy the stack again" in by_part(diagnose_aws("evocodec", REGION))["bucket"].text


def test_a_repository_without_an_image_asks_for_one(aws: Aws) -> None:
    aws.deploy(without="image gpu")
    aws.client("ecr").create_repository(repositoryName="evocodec/gpu")
    text = by_part(diagnose_aws("evocodec", REGION))["image gpu"].text
    assert "holds no tagged image: build infra/gpu.Dockerfile" in text


def test_a_secret_without_a_key_is_a_note_that_tells_nothing_of_it(aws: Aws) -> None:
    aws.deploy(without="secret")
    secrets = aws.client("secretsmanager")
    secrets.create_secret(Name="evocodec/model-keys")
    for value in (None, "{}", '{"ANTHROPIC_API_KEY": " "}', f"[{json.dumps(SECRET)}]", SECRET):
        if value is not None:
            secrets.put_secret_value(SecretId="evocodec/model-keys", SecretString=value)
        keys = by_part(diagnose_aws("evocodec", REGION))["model keys"]
        assert (keys.ok, keys.severity) == (False, "note"), value
        assert "put-secret-value" in keys.text
        assert SECRET not in keys.text


def test_a_quota_that_is_too_small_says_how_to_ask(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.servicequotas.models import ServiceQuotasBackend

    monkeypatch.setattr(
        ServiceQuotasBackend,
        "get_service_quota",
        lambda self, service_code, quota_code: {"QuotaCode": quota_code, "Value": 0.0},
    )
    aws.deploy()
    found = by_part(diagnose_aws("evocodec", REGION))
    assert (found["quota spot"].ok, found["quota spot"].severity) == (False, "FAIL")
    assert found["quota on-demand"].severity == "note"
    for which, code in QUOTAS.items():
        assert f"--quota-code {code} --desired-value 4" in found[f"quota {which}"].text


def test_pools_of_another_type_or_none_and_servers_that_do_not_answer(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.deploy()
    _Pools.kinds = {"gpu": "process"}
    monkeypatch.setenv("PREFECT_API_KEY", "pnu-key")
    found = by_part(diagnose_aws("evocodec", REGION))
    assert "has no pool 'cpu': run `evocodec deploy --target aws`" in found["pool cpu"].text
    assert "is of type process, not ecs" in found["pool gpu"].text
    assert _Pools.asked_with[-1] == "Bearer pnu-key"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "does not answer" in by_part(diagnose_aws("evocodec", REGION))["pool gpu"].text
    monkeypatch.delenv("PREFECT_API_URL")
    assert "set PREFECT_API_URL" in by_part(diagnose_aws("evocodec", REGION))["pool gpu"].text


def test_without_region_or_credentials_nothing_else_is_asked(
    aws: Aws, evocodec: Evocodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (region, credentials) = diagnose_aws("evocodec", None)
    assert (region.ok, credentials.ok) == (False, False)
    assert "give --region" in region.text
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    (region, credentials) = diagnose_aws("evocodec", REGION)
    assert (region.ok, credentials.ok) == (True, False)
    assert "set AWS_ACCESS_KEY_ID" in credentials.text
    result = evocodec(
        "doctor", "--aws", "--region", REGION, AWS_CONFIG_FILE="/dev/null", AWS_EC2_METADATA_DISABLED="true"
    )
    assert result.returncode == 1


def test_what_is_denied_is_a_finding(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server checks policies once asked to: a user without any may do nothing but say who it is."""
    import httpx

    aws.deploy()
    iam = aws.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    httpx.post(f"{aws.endpoint}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        found = by_part(diagnose_aws("evocodec", REGION))
    finally:
        httpx.post(f"{aws.endpoint}/moto-api/reset-auth", content="inf").raise_for_status()
    assert found["credentials"].ok
    for part in ("stack", "bucket", "cluster", "image gpu", "event queue", "log gpu", "model keys"):
        assert not found[part].ok
        assert "is denied to these credentials: allow it" in found[part].text, part
