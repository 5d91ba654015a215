"""The harness measures real bytes and real frames, and turns every failure of a candidate into a status."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from codec.bitstream import EvcReader
from codec.decoding_agent import decode_bytes
from codec.errors import BadInputError
from codec.frames import Frames, VideoFormat
from codec.strategies import by_code
from codec.strategies.elementary import ElementaryStrategy
from tasks.campaign import Limits
from tasks.candidate import Candidate, Lineage
from tasks.execute.clips import LoadedClip, clip_set_hash, load_clip, require_memory
from tasks.execute.harness import Evaluation, Progress, evaluate
from tasks.execute.isolation import ProcessIsolation
from tasks.measure.anchors import ANCHOR_QUALITIES, SEED, anchor_candidates
from tasks.measure.score import CodedClip, score

VIDEO = VideoFormat(64, 48, Fraction(25))
LIMITS = Limits(memory_mb=1024, encode_seconds=30, decode_seconds=30)

ZLIB_ENCODER = """
import zlib
def compress_video_tensor(frames, config, device):
    y, u, v = (frames[0, :, c].numpy() for c in range(3))
    planes = y.tobytes() + u[:, ::2, ::2].tobytes() + v[:, ::2, ::2].tobytes()
    print("encoding")
    return {"compressed_data": zlib.compress(planes, int(9 * config["quality"])), "bytes": 1, "psnr_y": 1e9}
