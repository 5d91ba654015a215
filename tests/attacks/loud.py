"""Attacks that end their experiment, or bend it; what runs them, and what they are compared with.

The quiet ones, which catch what comes and then behave, are in `probes`.
"""

from __future__ import annotations

import errno
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from probes import DECODER, ENCODER, Probe

from codec.frames import Frames, VideoFormat
from tasks.campaign import Limits
from tasks.candidate import Candidate, Lineage
from tasks.execute.clips import LoadedClip
from tasks.execute.harness import Evaluation, evaluate
from tasks.execute.isolation import Isolation

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(memory_mb=1024, encode_seconds=40, decode_seconds=40)
HASTY = LIMITS.model_copy(update={"encode_seconds": 1.0, "decode_seconds": 1.0})
# What the layers answer. Another error would mean that the attack failed by itself and shows nothing.
REFUSALS = {str(errno.EPERM), str(errno.EACCES)}
NARROW = LIMITS.model_copy(update={"memory_mb": 640})
VIDEO = VideoFormat(16, 16, Fraction(25))

HONEST_ENCODER = """
def compress_video_tensor(frames, config, device):
    return {"compressed_data": frames.numpy().tobytes()}
"""
HONEST_DECODER = """
import torch
def decompress_video_tensor(data, config, device):
    return {"reconstructed_frames": torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(1, 2, 3, 16, 16)}
"""


def clip() -> LoadedClip:
    planes = np.random.default_rng(5).integers(0, 256, 768, np.uint8)
    return LoadedClip.of("noise", VIDEO, Frames.from_bytes(planes.tobytes(), VIDEO))


def run(
    candidate: Candidate, isolation: Isolation, limits: Limits = LIMITS, the_clip: LoadedClip | None = None
) -> Evaluation:
    return evaluate(
        candidate,
        [the_clip or clip()],
        campaign="attacks",
        experiment_id="e1",
        qualities=(1.0,),
        limits=limits,
        isolation=isolation,
    )


def candidate_of(encoder: str = HONEST_ENCODER, decoder: str = HONEST_DECODER, **config: Any) -> Candidate:
    files = {"encoder.py": encoder, "decoder.py": decoder}
    return Candidate(files=files, config=config, lineage=Lineage(id="attack"))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to, so that it is the sandbox that keeps the candidate out."""
    with tempfile.TemporaryDirectory(prefix="evocodec-attacks-") as name:
        folder = Path(name)
        (folder / "secret").write_text("secret")
        folder.chmod(0o777)
        (folder / "secret").chmod(0o666)
        yield folder


def probe_with(
    isolation: Isolation, folder: Path, probes: list[Probe]
) -> tuple[Evaluation, dict[tuple[str, str], str]]:
    names, sources = [probe.name for probe in probes], [probe.source for probe in probes]
    candidate = candidate_of(ENCODER, DECODER, folder=str(folder), project=str(ROOT), names=names, sources=sources)
    evaluation = run(candidate, isolation)
    lines = [line.split("|") for line in evaluation.log.splitlines() if line.count("|") == 3]
    return evaluation, {(role, name): what if what == "worked" else error for role, name, what, error in lines}


@dataclass(frozen=True)
class Loud:
    """An attack that ends its experiment, or bends it: what is run, and what must be made of it."""

    name: str
    status: str
    reason: str  # a regular expression
    encoder: str = ""  # body of compress_video_tensor
    decoder: str = ""  # body of decompress_video_tensor
    limits: Limits = LIMITS

    def candidate(self) -> Candidate:
        encoder = HONEST_ENCODER if not self.encoder else _function("compress_video_tensor(frames", self.encoder)
        decoder = HONEST_DECODER if not self.decoder else _function("decompress_video_tensor(data", self.decoder)
        return candidate_of(encoder, decoder)


def _function(head: str, body: str) -> str:
    lines = body.strip().split("\n")
    return (
        f"import ctypes, mmap, os, pickle, sys, threading, time, zlib, torch\ndef {head}, config, device):\n"
        + "".join(f"    {line}\n" for line in lines)
    )


RETURN_FRAMES = "\nreturn {'compressed_data': frames.numpy().tobytes()}\n"
THREADS = """
threading.stack_size(65536)
stop = threading.Event()
for _ in range(4000):
    threading.Thread(target=stop.wait, daemon=True).start()
