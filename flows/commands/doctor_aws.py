"""`evocodec doctor --aws`: what the AWS side has and lacks, one line each with the remedy.

Changes nothing but one small object under store/, which is written and removed again. What a machine needs is
`flows.commands.doctor`'s; infra/evocodec.yaml makes what is looked for here, and infra/README.md says how.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

from codec.errors import EvocodecError
from flows.commands.doctor import Finding, Severity

SEE: Final = "see infra/README.md"
POOLS: Final = {"cpu": "process", "gpu": "ecs"}
MODEL_KEYS: Final = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
# Service Quotas' codes of EC2's vCPU quotas for G and VT instances.
QUOTAS: Final = {"spot": "L-3819A6DF", "on-demand": "L-DB2E81BA"}
VCPUS: Final = 4  # of one g4dn.xlarge
DONE: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
DENIED: Final = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
TIMEOUT_SECONDS: Final = 5


class _Lacking(Exception):  # noqa: N818 - a finding on its way up, not an error
    """The part is not as it should be; the message says what, and the remedy."""


@dataclass(frozen=True)
class _Deployed:
    """What the stack says of itself; by the names of infra/evocodec.yaml where there is no stack."""

    name: str
    account: str
    region: str
    outputs: Mapping[str, str]

    @property
    def bucket(self) -> str:
        return self.outputs.get("BucketName", f"{self.name}-{self.account}-{self.region}")

    @property
    def prefect_api_url(self) -> str:
        return os.environ.get("PREFECT_API_URL") or self.outputs.get("PrefectApiUrl", "")


def diagnose_aws(stack: str, region: str | None) -> list[Finding]:
    """All findings, in the order in which the parts are needed. Without credentials or a region there is but one."""
    from boto3.session import Session  # type: ignore[import-untyped]

    session = Session()
    client = cache(partial(_client, session, region))
    who: list[str] = []
    found = [_finding("region", partial(_region, session, region)), _finding("credentials", partial(_who, client, who))]
    if not all(finding.ok for finding in found):
        return found
    deployed = _Deployed(stack, who[0], region or str(session.region_name), {})
    described: list[_Deployed] = []
    found.append(_finding("stack", partial(_stack, client, deployed, stack, described)))
    at = described[0] if described else deployed
    checks: list[tuple[str, Callable[[], str], Severity]] = [
        ("bucket", lambda: _bucket(client, at), "FAIL"),
        ("cluster", lambda: _cluster(client, at), "FAIL"),
        ("gpu capacity", lambda: _capacity(client, at), "FAIL"),
        ("quota spot", lambda: _quota(client, "spot"), "FAIL"),
        ("quota on-demand", lambda: _quota(client, "on-demand"), "note"),
        *((f"image {which}", partial(_image, client, at, which), "FAIL") for which in ("gpu", "loop")),
        ("event queue", lambda: _queue(client, at), "FAIL"),
        *((f"log {which}", partial(_log_group, client, at, which), "FAIL") for which in ("gpu", "loop")),
        ("model keys", lambda: _secret(client, at), "note"),
        *((f"pool {pool}", partial(_pool, at, pool), "FAIL") for pool in POOLS),
    ]
    return found + [_finding(part, check, severity) for part, check, severity in checks]


def _finding(part: str, check: Callable[[], str], severity: Severity = "FAIL") -> Finding:
    """What `check` found; every way in which AWS can refuse is a finding, too."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        return Finding(part, True, check())
    except _Lacking as lacking:
        return Finding(part, False, str(lacking), severity)
    except ClientError as error:
        if _code(error) in DENIED:
            return Finding(part, False, f"{error.operation_name} is denied to these credentials: allow it", severity)
        return Finding(part, False, f"{_first_line(error)}; {SEE}", severity)
    except (BotoCoreError, EvocodecError) as error:
        return Finding(part, False, f"{_first_line(error)}; {SEE}", severity)


