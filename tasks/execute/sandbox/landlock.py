"""Landlock: which files the process can read. It can make and remove none, write none but a GPU's devices and facts of
itself, and execute none but the broker's.

Owns the ruleset. Calls that Landlock does not govern (stat, utime, chmod, sockets other than TCP) are seccomp's.
Source: Documentation/userspace-api/landlock.rst of the Linux kernel.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from tasks.execute.sandbox.errors import SandboxError
from tasks.execute.sandbox.kernel import syscall

# The same numbers on every architecture.
CREATE_RULESET: Final = 444
ADD_RULE: Final = 445
RESTRICT_SELF: Final = 446
GET_VERSION: Final = 1  # flag of CREATE_RULESET
PATH_BENEATH: Final = 1  # kind of rule

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15

# How many file rights each ABI knows, from the lowest bit on. All are handled, and so refused where no rule grants
# them. Truncation came with ABI 3: before it, seccomp alone refuses it.
FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
NETWORK_ABI: Final = 4
SCOPE_ABI: Final = 6
TCP: Final = 0b11  # bind, connect
SCOPES: Final = 0b11  # abstract UNIX sockets, signals

REMEDY: Final = "use Linux 5.13 or newer, started with `lsm=landlock,...`, in a container whose seccomp profile lets it"


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder_fd", ctypes.c_int32))


def abi() -> int:
    """The version that the kernel speaks. Raises OSError where it speaks none."""
    return syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(GET_VERSION))


def state() -> tuple[bool, str]:
    """Whether there is Landlock, and which."""
    try:
        version = abi()
    except OSError as error:
        return False, f"{error.strerror}: {REMEDY}"
    missing = [name for name, since in (("TCP rules", NETWORK_ABI), ("signal scope", SCOPE_ABI)) if version < since]
    covered = f", without {' and '.join(missing)}: seccomp covers those" if missing else ""
    return True, f"ABI {version}{covered}"


def restrict(
    readable: Iterable[str], usable: Iterable[str] = (), executable: Iterable[str] = (), writable: Iterable[str] = ()
) -> None:
    """Let this process read `readable`, with all that lies beneath, use the devices `usable`, and nothing else.

    `executable` are single files, to be read and executed; files in folders of `writable` can be written, not made.

    Paths that do not exist are left out: machines differ in where libraries lie. Raises SandboxError.
    """
    try:
        version = abi()
        handled = (1 << FILE_RIGHTS[min(version, max(FILE_RIGHTS))]) - 1
        attributes = _RulesetAttributes(handled, TCP, SCOPES)
        # Older kernels refuse fields that they do not know.
        size = 8 if version < NETWORK_ABI else 16 if version < SCOPE_ABI else 24
        ruleset = syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
        try:
            for path in readable:
                _allow(ruleset, path, READ_FILE | READ_DIR)
            for path in usable:
                _allow(ruleset, path, (READ_FILE | WRITE_FILE | IOCTL_DEV) & handled)
            for path in writable:
                _allow(ruleset, path, (WRITE_FILE | TRUNCATE) & handled)
            for path in executable:
                _allow(ruleset, path, READ_FILE | EXECUTE)
            syscall(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        finally:
            os.close(ruleset)
    except OSError as error:
        raise SandboxError(f"Landlock: {error.strerror}: {REMEDY}") from error


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= ~READ_DIR  # the kernel refuses a folder's right on a file
        rule = _PathBeneath(rights, fd)
        syscall(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)
