"""What a failed attempt shows the next one: the part of its traceback that is its own, and what it had changed.

Owns how much of either is worth a model's attention. Which failures are near is `tasks.design.archive`'s.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from tasks.candidate import FUNCTIONS, Candidate

# The end of a log has the error.
LOG_CHARACTERS: Final = 1200
# A longer change is another design rather than a change, and its traceback says more than its source.
CHANGED_LINES: Final = 60
_TRACEBACK: Final = "Traceback (most recent call last):\n"
_FRAME: Final = re.compile(r'  File "([^"]*)"')


def trimmed_log(log: str) -> str:
    """The last traceback with the candidate's own frames and the one that raised; without one, the end of the log."""
    _, found, after = log.rpartition(_TRACEBACK)
    if not found:
        return log[-LOG_CHARACTERS:]
    frames: list[list[str]] = []
    rest: list[str] = []
    for line in after.splitlines():
        if _FRAME.match(line) and not rest:
            frames.append([line])
        elif frames and line.startswith(" ") and not rest:
            frames[-1].append(line)
        else:
            rest.append(line)
    kept = [frame if _is_own(frame) or frame is frames[-1] else None for frame in frames]
    lines: list[str] = []
    for frame in kept:
        if frame is not None:
            lines += frame
        elif not lines or lines[-1] != "  …":
            lines.append("  …")
    return (_TRACEBACK + "\n".join([*lines, *rest]))[-LOG_CHARACTERS:]


def changed_part(candidate: Candidate, base: Candidate) -> str:
    """What `candidate` has otherwise than `base`, as a unified diff of their sources; "" where that is long."""
    lines: list[str] = []
    for name in FUNCTIONS:
        before, after = (files.get(name, "").splitlines() for files in (base.files, candidate.files))
        lines += difflib.unified_diff(before, after, name, name, n=1, lineterm="")
    return "\n".join(lines) if len(lines) <= CHANGED_LINES else ""


def _is_own(frame: list[str]) -> bool:
    found = _FRAME.match(frame[0])
    return found is not None and found[1] in FUNCTIONS
