"""Running evocodec as a user does: the command, and an environment without anything of the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

EVOCODEC = Path(sys.executable).with_name("evocodec")

Evocodec = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment() -> dict[str, str]:
    """The environment without anything that changes what evocodec does."""
    hidden = ("PREFECT_", "EVOCODEC_", "AWS_", "ANTHROPIC_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def below(pid: int) -> list[int]:
    """Every process below `pid`, by the kernel's own list."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(child) for child in thread.read_text().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found
