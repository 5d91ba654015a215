"""Code of the older generation as a candidate: the old sources as they are, and a few lines behind them.

Owns what is accepted, what is refused and what a refusal says. What the added lines do is `codec.older`'s. Accepted are

    v2   compress_video_tensor(frames, config, device) -> dict, decompress_video_tensor(compressed_data, config, device)
         -> dict with "reconstructed_frames"; frames [1, T, 3, H, W]
    v1   compress_video_frame(frame, frame_index, config) -> bytes, and what v1 never had:
         decompress_video_frame(data, frame_index, config) -> frame; frames [H, W, 3]

in one source or in two. The old worker ran both agents in one namespace, in one process; now each has a process of its
own, so what a decoder took from there is refused here and said at once. Nothing is run: what gets around these checks
meets the sandbox and the harness, and has no score.
"""

from __future__ import annotations

import ast
import builtins
import io
import symtable
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codec.errors import BadInputError
from codec.older import FRAMES
from tasks.candidate import Candidate, Lineage
from tasks.lint import lint

TENSOR = ("compress_video_tensor", "decompress_video_tensor")
FRAME = ("compress_video_frame", "decompress_video_frame")
ARGUMENTS: Final = 3
RENAMED: Final = "older_"
DESIGNER: Final = "imported"

# Old code was run where these were there already.
PRESENT: Final[Mapping[str, str]] = {
    "torch": "import torch",
    "nn": "from torch import nn",
    "F": "import torch.nn.functional as F",
    "np": "import numpy as np",
    "numpy": "import numpy",
    "cv2": "import cv2",
    **{name: f"import {name}" for name in ("io", "json", "math", "random", "struct", "time", "zlib")},
    **{name: f"from typing import {name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")},
}

V1_WITHOUT_DECODER: Final = (
    "compress_video_frame() has no decoder, so nothing that it makes can be measured: add "
    "decompress_video_frame(data, frame_index, config), which returns the frame [H, W, 3] from those bytes"
)

# What is added behind the old source, by the old functions' names.
ENCODER_LINES: Final = {
    TENSOR: """

# Today's contract, for the code above.
def compress_video_tensor(frames, config, device):
    from codec import older

    return older.compress_tensor(older_compress_video_tensor, frames, config, device)
""",
    FRAME: """

# Today's contract, for the code above.
def compress_video_tensor(frames, config, device):
    from codec import older

    return older.compress_frames(older_compress_video_frame, frames, config)
""",
}
DECODER_LINES: Final = {
    TENSOR: """

# Today's contract, for the code above.
def decompress_video_tensor(compressed_data, config, device):
    from codec import older

    return older.decompress_tensor(older_decompress_video_tensor, compressed_data, config, device)
""",
    FRAME: """

# Today's contract, for the code above.
def decompress_video_tensor(compressed_data, config, device):
    from codec import older

    return older.decompress_frames(older_decompress_video_frame, compressed_data, config)
""",
}


class RefusedError(BadInputError):
    """Old code that cannot be adapted. The message says what to change, one reason after the other."""


@dataclass(frozen=True)
class Knob:
    """The key of the old config that is set to `low` at quality 0 and to `high` at quality 1."""

    name: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Knob:
        """From NAME=LOW:HIGH. Raises BadInputError."""
        name, _, ends = text.partition("=")
        low, _, high = ends.partition(":")
        try:
            return cls(name.strip(), _number(low), _number(high))
        except ValueError as error:
            raise BadInputError(
                f"--knob {text}: write NAME=LOW:HIGH, the values at the lowest quality and the highest, like crf=45:15"
            ) from error


@dataclass(frozen=True)
class OlderCode:
    """The sources of both agents; the same text twice where one held both."""

    encoder: str
    decoder: str

    @classmethod
    def read(cls, path: Path) -> OlderCode:
        """From a file that holds both, or a folder with encoder.py and decoder.py (or the names of the old agents).

        Raises BadInputError.
        """
        if path.is_file():
            source = _read(path)
            return cls(source, source)
        if not path.is_dir():
            raise BadInputError(f"{path}: no such file or folder")
        for names in (("encoder.py", "decoder.py"), ("encoding_agent.py", "decoding_agent.py")):
            if all((path / name).is_file() for name in names):
                encoder, decoder = (_read(path / name) for name in names)
                return cls(encoder, decoder)
        sources = sorted(path.glob("*.py"))
        if len(sources) != 1:
            raise BadInputError(f"{path}: needs encoder.py and decoder.py, or one .py file that holds both functions")
        return cls.read(sources[0])


def adapt(
    code: OlderCode,
    config: Mapping[str, Any],
    name: str,
    *,
    hypothesis: str = "",
    frames: str | None = None,
    knob: Knob | None = None,
) -> Candidate:
    """A candidate that runs `code` behind today's contract. `frames` is one of FRAMES; None: what the old worker gave.

    Raises RefusedError where it cannot be adapted, BadInputError where `frames` is unknown.
    """
    if frames is not None and frames not in FRAMES:
        raise BadInputError(f"frames of kind {frames!r} are not known: choose {', '.join(FRAMES)}")
    functions = _functions(code)
    compress, decompress = functions
    reasons = [
        *_undefined("the encoder", code.encoder, ""),
        *(_undefined("the decoder", code.decoder, code.encoder) if code.decoder != code.encoder else ()),
        *_shared_globals(code, compress, decompress),
    ]
    if reasons:
        raise RefusedError("; ".join(reasons))
    try:
        candidate = Candidate(
            files={
                "encoder.py": _renamed(_with_imports(code.encoder), compress) + ENCODER_LINES[functions],
                "decoder.py": _renamed(_with_imports(code.decoder), decompress) + DECODER_LINES[functions],
            },
            config={
                "older": dict(config),
                "frames": frames or ("rgb_float" if functions == TENSOR else "rgb_uint8"),
                "knob": None if knob is None else {"name": knob.name, "low": knob.low, "high": knob.high},
            },
            lineage=Lineage(id=name, designer=DESIGNER, hypothesis=hypothesis, change_class="imported"),
        )
    except ValueError as error:
        raise RefusedError(" ".join(str(error).split())) from error
    advice = lint(candidate)
    if advice:
        raise RefusedError("; ".join(advice))
    return candidate


