"""What runs inside a candidate's process: bounds itself, calls one function of the candidate, answers once.

Forked by `tasks.execute.forkserver`, the job on descriptor 0 and the answer on ANSWER_FD. Owns the framing of job and
answer and the layout of the tensor; whoever reads the answer trusts nothing of it. Installed packages are imported by
then; nothing of the candidate is, until the limits and, where it is asked for, the sandbox stand.

    job on stdin    length of header · header as JSON · weights · payload  (JOB_HEADER_LENGTH)
    answer          READY · status, length, length · output · extra      (ANSWER_HEADER)

    role        payload          calls                            output             extra
    train       planar frames    train_codec                      weights            nothing
    encode      planar frames    compress_video_tensor            compressed_data    claims as JSON
    decode      compressed_data  decompress_video_tensor          planar frames      FRAMES_SHAPE
    operations  compressed_data  decompress_video_tensor and,     OPERATION_COUNTS   both by module as JSON
                                 where it exists, build_decoder

In the sandbox an encoder is also given two pipes to its VVC broker, which `codec.strategies` use: `broker_wire`.
Where there are weights, `config["weights"]` holds them as bytes. `frames` lie in main memory; `device` is "cuda" where
there is a GPU. Frames may come back from either. The module that `build_decoder(config)` returns may have a method
`example_inputs()`: the tuple of inputs with which one call of the module makes one 1920×1080 frame. thop counts that
call; FlopCounterMode counts the real decode.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import itertools
import json
import math
import mmap
import os
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from codec.strategies import vvc_encoder
from tasks.execute import sandbox
from tasks.execute.broker_wire import BrokerClient
from tasks.execute.sandbox import limits, privileges

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ANSWER_FD: Final = 3
BROKER_FDS: Final = (4, 5)  # requests, responses; of an encoder in the sandbox
JOB_HEADER_LENGTH: Final = struct.Struct("<Q")
READY: Final = struct.Struct("<cQ")  # b"R", nanoseconds on the machine's monotonic clock
ANSWER_HEADER: Final = struct.Struct("<cQQ")  # status, bytes of output, bytes of extra
OK, INVALID, CRASHED, MEMORY = b"K", b"I", b"X", b"M"
MAX_EXTRA_BYTES: Final = 64 * 1024
FRAMES_SHAPE: Final = struct.Struct("<QQQ")  # T, H, W
OPERATION_COUNTS: Final = struct.Struct("<dd")  # thop per 1080p frame, FlopCounterMode per clip; NaN: no network

# Claims are for the record only: enough for the numbers and names an encoder may want to tell.
MAX_CLAIMS: Final = 32
# Of each count: what fits into a few lines of a prompt.
MAX_MODULES: Final = 8
MAX_MODULE_CHARS: Final = 80
MAX_CLAIM_CHARS: Final = 100


class ContractError(Exception):
    """The candidate's function does not exist or did not return what it must."""


@dataclass(frozen=True)
class Answer:
    length: int
    output: Iterable[bytes | memoryview]  # of `length` bytes in all
    extra: bytes = b""


def main(parent_pid: int) -> None:
    privileges.die_with(parent_pid)
    job = memoryview(mmap.mmap(sys.stdin.fileno(), 0, access=mmap.ACCESS_READ))
    (length,) = JOB_HEADER_LENGTH.unpack_from(job)
    weights_at = JOB_HEADER_LENGTH.size + length
    header = json.loads(bytes(job[JOB_HEADER_LENGTH.size : weights_at]))
    payload_at = weights_at + header["weights_bytes"]
    if payload_at > weights_at:
        header["arguments"]["config"]["weights"] = bytes(job[weights_at:payload_at])
    profile = header["profile"]
    limits.bound(header["memory_bytes"], header["cpu_seconds"], header["open_files"], strict=profile is not None)
    if profile is not None:
        sandbox.enter(profile, parent_pid)
    if header["broker"]:
        vvc_encoder.use(BrokerClient(*BROKER_FDS))
    sys.meta_path.insert(0, CandidateSources(header["sources"]))

    stream = os.fdopen(ANSWER_FD, "wb", buffering=0)

    def ready() -> None:
        # From here on a failure is the candidate's. The time is taken here and not where it is read, which may be late.
        sys.excepthook = functools.partial(_report, stream)
        stream.write(READY.pack(b"R", time.monotonic_ns()))

    answer = ROLES[header["role"]](header["arguments"], job[payload_at:], ready)
    sys.excepthook = sys.__excepthook__  # a second answer must never be written into the first
    _write(stream, OK, answer)
    # No atexit handlers and no waiting for the candidate's threads: the answer is out.
    os._exit(0)


