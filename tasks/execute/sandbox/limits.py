"""Resource limits of a candidate's process, in the sandbox and outside it.

Owns setrlimit. Wall clock and resident memory are watched from outside, by `tasks.execute.isolation`.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

# SVT-AV1 and x265 start a few threads for each core; a bomb of this many costs the machine little.
MAX_THREADS: Final = 512


def bound(memory_bytes: int, cpu_seconds: int, open_files: int, *, strict: bool) -> None:
    """Lower the hard limits, so that they cannot be raised again. `strict` leaves no file growth and few threads.

    Raises MemoryError where this process holds more than `memory_bytes` as it is.
    """
    held = _data_bytes()
    if held > memory_bytes:
        raise MemoryError(f"Python and torch alone take {held >> 20} MB: raise limits.memory_mb")
    limits = [
        # Not RLIMIT_AS: CUDA and torch reserve far more address space than they use.
        (resource.RLIMIT_DATA, memory_bytes),
        # Pipes do not count, so an answer still gets out.
        (resource.RLIMIT_FSIZE, 0 if strict else memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_NOFILE, open_files),
        # A core dump would be written by the kernel, outside every other layer.
        (resource.RLIMIT_CORE, 0),
    ]
    if strict:
        limits.append((resource.RLIMIT_NPROC, MAX_THREADS + _threads_of_this_user()))
    for limit, value in limits:
        hard = resource.getrlimit(limit)[1]
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowered, lowered))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _threads_of_this_user() -> int:
    """The limit counts all threads of a user. Root's do not matter: the process will be another user, with none."""
    if os.getuid() == 0:
        return 0
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += sum(1 for _ in (process / "task").iterdir())
        except OSError:  # it has ended, or is not ours to see
            continue
    return count
