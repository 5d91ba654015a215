"""What a candidate will surely fail at, said at once and kindly, before any process is started.

Owns the advice: imports that the sandbox refuses, functions that the harness cannot call. What is not allowed at all is
`tasks.candidate.problems`'; nothing here protects anybody, the sandbox does.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from tasks.candidate import FUNCTIONS, Candidate, problems
from tasks.parsing import parse

# Top-level modules that cannot work in the sandbox, or are none of a codec's business, and what to do instead.
_NO_PROCESSES: Final = "no process can be started: threads can, and PyAV has x264, x265, SVT-AV1 in process"
_NO_NETWORK: Final = "there is no network"
_NO_FILES: Final = "there are no files to write: io.BytesIO keeps bytes in memory"
REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("subprocess", "multiprocessing", "concurrent.futures.process", "pty"), _NO_PROCESSES),
    **dict.fromkeys(("socket", "ssl", "http", "urllib.request", "requests", "httpx", "aiohttp", "ftplib"), _NO_NETWORK),
    **dict.fromkeys(("boto3", "botocore", "s3fs", "anthropic", "openai", "prefect"), _NO_NETWORK),
    **dict.fromkeys(("tempfile", "shutil", "sqlite3", "dbm", "shelve"), _NO_FILES),
    "asyncio": "it needs a socket: use threads",
    "ctypes": "calls into C libraries are refused where they matter: use numpy, torch or PyAV",
    "pickle": "a bitstream of pickles is neither small nor safe: pack numbers with struct, or use codec.bitstream",
    "tasks": "the evaluator is not a library: codec is",
    "flows": "the evaluator is not a library: codec is",
}
# What the harness passes: compress_video_tensor(frames, config, device) and so on.
ARGUMENTS: Final = 3
# Names are a candidate's own, and may be as long and as many as its file has room for; records and pages are read.
MAX_LINES: Final = 20
MAX_LINE_CHARS: Final = 300


def lint(candidate: Candidate) -> list[str]:
    """`problems`, then advice; one line each, empty for a candidate worth starting. Runs nothing of it."""
    found = problems(candidate)
    if found:
        return found
    advice = (line for name, source in candidate.files.items() for line in _of_file(name, source, candidate.files))
    return [line[:MAX_LINE_CHARS] for line in itertools.islice(advice, MAX_LINES)]


def _of_file(name: str, source: str, files: Mapping[str, str]) -> Iterator[str]:
    tree = parse(source)
    seen: set[str] = set()
    for line, module in _imports(tree):
        if module not in seen:
            seen.add(module)
            reason = _import_problem(name, module, files)
            if reason:
                yield f"{name}, line {line}: import {module}: {reason}"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == FUNCTIONS[name] and not _takes(node, ARGUMENTS):
            yield f"{name}, line {node.lineno}: {node.name}() must take {ARGUMENTS} arguments as the contract says"


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _import_problem(name: str, module: str, files: Mapping[str, str]) -> str:
    for refused, reason in REFUSED.items():
        if module == refused or module.startswith(f"{refused}."):
            return reason
    top = module.split(".")[0]
    if f"{top}.py" in FUNCTIONS:
        # The decoder's process gets its own source alone; the encoder's has both.
        there = f"{top}.py" in files and name != "decoder.py"
        return "" if there else f"{top}.py is not there when {name} runs: repeat what you need"
    if not _is_installed(top):
        return "not installed: use numpy, torch, cv2, av, skimage, constriction or codec"
    return ""


def _is_installed(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except ValueError:  # what is loaded and was never found by its name: __main__
        return False


def _takes(function: ast.FunctionDef, count: int) -> bool:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    return required <= count and (positional >= count or arguments.vararg is not None) and not _keyword_only(arguments)


def _keyword_only(arguments: ast.arguments) -> bool:
    """Whether there is an argument that a caller must name."""
    return any(default is None for default in arguments.kw_defaults)
