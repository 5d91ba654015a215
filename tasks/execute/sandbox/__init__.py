"""The strict sandbox: what a process gives up, for good, before it runs code that nobody has read.

Owns the layers, their order and the proof that they hold. Starting, watching and killing the process is
`tasks.execute.isolation`'s. Imports the standard library only: it is entered before numpy and torch are imported, so
that their start-up runs inside too.

    rlimits        limits.py       how much memory, time, files and threads
    privileges     privileges.py   root becomes an ordinary user; nothing can be gained back
    Landlock       landlock.py     which files can be read; writing to none, but with a GPU to it and to facts of
                                   itself; no TCP, no signals out
    seccomp        seccomp.py      which system calls exist at all

Candidates enter by `enter`, the broker that runs one program for them by `enter_as_broker`.

Landlock bounds *what* an allowed call reaches, seccomp *which* calls there are; each alone leaves holes that the other
closes. It fails closed: a missing layer is an error that names it and its remedy, never a weaker sandbox.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import sysconfig
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tasks.execute.sandbox import landlock, privileges, seccomp
from tasks.execute.sandbox.errors import SandboxError

__all__ = ["Layer", "Profile", "SandboxError", "enter", "enter_as_broker", "layers", "profile_here", "self_test"]

Profile = Literal["cpu", "gpu"]

# Shared libraries that torch, numpy and PyAV load late, with the loader's index of them.
SYSTEM_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
# Kernel facts that C libraries ask for: how many cores there are, where random bytes and zeros come from.
SYSTEM_FACTS: Final = ("/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo", "/dev/urandom", "/dev/zero")
NULL: Final = "/dev/null"
# What CUDA's user-space driver opens, as traced on an H100 and an H200 with driver 580.
GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{index}" for index in range(16)))
GPU_FACTS: Final = (
    *("/proc/driver/nvidia", "/proc/devices", "/sys/module/nvidia"),
    *("/sys/devices/system/node", "/sys/devices/system/memory", "/proc/sys/vm/mmap_min_addr"),
    # Of the process itself: where its libraries lie, which memory it may have.
    *("/proc/self/maps", "/proc/self/status"),
    # Where some hosts mount the driver's libraries.
    "/usr/local/nvidia",
)
# The driver gives its threads names, or does not start. What is written here goes with the process. The rule covers
# more than names; of the rest, what is root's while a process is not dumpable stays shut: memory, scores, user maps.
GPU_THREADS: Final = "/proc/self/task"

# What the kernel starts before a dynamically linked program: glibc's, by machine.
LOADERS: Final = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")


@dataclass(frozen=True)
class Layer:
    """One layer on this machine; `text` says what it offers or, if not `ok`, what to do."""

    name: str
    ok: bool
    text: str


def enter(profile: Profile, parent_pid: int) -> None:
    """Restrict this process and all its threads to come. There is no way back.

    To be called while the process has one thread, after `limits.bound`. Raises SandboxError, naming the layer.
    """
    _require_linux()
    import codec  # found through the project's folder, which cannot be listed from inside

    readable = [*_python_paths(), *codec.__path__, *SYSTEM_LIBRARIES, *SYSTEM_FACTS, NULL]
    usable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    if profile == "gpu":
        # A link by the card's address leads to what the kernel says of it.
        cards = [f"/sys/bus/pci/devices/{address}" for address in _names_in("/proc/driver/nvidia/gpus")]
        readable += [*GPU_FACTS, *cards]
        usable, writable = GPU_DEVICES, (GPU_THREADS,)
    privileges.drop_root(_python_paths())
    # Changing the uid makes the kernel forget that this process is to die with its parent.
    privileges.die_with(parent_pid)
    privileges.forbid_gaining()
    landlock.restrict(readable, usable, writable=writable)
    seccomp.restrict(with_devices=profile == "gpu")
    self_test()


def enter_as_broker(program: str, parent_pid: int) -> None:
    """Restrict this process to what running `program`, and no other, needs; its children too.

    It is given fewer files than a candidate: none of Python's, so everything has to be imported before. Otherwise as
    `enter`.
    """
    _require_linux()
    closed = [Path(path).resolve() for path in _python_paths()]
    libraries = [path for folder in SYSTEM_LIBRARIES for path in _around(Path(folder).resolve(), closed)]
    privileges.drop_root([program])
    privileges.die_with(parent_pid)
    privileges.forbid_gaining()
    landlock.restrict([*libraries, *SYSTEM_FACTS, NULL], executable=[program, *LOADERS])
    seccomp.restrict(with_programs=True)
    self_test()


def profile_here() -> Profile:
    """The gpu profile where the machine has an NVIDIA device."""
    return "gpu" if Path(GPU_DEVICES[0]).exists() else "cpu"


def self_test() -> None:
    """The two canaries: a file that every system lets everyone read, and a socket. Both must be refused."""
    try:
        os.close(os.open("/etc/passwd", os.O_RDONLY))
    except PermissionError:
        pass
    else:
        raise SandboxError("Landlock: /etc/passwd can still be read: report this kernel, and do not run candidates")
    try:
        socket.socket().close()
    except PermissionError:
        pass
    else:
        raise SandboxError("seccomp: a socket can still be opened: report this kernel, and do not run candidates")


def layers() -> list[Layer]:
    """What this machine offers, in the order of `enter`. Restricts nothing."""
    if sys.platform != "linux":
        return [Layer("sandbox", False, "needs Linux: run the worker in a Linux container or virtual machine")]
    return [
        Layer("rlimits", True, "memory, CPU time, open files, file size, core dumps, threads"),
        Layer("uid", *privileges.state(_python_paths())),
        Layer("no_new_privs", *privileges.gaining_state()),
        Layer("landlock", *landlock.state()),
        Layer("seccomp", *seccomp.state()),
    ]


def _require_linux() -> None:
    if sys.platform != "linux":
        raise SandboxError("sandbox: needs Linux: run the worker in a Linux container or virtual machine")


def _around(path: Path, closed: Collection[Path]) -> Iterator[str]:
    """`path` without what is `closed`, which lies beneath it in distributions and containers: Landlock only grants.

    A link is left out, since what it leads to is granted by its own name or not at all.
    """
    if not any(other.is_relative_to(path) for other in closed):
        yield str(path)
    elif path not in closed:
        for entry in path.iterdir():
            if not entry.is_symlink():
                yield from _around(entry, closed)


def _names_in(folder: str) -> list[str]:
    return [entry.name for entry in Path(folder).iterdir()] if Path(folder).is_dir() else []


def _python_paths() -> list[str]:
    """The standard library and installed packages; no other entry of sys.path, such as a user's project.

    Also a folder of packages that a .pth file of a virtual environment names.
    """
    installed = {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    installed |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    dynamic = importlib.util.find_spec("_ctypes")
    if dynamic is not None and dynamic.origin and Path(dynamic.origin).is_absolute():
        installed.add(str(Path(dynamic.origin).parent))
    return sorted(installed)
