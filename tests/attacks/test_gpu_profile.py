"""The gpu profile with stand-ins for NVIDIA's devices: it is chosen, reaches these devices, and no other.

They have the numbers of null and zero, in a /dev of a mount namespace. A null device answers a driver's ioctl with
ENOTTY, which shows that the call went through. Where the machine has a GPU, CUDA itself is started in the profile.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from loud import clip

from tasks.campaign import Limits
from tasks.execute.isolation import Job, SandboxIsolation
from tasks.execute.sandbox import layers
from tasks.execute.sandbox.landlock import abi

ROOT = Path(__file__).resolve().parents[2]
MISSING = [layer.name for layer in layers() if not layer.ok]
NULL, ZERO, FULL, RANDOM = 3, 5, 7, 9
DEVICES = {"null": NULL, "zero": ZERO, "full": FULL, "urandom": RANDOM}
STAND_INS = {"nvidiactl": NULL, "nvidia-uvm": ZERO, "nvidia0": NULL}


def _can_make_devices() -> bool:
    try:
        return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
    except OSError:
        return False


pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`"),
    pytest.mark.skipif(not _can_make_devices(), reason="stand-ins for devices need root and unshare(1)"),
]

ATTEMPTS = {
    "opening": "os.open('/dev/nvidiactl', os.O_RDWR)",
    "opening to read": "os.open('/dev/nvidia0', os.O_RDONLY)",
    "call of the driver": "fcntl.ioctl(os.open('/dev/nvidiactl', os.O_RDWR), 0xC020462A, bytes(32))",
    "memory of the driver": "mmap.mmap(os.open('/dev/nvidia-uvm', os.O_RDWR), 4096)",
    "opening another device": "os.open('/dev/full', os.O_RDWR)",
    "writing to null": "os.open('/dev/null', os.O_RDWR)",
    "call of another driver": "fcntl.ioctl(os.open('/dev/null', os.O_RDONLY), 0xC020462A, bytes(32))",
    "making a device": "os.mknod('/dev/nvidia1', 0o20666, os.makedev(195, 1))",
    "making a file": "os.open('/dev/nvidia1', os.O_RDWR | os.O_CREAT)",
    "making a file as threads are named": "open('/dev/nvidia1', 'w')",
    "overwriting what can be read": "open(os.__file__, 'w')",
    "naming a thread": "open(f'/proc/self/task/{threading.get_native_id()}/comm', 'w')",
    "naming the parent": "open(f'/proc/{os.getppid()}/comm', 'w')",
}
ENCODER = """
import fcntl, json, mmap, os, threading
def compress_video_tensor(frames, config, device):
    found = {}
    for name, source in config["attempts"].items():
        try:
            exec(source)
            found[name] = 0
        except OSError as error:
            found[name] = error.errno
    return {"compressed_data": json.dumps(found).encode()}
"""
RUN = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/attacks"]
from loud import LIMITS, clip
from tasks.execute.isolation import Job, SandboxIsolation
arguments = {"config": {"attempts": json.loads(sys.argv[3])}, "width": 16, "height": 16}
job = Job("encode", {"encoder.py": sys.argv[2]}, clip().planar, arguments, 40, 10**6)
outcome = SandboxIsolation(LIMITS).run(job)
assert outcome.status == "ok", outcome.reason + outcome.log
print(outcome.output.decode())
"""
DOCTOR = "import sys; sys.path.insert(0, sys.argv[1]); from flows.commands import doctor; print(doctor._sandbox()[-1])"


def beside(devices: dict[str, int], *command: str) -> str:
    """What `command` prints where /dev holds `devices` and no other."""
    steps = ["mount -t tmpfs -o mode=755 none /dev"]
    steps += [f"mknod -m 666 /dev/{name} c 1 {minor}" for name, minor in (DEVICES | devices).items()]
    steps += ["mkdir /dev/shm", f"exec {shlex.join(command)}"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-e", "-c", "\n".join(steps)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(devices: dict[str, int]) -> dict[str, int]:
    command = [sys.executable, "-I", "-B", "-c", RUN, str(ROOT), ENCODER, json.dumps(ATTEMPTS)]
    found: dict[str, int] = json.loads(beside(devices, *command))
    return found


@pytest.mark.slow
def test_a_candidate_reaches_nvidias_devices_and_no_other() -> None:
    assert answers(STAND_INS) == {
        "opening": 0,
        "opening to read": 0,
        "call of the driver": errno.ENOTTY,
        "memory of the driver": 0,
        "opening another device": errno.EACCES,
        "writing to null": errno.EACCES,
        # Landlock has a right for this since its fifth version; before, what may be read may be called.
        "call of another driver": errno.EACCES if abi() >= 5 else errno.ENOTTY,
        "making a device": errno.EPERM,
        "making a file": errno.EPERM,
        "making a file as threads are named": errno.EACCES,
        "overwriting what can be read": errno.EACCES,
        "naming a thread": 0,
        "naming the parent": errno.EACCES,
    }


@pytest.mark.slow
def test_without_nvidias_first_device_the_others_are_refused_too() -> None:
    """The cpu profile."""
    found = answers({name: minor for name, minor in STAND_INS.items() if name != "nvidiactl"})
    assert found.pop("opening") == errno.EPERM
    assert found.pop("opening to read") == errno.EACCES
    assert set(found.values()) == {errno.EPERM}


def test_the_doctor_enters_the_profile_that_candidates_will() -> None:
    command = [sys.executable, "-I", "-B", "-c", DOCTOR, str(ROOT)]
    for devices, profile in ((STAND_INS, "gpu"), ({}, "cpu")):
        assert f"ok=True, text='entered (profile {profile})" in beside(devices, *command)


CONVOLVING = """
import torch
def compress_video_tensor(frames, config, device):
    ones = torch.ones(8, 8, 3, 3, device="cuda")
    found = torch.nn.functional.conv2d(torch.ones(1, 8, 64, 64, device="cuda"), ones)
    return {"compressed_data": str(int(found.sum())).encode()}
"""


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs an NVIDIA GPU")
def test_cuda_starts_in_the_profile() -> None:
    arguments = {"config": {}, "width": 16, "height": 16}
    limits = Limits(memory_mb=8192, encode_seconds=60, decode_seconds=60)
    job = Job("encode", {"encoder.py": CONVOLVING}, clip().planar, arguments, 60, 10**6)
    outcome = SandboxIsolation(limits, "gpu").run(job)
    assert outcome.status == "ok", outcome.reason + outcome.log
    assert int(outcome.output) == 8 * 8 * 9 * 62 * 62