def _client(session: Any, region: str | None, service: str) -> Any:
    from botocore.config import Config  # type: ignore[import-untyped]

    attempts = {"mode": "standard", "total_max_attempts": 2}
    limits = Config(connect_timeout=TIMEOUT_SECONDS, read_timeout=2 * TIMEOUT_SECONDS, retries=attempts)
    return session.client(service, region_name=region, config=limits)


def _region(session: Any, region: str | None) -> str:
    chosen = region or session.region_name
    if not chosen:
        raise _Lacking("none: give --region, or set AWS_DEFAULT_REGION")
    return str(chosen)


def _who(client: Callable[[str], Any], who: list[str]) -> str:
    from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError

    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    try:
        identity = client("sts").get_caller_identity()
    except NoCredentialsError as error:
        raise _Lacking(f"none: {remedy}") from error
    except NoRegionError as error:
        raise _Lacking("not looked at without a region") from error
    except ClientError as error:
        raise _Lacking(f"refused ({_first_line(error)}): {remedy}") from error
    who.append(identity["Account"])
    return f"{identity['Arn']} in account {identity['Account']}"


def _stack(client: Callable[[str], Any], fallback: _Deployed, stack: str, described: list[_Deployed]) -> str:
    from botocore.exceptions import ClientError

    try:
        (found,) = client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if _code(error) == "ValidationError":
            raise _Lacking(f"no stack {stack!r}: deploy infra/evocodec.yaml, {SEE}") from error
        raise
    parameters = {entry["ParameterKey"]: entry.get("ParameterValue", "") for entry in found.get("Parameters", [])}
    outputs = {entry["OutputKey"]: entry["OutputValue"] for entry in found.get("Outputs", [])}
    name = parameters.get("Name") or fallback.name
    described.append(_Deployed(name, fallback.account, fallback.region, outputs))
    if found["StackStatus"].endswith("_IN_PROGRESS"):
        raise _Lacking(f"{stack} is {found['StackStatus']}: wait for it, then ask again")
    if found["StackStatus"] not in DONE:
        raise _Lacking(f"{stack} is {found['StackStatus']}: look at its events, then deploy it again")
    return f"{stack}: {found['StackStatus']}"


def _bucket(client: Callable[[str], Any], at: _Deployed) -> str:
    from botocore.exceptions import ClientError

    s3 = client("s3")
    try:
        s3.head_bucket(Bucket=at.bucket)
    except ClientError as error:
        if _code(error) in ("404", "NoSuchBucket"):
            raise _Lacking(f"{at.bucket} does not exist: deploy the stack again, {SEE}") from error
        raise
    try:
        s3.get_bucket_encryption(Bucket=at.bucket)
    except ClientError as error:
        if _code(error) == "ServerSideEncryptionConfigurationNotFoundError":
            raise _Lacking(f"{at.bucket} is not encrypted: deploy the stack again, {SEE}") from error
        raise
    probe = f"store/.tmp-probe-{uuid.uuid4().hex}"
    s3.put_object(Bucket=at.bucket, Key=probe, Body=b"probe")
    s3.delete_object(Bucket=at.bucket, Key=probe)
    return f"s3://{at.bucket}/store is encrypted and writable"


def _cluster(client: Callable[[str], Any], at: _Deployed) -> str:
    clusters = client("ecs").describe_clusters(clusters=[at.name])["clusters"]
    if not clusters or clusters[0]["status"] != "ACTIVE":
        raise _Lacking(f"no active cluster {at.name!r}: deploy the stack again, {SEE}")
    return f"{at.name} is active"


def _capacity(client: Callable[[str], Any], at: _Deployed) -> str:
    clusters = client("ecs").describe_clusters(clusters=[at.name])["clusters"]
    attached = clusters[0].get("capacityProviders", []) if clusters else []
    wanted = [f"{at.name}-gpu-{which}" for which in QUOTAS]
    missing = [name for name in wanted if name not in attached]
    if missing:
        raise _Lacking(f"the cluster lacks {', '.join(missing)}: deploy the stack again, {SEE}")
    return ", ".join(wanted)


