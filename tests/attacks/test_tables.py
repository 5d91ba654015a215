"""The tables of system calls against libseccomp's, which knows every machine's. Both, whichever machine this is."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest

from tasks.execute.sandbox.seccomp import ALWAYS, ARCHITECTURES, SECCOMP_NUMBERS, STARTING, UNKNOWN, conditions

LIBRARY = ctypes.util.find_library("seccomp")


@pytest.mark.skipif(LIBRARY is None, reason="needs libseccomp")
@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_table_has_every_call_that_the_machine_has(machine: str) -> None:
    resolve = ctypes.CDLL(LIBRARY).seccomp_syscall_resolve_name_arch
    architecture, numbers = ARCHITECTURES[machine]
    named = {*ALWAYS, *STARTING, *UNKNOWN, *conditions(0, with_devices=True, with_programs=True)}
    known = {name: resolve(ctypes.c_uint32(architecture), name.encode()) for name in named}
    assert numbers == {name: number for name, number in known.items() if number >= 0}
    assert SECCOMP_NUMBERS[machine] == resolve(ctypes.c_uint32(architecture), b"seccomp")
