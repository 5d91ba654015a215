from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec.bitstream import EvcReader, EvcWriter, describe, frames_hash
from codec.config import CodecConfig
from codec.decoding_agent import DecodingAgent, LostEnd, decode_bytes
from codec.encoding_agent import EncodingAgent
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import ColorDescription, Frames, VideoFormat
from tests.codec.conftest import MovingPicture, ReadClip

QUICK = CodecConfig(strategy="x264", preset="veryfast")


@pytest.mark.parametrize(
    ("strategy", "preset"), [("x264", "veryfast"), ("x265", "veryfast"), ("av1", "10"), ("vvc", None)]
)
def test_a_clip_survives_the_round_trip_to_another_process(
    strategy: str, preset: str | None, tmp_path: Path, moving_picture: MovingPicture
) -> None:
    """The decoder in a fresh process makes the very frames that the encoder's closed loop saw."""
    frames, video = moving_picture(71, 45, 12)
    config = CodecConfig(strategy=strategy, preset=preset, quality=0.7, max_scene_frames=8)
    data, report = EncodingAgent(config).encode_bytes(frames, video)
    (tmp_path / "clip.evc").write_bytes(data)
    code = (
        "import sys, hashlib; from codec.decoding_agent import DecodingAgent; from codec.frames import Frames\n"
        "with open(sys.argv[1], 'rb') as source:\n"
        "    scenes = [s.frames for s in DecodingAgent().decode(source, verify=True)]\n"
        "print(hashlib.sha256(Frames.concatenate(scenes).to_bytes()).hexdigest(), 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "clip.evc"], capture_output=True, text=True, check=True, timeout=60
    )
    told, decoded = decode_bytes(data)
    assert run.stdout.split() == [hashlib.sha256(decoded.to_bytes()).hexdigest(), "False"]
    assert told == video
    assert [(scene.first_frame, scene.frames) for scene in report.scenes] == [(0, 8), (8, 4)]
    assert report.bytes == len(data)
    assert report.frames == len(decoded) == 12
    assert np.mean(np.abs(decoded.y.astype(int) - frames.y)) < 5


def test_scenes_are_found_reported_and_reachable_alone(read_clip: ReadClip) -> None:
    frames, video = read_clip("mixed360.mkv", 64)
    small = Frames(frames.y[:, ::4, ::4], frames.u[:, ::4, ::4], frames.v[:, ::4, ::4])
    video = VideoFormat(160, 90, video.frame_rate)
    done: list[int] = []
    sink = io.BytesIO()
    report = EncodingAgent(QUICK).encode([small[:20], small[20:]], video, sink, done.append)
    assert [scene.first_frame for scene in report.scenes] == [0, 30, 60]
    assert done == [30, 60, 64]
    assert {scene.why for scene in report.scenes} == {"fixed by config"}
    assert {scene.strategy for scene in report.scenes} == {"x264"}
    assert len(sink.getvalue()) == report.bytes
    reader = EvcReader(sink)
    middle = list(reader.scenes())[1]
    alone = DecodingAgent().decode_scene(reader, middle, verify=True)
    assert np.array_equal(alone.y, decode_bytes(sink.getvalue())[1].y[30:60])


