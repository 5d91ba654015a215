"""The CloudFormation template: clean by cfn-lint, deployed to a stand-in of AWS, and asked what came of it.

moto makes what it knows and skips the rest without a word; SKIPPED says what, so that a change of either side shows.
What is skipped is asserted on as the template says it, with the stack's own names put in.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from policies import allows
from running import aws_stand_in

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS")

TEMPLATE = Path(__file__).resolve().parents[2] / "infra" / "evocodec.yaml"
ACCOUNT, REGION = "123456789012", "eu-west-1"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
LOGS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/evocodec"
BUCKET = f"evocodec-{ACCOUNT}-{REGION}"
STORE = f"arn:aws:s3:::{BUCKET}/store"
# What moto has no CloudFormation for.
SKIPPED = {
    "AWS::Budgets::Budget",
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::S3::BucketPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SecretsManager::Secret",
    "AWS::ServiceDiscovery::PrivateDnsNamespace",
    "AWS::ServiceDiscovery::Service",
}
OUTPUTS = {
    "BucketName",
    "ClusterArn",
    "EventQueueName",
    "GpuCapacityProviderStrategy",
    "GpuExecutionRoleArn",
    "GpuRepositoryUri",
    "GpuTaskRoleArn",
    "ImageTag",
    "LogGroupGpu",
    "LoopRepositoryUri",
    "PrefectApiUrl",
    "SecretArn",
    "SecurityGroupId",
    "StoreUri",
    "SubnetIds",
}


def template() -> dict[str, Any]:
    """As JSON would say it: `!Ref X` is {"Ref": "X"}."""
    parsed: dict[str, Any] = json.loads(template_json())
    return parsed


@cache
def template_json() -> str:
    from cfnlint.decode import cfn_yaml

    return json.dumps(cfn_yaml.load(str(TEMPLATE)))


def resources(kind: str) -> dict[str, Any]:
    return {name: part for name, part in template()["Resources"].items() if part["Type"] == kind}


@dataclass(frozen=True)
class Stack:
    endpoint: str
    outputs: dict[str, str]

    def client(self, service: str, **settings: Any) -> Any:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.endpoint, **(keys | settings))

    @cached_property
    def policies(self) -> dict[str, list[dict[str, Any]]]:
        """The documents of each role, by its name without the prefix. moto keeps them as Python writes a dict."""
        iam = self.client("iam")
        found: dict[str, list[dict[str, Any]]] = {}
        for role in iam.list_roles()["Roles"]:
            name = role["RoleName"]
            texts = [
                iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
                for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
            ]
            documents = [ast.literal_eval(text) for text in texts]
            for document in documents:  # what AWS::NoValue takes away stays as None here
                document["Statement"] = [statement for statement in document["Statement"] if statement is not None]
            found[name.removeprefix("evocodec-")] = documents
        return found


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Deployed with a Prefect server of its own, but for that server's name, which moto cannot give."""
    with aws_stand_in() as url:
        made = Stack(url, {})
        deploy_to(made)
        yield made


def deploy_to(made: Stack) -> None:
    ec2, cloudformation = made.client("ec2"), made.client("cloudformation")
    subnets = ec2.describe_subnets()["Subnets"]
    body = template()
    del body["Resources"]["ServerService"]["Properties"]["ServiceRegistries"]
    parameters = {
        "VpcId": subnets[0]["VpcId"],
        "SubnetIds": ",".join(subnet["SubnetId"] for subnet in subnets[:2]),
        "BudgetEmail": "somebody@example.org",
        "MaxGpus": "3",
        "ImageTag": "abc",
    }
    cloudformation.create_stack(
        StackName="evocodec",
        TemplateBody=json.dumps(body),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
    )
    (found,) = cloudformation.describe_stacks(StackName="evocodec")["Stacks"]
    assert found["StackStatus"] == "CREATE_COMPLETE"
    made.outputs.update({row["OutputKey"]: row.get("OutputValue", "") for row in found["Outputs"]})


def test_cfn_lint_has_nothing_to_say() -> None:
    from cfnlint.api import lint_file

    assert [f"line {match.linenumber}: {match.rule.id} {match.message}" for match in lint_file(TEMPLATE)] == []


