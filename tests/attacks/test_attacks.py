"""Hostile candidates through the real evaluator: stopped, rightly classified, and nothing is left for the next one."""

from __future__ import annotations

import errno
import platform
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import DECODER, ENCODER, PROBES, Probe

from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from tasks.campaign import Limits
from tasks.candidate import Candidate, Lineage
from tasks.execute import trust
from tasks.execute.clips import LoadedClip
from tasks.execute.harness import Evaluation, evaluate
from tasks.execute.isolation import Isolation, ProcessIsolation, SandboxIsolation
from tasks.execute.sandbox import layers
from tasks.execute.trust import isolation_for
from tasks.measure.anchors import SEED

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(memory_mb=1024, encode_seconds=40, decode_seconds=40)
HASTY = LIMITS.model_copy(update={"encode_seconds": 1.0, "decode_seconds": 1.0})
# What the layers answer. Another error would mean that the attack failed by itself and shows nothing.
REFUSALS = {str(errno.EPERM), str(errno.EACCES)}
VIDEO = VideoFormat(16, 16, Fraction(25))
MISSING = [layer.name for layer in layers() if not layer.ok]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: see `evocodec doctor`")

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


@pytest.fixture
def open_folder() -> Iterator[Path]:
    yield from _open_folder()


def _open_folder() -> Iterator[Path]:
    """A folder that every user may write to, so that it is the sandbox that keeps the candidate out."""
    with tempfile.TemporaryDirectory(prefix="evocodec-attacks-") as name:
        folder = Path(name)
        (folder / "secret").write_text("secret")
        folder.chmod(0o777)
        (folder / "secret").chmod(0o666)
        yield folder


def _probe(isolation: Isolation, folder: Path, probes: list[Probe]) -> tuple[Evaluation, dict[tuple[str, str], str]]:
    names, sources = [probe.name for probe in probes], [probe.source for probe in probes]
    candidate = candidate_of(ENCODER, DECODER, folder=str(folder), project=str(ROOT), names=names, sources=sources)
    evaluation = run(candidate, isolation)
    lines = [line.split("|") for line in evaluation.log.splitlines() if line.count("|") == 3]
    return evaluation, {(role, name): what if what == "worked" else error for role, name, what, error in lines}


Probed = tuple[Evaluation, dict[tuple[str, str], str]]


@pytest.fixture(scope="module")
def probed() -> Iterator[Probed]:
    for folder in _open_folder():
        evaluation, found = _probe(SandboxIsolation(LIMITS), folder, PROBES)
        assert [path.name for path in folder.iterdir()] == ["secret"]
        assert (folder / "secret").read_text() == "secret"
        yield evaluation, found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_quiet_attack_is_refused_to_both_agents(probe: Probe, probed: Probed) -> None:
    _, found = probed
    for role in ("encode", "decode"):
        assert found[role, probe.name] in REFUSALS | {probe.otherwise}


def test_a_candidate_that_tried_everything_and_then_behaves_is_measured(probed: Probed) -> None:
    evaluation, _ = probed
    assert (evaluation.status, evaluation.isolation) == ("measured", "sandbox"), evaluation.reason
    assert evaluation.points[0].psnr_y == 100


@pytest.mark.slow
def test_without_the_sandbox_the_quiet_attacks_work(open_folder: Path) -> None:
    harmless = [probe for probe in PROBES if probe.harmless]
    _, found = _probe(ProcessIsolation(LIMITS), open_folder, harmless)
    refused = {name for (role, name), answer in found.items() if role == "encode" and answer != "worked"}
    # Ordinary users cannot do these anyway; as root every one works.
    assert refused <= {"root's home", "parent's memory", "netlink socket", "inet6 socket"}


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


