"""Controls of the attacks: each works when its layer is off. One that fails by itself would prove nothing.

Everything here runs as root in namespaces of its own (processes, IPC, mounts, network) that the kernel ends with it,
and every bomb is bounded. What has no layer of the kernel's to take off has no control: attacks on the form of an
answer, whose check is in `tasks.execute.agents`, and limits of time, which the other tests of this folder exercise.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from loud import INT80, open_folder
from probes import COMMON, PROBES

from tasks.execute.sandbox import layers

ROOT = Path(__file__).resolve().parents[2]
MISSING = [layer.name for layer in layers() if not layer.ok]
NAMESPACES = ["unshare", "--mount", "--ipc", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]


def _can_be_apart() -> bool:
    try:
        return (
            os.geteuid() == 0
            and subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`"),
    pytest.mark.skipif(not _can_be_apart(), reason="controls need root and unshare(1)"),
]

# Not run without the sandbox, because they would reach something of this machine's.
NOT_RUN = {
    "modification time of a library": "it would change the installation",
}
# These fail without any layer too, and so are proved by their kin alone: other sockets, other calls.
BY_ITSELF = {"metadata address": "there is no network in the namespace", "call of x32": "most kernels have none"}
# A kernel may be built or set up without these; then there is nothing to attack.
ENOSYS = "38"
# What the loud attacks rest on, within bounds. Memory is asked for and not touched: 2 GB, where 1 GB is allowed.
BOMBS = {
    "fork bomb": "[os.fork() for _ in range(3)]\nif os.getpid() != me: os._exit(0)",
    "thread bomb": "threading.stack_size(65536)\nstop = threading.Event()\n"
    "for _ in range(600): threading.Thread(target=stop.wait, daemon=True).start()",
    "memory by malloc": "bytes(2 << 30)",
    "memory by mmap": "mmap.mmap(-1, 2 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
    "memory by memfd": "os.ftruncate(os.memfd_create('x'), 2 << 30)",
}
if platform.machine() == "x86_64":
    BOMBS |= {
        "call of i386": INT80.replace("return", "_ ="),
        "call of x32": "libc_call('syscall', 0x40000000 + 39)",
    }
MEMORY_AND_THREADS = {"thread bomb", "memory by malloc", "memory by mmap"}

# A process for each probe, whose parent is to it what the fork server is to a candidate.
EACH = """
import json, os, select, signal, sys, tempfile, threading
sys.path.insert(0, sys.argv[1])
from tasks.execute import sandbox
from tasks.execute.sandbox import limits
off, folder, probes = sys.argv[2], sys.argv[3], json.loads(sys.stdin.read())
COMMON
def take_off(layer):
    if layer == "seccomp":
        sandbox.seccomp.restrict = lambda **_: None
    if layer == "landlock":
        sandbox.landlock.restrict = lambda *_: None
    sandbox.self_test = lambda: None

def answers(source, parent):
    signal.alarm(20)
    job = os.open(folder + "/secret", os.O_RDONLY)
    os.dup2(job, 0)
    os.close(job)
    if off != "all":
        limits.bound(1 << 40 if off == "limits" else 1 << 30, 20, 256, strict=off != "limits")
        take_off(off)
        sandbox.enter("cpu", parent)
    try:
        exec(source, globals() | {"folder": folder, "project": sys.argv[1], "me": os.getpid()})
    except OSError as error:
        return f"{error.errno}"
    except BaseException as error:
        return repr(error)
    return "worked"

for name, source in probes.items():
    reading, writing = os.pipe()
    victim = os.fork()
    if victim == 0:
        parent = os.getpid()
        if os.fork() == 0:
            os.setsid()
            os.write(writing, answers(source, parent).encode())
            os._exit(0)
        os.close(writing)
        signal.sigwait([signal.SIGUSR1])
    os.close(writing)
    said = os.read(reading, 4096).decode() if select.select([reading], [], [], 20)[0] else ""
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    os.close(reading)
    print(json.dumps([name, said or 'no answer']), flush=True)
""".replace("COMMON", COMMON)


@cache
def answers(off: str) -> dict[str, str]:
    """What each probe comes to where the layer `off` is off, or all are."""
    probes = {probe.name: probe.source for probe in PROBES if probe.name not in NOT_RUN} | BOMBS
    with open_folder() as folder:
        done = subprocess.run(
            [*NAMESPACES, sys.executable, "-I", "-B", "-c", EACH, str(ROOT), off, str(folder)],
            input=json.dumps(probes),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = dict(map(json.loads, done.stdout.splitlines()))
    return found


@pytest.mark.parametrize("name", [probe.name for probe in PROBES if probe.name not in NOT_RUN] + list(BOMBS))
def test_without_any_layer_the_attack_works(name: str) -> None:
    answer = answers("all")[name]
    if answer == ENOSYS or name in BY_ITSELF:
        pytest.skip(f"it fails by itself ({answer}): {BY_ITSELF.get(name, 'this kernel has no such call')}")
    assert answer == "worked"


def test_with_all_layers_none_works() -> None:
    assert {name for name, answer in answers("none").items() if answer == "worked"} == set()


def test_without_landlock_files_can_be_read_and_without_seccomp_kept_locked_and_shared() -> None:
    """Each layer holds what the other does not."""
    without_landlock = {name for name, answer in answers("landlock").items() if answer == "worked"}
    assert without_landlock >= {"passwords", "a user's file", "list of processes", "everybody's temporary files"}
    assert not without_landlock & {"inet socket", "new file", "fork", "signal to the parent", "root again"}
    without_seccomp = {name for name, answer in answers("seccomp").items() if answer == "worked"}
    assert without_seccomp >= {"inet socket", "fork", "SysV shared memory", "file lock", "keyring"}
    assert "call of i386" in without_seccomp or platform.machine() != "x86_64"
    assert not without_seccomp & {"passwords", "new file", "root again", "parent's memory", "mount", "exec"}


def test_without_limits_there_is_no_end_of_memory_and_threads() -> None:
    without_limits = {name for name, answer in answers("limits").items() if answer == "worked"}
    assert without_limits >= MEMORY_AND_THREADS
    refused = {name: answers("none")[name] for name in MEMORY_AND_THREADS}
    assert refused == {
        "thread bomb": 'RuntimeError("can\'t start new thread")',
        "memory by malloc": "MemoryError()",
        "memory by mmap": "12",
    }
