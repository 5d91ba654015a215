"""The attack suite again as others run it: as an ordinary user, who has no uids to give out, and as a container's root.

Where Python lies in a folder that only root can enter, the suite runs in a mount namespace in which that folder holds
Python alone and everybody may enter it: with the capability to read everything, it would not be an ordinary user's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.execute.sandbox import layers
from tasks.execute.sandbox.privileges import only_for_root

ROOT = Path(__file__).resolve().parents[2]
MISSING = [layer.name for layer in layers() if not layer.ok]
# Nobody's, so that it owns no file and no other process counts towards its limit on threads.
USER = 65533
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
# What Docker and containerd leave to root where nobody asks for more; namespaces of its own come with `unshare`.
CONTAINER_CAPABILITIES = (
    *("chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap", "setpcap"),
    *("net_bind_service", "sys_chroot", "kill", "audit_write"),
)
AS_CONTAINER = [
    "setpriv",
    "--inh-caps=-all",
    "--bounding-set=-all," + ",".join(f"+{capability}" for capability in CONTAINER_CAPABILITIES),
]
NAMESPACES = ["--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--net", "--uts"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("setpriv", "unshare"))), reason="needs setpriv(1) and unshare(1) of util-linux"
    ),
]


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """An empty folder on a path that everybody may walk; pytest's own folders are closed."""
    with tempfile.TemporaryDirectory(prefix="evocodec-user-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def as_other(who: list[str], namespaces: list[str], command: list[str], folder: Path) -> list[str]:
    """The command that runs `command` as `who`. `folder` is an empty one."""
    walls = {wall for path in (sys.base_prefix, sys.prefix, str(ROOT)) for wall in only_for_root([path])}
    if not walls:
        return ["unshare", *namespaces, *who, *command]
    python, wall = Path(sys.base_prefix), min(walls, key=lambda path: len(path.parts))
    if any(not python.is_relative_to(other) for other in walls) or ROOT.is_relative_to(wall):
        pytest.skip(f"only root can enter {', '.join(map(str, walls))}, where more than Python lies")
    steps = [
        ["mount", "--bind", str(python), str(folder)],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(wall)],
        ["mkdir", "-p", str(python)],
        ["mount", "--move", str(folder), str(python)],
        ["exec", *who, *command],
    ]
    return ["unshare", *namespaces, "sh", "-e", "-c", "\n".join(map(shlex.join, steps))]


def run_as(
    who: list[str], command: list[str], folder: Path, namespaces: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    home, mount = folder / "home", folder / "mount"
    mount.mkdir()
    home.mkdir()
    if who is AS_USER:
        os.chown(home, USER, USER)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        as_other(who, namespaces or ["--mount"], command, mount),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


ATTACKS = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/attacks/test_attacks.py"]


def test_the_attacks_are_stopped_where_an_ordinary_user_runs_them(open_to_all: Path) -> None:
    done = run_as(AS_USER, ATTACKS, open_to_all)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout


def test_the_attacks_are_stopped_where_a_containers_root_runs_them(open_to_all: Path) -> None:
    command = [*ATTACKS, "tests/attacks/test_broker.py", "-m", "not slow"]
    done = run_as(AS_CONTAINER, command, open_to_all, NAMESPACES)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout


def test_the_doctor_names_the_layers_there(open_to_all: Path) -> None:
    show = "from tasks.execute.sandbox import layers; print([(layer.name, layer.ok, layer.text) for layer in layers()])"
    done = run_as(AS_CONTAINER, [sys.executable, "-B", "-c", show], open_to_all, NAMESPACES)
    assert "('uid', True, 'root becomes one of 4000 users from 61440 on')" in done.stdout, done.stderr
    assert "False" not in done.stdout


def test_a_soak_by_an_ordinary_user_leaves_nothing(open_to_all: Path) -> None:
    soak = "benchmarks/soak.py"
    done = run_as(AS_USER, [sys.executable, "-B", soak, "--count", "20", "--seed", "7"], open_to_all)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert f"as user {USER}" in done.stdout