"""
ZLIB_DECODER = """
import zlib
import numpy as np
import torch
def decompress_video_tensor(data, config, device):
    assert set(config) == {"width", "height", "quality"}
    width, height = config["width"], config["height"]
    raw = np.frombuffer(zlib.decompress(data), np.uint8)
    count = len(raw) // (width * height * 3 // 2)
    parts = np.split(raw, [count * width * height, count * width * height * 5 // 4])
    y = parts[0].reshape(count, height, width)
    u, v = (part.reshape(count, height // 2, width // 2).repeat(2, 1).repeat(2, 2) for part in parts[1:])
    frames = torch.from_numpy(np.stack([y, u, v], 1))[None]
    return {"reconstructed_frames": frames + config.get("offset", 0)}
"""


# Reconstructs nothing with its network, but has one to count: a convolution in the decode, and a module for thop.
NETWORK_DECODER = (
    ZLIB_DECODER.replace("    return", "    Net()(torch.zeros(1, 3, 10, 10))\n    return")
    + """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
    def forward(self, x):
        return self.conv(x)
    def example_inputs(self):
        return (torch.zeros(1, 3, 20, 20),)
def build_decoder(config):
    return Net()
"""
)


def clip_of(count: int = 4, name: str = "gradient") -> LoadedClip:
    """A gradient that moves, with a little seeded noise."""
    noise = np.random.default_rng(11).integers(0, 6, (count, 48, 64))
    ramp = np.arange(64)[None, None] * 2 + np.arange(48)[None, :, None] + 3 * np.arange(count)[:, None, None]
    y = (ramp + noise).astype(np.uint8)
    return LoadedClip.of(name, VIDEO, Frames(y, y[:, ::2, ::2] // 2, 200 - y[:, ::2, ::2] // 2))


def zlib_candidate(encoder: str = ZLIB_ENCODER, decoder: str = ZLIB_DECODER) -> Candidate:
    files = {"encoder.py": encoder, "decoder.py": decoder}
    return Candidate(files=files, config={"width": 64, "height": 48}, lineage=Lineage(id="zlib"))


def run(
    candidate: Candidate,
    clips: Sequence[LoadedClip],
    qualities: Sequence[float] = (1.0,),
    limits: Limits = LIMITS,
    **more: Any,
) -> Evaluation:
    return evaluate(
        candidate,
        clips,
        campaign="test",
        experiment_id="e1",
        qualities=qualities,
        limits=limits,
        isolation=ProcessIsolation(limits),
        **more,
    )


def test_an_honest_lossless_candidate_is_measured_exactly() -> None:
    clip = clip_of()
    told: list[Progress] = []
    evaluation = run(zlib_candidate(decoder=NETWORK_DECODER), [clip], (0.0, 1.0), on_progress=told.append)
    assert (evaluation.status, evaluation.stage, evaluation.reason) == ("measured", "done", "")
    assert evaluation.isolation == "process"
    for point, level in zip(evaluation.points, (0, 9), strict=True):
        frames = clip.frames
        expected = zlib.compress(frames.y.tobytes() + frames.u.tobytes() + frames.v.tobytes(), level)
        assert evaluation.bitstreams[point.bitstream_hash] == expected
        assert point.bytes_total == len(expected)
        assert point.kbps == 8 * len(expected) * 25 / 4 / 1000
        assert (point.psnr_y, point.psnr_yuv, point.psnr_y_worst) == (100, 100, 100)
        assert point.ssim_y == pytest.approx(1)
        assert point.claimed_json == '{"bytes": 1, "psnr_y": 1000000000.0}'
        # Counted once per clip: 8×8 outputs in the decode of all frames, 18×18 in one example frame.
        operations = 2 * 3 * 3 * 3 * 4 / 1e12
        assert point.tera_ops_flop_counter == pytest.approx(operations * 64 * 1920 * 1080 / (4 * 64 * 48))
        assert point.tera_ops_thop == pytest.approx(operations * 18 * 18)
        assert point.tera_ops_per_frame == point.tera_ops_flop_counter
        assert point.tera_ops_by_module == {"Net.conv": point.tera_ops_per_frame}
        assert 0 < point.decode_seconds < 30
    assert [scene.strategy for scene in evaluation.scenes] == [None, None]
    assert [progress.done for progress in told] == [1, 2]
    assert "encoding" in evaluation.log


def test_a_class_of_any_name_is_counted_under_a_short_one() -> None:
    named = 'Net.__name__ = "x" * 100_000 + "\\n"\ndef build_decoder'
    evaluation = run(zlib_candidate(decoder=NETWORK_DECODER.replace("def build_decoder", named)), [clip_of()])
    (point,) = evaluation.points
    assert point.tera_ops_by_module == {"x" * 80: point.tera_ops_per_frame}


def test_the_own_codec_runs_through_the_same_door() -> None:
    clip = clip_of(8)
    template = Candidate.load(SEED)
    candidate = template.model_copy(update={"config": {"strategy": "x264", "preset": "ultrafast"}})
    evaluation = run(candidate, [clip], (0.7,))
    assert evaluation.status == "measured", evaluation.reason + evaluation.log
    (point,), (scene,) = evaluation.points, evaluation.scenes
    bitstream = evaluation.bitstreams[point.bitstream_hash]
    video, frames = decode_bytes(bitstream)
    assert video == VIDEO
    assert 30 < point.psnr_y < 100
    assert point.tera_ops_per_frame is None
    assert point.bytes_total == len(bitstream)
    assert (scene.strategy, scene.frames) == ("x264", 8)
    assert scene.bytes_total == point.bytes_by_strategy["x264"] < point.bytes_total
    # Decoding here gives the very frames that were measured, and an anchor is charged its elementary stream alone.
    coded = CodedClip(0.7, bitstream, frames, 1, 1)
    again, _ = score(clip, coded, campaign="test", experiment_id="e1", elementary_only=True)
    assert (again.psnr_y, again.ssim_y) == (point.psnr_y, point.ssim_y)
    reader = EvcReader(io.BytesIO(bitstream))
    (entry,) = reader.scenes()
    stream = cast(ElementaryStrategy, by_code(entry.strategy)).stream_of(reader.payload(entry), 8)
    assert again.bytes_total == len(stream) > point.bytes_by_strategy["x264"]


def test_bytes_that_only_look_like_evc_are_scored_without_scenes() -> None:
    clip = clip_of()
    for hostile in (b"EVC\0" + b"\xff" * 40, b"EVC\0\1", b"", b"EVC\0\1" + bytes(60)):
        point, (scene,) = score(clip, CodedClip(0.5, hostile, clip.frames, 1, 1), campaign="test", experiment_id="e1")
        assert (point.bytes_total, point.bytes_by_strategy, scene.strategy) == (len(hostile), {}, None)


@pytest.mark.parametrize(
    ("candidate", "status", "stage", "reason"),
    [
        (
            zlib_candidate(encoder="def compress_video_tensor(frames, config, device):\n    return {'data': b''}\n"),
            "invalid",
            "encode",
            'encode of gradient at quality 1: compress_video_tensor() must return bytes as "compressed_data"',
        ),
        (
            zlib_candidate(decoder=ZLIB_DECODER.replace("frames +", "frames[:, 1:] +")),
            "invalid",
            "decode",
            "decode of gradient at quality 1: 3 frames of 64x48, not 4 frames of 64x48",
        ),
        (zlib_candidate(decoder="x = 1"), "invalid", "design", "decoder.py does not define decompress_video_tensor()"),
    ],
)
def test_a_failure_is_a_status_that_names_the_point(candidate: Candidate, status: str, stage: str, reason: str) -> None:
    evaluation = run(candidate, [clip_of()])
    assert (evaluation.status, evaluation.stage) == (status, stage)
    assert evaluation.reason.startswith(reason)
    assert evaluation.points == evaluation.scenes == ()


def test_the_first_failure_stops_the_other_points() -> None:
    encoder = ZLIB_ENCODER.replace("    y, u", "    while config['quality'] == 1.0: pass\n    y, u", 1)
    encoder = encoder.replace("    print", "    raise RuntimeError('broken')\n    print")
    patient = LIMITS.model_copy(update={"encode_seconds": 300})
    started = time.monotonic()
    evaluation = run(zlib_candidate(encoder=encoder), [clip_of()], (1.0, 0.5, 1.0), limits=patient)
    assert evaluation.status == "crashed"
    assert evaluation.reason == "encode of gradient at quality 0.5: RuntimeError: broken"
    assert time.monotonic() - started < 120


def test_a_cancelled_experiment_counts_against_nobody() -> None:
    encoder = "def compress_video_tensor(frames, config, device):\n    while True: pass\n"
    evaluation = run(zlib_candidate(encoder=encoder), [clip_of()], cancelled=lambda: True)
    assert (evaluation.status, evaluation.reason) == ("infrastructure", "cancelled")


def test_a_killed_harness_leaves_no_process(tmp_path: Path) -> None:
    encoder = """
import os, time
def compress_video_tensor(frames, config, device):
    with open(config["pid_file"] + ".partial", "w") as file:
        file.write(str(os.getpid()))
    os.rename(config["pid_file"] + ".partial", config["pid_file"])
    time.sleep(600)
"""
    pid_file = tmp_path / "pid"
    candidate = zlib_candidate(encoder=encoder).model_copy(update={"config": {"pid_file": str(pid_file)}})
    (tmp_path / "candidate").write_bytes(candidate.to_json_bytes())
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_harness import Candidate, Path, clip_of, run
run(Candidate.from_json_bytes(Path({str(tmp_path / "candidate")!r}).read_bytes()), [clip_of()])
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    harness = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        _until(lambda: pid_file.exists() or harness.poll() is not None, 60)
        assert harness.poll() is None
        pid = int(pid_file.read_text())
        assert _is_running(pid)
        assert list(tmp_path.glob("evocodec-*"))
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    _until(lambda: not _is_running(pid), 10)
    _until(lambda: not list(tmp_path.glob("evocodec-*")), 10)


def test_clips_are_known_by_their_content(clips: Path) -> None:
    path = str(clips / "parkjoy.mkv")
    clip = load_clip(path, 3)
    assert (clip.name, len(clip.frames), clip.video.width, clip.video.frame_rate) == (path, 3, 480, 50)
    other = replace(clip, name="renamed")
    assert clip_set_hash([clip]) == clip_set_hash([other]) != clip_set_hash([load_clip(path, 2)])
    assert [(scene.first_frame, scene.frames) for scene in clip.scenes] == [(0, 3)]


def test_demo_clip_scenes_cover_it() -> None:
    clip = load_clip("demo", 40)
    spans = [(scene.first_frame, scene.frames) for scene in clip.scenes]
    assert spans == [(0, 24), (24, 16)]


def test_a_clip_too_large_for_the_limit_says_which_setting_to_change() -> None:
    with pytest.raises(BadInputError, match=r"limits\.memory_mb is 256: raise it, or lower max_frames"):
        require_memory(clip_of(), Limits(memory_mb=256))
    with pytest.raises(BadInputError, match="no frame"):
        LoadedClip.of("empty", VIDEO, Frames.from_bytes(b"", VIDEO))


def test_anchors_are_sound_candidates_with_enough_points() -> None:
    anchors = anchor_candidates()
    assert set(anchors) == {"x265-medium", "svtav1-p6"}
    assert len(ANCHOR_QUALITIES) >= 5
    assert anchors["x265-medium"].config["preset"] == "medium"


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    """False for a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