def train(arguments: Mapping[str, Any], payload: memoryview, ready: Callable[[], None]) -> Answer:
    import torch

    clips, at = [], 0
    for count, height, width in arguments["clips"]:
        end = at + count * (width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2))
        clips.append(torch.from_numpy(to_tensor(payload[at:end], width, height)))
        at = end
    device = _device()
    ready()
    train_codec = _function("trainer", "train_codec")
    weights = train_codec(clips, arguments["config"], device)
    if not isinstance(weights, bytes):
        raise ContractError(f"train_codec() must return bytes, not {type(weights).__name__}")
    return Answer(len(weights), [weights])


def encode(arguments: Mapping[str, Any], payload: memoryview, ready: Callable[[], None]) -> Answer:
    import torch

    frames = torch.from_numpy(to_tensor(payload, arguments["width"], arguments["height"]))
    device = _device()
    ready()
    compress = _function("encoder", "compress_video_tensor")
    result = _mapping(compress, compress(frames, arguments["config"], device))
    data = result.get("compressed_data")
    if not isinstance(data, bytes):
        raise ContractError(
            f'compress_video_tensor() must return bytes as "compressed_data", not {type(data).__name__}'
        )
    return Answer(len(data), [data], json.dumps(_claims(result)).encode())


def decode(arguments: Mapping[str, Any], payload: memoryview, ready: Callable[[], None]) -> Answer:
    import torch

    device, data = _device(), bytes(payload)
    ready()
    decompress = _function("decoder", "decompress_video_tensor")
    frames = _mapping(decompress, decompress(data, arguments["config"], device)).get("reconstructed_frames")
    if not isinstance(frames, torch.Tensor):
        raise ContractError(
            f'decompress_video_tensor() must return a tensor as "reconstructed_frames", not {type(frames).__name__}'
        )
    shape = tuple(frames.shape)
    if frames.dtype != torch.uint8 or len(shape) != 5 or shape[0] != 1 or shape[2] != 3:
        raise ContractError(
            '"reconstructed_frames" must be uint8 [1, T, 3, H, W], '
            f"not {str(frames.dtype).removeprefix('torch.')} {list(shape)}"
        )
    count, height, width = shape[1], shape[3], shape[4]
    frame_bytes = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    pixels = frames.detach().cpu().numpy()[0]
    return Answer(count * frame_bytes, map(to_planar, pixels), FRAMES_SHAPE.pack(count, height, width))


def operations(arguments: Mapping[str, Any], payload: memoryview, ready: Callable[[], None]) -> Answer:
    from codec.complexity import coarser, count_module_operations, operations_by_module

    device, data, config = _device(), bytes(payload), arguments["config"]
    ready()
    decompress = _function("decoder", "decompress_video_tensor")
    dispatched = operations_by_module(lambda: decompress(data, config, device))
    profiled: Mapping[str, int] = {}
    flop_counter, thop = float(sum(dispatched.values())), math.nan
    build_decoder = getattr(sys.modules["decoder"], "build_decoder", None)
    if build_decoder is not None:
        module = build_decoder(config)
        if hasattr(module, "example_inputs"):
            profiled = count_module_operations(module, *module.example_inputs()).thop_by_module
            thop = float(sum(profiled.values()))
    elif flop_counter == 0:
        flop_counter = math.nan
    split = [_shortened(coarser(counts, MAX_MODULES)) for counts in (profiled, dispatched)]
    return Answer(OPERATION_COUNTS.size, [OPERATION_COUNTS.pack(thop, flop_counter)], json.dumps(split).encode())