return {"compressed_data": b"worked"}
"""
MAP = """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
"""
# Neither is data to the kernel: the first is a stack, the second has no page of its own. RLIMIT_DATA sees none of it.
STACK = f"""{MAP}
base = libc.mmap(None, 3 << 30, 3, 0x4122, -1, 0)  # PROT_READ | PROT_WRITE, MAP_GROWSDOWN
for at in range(0, 3 << 30, 16 << 20):
    ctypes.memset(base + at, 1, 16 << 20)
{RETURN_FRAMES}"""
PAGE_TABLES = f"""{MAP}
base = libc.mmap(None, 1 << 40, 1, 0x4022, -1, 0)  # PROT_READ; each read takes a page table for its 2 MB
for at in range(base, base + (1 << 40), 2 << 20):
    ctypes.string_at(at, 1)
{RETURN_FRAMES}"""
ZIP_BOMB = """
c = zlib.compressobj(9, wbits=-15)
block = c.compress(bytes(1 << 20)) + c.flush(zlib.Z_FULL_FLUSH)  # blocks of deflate can be strung together
return {'compressed_data': zlib.compress(block * 1200 + c.flush(), 9)}
"""
UNZIP = "return zlib.decompress(zlib.decompress(data), -15)"
DEAF_AND_MUTE = """
import signal
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
os.closerange(0, 256)
while True: pass
"""
OWN_ANSWER = """
os.write(3, b'K' + (1536).to_bytes(8, 'little') + (2).to_bytes(8, 'little') + frames.numpy().tobytes() + b'{}')
"""
BUSY_THREAD = """
def go_on():
    while True: pass
for _ in range(3):
    threading.Thread(target=go_on).start()
"""
SPEECHLESS = """
class Speechless(Exception):
    def __str__(self): raise RuntimeError
raise Speechless
"""
FALSE_BYTES = """
class Bytes(bytes):
    def __len__(self): return 1
return {'compressed_data': Bytes(frames.numpy().tobytes())}
"""
FALSE_DICT = """
class Dict(dict):
    def get(self, key, default=None): return frames.numpy().tobytes()
    def items(self): return [('bytes', 1), ('x', 10 ** 400), (1, 2), ('y', object())]
return Dict()
"""
CLAIMS = "return {'compressed_data': frames.numpy().tobytes()} | {f'{i}' * 999: 'y' * 1000 for i in range(500)}"
FALSE_TENSOR = """
class Tensor(torch.Tensor):
    shape = property(lambda self: (1, 2, 3, 16, 16))
