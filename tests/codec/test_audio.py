"""Sound through the container and back, heard when it was heard before."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec.audio import AudioTrack, take_audio
from codec.bitstream import EvcReader, EvcWriter, append_audio, describe
from codec.errors import BitstreamError
from codec.frames import Frames, VideoFormat
from codec.video import open_container, open_video, write_video

RATE = 48000
CLICK = 1.0  # seconds after the start of the sound
FRAMES = 50
VIDEO = VideoFormat(64, 64, Fraction(25))
GREY = Frames(np.full((FRAMES, 64, 64), 90, np.uint8), *(np.full((FRAMES, 32, 32), 128, np.uint8),) * 2)


def clip_with_a_click(path: Path, codec: str, first_frame: int) -> Path:
    """Two seconds of a hum with a click, beside pictures that begin `first_frame` frames later."""
    sound = (0.1 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    sound[int(CLICK * RATE) : int(CLICK * RATE) + 50] = 0.9
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream(codec, rate=RATE)
        audio.layout = "mono"
        for index in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(np.full((96, 64), 90, np.uint8), format="yuv420p")
            picture.pts, picture.time_base = index + first_frame, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        whole = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        whole.rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
        resampler = av.AudioResampler(audio.format, "mono", RATE, audio.codec_context.frame_size or 1024)
        for part in (*resampler.resample(whole), *resampler.resample(None)):
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path


def evc_with_audio(source: Path) -> io.BytesIO:
    sink, sound = io.BytesIO(), io.BytesIO()
    writer = EvcWriter(sink, VIDEO)
    writer.add_scene(FRAMES, 5, b"pictures", 0)
    writer.close()
    with open_video(source) as reader, open_container(source) as container:
        assert len(take_audio(container, reader.start, sound)) == 1
    before = len(sink.getvalue())
    assert append_audio(sink, sound) == len(sink.getvalue()) - before
    return sink


def click_seconds(path: Path) -> float:
    loudest, when = 0.0, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray()[0].astype(np.float64))
            if samples.max() > loudest:
                loudest, when = samples.max(), float(frame.pts * frame.time_base) + samples.argmax() / RATE
    return when


@pytest.mark.parametrize("first_frame", [0, 10])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("aac", ".mp4"), ("aac", ".mkv"), ("libopus", ".mkv"), ("pcm_s16le", ".mkv")]
)
def test_sound_comes_back_in_time_with_the_pictures(codec: str, suffix: str, first_frame: int, tmp_path: Path) -> None:
    source = clip_with_a_click(tmp_path / f"source{suffix}", codec, first_frame)
    evc = evc_with_audio(source)
    reader = EvcReader(evc)
    entry = reader.audio()
    assert entry is not None
    for out in (tmp_path / "out.mkv", tmp_path / "out.mp4"):
        sound = io.BytesIO()
        reader.copy_audio(entry, sound)
        sound.seek(0)
        with AudioTrack(sound) as track:
            assert write_video(out, VIDEO, [GREY], track) == FRAMES
        with open_video(out) as again:
            assert again.read().y.shape == GREY.y.shape
            assert click_seconds(out) - float(again.start) == pytest.approx(CLICK - first_frame / 25, abs=0.002)


def test_a_file_says_that_it_has_sound_and_its_scenes_are_unchanged(tmp_path: Path) -> None:
    evc = evc_with_audio(clip_with_a_click(tmp_path / "source.mkv", "libopus", 0))
    facts = describe(evc)
    assert facts["error"] is None
    assert facts["audio_bytes"] > 10_000
    assert [scene["payload_bytes"] for scene in facts["scenes"]] == [len(b"pictures")]


def test_damaged_sound_is_an_error(tmp_path: Path) -> None:
    whole = evc_with_audio(clip_with_a_click(tmp_path / "source.mkv", "libopus", 0)).getvalue()
    entry = EvcReader(io.BytesIO(whole)).audio()
    assert entry is not None
    flipped = bytearray(whole)
    flipped[entry.payload_offset + 500] ^= 1
    reader = EvcReader(io.BytesIO(flipped))
    with pytest.raises(BitstreamError, match="its CRC does not match"):
        reader.copy_audio(entry, io.BytesIO())
    with pytest.raises(BitstreamError, match="not the"):
        EvcReader(io.BytesIO(whole[:-1])).audio()
    with pytest.raises(BitstreamError, match="follow the last scene"):
        EvcReader(io.BytesIO(whole[: entry.payload_offset - 8] + b"XYZ" + whole[entry.payload_offset :])).audio()


def test_what_is_no_sound_is_refused() -> None:
    for payload in (b"", b"noise" * 100, b"\x1aE\xdf\xa3" + bytes(200)):
        with pytest.raises(BitstreamError, match=r"audio of the \.evc file cannot be read|has no audio"):
            AudioTrack(io.BytesIO(payload))