THREADS = """
threading.stack_size(65536)
stop = threading.Event()
for _ in range(4000):
    threading.Thread(target=stop.wait, daemon=True).start()
return {"compressed_data": b"worked"}
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
    Loud(
        "zip bomb",
        "crashed",
        "decode of .*MemoryError",
        "c = zlib.compressobj(9)\n"
        "inner = b''.join(c.compress(bytes(1 << 20)) for _ in range(1200)) + c.flush()\n"
        "return {'compressed_data': zlib.compress(inner, 9)}",
        "return zlib.decompress(zlib.decompress(data))",
    ),
    Loud("endless loop", "timeout", "stopped after 1 s", "while True: pass", limits=HASTY),
    Loud("endless sleep of a decoder", "timeout", "stopped after 1 s", "", "time.sleep(600)", HASTY),
    Loud("endless output", "timeout", "stopped after 1 s", "while True: os.write(1, b'x' * 4096)", limits=HASTY),
    Loud("killing itself", "crashed", "SIGKILL", "os.kill(os.getpid(), 9)"),
    Loud("exit without an answer", "crashed", "exit code 0 without its answer", "os._exit(0)"),
    Loud(
        "exit in mid-answer",
        "crashed",
        "in the middle of its answer",
        "os.write(3, b'K' + bytes([9] + [0] * 15))\nos._exit(0)",
    ),
    Loud("garbage for an answer", "invalid", "longer than", "os.write(3, b'\\xff' * 900)\ntime.sleep(5)"),
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
]
if platform.machine() == "x86_64":
    LOUD += [
        Loud("call of i386", "crashed", "SIGSYS", INT80),
        Loud("call of x32", "crashed", "SIGSYS", "ctypes.CDLL(None).syscall(0x40000000 + 39)"),
    ]
# Slower than the rest and of a kind that the others show too.
SLOW = {"endless sleep of a decoder", "100 GB by torch", "lying list", "wrong shape", "ten times the size"}


@pytest.fixture(scope="module")
def evaluations(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Evaluation]]]:
    """The chosen attacks, two at a time."""
    chosen = " ".join(item.name for item in request.session.items)
    with ThreadPoolExecutor(2) as pool:
        yield {
            loud.name: pool.submit(run, loud.candidate(), SandboxIsolation(loud.limits), loud.limits)
            for loud in LOUD
            if f"[{loud.name}]" in chosen
        }


@pytest.mark.parametrize(
    "loud", [pytest.param(loud, id=loud.name, marks=[pytest.mark.slow] * (loud.name in SLOW)) for loud in LOUD]
)
def test_a_loud_attack_is_stopped_and_classified(loud: Loud, evaluations: dict[str, Future[Evaluation]]) -> None:
    evaluation = evaluations[loud.name].result()
    assert evaluation.status == loud.status, evaluation.reason
    assert re.search(loud.reason, evaluation.reason), evaluation.reason
    assert bool(evaluation.points) == (loud.status == "measured")
    assert len(evaluation.log) <= loud.limits.log_kb * 1024


LIAR = """
import time, torch
def compress_video_tensor(frames, config, device):
    print('{"psnr_y": 99.0, "bytes": 1}')
    torch.mean = torch.zeros
    time.monotonic = time.perf_counter = lambda: 0.0
    time.sleep(0.3)
    return {"compressed_data": bytes(500), "psnr_y": 99.0, "bytes": 1}
"""


def test_claims_prints_and_patches_change_no_number() -> None:
    gray = "import torch\ndef decompress_video_tensor(data, config, device):\n"
    gray += "    return {'reconstructed_frames': torch.full((1, 2, 3, 16, 16), 128, dtype=torch.uint8)}\n"
    evaluation = run(candidate_of(LIAR, gray), SandboxIsolation(LIMITS))
    (point,) = evaluation.points
    assert (point.bytes_total, point.claimed_json) == (500, '{"bytes": 1, "psnr_y": 99.0}')
    assert point.psnr_y < 15
    assert point.encode_seconds >= 0.3


def test_a_clip_in_the_config_is_refused() -> None:
    evaluation = run(candidate_of(clip="00" * 40_000), SandboxIsolation(LIMITS))
    assert (evaluation.status, evaluation.stage) == ("invalid", "design")


def test_after_all_attacks_an_honest_candidate_is_measured() -> None:
    evaluation = run(candidate_of(), SandboxIsolation(LIMITS))
    assert (evaluation.status, evaluation.isolation) == ("measured", "sandbox"), evaluation.reason
    assert evaluation.points[0].psnr_yuv == 100
    assert evaluation.points[0].bytes_total == 2 * 3 * 256


@pytest.mark.parametrize(
    ("strategy", "preset"),
    [
        pytest.param("x264", "ultrafast", marks=pytest.mark.slow),
        pytest.param("x265", "ultrafast", marks=pytest.mark.slow),
        ("av1", "10"),
    ],
)
def test_traditional_codecs_work_inside(strategy: str, preset: str) -> None:
    video = VideoFormat(64, 64, Fraction(25))
    ramp = (np.arange(64)[None, :, None] + 2 * np.arange(64)[None, None] + np.arange(4)[:, None, None]).astype(np.uint8)
    frames = Frames(ramp, ramp[:, ::2, ::2], ramp[:, ::2, ::2])
    candidate = Candidate.load(SEED).model_copy(update={"config": {"strategy": strategy, "preset": preset}})
    ramps = LoadedClip.of("ramp", video, frames)
    inside, outside = (run(candidate, kind(LIMITS), the_clip=ramps) for kind in (SandboxIsolation, ProcessIsolation))
    assert inside.status == outside.status == "measured", inside.reason + inside.log
    assert inside.points[0].bitstream_hash == outside.points[0].bitstream_hash
    assert inside.points[0].psnr_yuv == outside.points[0].psnr_yuv


def test_only_the_projects_own_sources_run_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Candidate.load(SEED)
    changed = own.model_copy(update={"files": own.files | {"decoder.py": own.files["decoder.py"] + "\n"}})
    assert isolation_for(own, LIMITS).name == "sandbox"
    monkeypatch.setattr(trust, "_sandbox_holds", lambda: False)
    assert isolation_for(own, LIMITS).name == "process"
    assert isolation_for(own.model_copy(update={"config": {}}), LIMITS).name == "process"
    assert isolation_for(changed, LIMITS).name == "sandbox"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    assert isolation_for(changed, LIMITS, unsafe=True).name == "none"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(BadInputError, match="AWS_ACCESS_KEY_ID is set"):
        isolation_for(changed, LIMITS, unsafe=True)