def test_the_readme_names_parameters_that_there_are() -> None:
    text = (TEMPLATE.parent / "README.md").read_text()
    named = set(re.findall(r"(?<![\w-])([A-Z][a-z]+[A-Z][A-Za-z]+)=", text))
    assert {"VpcId", "SubnetIds", "ImageTag", "BudgetEmail"} <= named
    assert named <= set(template()["Parameters"])


def test_it_is_known_what_the_stand_in_leaves_out(stack: Stack) -> None:
    from moto.cloudformation.parsing import resource_class_from_type

    kinds = {part["Type"] for part in template()["Resources"].values()}
    assert {kind for kind in kinds if resource_class_from_type(kind) is None} == SKIPPED
    assert set(template()["Outputs"]) == OUTPUTS


def test_the_outputs_are_what_deploying_and_the_doctor_read(stack: Stack) -> None:
    roles = f"arn:aws:iam::{ACCOUNT}:role/evocodec"
    assert stack.outputs["ClusterArn"] == f"{ECS}:cluster/evocodec"
    assert stack.outputs["StoreUri"] == f"s3://{BUCKET}/store"
    assert stack.outputs["GpuTaskRoleArn"] == f"{roles}-gpu-task"
    assert stack.outputs["GpuExecutionRoleArn"] == f"{roles}-gpu-execution"
    assert stack.outputs["GpuRepositoryUri"].endswith("/evocodec/gpu")
    assert stack.outputs["PrefectApiUrl"] == "http://prefect.evocodec.internal:4200/api"
    assert len(stack.outputs["SubnetIds"].split(",")) == 2
    assert json.loads(stack.outputs["GpuCapacityProviderStrategy"]) == [
        {"capacityProvider": "evocodec-gpu-spot", "weight": 1, "base": 0},
        {"capacityProvider": "evocodec-gpu-on-demand", "weight": 0, "base": 0},
    ]


