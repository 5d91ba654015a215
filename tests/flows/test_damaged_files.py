"""`decode --conceal` as a user meets it: what is lost is grey and told, what is there stays, no claim costs memory."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import Evocodec, clean_environment

from codec.bitstream import EvcReader, EvcWriter, SceneEntry
from codec.config import CodecConfig
from codec.decoding_agent import decode_bytes
from codec.demo_clip import demo_clip
from codec.encoding_agent import EncodingAgent
from codec.frames import Frames
from codec.video import open_video
from tests.codec.hostile_streams import claiming
from tests.codec.test_audio import clip_with_a_click
from tests.flows.test_cli import one_line

FRAMES = 12  # in each of three scenes
GREY = 128


@pytest.fixture(scope="module")
def whole() -> bytes:
    """Three scenes of the demo clip, without sound."""
    video, frames = demo_clip()
    config = CodecConfig(strategy="x264", preset="veryfast", scene_cuts=False, max_scene_frames=FRAMES)
    return EncodingAgent(config).encode_bytes(frames[: 3 * FRAMES], video)[0]


def entries(data: bytes) -> list[SceneEntry]:
    return list(EvcReader(io.BytesIO(data)).scenes())


def flipped(data: bytes, scene: int, bit: int) -> bytes:
    """The file with one bit of a scene's frame count, the first byte of its header, the other way."""
    before = entries(data)[scene - 1]
    damaged = bytearray(data)
    damaged[before.payload_offset + before.payload_bytes] ^= bit
    return bytes(damaged)


def is_grey(frames: Frames) -> bool:
    return all((plane == GREY).all() for plane in frames.planes())


def frames_of(path: Path) -> Frames:
    with open_video(path) as reader:
        return reader.read()