frames = torch.zeros(1, 20, 3, 16, 16, dtype=torch.uint8)
return {'reconstructed_frames': frames.as_subclass(Tensor)}
"""
INT80 = """
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
return {"compressed_data": b"worked"}
"""
LOUD = [
    Loud("fork bomb", "crashed", "Operation not permitted", "for _ in range(20):\n    os.fork()\nreturn {}"),
    Loud("thread bomb", "crashed", "can't start new thread", THREADS),
    Loud("100 GB by malloc", "crashed", "MemoryError", "return {'compressed_data': bytes(100 << 30)}"),
    Loud("100 GB by torch", "crashed", "allocate memory", "torch.ones(100 << 30, dtype=torch.uint8)"),
    Loud(
        "100 GB by mmap",
        "crashed",
        "Cannot allocate memory",
        "mmap.mmap(-1, 100 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
    ),
    Loud("100 GB by memfd", "crashed", "Operation not permitted", "os.ftruncate(os.memfd_create('x'), 100 << 30)"),
    Loud("memory by a stack", "crashed", "more than the 640 MB", STACK, limits=NARROW),
    Loud("memory by page tables", "crashed", "more than the 640 MB", PAGE_TABLES, limits=NARROW),
    Loud("zip bomb", "crashed", "decode of .*MemoryError", ZIP_BOMB, UNZIP, limits=NARROW),
    Loud("endless loop", "timeout", "stopped after 1 s", "while True: pass", limits=HASTY),
    Loud("endless sleep of a decoder", "timeout", "stopped after 1 s", "", "time.sleep(600)", HASTY),
    Loud("endless output", "timeout", "stopped after 1 s", "while True: os.write(1, b'x' * 4096)", limits=HASTY),
    Loud("stopping itself", "timeout", "stopped after 1 s", "os.kill(os.getpid(), 19)", limits=HASTY),
    Loud("deaf and mute", "timeout", "stopped after 1 s", DEAF_AND_MUTE, limits=HASTY),
    Loud("killing itself", "crashed", "SIGKILL", "os.kill(os.getpid(), 9)"),
    Loud("exit without an answer", "crashed", "exit code 0 without its answer", "os._exit(0)"),
    Loud(
        "exit in mid-answer",
        "crashed",
        "in the middle of its answer",
        "os.write(3, b'K' + bytes([9] + [0] * 15))\nos._exit(0)",
    ),
    Loud("garbage for an answer", "invalid", "longer than", "os.write(3, b'\\xff' * 900)\ntime.sleep(5)"),
    Loud("unknown kind of answer", "crashed", "encode of", "os.write(3, b'?' + bytes(16))\ntime.sleep(5)"),
    Loud("an answer of its own and then a sleep", "measured", "", f"{OWN_ANSWER}time.sleep(600)"),
    Loud("an answer of its own and then another", "measured", "", f"{OWN_ANSWER}{RETURN_FRAMES}"),
    Loud("a thread that goes on", "measured", "", f"{BUSY_THREAD}{RETURN_FRAMES}"),
    Loud("exit by exception", "crashed", "exit code 0 without its answer", "raise SystemExit(0)"),
    Loud("interrupt", "crashed", "KeyboardInterrupt", "raise KeyboardInterrupt"),
    Loud("error without text", "crashed", "exception str", SPEECHLESS),
    Loud(
        "error that speaks to a terminal", "crashed", "ValueError: .*2Jmeasured", r"raise ValueError('\x1b[2Jmeasured')"
    ),
    Loud("memory that is not there", "crashed", "SIGSEGV", "ctypes.string_at(8)"),
    Loud("bytes of a false length", "invalid", "claims are not JSON", FALSE_BYTES),
    Loud("dict that answers for itself", "measured", "", FALSE_DICT),
    Loud("claims of a megabyte", "measured", "", CLAIMS),
    Loud("pickled object", "invalid", "must return bytes", "return {'compressed_data': pickle.loads}"),
    Loud("lying list", "invalid", "must return a dict", "return [('compressed_data', b'')]"),
    Loud(
        "claims that are no numbers",
        "measured",
        "",
        "return {'compressed_data': frames.numpy().tobytes(), 'x': float('nan')}",
    ),
    Loud(
        "NaN frames",
        "invalid",
        "must be uint8",
        "",
        "return {'reconstructed_frames': torch.full((1, 2, 3, 16, 16), float('nan'))}",
    ),
    Loud("frames of a false shape", "invalid", "decode of", "", FALSE_TENSOR),
    Loud(
        "wrong type of frames",
        "invalid",
        "must be uint8",
        "",
        "return {'reconstructed_frames': torch.zeros(1, 2, 3, 16, 16, dtype=torch.int32)}",
    ),
    Loud(
        "frames on no device",
        "crashed",
        "meta",
        "",
        "return {'reconstructed_frames': torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8, device='meta')}",
    ),
    Loud(
        "wrong shape",
        "invalid",
        "must be uint8",
        "",
        "return {'reconstructed_frames': torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}",
    ),
    Loud(
        "ten times the frames",
        "invalid",
        "longer than",
        "",
        "return {'reconstructed_frames': torch.zeros(1, 20, 3, 16, 16, dtype=torch.uint8)}",
    ),
    Loud("ten times the size", "invalid", "longer than", "return {'compressed_data': bytes(10 << 20)}"),
    Loud("clip in the decoder's source", "invalid", "a literal of 2000 bytes", "", f"return {b'x' * 2000!r}"),
    Loud("clip in a list in the decoder's source", "invalid", "a literal of", "", f"return {[7] * 2000!r}"),
    Loud("clip in many literals", "invalid", "so code carries no video", "", "\n".join([f"{'x' * 900!r}"] * 80)),
]
if platform.machine() == "x86_64":
    LOUD += [
        Loud("call of i386", "crashed", "SIGSYS", INT80),
        Loud("call of x32", "crashed", "SIGSYS", "ctypes.CDLL(None).syscall(0x40000000 + 39)"),
    ]
# Slower than the rest and of a kind that the others show too.
SLOW = {
    "endless sleep of a decoder",
    "endless output",
    "100 GB by torch",
    "lying list",
    "wrong shape",
    "ten times the size",
    "an answer of its own and then another",
    "a thread that goes on",
    "dict that answers for itself",
    "claims of a megabyte",
}