def test_overhead_beyond_the_payload_is_at_most_48_bytes(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(64, 48, 5)
    data, report = EncodingAgent(QUICK).encode_bytes(frames, video)
    assert len(data) - report.scenes[0].payload_bytes <= 47  # the payload's scale byte is the 48th


def test_format_travels_exactly(moving_picture: MovingPicture) -> None:
    frames, _ = moving_picture(17, 9, 2)
    video = VideoFormat(17, 9, Fraction(24000, 1001), ColorDescription(9, 16, 9, True))
    data, _ = EncodingAgent(QUICK).encode_bytes(frames, video)
    assert decode_bytes(data)[0] == video


def three_scenes(moving_picture: MovingPicture) -> bytes:
    frames, video = moving_picture(48, 32, 9)
    config = QUICK.model_copy(update={"max_scene_frames": 3})
    return EncodingAgent(config).encode_bytes(frames, video)[0]


def test_a_damaged_scene_costs_only_itself(moving_picture: MovingPicture) -> None:
    data = bytearray(three_scenes(moving_picture))
    middle = list(EvcReader(io.BytesIO(data)).scenes())[1]
    data[middle.payload_offset + 9] ^= 0xFF
    with pytest.raises(BitstreamError, match=r"scene 1 \(frames 3 to 5"):
        list(DecodingAgent().decode(io.BytesIO(data)))
    scenes = list(DecodingAgent().decode(io.BytesIO(data), conceal=True))
    assert [scene.frames is None for scene in scenes] == [False, True, False]
    assert "its CRC does not match" in str(scenes[1].error)


def test_a_truncated_file_gives_its_complete_scenes(moving_picture: MovingPicture) -> None:
    decoding = DecodingAgent().decode(io.BytesIO(three_scenes(moving_picture)[:-1]))
    assert [len(next(decoding).frames or ()), len(next(decoding).frames or ())] == [3, 3]
    with pytest.raises(BitstreamError, match="scene 2"):
        next(decoding)


def test_all_that_a_truncated_file_lacks_is_one_loss(moving_picture: MovingPicture) -> None:
    data = three_scenes(moving_picture)
    second = list(EvcReader(io.BytesIO(data)).scenes())[1]
    for size, told in ((second.payload_offset - 3, "ends within"), (second.payload_offset + 20, "scene 1")):
        first, end = DecodingAgent().decode(io.BytesIO(data[:size]), conceal=True)
        assert (first.entry.first_frame, first.error) == (0, None)
        assert (end.entry, end.frames) == (LostEnd(3, 6), None)
        assert told in str(end.error)


def test_scenes_are_cut_where_a_file_has_no_place_for_longer_ones(
    moving_picture: MovingPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codec.bitstream.MAX_SCENE_SAMPLES", 48 * 32 * 4)
    frames, video = moving_picture(48, 32, 9)
    data, report = EncodingAgent(QUICK).encode_bytes(frames, video)
    assert [scene.frames for scene in report.scenes] == [4, 4, 1]
    assert len(decode_bytes(data)[1]) == 9


def test_verify_finds_frames_that_differ_from_the_encoders(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(48, 32, 3)
    data, _ = EncodingAgent(QUICK).encode_bytes(frames, video)
    reader = EvcReader(io.BytesIO(data))
    entry = next(reader.scenes())
    assert entry.frames_hash == frames_hash(decode_bytes(data)[1])
    forged = io.BytesIO()
    writer = EvcWriter(forged, video)
    writer.add_scene(3, entry.strategy, reader.payload(entry), entry.frames_hash ^ 1)
    writer.close()
    assert len(list(DecodingAgent().decode(forged))) == 1
    with pytest.raises(BitstreamError, match=r"scene 0 .* decodes to other frames"):
        list(DecodingAgent().decode(forged, verify=True))


def test_no_frames_is_an_error(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(16, 16, 1)
    with pytest.raises(BadInputError, match="no frame to encode"):
        EncodingAgent(QUICK).encode_bytes(frames[:0], video)


def test_a_failed_encode_leaves_a_file_that_says_it_is_unfinished(moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(48, 32, 6)
    sink = io.BytesIO()
    config = QUICK.model_copy(update={"max_scene_frames": 3, "options": {"no-such-option": "1"}})
    with pytest.raises(EncodeError, match="no-such-option"):
        EncodingAgent(config).encode([frames], video, sink)
    assert "never finished" in describe(sink)["error"]


def test_config_is_parsed_with_one_clear_line() -> None:
    assert CodecConfig.parse({}) == CodecConfig(quality=0.5, strategy="av1", scale="1")
    assert CodecConfig.parse({"quality_range": [50, 20]}).quality_range == (50, 20)
    for values, message in (
        ({"strategy": "theora"}, "strategy: unknown strategy 'theora': choose one of "),
        ({"strategy": "av1", "preset": "slow"}, "av1 has no preset 'slow': choose one of 13, 12"),
        ({"quality": 2}, "quality: 2 is not in the range 0 to 1"),
        ({"qualty": 1}, "qualty: no such setting; the settings are quality, strategy"),
        ({"scale": "1/4"}, "scale: Input should be '1', '3/4', '2/3' or '1/2'"),
        ({"options": {"a": 1}}, "options.a: Input should be a valid string"),
    ):
        with pytest.raises(BadInputError) as refusal:
            CodecConfig.parse(values)
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in CodecConfig.model_fields.values())
