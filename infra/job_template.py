"""Prints infra/gpu_job_template.json: prefect-aws's own base job template with what a GPU task on EC2 needs added.

Derived, not copied, so that an upgrade of prefect-aws shows as a diff of the committed file:

    python infra/job_template.py > infra/gpu_job_template.json

Owns what every stack shares. What one stack has of its own (cluster, roles, image, network) is left empty here and
filled by `evocodec deploy --target aws`.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from prefect_aws.workers.ecs_worker import ECSWorker

CONTAINER = "prefect"

# A g4dn.xlarge has 4 vCPU, 16 GiB and one T4; the rest of its memory is the host's.
CPU_UNITS = 4096
MEMORY_MIB = 14336
SHARED_MEMORY_MIB = 2048
TMP_MIB = 4096
# The most that ECS allows, and what a spot instance has left after its notice.
STOP_TIMEOUT_SECONDS = 120

ENVIRONMENT = {
    "PREFECT_HOME": "/tmp/prefect",
    "HOME": "/tmp",
    # 2 + 4 + ... + 256 s: a Prefect server may be gone for minutes without costing the run.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}

# Prefect puts a variable's value in place of "{{ name }}" with its type kept.
DEFAULTS: dict[str, Any] = {
    # What prefect-aws runs, found without PATH. It stops a run that is cancelled, which the ECS worker leaves to it.
    "command": "python -m prefect flow-run execute",
    "container_name": CONTAINER,
    "cpu": CPU_UNITS,
    "memory": MEMORY_MIB,
    "env": ENVIRONMENT,
    "launch_type": "EC2",  # prefect-aws says FARGATE, which has no GPU
    "match_latest_revision_in_family": True,  # or every run registers a revision of its own
    "configure_cloudwatch_logs": True,
    "cloudwatch_logs_prefix": "gpu",  # by default it holds the deployment's id: a revision for each
}

ADDED_VARIABLES: dict[str, Any] = {
    "gpus": {
        "title": "GPUs",
        "description": "GPUs the task reserves; a string, because ECS wants one.",
        "type": "string",
        "pattern": "^[1-9][0-9]*$",
        "default": "1",
    },
    "shared_memory_mib": {
        "title": "Shared memory (MiB)",
        "description": "Size of /dev/shm: PyTorch passes tensors between processes through it.",
        "type": "integer",
        "default": SHARED_MEMORY_MIB,
    },
    "tmp_mib": {
        "title": "/tmp (MiB)",
        "description": "Size of the only place that the task can write to.",
        "type": "integer",
        "default": TMP_MIB,
    },
    "subnets": {
        "title": "Subnets",
        "description": "Where the task's network interface is put.",
        "type": "array",
        "items": {"type": "string"},
        "default": [],
    },
    "security_groups": {
        "title": "Security groups",
        "description": "Of the task's network interface.",
        "type": "array",
        "items": {"type": "string"},
        "default": [],
    },
}

CONTAINER_DEFINITION: dict[str, Any] = {
    "essential": True,
    "resourceRequirements": [{"type": "GPU", "value": "{{ gpus }}"}],
    "stopTimeout": STOP_TIMEOUT_SECONDS,
    "readonlyRootFilesystem": True,
    "linuxParameters": {
        "capabilities": {"drop": ["ALL"]},
        "initProcessEnabled": True,  # as process 1 Python would ignore SIGTERM, and orphans would pile up
        "sharedMemorySize": "{{ shared_memory_mib }}",
        "tmpfs": [
            {"containerPath": "/tmp", "size": "{{ tmp_mib }}", "mountOptions": ["rw", "nosuid", "nodev", "noexec"]},
        ],
    },
}

# An interface of its own in the VPC, which also keeps the instance's metadata, and so its role, out of reach.
NETWORK = {"awsvpcConfiguration": {"subnets": "{{ subnets }}", "securityGroups": "{{ security_groups }}"}}


def gpu_job_template() -> dict[str, Any]:
    """The base job template of the `gpu` pool, without what one stack has of its own."""
    template = copy.deepcopy(ECSWorker.get_default_base_job_template())
    properties = template["variables"]["properties"]
    for name, value in DEFAULTS.items():
        properties[name]["default"] = value
    properties.update(ADDED_VARIABLES)
    definition = template["job_configuration"]["task_definition"]
    (container,) = definition["containerDefinitions"]
    container.update(CONTAINER_DEFINITION)
    definition["networkMode"] = "awsvpc"
    definition["requiresCompatibilities"] = ["EC2"]
    template["job_configuration"]["task_run_request"]["networkConfiguration"] = NETWORK
    return template


if __name__ == "__main__":
    json.dump(gpu_job_template(), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")
