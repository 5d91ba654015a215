"""What tests share: the real clips, the command line as a user runs it, and one running lab."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import EVOCODEC, Evocodec, clean_environment

from flows.local import LocalLab

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes, each with a thread for every core, wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
CLIPS = ROOT.parent / "shared" / "clips"


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real test clips that lies beside the repository."""
    if not CLIPS.is_dir():
        pytest.skip(f"the real test clips are not here ({CLIPS})")
    return CLIPS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: processes that share the files then end at about the same time."""
    longest = ("test_loop.py", "test_cli.py", "test_cascade.py")
    ranks = {name: rank for rank, name in enumerate(longest)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(longest)))


@pytest.fixture
def evocodec(tmp_path: Path) -> Evocodec:
    """Run `evocodec …` in an empty folder, with no keys and no profile of the user's."""

    def run(*arguments: str | Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EVOCODEC, *map(str, arguments)],
            cwd=tmp_path,
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLab]:
    """A real Prefect server with both pools, workers and deployments; shared, since it takes 20 s to start."""
    with LocalLab(tmp_path_factory.mktemp("lab") / ".evocodec") as running:
        yield running