def _quota(client: Callable[[str], Any], which: str) -> str:
    quota = client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=QUOTAS[which])["Quota"]
    vcpus = int(quota["Value"])
    if vcpus < VCPUS:
        ask = f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {QUOTAS[which]}"
        raise _Lacking(f"{vcpus} vCPUs, a g4dn.xlarge needs {VCPUS}: {ask} --desired-value {VCPUS}")
    return f"{vcpus} vCPUs: {vcpus // VCPUS} g4dn.xlarge at once"


def _image(client: Callable[[str], Any], at: _Deployed, which: str) -> str:
    from botocore.exceptions import ClientError

    repository = f"{at.name}/{which}"
    try:
        images = client("ecr").describe_images(repositoryName=repository, maxResults=100)["imageDetails"]
    except ClientError as error:
        if _code(error) == "RepositoryNotFoundException":
            raise _Lacking(f"no repository {repository}: deploy the stack again, {SEE}") from error
        raise
    tags = sorted({tag for image in images for tag in image.get("imageTags", [])})
    if not tags:
        raise _Lacking(f"{repository} holds no tagged image: build infra/{which}.Dockerfile and push it, {SEE}")
    return f"{repository}: {', '.join(tags[:5])}"


def _queue(client: Callable[[str], Any], at: _Deployed) -> str:
    from botocore.exceptions import ClientError

    name = at.outputs.get("EventQueueName", f"{at.name}-ecs-events")
    try:
        client("sqs").get_queue_url(QueueName=name)
    except ClientError as error:
        if "NonExistentQueue" in _code(error) or _code(error) == "QueueDoesNotExist":
            remedy = f"without it a task that dies is noticed late; deploy the stack again, {SEE}"
            raise _Lacking(f"no queue {name}: {remedy}") from error
        raise
    return name


def _log_group(client: Callable[[str], Any], at: _Deployed, which: str) -> str:
    name = f"/{at.name}/{which}"
    groups = client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    if name not in {group["logGroupName"] for group in groups}:
        raise _Lacking(f"no log group {name}, and tasks that cannot log do not start: deploy the stack again, {SEE}")
    return name


def _secret(client: Callable[[str], Any], at: _Deployed) -> str:
    """Whether there are keys in it. They are never told."""
    from botocore.exceptions import ClientError

    name = f"{at.name}/model-keys"
    put = f"aws secretsmanager put-secret-value --secret-id {name}, {SEE}; the search designer needs none"
    try:
        text = client("secretsmanager").get_secret_value(SecretId=name).get("SecretString", "")
    except ClientError as error:
        if _code(error) == "ResourceNotFoundException":
            raise _Lacking(f"no secret {name}, or no value in it: {put}") from error
        raise
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _Lacking(f"{name} holds no JSON object: {put}")
    filled = [key for key in MODEL_KEYS if isinstance(value.get(key), str) and value[key].strip()]
    if not filled:
        raise _Lacking(f"{name} holds neither {' nor '.join(MODEL_KEYS)}: {put}")
    return f"{name} holds {', '.join(filled)}"


def _pool(at: _Deployed, pool: str) -> str:
    import httpx

    url = at.prefect_api_url.rstrip("/")
    if not url:
        raise _Lacking("no Prefect server is known: set PREFECT_API_URL")
    key = os.environ.get("PREFECT_API_KEY")
    try:
        answer = httpx.get(
            f"{url}/work_pools/{pool}",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_SECONDS,
        )
        kind = answer.json()["type"] if answer.status_code == httpx.codes.OK else ""
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise _Lacking(
            f"{url} does not answer as a Prefect server ({type(error).__name__}): start it or reach it through a "
            f"tunnel and set PREFECT_API_URL, {SEE}"
        ) from error
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise _Lacking(f"{url} wants a key: set PREFECT_API_KEY")
    if answer.status_code != httpx.codes.OK:
        raise _Lacking(f"{url} has no pool {pool!r}: run `evocodec deploy --target aws`")
    if kind != POOLS[pool]:
        raise _Lacking(f"pool {pool!r} is of type {kind}, not {POOLS[pool]}: run `evocodec deploy --target aws`")
    return f"type {kind} at {url}"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
