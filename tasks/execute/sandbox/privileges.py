"""Who the process is: an ordinary user of its own, that dies with its parent and can gain nothing.

Owns uid, capabilities and the prctl switches. What an ordinary user may still reach is Landlock's and seccomp's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tasks.execute.sandbox.errors import SandboxError
from tasks.execute.sandbox.kernel import prctl

# A uid for each process, so that limits per user count one process and no signal passes between two. The range belongs
# to nobody's account, and lies within the 65536 ids that containers map.
FIRST_UID: Final = 61440
UIDS: Final = 4000

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
CAP_DAC_READ_SEARCH: Final = 2  # capabilities(7)
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAPABILITY_VERSION: Final = 0x20080522

REMEDY: Final = "start as an ordinary user, or as root with the capabilities SETUID and SETGID"


def die_with(parent_pid: int) -> None:
    """Be killed when the thread that started this process ends, however it ends. Linux only."""
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the request was made
        os._exit(1)


def drop_root(python_paths: Iterable[str]) -> None:
    """Become an ordinary user if this is root, and one without capabilities in any case. Raises SandboxError.

    Root is exempt from the limit on threads, owns half of the files, and may signal everyone.
    """
    walled = list(only_for_root(python_paths))
    if os.geteuid() != 0 and os.getuid() != 0:
        # A container may have granted some; the one exception is the one below.
        _set_capabilities(_effective_capabilities() & (1 << CAP_DAC_READ_SEARCH if walled else 0))
        return
    uid = FIRST_UID + os.getpid() % UIDS
    try:
        prctl(PR_SET_KEEPCAPS, bool(walled))
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_KEEPCAPS, 0)
    except OSError as error:
        raise SandboxError(f"uid: cannot become user {uid} ({error.strerror}): {REMEDY}") from error
    try:
        # Where Python lies in a folder closed to others, such as /root, one capability is left: to read files whoever
        # owns them. Landlock still decides which files, and the calls that could evade it are refused by seccomp.
        _set_capabilities(1 << CAP_DAC_READ_SEARCH if walled else 0)
    except OSError as error:
        raise SandboxError(
            f"uid: only root can enter {walled[0]}, where Python lies: install it elsewhere, or grant DAC_READ_SEARCH"
        ) from error
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (uid,) * 3 or os.getgroups():
        raise SandboxError(f"uid: still {os.getresuid()} after the change: {REMEDY}")


def forbid_gaining() -> None:
    """No privileges from set-uid programs, no core dump, no look into /proc/self by others of this user."""
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_DUMPABLE, 0)
    except OSError as error:
        raise SandboxError(f"no_new_privs: {error.strerror}: needs Linux 3.5 or newer") from error


def state(python_paths: Iterable[str]) -> tuple[bool, str]:
    """Whether `drop_root` would work, and how."""
    if os.geteuid() != 0:
        return True, f"already an ordinary user ({os.geteuid()})"
    held = _effective_capabilities()
    if not (held >> CAP_SETUID & 1 and held >> CAP_SETGID & 1):
        return False, f"root without the right to become another user: {REMEDY}"
    walled = next(only_for_root(python_paths), None)
    if walled is None:
        return True, f"root becomes one of {UIDS} users from {FIRST_UID} on"
    if not held >> CAP_DAC_READ_SEARCH & 1:
        return False, f"only root can enter {walled}, where Python lies: install it elsewhere, or grant DAC_READ_SEARCH"
    return True, f"root becomes one of {UIDS} users from {FIRST_UID} on, keeping DAC_READ_SEARCH because of {walled}"


def gaining_state() -> tuple[bool, str]:
    """Whether the kernel knows NO_NEW_PRIVS."""
    try:
        prctl(PR_GET_NO_NEW_PRIVS)
    except OSError:
        return False, "not known to this kernel: needs Linux 3.5 or newer"
    return True, "available"


def only_for_root(paths: Iterable[str]) -> Iterator[Path]:
    """The folders on the way to `paths` that an ordinary user cannot enter."""
    for path in map(Path, paths):
        for folder in (path, *path.parents):
            if folder.is_dir() and not folder.stat().st_mode & stat.S_IXOTH:
                yield folder


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _set_capabilities(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # effective, permitted, inheritable; the second triple holds capabilities from number 32 on
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
