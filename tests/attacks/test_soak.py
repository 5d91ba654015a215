"""The soak benchmark, short: nothing is left behind and no score changes. And it does see what is left behind."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tasks.execute.sandbox import layers

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
MISSING = [layer.name for layer in layers() if not layer.ok]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`")


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    specification = importlib.util.spec_from_file_location("soak", SOAK)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["soak"] = module  # where dataclasses look for their own
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_forty_candidates_leave_nothing_and_change_no_score() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--count", "40", "--seed", "7"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_soak_sees_what_is_left_behind(soak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert soak.differences(soak.state([tmp_path]), [tmp_path]) == []
    monkeypatch.setattr(soak, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(soak, "is_candidates", lambda uid: uid == os.geteuid())
    before = soak.state([tmp_path])
    libc = ctypes.CDLL(None)
    child = os.fork()
    if child == 0:
        signal.pause()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    (tmp_path / "left").touch()
    memory = libc.shmget(0, 4096, 0o600)
    try:
        found = {line.split(":")[0] for line in soak.differences(before, [tmp_path])}
    finally:
        libc.shmctl(memory, 0, None)
        os.close(descriptor)
        os.waitpid(child, 0)
    assert found >= {"processes", "descriptors", "files", "SysV objects"}