def _shortened(counts: Mapping[str, int]) -> dict[str, int]:
    """A class may be called anything, at any length."""
    short: dict[str, int] = {}
    for name, count in counts.items():
        key = name[:MAX_MODULE_CHARS]
        short[key] = short.get(key, 0) + count
    return short


ROLES: Final[Mapping[str, Callable[[Mapping[str, Any], memoryview, Callable[[], None]], Answer]]] = {
    "train": train,
    "encode": encode,
    "decode": decode,
    "operations": operations,
}


def to_tensor(payload: bytes | memoryview, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Planar 4:2:0 frames as uint8 [1, T, 3, H, W]: each chroma sample repeated 2×2, cut at odd edges."""
    import numpy as np

    from codec.frames import Frames, VideoFormat

    frames = Frames.from_bytes(payload, VideoFormat(width, height, Fraction(1)))
    tensor = np.empty((1, len(frames), 3, height, width), np.uint8)
    for channel, plane in enumerate(frames.planes()):
        if channel == 0:
            tensor[0, :, 0] = plane
        else:
            for row in range(2):
                for column in range(2):
                    view = tensor[0, :, channel, row::2, column::2]
                    view[...] = plane[:, : view.shape[1], : view.shape[2]]
    return tensor


def to_planar(frame: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [3, H, W] as one planar 4:2:0 frame.

    Chroma is the mean of 2×2 samples, halves rounded up: exact on repeated ones. At odd edges the last row and
    column count twice.
    """
    import numpy as np

    planes = [frame[0].tobytes()]
    height, width = frame.shape[1:]
    for plane in frame[1:]:
        even = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.uint16)
        total = even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]
        planes.append(((total + 2) // 4).astype(np.uint8).tobytes())
    return b"".join(planes)


class CandidateSources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports a candidate's modules from the job's text; tracebacks still show their lines."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = {name.removesuffix(".py"): text for name, text in sources.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=f"{fullname}.py")

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname]

    def get_code(self, fullname: str) -> Any:
        return compile(self.get_source(fullname), f"{fullname}.py", "exec", dont_inherit=True)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _function(module: str, name: str) -> Callable[..., object]:
    function: Callable[..., object] | None = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ContractError(f"{module}.py does not define {name}()")
    return function


def _mapping(function: Callable[..., object], result: object) -> Mapping[Any, Any]:
    if not isinstance(result, dict):
        raise ContractError(f"{function.__name__}() must return a dict, not {type(result).__name__}")
    return result


def _claims(result: Mapping[Any, Any]) -> dict[str, Any]:
    """The JSON scalars that an encoder returned beside its bytes."""
    claims: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(key, str) and _is_scalar(value) and len(claims) < MAX_CLAIMS:
            claims[key[:MAX_CLAIM_CHARS]] = value[:MAX_CLAIM_CHARS] if isinstance(value, str) else value
    return claims


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() < 64
    return value is None or isinstance(value, str)


def _report(stream: BinaryIO, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The candidate failed: the traceback goes to the log, one line of it into the answer."""
    traceback.print_exception(kind, error, trace)
    last_line = traceback.format_exception_only(kind, error)[-1].strip()
    if isinstance(error, ContractError):
        status, last_line = INVALID, str(error)
    elif isinstance(error, MemoryError) or "can't allocate memory" in last_line or "out of memory" in last_line:
        status = MEMORY  # the last two are torch's words on CPU and CUDA
    else:
        status = CRASHED
    _write(stream, status, Answer(0, [], last_line.encode(errors="replace")[:MAX_EXTRA_BYTES]))


def _write(stream: BinaryIO, status: bytes, answer: Answer) -> None:
    header = ANSWER_HEADER.pack(status, answer.length, len(answer.extra))
    for part in itertools.chain([header], answer.output, [answer.extra]):
        rest = memoryview(part)
        while rest:
            rest = rest[stream.write(rest) :]
