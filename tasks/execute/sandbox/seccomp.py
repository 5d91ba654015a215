"""seccomp: which system calls exist for the process. What is not on the list is refused.

Owns the list, with the reason for each group, and its translation into the kernel's filter language. An allow-list,
because what Linux adds next year must be refused too. Refused calls answer EPERM, so that libraries that merely try one
go on; calls of another instruction set kill, since no honest program makes them.
Source: Documentation/userspace-api/seccomp_filter.rst of the Linux kernel; seccomp(2).

What is missing on purpose: exec and fork, which only the broker has; sockets of every kind, but for one that CUDA
cannot do without, to which nothing connects; ptrace, process_vm_* and
pidfd; io_uring, which runs calls past any filter; memfd, SysV and POSIX shared memory, keys and message queues, where
one process could leave bits for the next; utime, chmod, chown, xattr, rename, link, unlink, truncate, locks, where it
could leave them in files that it can only read; mincore and fadvise, which tell and steer the page cache; priorities,
affinities, namespaces, mounts, modules, bpf and perf.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tasks.execute.sandbox.errors import SandboxError
from tasks.execute.sandbox.kernel import prctl, syscall
from tasks.execute.sandbox.syscall_numbers import AARCH64, X86_64

ALWAYS: Final = (
    # Data through descriptors that are already there or may be opened.
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "preadv",
    "lseek",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    # Looking at files. What their content is, Landlock decides; stat it does not govern.
    "stat",
    "fstat",
    "lstat",
    "newfstatat",
    "statx",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents64",
    "getcwd",
    "statfs",
    "fstatfs",
    # Waiting, and talking between threads.
    "pipe",
    "pipe2",
    "eventfd2",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    # Memory; how much of it, the limits decide.
    "mprotect",
    "munmap",
    "mremap",
    "madvise",
    "brk",
    "membarrier",
    "get_mempolicy",
    # Threads.
    "futex",
    "set_robust_list",
    "get_robust_list",
    "set_tid_address",
    "rseq",
    "sched_yield",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "getcpu",
    "exit",
    "exit_group",
    # Signals to itself.
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigsuspend",
    "sigaltstack",
    "restart_syscall",
    "pause",
    "alarm",
    "setitimer",
    "getitimer",
    # Time.
    "clock_gettime",
    "clock_getres",
    "clock_nanosleep",
    "nanosleep",
    "gettimeofday",
    "time",
    "times",
    # Facts about itself and the machine.
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getresuid",
    "getresgid",
    "getgroups",
    "getpgid",
    "getsid",
    "getpgrp",
    "uname",
    "sysinfo",
    "getrusage",
    "getrlimit",
    "getrandom",
)

# Memory that no file backs and that more than one process can hold counts towards no limit.
SHARED_ANONYMOUS: Final = 0x01 | 0x20  # MAP_SHARED | MAP_ANONYMOUS
# Exactly what glibc and musl ask for to start a thread: no other process, no namespace.
THREAD_FLAGS: Final = (0x3D0F00, 0x7D0F00)
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC: creating and truncating are refused here because Landlock below ABI 3 lets a
# readable file be truncated. O_TMPFILE needs one of the first two.
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, the default protocol
DRIVERS_SOCKET: Final = (1, 0x80005, 0)
# SIOC…, FIOSETOWN, SIOCSPGRP, and wireless ones from 0x8B00: interfaces of the machine, and who gets signals
SOCKET_IOCTLS: Final = (0xFD00, 0x8900)
# fopen's "w" and "we"
FOPEN_W: Final = tuple(os.O_WRONLY | os.O_CREAT | os.O_TRUNC | more for more in (0, os.O_CLOEXEC))
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: no locks, and no F_SETOWN, which sends signals.
FCNTL: Final = (0, 1, 2, 3, 4, 1030)
# TCGETS, FIONBIO, FIONREAD, FIONCLEX, FIOCLEX: Python asks the first of every file it opens.
IOCTL: Final = (0x5401, 0x5421, 0x541B, 0x5450, 0x5451)
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory. Not PR_SET_PDEATHSIG: it dies with its parent.
PRCTL: Final = (15, 16, 0x53564D41)
# What the broker needs beside the rest, to run ffmpeg; which programs it may execute, Landlock decides.
STARTING: Final = (
    "execve",
    "wait4",  # for its own children: there are no others to wait for
)
# SIGCHLD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID: glibc's fork. Another process, in no new namespace.
FORK_FLAGS: Final = 0x1200011
# ARCH_SET_FS: where a program that starts on x86_64 keeps what belongs to its first thread.
ARCH_PRCTL: Final = (0x1002,)
# PR_SET_PDEATHSIG: ffmpeg dies with the broker.
STARTING_PRCTL: Final = (1,)
# They answer "no such call", so that C libraries fall back to the older one, whose flags a filter can see.
UNKNOWN: Final = ("clone3", "openat2")

ARCHITECTURES: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {
    "x86_64": (0xC000003E, X86_64),
    "aarch64": (0xC00000B7, AARCH64),
}
# x32 shares x86_64's architecture; its calls carry this bit.
X32_BIT: Final = 0x40000000

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
SECCOMP_NUMBERS: Final = {"x86_64": 317, "aarch64": 277}
PR_GET_SECCOMP: Final = 21
ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000  # with the errno in the low bits
KILL: Final = 0x80000000

# Opcodes of classic BPF, and offsets into struct seccomp_data.
LOAD, AND, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16

REMEDY: Final = "use a kernel with CONFIG_SECCOMP_FILTER, and a container whose own seccomp profile lets seccomp(2)"

_Instruction = tuple[int, int, int, int]  # opcode, jump if true, jump if false, constant


@dataclass(frozen=True)
class OneOf:
    """Allowed where an argument, as 32 bits, is one of `values`."""

    argument: int
    values: tuple[int, ...]

    def instructions(self) -> list[_Instruction]:
        tests = [
            step for value in self.values for step in ((JUMP_EQUAL, 0, 1, value & 0xFFFFFFFF), (RETURN, 0, 0, ALLOW))
        ]
        return [_load_argument(self.argument), *tests, (RETURN, 0, 0, REFUSE | errno.EPERM)]


@dataclass(frozen=True)
class NoneOf:
    """Allowed where an argument has no bit of `mask`, or is one of `but`."""

    argument: int
    mask: int
    but: tuple[int, ...] = ()

    def instructions(self) -> list[_Instruction]:
        return [
            _load_argument(self.argument),
            *(step for value in self.but for step in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))),
            (JUMP_ANY_BIT, 0, 1, self.mask),
            (RETURN, 0, 0, REFUSE | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        ]


@dataclass(frozen=True)
class NotAmong:
    """Allowed where an argument's bits of `mask` are not `value`."""

    argument: int
    mask: int
    value: int

    def instructions(self) -> list[_Instruction]:
        return [
            _load_argument(self.argument),
            (AND, 0, 0, self.mask),
            (JUMP_EQUAL, 0, 1, self.value),
            (RETURN, 0, 0, REFUSE | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        ]


@dataclass(frozen=True)
class Exactly:
    """Allowed where each of the arguments, counted from 0, is this one value."""

    values: tuple[int, ...]

    def instructions(self) -> list[_Instruction]:
        tests = [
            step
            for argument, value in enumerate(self.values)
            for step in (_load_argument(argument), (JUMP_EQUAL, 1, 0, value), (RETURN, 0, 0, REFUSE | errno.EPERM))
        ]
        return [*tests, (RETURN, 0, 0, ALLOW)]


@dataclass(frozen=True)
class Answer:
    """Never made; the caller is told this errno, or with 0 that all went well."""

    errno: int

    def instructions(self) -> list[_Instruction]:
        return [(RETURN, 0, 0, REFUSE | self.errno)]


Condition = OneOf | NoneOf | NotAmong | Exactly | Answer


def conditions(pid: int, *, with_devices: bool = False, with_programs: bool = False) -> dict[str, Condition]:
    """The calls that are allowed for some arguments only, in process `pid`."""
    found: dict[str, Condition] = {
        "open": NoneOf(1, WRITING),
        "openat": NoneOf(2, WRITING),
        "fcntl": OneOf(1, FCNTL),
        "ioctl": OneOf(1, IOCTL),
        "mmap": NotAmong(3, SHARED_ANONYMOUS, SHARED_ANONYMOUS),
        "clone": OneOf(0, THREAD_FLAGS),
        "prctl": OneOf(0, PRCTL),
        "prlimit64": OneOf(0, (0,)),  # its own limits only, and those cannot be raised
        "kill": OneOf(0, (pid,)),
        "tgkill": OneOf(0, (pid,)),
    }
    if with_devices:
        # The driver's own calls are ioctls on its devices, which it opens for writing and shares memory with. Landlock
        # decides which devices those are. What else it does not start without, an H100's told by refusing it:
        found |= {"ioctl": NotAmong(1, *SOCKET_IOCTLS), "mmap": NoneOf(3, 0)}
        # It names its threads through files of /proc, opened as fopen does for "w". Landlock of every version refuses
        # that where nothing may be written.
        making = os.O_CREAT | os.O_TRUNC
        found |= {"open": NoneOf(1, making, FOPEN_W), "openat": NoneOf(2, making, FOPEN_W)}
        # It listens at an abstract address of its own; at a path, Landlock refuses it. No process may connect; but that
        # an address is taken can be seen, so candidates with a GPU run one at a time.
        found |= {"socket": Exactly(DRIVERS_SOCKET), "bind": NoneOf(1, 0), "listen": NoneOf(1, 0)}
        # It asks for NVIDIA's multi-process service, and clears away what was never there.
        gone = Answer(errno.ENOENT)
        found |= {"setsockopt": Answer(0), "connect": gone, "unlink": gone, "unlinkat": gone}
    if with_programs:
        found |= {"clone": OneOf(0, (*THREAD_FLAGS, FORK_FLAGS)), "prctl": OneOf(0, PRCTL + STARTING_PRCTL)}
        found |= {"arch_prctl": OneOf(0, ARCH_PRCTL)}
    return found


def program(machine: str, pid: int, *, with_devices: bool = False, with_programs: bool = False) -> bytes:
    """The filter for `machine` ("x86_64", "aarch64") as an array of struct sock_filter. Raises SandboxError."""
    if machine not in ARCHITECTURES:
        raise SandboxError(f"seccomp: no table for {machine!r}: use one of {', '.join(ARCHITECTURES)}")
    architecture, numbers = ARCHITECTURES[machine]
    steps: list[_Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_ANY_BIT, 0, 1, X32_BIT),
        (RETURN, 0, 0, KILL),
    ]
    for name in _known(ALWAYS + STARTING if with_programs else ALWAYS, numbers):
        steps += _on(numbers[name], [(RETURN, 0, 0, ALLOW)])
    for name in _known(UNKNOWN, numbers):
        steps += _on(numbers[name], [(RETURN, 0, 0, REFUSE | errno.ENOSYS)])
    some = conditions(pid, with_devices=with_devices, with_programs=with_programs)
    for name in _known(some, numbers):
        steps += _on(numbers[name], some[name].instructions())
    steps.append((RETURN, 0, 0, REFUSE | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def restrict(*, with_devices: bool = False, with_programs: bool = False) -> None:
    """Put the filter on this process and its children, for good. NO_NEW_PRIVS must be set. Raises SandboxError."""
    machine = platform.machine()
    if sys.maxsize < 2**32:
        raise SandboxError("seccomp: no table for 32-bit programs: use a 64-bit Python")
    filters = program(machine, os.getpid(), with_devices=with_devices, with_programs=with_programs)
    code = ctypes.create_string_buffer(filters, len(filters))
    description = struct.pack("@HP", len(filters) // 8, ctypes.addressof(code))
    try:
        syscall(
            SECCOMP_NUMBERS[machine],
            ctypes.c_uint(SECCOMP_SET_MODE_FILTER),
            ctypes.c_uint(SECCOMP_FILTER_FLAG_TSYNC),
            ctypes.create_string_buffer(description, len(description)),
        )
    except OSError as error:
        raise SandboxError(f"seccomp: {error.strerror}: {REMEDY}") from error


def state() -> tuple[bool, str]:
    """Whether there are filters, and a table for this machine."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return False, f"no table for {machine!r}: use one of {', '.join(ARCHITECTURES)}"
    try:
        prctl(PR_GET_SECCOMP)
    except OSError as error:
        return False, f"{error.strerror}: {REMEDY}"
    allowed = _known((*ALWAYS, *conditions(0)), ARCHITECTURES[machine][1])
    return True, f"{len(allowed)} system calls allowed on {machine}"


def _known(names: Iterable[str], numbers: Mapping[str, int]) -> list[str]:
    return [name for name in names if name in numbers]


def _on(number: int, then: list[_Instruction]) -> list[_Instruction]:
    return [(JUMP_EQUAL, 0, len(then), number), *then]


def _load_argument(index: int) -> _Instruction:
    return LOAD, 0, 0, ARGUMENTS_AT + 8 * index  # the low half, on little-endian machines