def test_the_bucket_is_private_encrypted_versioned_and_tidied(stack: Stack) -> None:
    (rule,) = stack.client("s3").get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    # Of a bucket's properties moto takes that one alone from a template.
    bucket = template()["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == "Retain"
    properties = bucket["Properties"]
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert all(properties["PublicAccessBlockConfiguration"].values())
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = {rule["Id"]: rule for rule in properties["LifecycleConfiguration"]["Rules"]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    assert rules["noncurrent"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rules["aborted-multipart"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    # Nothing but tmp/ is ever deleted for its age.
    expiring = {name: rule["Prefix"] for name, rule in rules.items() if "ExpirationInDays" in rule}
    assert expiring == {"tmp": "tmp/"}


@pytest.mark.parametrize(
    ("role", "action", "resource", "allowed"),
    [
        ("gpu-task", "s3:GetObject", f"arn:aws:s3:::{BUCKET}/clips/a.mp4", True),
        ("gpu-task", "s3:GetObject", f"{STORE}/blobs/ab/ab", True),
        ("gpu-task", "s3:PutObject", f"{STORE}/blobs/ab/ab", True),
        ("gpu-task", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/clips/a.mp4", False),
        ("gpu-task", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/elsewhere", False),
        ("gpu-task", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/storehouse/a", False),
        ("gpu-task", "s3:DeleteObject", f"{STORE}/blobs/ab/ab", False),
        ("gpu-task", "s3:GetObject", "arn:aws:s3:::somebody-else/a", False),
        ("gpu-task", "s3:ListBucket", f"arn:aws:s3:::{BUCKET}", True),
        ("gpu-task", "s3:ListBucket", "arn:aws:s3:::somebody-else", False),
        ("loop-task", "s3:DeleteObject", f"{STORE}/schema=1/points/a.parquet", True),
        ("loop-task", "s3:PutObject", f"arn:aws:s3:::{BUCKET}/clips/a.mp4", False),
        ("loop-task", "sqs:ReceiveMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:evocodec-ecs-events", True),
        ("loop-task", "sqs:SendMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:evocodec-ecs-events", False),
        ("loop-task", "logs:GetLogEvents", f"{LOGS}/gpu:log-stream:a", True),
        ("loop-task", "ecs:RegisterTaskDefinition", f"{ECS}:task-definition/evocodec-gpu:7", True),
        ("loop-task", "ecs:RegisterTaskDefinition", f"{ECS}:task-definition/other:7", False),
        ("loop-task", "ecs:RunTask", f"{ECS}:task-definition/evocodec-gpu:7", False),
        ("gpu-execution", "ecr:BatchGetImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/evocodec/gpu", True),
        ("gpu-execution", "ecr:BatchGetImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/evocodec/loop", False),
        ("gpu-execution", "logs:PutLogEvents", f"{LOGS}/gpu:log-stream:a", True),
        ("loop-execution", "logs:PutLogEvents", f"{LOGS}/gpu:log-stream:a", False),
        ("gpu-instance", "s3:GetObject", f"{STORE}/blobs/ab/ab", False),
        ("gpu-instance", "ecs:Poll", f"{ECS}:container-instance/other/a", False),
    ],
)  # fmt: skip
def test_a_role_may_do_this_and_not_that(stack: Stack, role: str, action: str, resource: str, allowed: bool) -> None:
    assert allows(stack.policies[role], action, resource) is allowed


def test_the_worker_runs_tasks_in_one_cluster_with_two_roles(stack: Stack) -> None:
    loop = stack.policies["loop-task"]
    own, other = ({"ecs:cluster": f"{ECS}:cluster/{name}"} for name in ("evocodec", "other"))
    for action, resource in (("RunTask", "task-definition/evocodec-gpu:7"), ("StopTask", "task/evocodec/a")):
        assert allows(loop, f"ecs:{action}", f"{ECS}:{resource}", own)
        assert not allows(loop, f"ecs:{action}", f"{ECS}:{resource}", other)
    assert allows(loop, "ecs:TagResource", f"{ECS}:task/evocodec/a", {"ecs:CreateAction": "RunTask"})
    passing = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    roles = [f"arn:aws:iam::{ACCOUNT}:role/{role['RoleName']}" for role in stack.client("iam").list_roles()["Roles"]]
    passed = {role for role in roles if allows(loop, "iam:PassRole", role, passing)}
    assert passed == {stack.outputs["GpuTaskRoleArn"], stack.outputs["GpuExecutionRoleArn"]}
    assert not allows(
        loop, "iam:PassRole", stack.outputs["GpuTaskRoleArn"], {"iam:PassedToService": "ec2.amazonaws.com"}
    )


def test_a_star_stands_for_a_resource_only_where_the_action_knows_none(stack: Stack) -> None:
    starred = {
        action
        for documents in stack.policies.values()
        for document in documents
        for statement in document["Statement"]
        if statement.get("Resource") == "*"
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert starred == {
        "ecr:GetAuthorizationToken",
        "ecs:DescribeTaskDefinition",
        "ecs:DiscoverPollEndpoint",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    }


def test_the_model_keys_reach_one_container_and_nobody_else() -> None:
    """moto makes no secret, so this is read from the template: who may read it, and who is handed it."""
    readers = {
        part["Properties"]["RoleName"]["Fn::Sub"]: statement["Resource"]
        for part in resources("AWS::IAM::Role").values()
        for policy in part["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if "secretsmanager:GetSecretValue" in str(statement.get("Action")) and "ModelKeys" in str(statement)
    }
    assert readers == {"${Name}-loop-execution": {"Ref": "ModelKeys"}}
    given = {
        container["Name"]
        for part in resources("AWS::ECS::TaskDefinition").values()
        for container in part["Properties"]["ContainerDefinitions"]
        if "ModelKeys" in str(container)
    }
    assert given == {"worker-cpu"}


def test_a_gpu_task_adds_records_and_never_rewrites_one() -> None:
    """moto makes no bucket policy from a template, so its statements are read there and asked."""
    (part,) = resources("AWS::S3::BucketPolicy").values()
    tls, records = part["Properties"]["PolicyDocument"]["Statement"]
    assert (tls["Effect"], tls["Principal"], tls["Condition"]) == (
        "Deny",
        "*",
        {"Bool": {"aws:SecureTransport": False}},
    )
    assert records["Principal"] == {"AWS": {"Fn::GetAtt": ["GpuTaskRole", "Arn"]}}
    denied = records | {"Resource": records["Resource"]["Fn::Sub"].replace("${Bucket.Arn}", f"arn:aws:s3:::{BUCKET}")}
    documents = [
        {"Statement": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "*"}]},
        {"Statement": [denied]},
    ]
    record = f"{STORE}/schema=1/experiments/campaign=night/a-1.parquet"
    whole = {"s3:ObjectCreationOperation": "true"}
    assert allows(documents, "s3:PutObject", record, whole | {"s3:if-none-match": "*"})
    assert not allows(documents, "s3:PutObject", record, whole)
    assert allows(documents, "s3:PutObject", f"{STORE}/blobs/ab/ab", whole)


def test_gpu_instances_are_as_closed_as_a_container_needs_them(stack: Stack) -> None:
    ec2 = stack.client("ec2")
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateName="evocodec-gpu")["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["ImageId"].startswith("ami-")
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert str(data["MetadataOptions"]["HttpPutResponseHopLimit"]) == "1"
    (disk,) = data["BlockDeviceMappings"]
    assert (disk["Ebs"]["VolumeType"], str(disk["Ebs"]["Encrypted"]).lower()) == ("gp3", "true")
    launch = template()["Resources"]["GpuLaunchTemplate"]["Properties"]["LaunchTemplateData"]
    script = launch["UserData"]["Fn::Base64"]["Fn::Sub"]
    for line in ("ENABLE_GPU_SUPPORT", "ENABLE_SPOT_INSTANCE_DRAINING", "AWSVPC_BLOCK_IMDS", "DISABLE_PRIVILEGED"):
        assert f"\nECS_{line}=true\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    (group,) = ec2.describe_security_groups(GroupIds=[stack.outputs["SecurityGroupId"]])["SecurityGroups"]
    assert group["IpPermissions"] == []


def test_nothing_is_open_to_an_address(stack: Stack) -> None:
    groups = stack.client("ec2").describe_security_groups()["SecurityGroups"]
    ours = {group["GroupName"]: group for group in groups if group["GroupName"].startswith("evocodec-")}
    opened = {
        name: [(rule["FromPort"], len(rule["UserIdGroupPairs"]), rule["IpRanges"]) for rule in group["IpPermissions"]]
        for name, group in ours.items()
    }
    assert opened == {
        "evocodec-work": [],
        "evocodec-server": [(4200, 1, [])],
        "evocodec-database": [(5432, 1, [])],
    }
    (database,) = stack.client("rds").describe_db_instances()["DBInstances"]
    assert (database["PubliclyAccessible"], database["StorageEncrypted"]) == (False, True)


def test_gpus_scale_from_zero_spot_and_on_demand(stack: Stack) -> None:
    groups = stack.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    sizes = {
        group["AutoScalingGroupName"]: (group["MinSize"], group["DesiredCapacity"], group["MaxSize"])
        for group in groups
    }
    assert sizes == {"evocodec-gpu-spot": (0, 0, 3), "evocodec-gpu-on-demand": (0, 0, 3)}
    assert all(group["NewInstancesProtectedFromScaleIn"] for group in groups)
    (spot,) = (group for group in groups if group["AutoScalingGroupName"] == "evocodec-gpu-spot")
    instances = spot["MixedInstancesPolicy"]["InstancesDistribution"]
    assert instances["OnDemandPercentageAboveBaseCapacity"] == 0
    assert instances["SpotAllocationStrategy"].startswith("capacity-optimized")
    for provider in resources("AWS::ECS::CapacityProvider").values():
        settings = provider["Properties"]["AutoScalingGroupProvider"]
        assert settings["ManagedTerminationProtection"] == "ENABLED"
        assert settings["ManagedScaling"]["Status"] == "ENABLED"


def test_events_of_this_cluster_reach_the_queue(stack: Stack) -> None:
    events, sqs = stack.client("events"), stack.client("sqs")
    (rule,) = events.list_rules(NamePrefix="evocodec-ecs-events")["Rules"]
    pattern = json.loads(rule["EventPattern"])
    assert pattern["detail"] == {"clusterArn": [stack.outputs["ClusterArn"]]}
    assert (pattern["source"], pattern["detail-type"]) == (["aws.ecs"], ["ECS Task State Change"])
    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    queue = sqs.get_queue_url(QueueName=stack.outputs["EventQueueName"])["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert target["Arn"] == attributes["QueueArn"]
    dead = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]
    assert dead.endswith(":evocodec-ecs-events-dead")


def test_services_run_where_there_are_images(stack: Stack) -> None:
    ecs = stack.client("ecs")
    names = ["evocodec-loop", "evocodec-server"]
    services = ecs.describe_services(cluster="evocodec", services=names)["services"]
    assert {service["serviceName"]: service["desiredCount"] for service in services} == dict.fromkeys(names, 1)
    for name in ("LoopService", "ServerService"):
        assert template()["Resources"][name]["Properties"]["DesiredCount"] == {"Fn::If": ["HasImages", 1, 0]}
    loop = ecs.describe_task_definition(taskDefinition="evocodec-loop")["taskDefinition"]
    containers = {container["name"]: container for container in loop["containerDefinitions"]}
    assert set(containers) == {"worker-gpu", "worker-cpu"}
    assert all(container["readonlyRootFilesystem"] for container in containers.values())
    assert all(container["image"].endswith("/evocodec/loop:abc") for container in containers.values())
    environment = {row["name"]: row["value"] for row in containers["worker-gpu"]["environment"]}
    assert environment["PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME"] == stack.outputs["EventQueueName"]
    assert environment["PREFECT_API_URL"] == stack.outputs["PrefectApiUrl"]


def test_logs_are_kept_for_a_while_and_images_are_scanned(stack: Stack) -> None:
    groups = stack.client("logs").describe_log_groups()["logGroups"]
    assert {group["logGroupName"]: group["retentionInDays"] for group in groups} == {
        "/evocodec/gpu": 30,
        "/evocodec/loop": 30,
        "/evocodec/spot-notices": 30,
    }
    ecr = stack.client("ecr")
    repositories = ecr.describe_repositories()["repositories"]
    assert {repository["repositoryName"] for repository in repositories} == {"evocodec/gpu", "evocodec/loop"}
    for repository in repositories:
        assert repository["imageTagMutability"] == "IMMUTABLE"
    for part in resources("AWS::ECR::Repository").values():
        assert part["Properties"]["ImageScanningConfiguration"] == {"ScanOnPush": True}  # moto loses these two
        assert len(json.loads(part["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]) == 2


def test_a_spot_notice_stops_the_tasks_of_that_instance_alone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's own code, on instances and tasks of the deployed cluster."""
    ecs = stack.client("ecs")
    cluster = stack.outputs["ClusterArn"]
    instances = [instance_of(stack, cluster) for _ in range(2)]
    ecs.register_task_definition(family="any", containerDefinitions=[{"name": "one", "image": "any", "memory": 8}])
    tasks = [
        ecs.start_task(cluster=cluster, taskDefinition="any", containerInstances=[arn])["tasks"][0]["taskArn"]
        for _, arn in instances
    ]
    for name, value in {
        "CLUSTER": cluster,
        "AWS_ENDPOINT_URL": stack.endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(name, value)
    (function,) = resources("AWS::Lambda::Function").values()
    code: dict[str, Any] = {}
    exec(function["Properties"]["Code"]["ZipFile"], code)
    assert code["handler"]({"detail": {"instance-id": instances[0][0], "instance-action": "terminate"}}, None) == [
        tasks[0]
    ]
    described = ecs.describe_tasks(cluster=cluster, tasks=tasks)["tasks"]
    assert {task["taskArn"]: task["desiredStatus"] for task in described} == {tasks[0]: "STOPPED", tasks[1]: "RUNNING"}


def instance_of(stack: Stack, cluster: str) -> tuple[str, str]:
    """An EC2 instance of the cluster: its id, and its ARN as a container instance."""
    from moto.ec2.utils import generate_instance_identity_document

    ec2 = stack.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    made = boto3.resource(
        "ec2",
        region_name=REGION,
        endpoint_url=stack.endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    ).create_instances(ImageId=image, MinCount=1, MaxCount=1)[0]
    document = json.dumps(generate_instance_identity_document(made))
    registered = stack.client("ecs").register_container_instance(cluster=cluster, instanceIdentityDocument=document)
    return made.id, registered["containerInstance"]["containerInstanceArn"]


def test_the_function_that_hears_of_spot_notices_may_stop_tasks_of_this_cluster_alone(stack: Stack) -> None:
    rights = stack.policies["spot-notices"]
    here = {"ecs:cluster": f"{ECS}:cluster/evocodec"}
    assert allows(rights, "ecs:StopTask", f"{ECS}:task/evocodec/abc", here)
    assert not allows(rights, "ecs:StopTask", f"{ECS}:task/other/abc", here)
    (rule,) = stack.client("events").list_rules(NamePrefix="evocodec-spot-notices")["Rules"]
    assert json.loads(rule["EventPattern"])["detail-type"] == ["EC2 Spot Instance Interruption Warning"]
    for action in ("ecs:RunTask", "iam:PassRole", "secretsmanager:GetSecretValue", "s3:GetObject"):
        assert not allows(rights, action, "*", here)