def test_a_file_cut_within_its_second_scene_is_shown_up_to_there(
    evocodec: Evocodec, tmp_path: Path, whole: bytes
) -> None:
    second = entries(whole)[1]
    (tmp_path / "cut.evc").write_bytes(whole[: second.payload_offset + second.payload_bytes // 2])
    one_line(evocodec("decode", "cut.evc", "out.y4m"), 2, "cut.evc", "scene 1", "lacks its last")
    assert not (tmp_path / "out.y4m").exists()
    concealed = evocodec("decode", "cut.evc", "out.y4m", "--conceal", "--verify")
    assert concealed.returncode == 1, concealed.stderr
    assert concealed.stdout == "out.y4m: 36 frames, its end lost\n"
    (warning,) = concealed.stderr.splitlines()  # .y4m has no place for audio, so none is missed
    for words in ("cut.evc: scene 1", "lacks its last", "frames 12 to 35 are lost and shown as grey"):
        assert words in warning
    shown = frames_of(tmp_path / "out.y4m")
    assert np.array_equal(shown.y[:FRAMES], decode_bytes(whole)[1].y[:FRAMES])
    assert is_grey(shown[FRAMES:])


def test_a_flipped_bit_in_a_frame_count_costs_no_frame_before_it(
    evocodec: Evocodec, tmp_path: Path, whole: bytes
) -> None:
    good = decode_bytes(whole)[1]
    (tmp_path / "more.evc").write_bytes(flipped(whole, 1, 0x40))  # 76 instead of 12: more than the header counts
    more = evocodec("decode", "more.evc", "more.mkv", "--conceal")
    assert (more.returncode, more.stdout) == (1, "more.mkv: 36 frames, its end lost\n")
    assert "has more frames than the header counts" in more.stderr
    assert "frames 12 to 35 are lost" in more.stderr
    assert "audio, if the damaged file has any, is left out" in more.stderr  # what is behind the damage is not known
    shown = frames_of(tmp_path / "more.mkv")
    assert np.array_equal(shown.y[:FRAMES], good.y[:FRAMES])
    assert is_grey(shown[FRAMES:])

    (tmp_path / "fewer.evc").write_bytes(flipped(whole, 1, 0x04))  # 8: the last scene is found, 4 frames early
    fewer = evocodec("decode", "fewer.evc", "fewer.mkv", "--conceal")
    assert (fewer.returncode, fewer.stdout) == (1, "fewer.mkv: 36 frames, 1 scene lost, its end lost\n")
    assert "scene 1 (frames 12 to 19" in fewer.stderr
    assert "after 32 of 36 frames; frames 32 to 35 are lost" in fewer.stderr
    shown = frames_of(tmp_path / "fewer.mkv")
    assert np.array_equal(shown.y[20:32], good.y[24:36])
    assert is_grey(shown[12:20])
    assert is_grey(shown[32:])


def test_an_unfinished_file_is_shown_as_far_as_it_goes(evocodec: Evocodec, tmp_path: Path, whole: bytes) -> None:
    reader = EvcReader(io.BytesIO(whole))
    with (tmp_path / "unfinished.evc").open("wb") as sink:
        writer = EvcWriter(sink, reader.header.video)
        for entry in list(reader.scenes())[:2]:
            writer.add_scene(entry.frame_count, entry.strategy, reader.payload(entry), entry.frames_hash)
    one_line(evocodec("decode", "unfinished.evc", "out.mkv"), 2, "never finished")
    concealed = evocodec("decode", "unfinished.evc", "out.mkv", "--conceal")
    assert (concealed.returncode, concealed.stdout) == (1, "out.mkv: 24 frames, its end lost\n")
    (warning,) = concealed.stderr.splitlines()  # audio is added to finished files alone
    assert "never finished" in warning
    assert np.array_equal(frames_of(tmp_path / "out.mkv").y, decode_bytes(whole)[1].y[:24])


def test_a_damaged_file_header_is_an_error_all_the_same(evocodec: Evocodec, tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "damaged.evc").write_bytes(whole[:6] + bytes([whole[6] ^ 1]) + whole[7:])
    one_line(evocodec("decode", "damaged.evc", "out.y4m", "--conceal"), 2, "damaged.evc", "header")
    assert not (tmp_path / "out.y4m").exists()


def test_sound_that_cannot_be_read_is_missed_where_there_is_or_may_be_any(evocodec: Evocodec, tmp_path: Path) -> None:
    clip_with_a_click(tmp_path / "in.mp4", "aac", 0)
    assert evocodec("encode", "in.mp4", "in.evc", "--effort", "0", "--audio", "copy").returncode == 0
    data = (tmp_path / "in.evc").read_bytes()
    (tmp_path / "cut.evc").write_bytes(data[:-50])
    (tmp_path / "flipped.evc").write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    cut = evocodec("decode", "cut.evc", "out.mkv", "--conceal")
    assert (cut.returncode, cut.stdout) == (1, "out.mkv: 50 frames, its end lost\n")
    assert "audio, if the damaged file has any, is left out" in cut.stderr
    damaged = evocodec("decode", "flipped.evc", "out.mkv", "--conceal")
    assert (damaged.returncode, damaged.stdout) == (0, "out.mkv: 50 frames\n")
    assert "its CRC does not match; the audio is left out" in damaged.stderr
    unasked = evocodec("decode", "cut.evc", "out.mkv", "--conceal", "--audio", "none")
    assert "left out" not in unasked.stderr


def test_a_scene_larger_than_the_format_allows_is_refused_before_it_is_decoded(
    evocodec: Evocodec, tmp_path: Path
) -> None:
    (tmp_path / "large.evc").write_bytes(claiming(1920, 1080, 60_000))
    for options in ((), ("--conceal",)):
        refused = evocodec("decode", "large.evc", "out.y4m", *options)
        one_line(refused, 2, "large.evc", "60000 frames of 1920x1080", "517 of that size are the most")
        assert "warning" not in refused.stderr
    one_line(evocodec("info", "large.evc"), 2, "60000 frames of 1920x1080")
    assert not (tmp_path / "out.y4m").exists()


def test_grey_frames_are_held_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "claims.evc").write_bytes(claiming(1920, 1080, 128))  # 400 MB
    code = (
        "import re, sys; from pathlib import Path\n"
        "sys.argv = ['evocodec', 'decode', 'claims.evc', 'out.mkv', '--conceal']\n"
        "import flows.cli\n"
        "try: flows.cli.main()\n"
        "except SystemExit as end: assert end.code == 1, end\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=clean_environment(), check=True, capture_output=True, text=True)
    told, peak = run.stdout.splitlines()
    assert told == "out.mkv: 128 frames, 1 scene lost"
    assert int(peak) / 1024 < 300  # MiB; what Python and FFmpeg take for any file is about half of it
