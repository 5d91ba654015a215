"""Running evocodec as a user does: the command, and an environment without anything of the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EVOCODEC = Path(sys.executable).with_name("evocodec")

Evocodec = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment() -> dict[str, str]:
    """The environment without anything that changes what evocodec does."""
    hidden = ("PREFECT_", "EVOCODEC_", "AWS_", "ANTHROPIC_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


@contextmanager
def aws_stand_in() -> Iterator[str]:
    """moto on loopback: the URL that speaks AWS's API."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


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
