"""Parsing Python in a process with several threads.

Turning a tree into Python's `ast` classes counts the depth of its recursion in a place that all threads share, in
Python 3.11 at least: two at once can end with a SystemError over source that is fine.
"""

from __future__ import annotations

import ast
import threading

_LOCK = threading.Lock()


def parse(source: str) -> ast.Module:
    """`ast.parse`, one thread at a time."""
    with _LOCK:
        return ast.parse(source)