def _functions(code: OlderCode) -> tuple[str, str]:
    """The names of the two functions, one of TENSOR and FRAME. Raises RefusedError."""
    encoder, decoder = _defined(code.encoder, "the encoder"), _defined(code.decoder, "the decoder")
    for compress, decompress in (TENSOR, FRAME):
        if compress not in encoder:
            continue
        if decompress not in decoder:
            raise RefusedError(
                V1_WITHOUT_DECODER if compress == FRAME[0] else f"the decoder's source does not define {decompress}()"
            )
        for function in (encoder[compress], decoder[decompress]):
            if _arguments(function) != ARGUMENTS:
                raise RefusedError(f"line {function.lineno}: {function.name}() must take {ARGUMENTS} arguments")
        return compress, decompress
    raise RefusedError(f"the encoder's source defines neither {TENSOR[0]}() nor {FRAME[0]}()")


def _defined(source: str, which: str) -> dict[str, ast.FunctionDef]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise RefusedError(f"{which}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(f"{which} cannot be parsed: {error or type(error).__name__}") from error
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _arguments(function: ast.FunctionDef) -> int:
    """How many a caller must or may give, as far as three are concerned."""
    positional = len(function.args.posonlyargs) + len(function.args.args)
    required = positional - len(function.args.defaults)
    return ARGUMENTS if required <= ARGUMENTS <= positional or function.args.vararg is not None else positional


def _undefined(which: str, source: str, other: str) -> Iterator[str]:
    """What `source` reads and nobody defines; `other` is the source whose process is another one now."""
    elsewhere = _assigned(symtable.symtable(other, which, "exec"))
    for name, line in _free_names(source).items():
        if name in PRESENT:
            continue
        if name in elsewhere:
            yield (
                f"{which}, line {line}: {name} is defined by the encoder's source alone, and each agent has a "
                "process of its own: repeat the code, and send values in the returned dict"
            )
        else:
            yield f"{which}, line {line}: {name} is not defined"


def _free_names(source: str) -> dict[str, int]:
    """Names that are read from the module and never bound there, with the first line that reads them."""
    tree = ast.parse(source)
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)):
        return {}
    table = symtable.symtable(source, "source", "exec")
    free = _globals_read(table) - _assigned(table) - set(dir(builtins)) - {"__name__", "__file__", "__doc__"}
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in free:
            lines[node.id] = min(node.lineno, lines.get(node.id, node.lineno))
    return dict(sorted(lines.items(), key=lambda item: item[1]))


def _globals_read(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    mine = {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (top or symbol.is_global())
    }
    return mine.union(*map(_globals_read, table.get_children()))


def _assigned(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    mine = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if (symbol.is_assigned() or symbol.is_imported()) and (top or symbol.is_declared_global())
    }
    return mine.union(*map(_assigned, table.get_children()))


def _shared_globals(code: OlderCode, compress: str, decompress: str) -> Iterator[str]:
    """What the one function leaves in a global for the other, where both are in one source."""
    if code.encoder != code.decoder:
        return
    functions = _defined(code.encoder, "the source")
    left = _written_globals(functions[compress]) - _written_globals(functions[decompress])
    seen: set[str] = set()
    for node in ast.walk(functions[decompress]):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in left - seen:
            seen.add(node.id)
            yield (
                f"line {node.lineno}: {decompress}() reads {node.id}, which {compress}() fills, and each agent has a "
                "process of its own: send it in the returned dict"
            )


def _written_globals(function: ast.FunctionDef) -> set[str]:
    """Names of the module that a function binds, or changes an item or an attribute of."""
    nodes = list(ast.walk(function))
    bound = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}
    local |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    changed = {
        node.value.id
        for node in nodes
        if isinstance(node, ast.Subscript | ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
    }
    return bound | (changed - local)


def _with_imports(source: str) -> str:
    """`source` with imports of what it reads without importing it, on one line as high up as may be."""
    missing = [PRESENT[name] for name in _free_names(source) if name in PRESENT]
    if not missing:
        return source
    body = ast.parse(source).body
    last = 0  # the last line of what must come first
    for index, node in enumerate(body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            last = node.end_lineno or last
        else:
            break
    lines = source.split("\n")  # as the parser counts them
    return "\n".join([*lines[:last], "; ".join(missing), *lines[last:]])


def _renamed(source: str, name: str) -> str:
    """`source` with `name` as `older_name` wherever it is a name, so that the added lines may have it."""
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in reversed([token for token in tokens if token.type == tokenize.NAME and token.string == name]):
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column] + RENAMED + line[column:]
    return "\n".join(lines).rstrip() + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read as text: {error}") from error


def _number(text: str) -> float:
    return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
