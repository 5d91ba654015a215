"""One running laboratory on AWS's stand-ins for all tests: it takes a minute to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cloud import Cloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Deployed, with a worker on each pool."""
    running = Cloud(tmp_path_factory.mktemp("cloud"))
    try:
        running.start_aws()
        running.start_server()
        deployed = running.deploy()
        assert deployed.returncode == 0, deployed.stderr
        running.keep_files_in(running.folder / "tmp")
        running.start_worker("gpu", "ecs")
        running.start_worker("cpu", "process")
        yield running
    finally:
        running.stop()
