"""Which isolation a candidate runs in: its sources decide, and nobody else.

Owns the line between installed code and code that nobody has read.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

from codec.errors import BadInputError
from tasks.campaign import Limits
from tasks.candidate import Candidate
from tasks.execute.isolation import Isolation, ProcessIsolation, SandboxIsolation
from tasks.execute.sandbox import layers
from tasks.measure.anchors import SEED

# Any of these lets a program act as its user in AWS: keys, or where to fetch some.
AWS_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def isolation_for(candidate: Candidate, limits: Limits, *, unsafe: bool = False) -> Isolation:
    """The strict sandbox for every candidate.

    The project's own codec, which is installed code, runs in a process of its own where a machine has no sandbox: what
    a designer may change of it, the config, is checked data. Only its sources count. Raises BadInputError where AWS
    credentials are in reach of a candidate without a sandbox.
    """
    if candidate.files == _own_files():
        return SandboxIsolation(limits) if _sandbox_holds() else ProcessIsolation(limits)
    if not unsafe:
        return SandboxIsolation(limits)
    found = next((name for name in AWS_CREDENTIALS if os.environ.get(name)), None)
    if found is not None:
        raise BadInputError(f"--unsafe-no-sandbox: {found} is set, and the candidate could use it: unset it")
    return ProcessIsolation(limits, "none")


@cache
def _own_files() -> dict[str, str]:
    return Candidate.load(SEED).files


@cache
def _sandbox_holds() -> bool:
    return all(layer.ok for layer in layers())
