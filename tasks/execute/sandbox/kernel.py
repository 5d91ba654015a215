"""System calls that Python has no function for, through ctypes."""

from __future__ import annotations

import ctypes
import os
from typing import Any


def syscall(number: int, *arguments: Any) -> int:
    """The call's result. Raises OSError where it is negative."""
    return _checked("syscall", ctypes.c_long(number), *arguments)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), always with five arguments: the kernel refuses some options if the unused ones are not zero."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked("prctl", ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded))


def _checked(name: str, *arguments: Any) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result = int(function(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
