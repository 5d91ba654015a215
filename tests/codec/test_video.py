"""Files made with PyAV and by hand, then read: what must be exact is compared byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codec.errors import BadInputError
from codec.frames import ColorDescription, Frames, VideoFormat
from codec.pixels import frame_planes, planes_to_frame, rgb_to_planes
from codec.video import nearest_repeats, open_video, write_video

ROOT = Path(__file__).parents[2]

PLANAR = ("yuv422p", "yuv422p10le", "yuv444p12le", "yuv440p", "yuv411p", "yuv410p", "yuva420p", "gray", "gray10le")
PACKED = ("nv12", "p010le", "yuyv422", "yuv420p10be", "ya8", "monob")
RGB = ("rgb24", "bgra", "gbrp10le", "rgb48le", "x2rgb10le")


def noise(width: int, height: int, count: int, rate: Fraction | int = 25, seed: int = 1) -> tuple[VideoFormat, Frames]:
    video = VideoFormat(width, height, Fraction(rate))
    samples = np.random.default_rng(seed).integers(0, 256, video.frame_bytes * count, dtype=np.uint8)
    return video, Frames.from_bytes(samples.tobytes(), video)


def write_with_pyav(
    path: Path,
    pixel_format: str,
    frames: list[av.VideoFrame],
    ticks: list[int],
    time_base: Fraction,
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixel_format
        stream.codec_context.time_base = time_base
        for frame, tick in zip(frames, ticks, strict=True):
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbered(count: int) -> list[av.VideoFrame]:
    """Flat gray frames whose luma is 10 x their number."""
    flat = [np.full((32, 32), 10 * index, np.uint8) for index in range(count)]
    chroma = np.full((16, 16), 128, np.uint8)
    return [planes_to_frame(luma, chroma, chroma) for luma in flat]


@pytest.mark.parametrize("suffix", [".y4m", ".mkv", ".mp4"])
@pytest.mark.parametrize("size", [(64, 48), (16, 16), (2, 2)])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(60000, 1001), Fraction(24000, 1001)])
def test_what_is_written_is_read_back_bit_for_bit(
    tmp_path: Path, suffix: str, size: tuple[int, int], rate: Fraction
) -> None:
    video, frames = noise(*size, count=5, rate=rate)
    path = tmp_path / f"clip{suffix}"
    assert write_video(path, video, [frames[:2], frames[2:]]) == 5
    with open_video(path) as reader:
        # y4m has no room for code points.
        assert reader.format == (replace(video, color=ColorDescription(2, 2, 2)) if suffix == ".y4m" else video)
        assert reader.read(2).to_bytes() == frames[:2].to_bytes()
        assert reader.read().to_bytes() == frames[2:].to_bytes()
        assert len(reader.read()) == 0
        assert reader.warnings == []
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".y4m", ".mkv"])
@pytest.mark.parametrize("size", [(63, 47), (64, 47), (1, 1)])
def test_odd_sizes_keep_their_last_row_and_column(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    video, frames = noise(*size, count=3)
    write_video(tmp_path / f"odd{suffix}", video, [frames])
    with open_video(tmp_path / f"odd{suffix}") as reader:
        assert reader.read().to_bytes() == frames.to_bytes()
        assert reader.warnings == []


@pytest.mark.parametrize("suffix", [".y4m", ".mkv", ".mp4"])
def test_one_frame_is_a_video(tmp_path: Path, suffix: str) -> None:
    video, frames = noise(16, 16, count=1)
    write_video(tmp_path / f"one{suffix}", video, [frames])
    with open_video(tmp_path / f"one{suffix}") as reader:
        assert [part.to_bytes() for part in reader] == [frames.to_bytes()]
        assert reader.format.frame_rate == 25


@pytest.mark.parametrize("color", [ColorDescription(9, 16, 9, False), ColorDescription(5, 6, 5, True)])
@pytest.mark.parametrize("suffix", [".y4m", ".mkv", ".mp4"])
def test_colour_travels_and_is_never_applied(tmp_path: Path, suffix: str, color: ColorDescription) -> None:
    plain, frames = noise(32, 32, count=2)
    video = VideoFormat(plain.width, plain.height, plain.frame_rate, color)
    write_video(tmp_path / f"c{suffix}", video, [frames])
    with open_video(tmp_path / f"c{suffix}") as reader:
        assert reader.read().to_bytes() == frames.to_bytes()
        kept = reader.format.color
    assert kept.full_range == color.full_range
    assert suffix == ".y4m" or kept == color


def test_an_unspecified_colour_stays_unspecified(tmp_path: Path) -> None:
    write_with_pyav(tmp_path / "u.mkv", "yuv420p", numbered(2), [0, 1], Fraction(1, 25))
    with open_video(tmp_path / "u.mkv") as reader:
        assert reader.format.color == ColorDescription(2, 2, 2, full_range=False)


@pytest.mark.parametrize(
    ("name", "size", "rate", "count"), [("parkjoy", (480, 270), 50, 10), ("talk512", (512, 512), 25, 60)]
)
def test_real_clips_pass_untouched(clips: Path, name: str, size: tuple[int, int], rate: int, count: int) -> None:
    with open_video(clips / f"{name}.mkv") as reader:
        frames = reader.read()
        assert (reader.format.width, reader.format.height, reader.format.frame_rate) == (*size, rate)
        assert reader.warnings == []
    with av.open(str(clips / f"{name}.mkv")) as container:
        reference = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    assert len(frames) == count
    assert frames.to_bytes() == reference.tobytes()


def test_ten_bit_is_rounded_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = av.VideoFrame(32, 18, "yuv420p10le")
    wide = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, "<u2").reshape(plane.height, -1)
        rows[:] = rng.integers(0, 1024, rows.shape)
        wide.append(rows[:, : plane.width].astype(int))
    write_with_pyav(tmp_path / "ten.mkv", "yuv420p10le", [frame], [0], Fraction(1, 25))
    with open_video(tmp_path / "ten.mkv") as reader:
        frames = reader.read()
        assert reader.warnings == ["10-bit 4:2:0 converted to 8-bit 4:2:0"]
    for got, want in zip(frames.planes(), wide, strict=True):
        np.testing.assert_array_equal(got[0], np.minimum(255, (want + 2) // 4))


def test_full_chroma_is_filtered_to_half_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = av.VideoFrame(33, 17, "yuv444p")
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        rows[:] = rng.integers(0, 256, rows.shape)
        planes.append(rows[:, :33].astype(int))
    write_with_pyav(tmp_path / "full.mkv", "yuv444p", [frame], [0], Fraction(1, 25))
    with open_video(tmp_path / "full.mkv") as reader:
        frames = reader.read()
        assert reader.warnings == ["8-bit 4:4:4 converted to 8-bit 4:2:0"]
    np.testing.assert_array_equal(frames.y[0], planes[0])
    u = planes[1]
    assert frames.u.shape == (1, 9, 17)
    by_hand = (u[4, 5] + 2 * u[4, 6] + u[4, 7] + u[5, 5] + 2 * u[5, 6] + u[5, 7] + 4) // 8
    corner = (u[16, 31] + 2 * u[16, 32] + u[16, 32] + 2) // 4  # the last row and column of an odd size, held
    assert (frames.u[0, 2, 3], frames.u[0, 8, 16]) == (by_hand, corner)


@pytest.mark.parametrize(
    "pixel_format",
    [*PLANAR, *PACKED, *RGB],
)
def test_white_stays_white_in_every_layout(pixel_format: str) -> None:
    white = np.full((18, 34, 3), 255, np.uint8)
    # One thread here for the reason given in frame_planes.
    frame = av.VideoFrame.from_ndarray(white, format="rgb24").reformat(format=pixel_format, threads=1)
    level = 255 if pixel_format.startswith(("gray", "ya", "mono")) else 235  # swscale gives gray its full range
    y, u, v = frame_planes(frame)
    assert (y.shape, u.shape, v.shape) == ((18, 34), (9, 17), (9, 17))
    assert np.abs(y.astype(int) - level).max() <= 1
    assert max(np.abs(u.astype(int) - 128).max(), np.abs(v.astype(int) - 128).max()) <= 1


def test_rgb_primaries_get_the_code_values_of_bt709() -> None:
    colours = {(255, 0, 0): (63, 102, 240), (0, 255, 0): (173, 42, 26), (0, 0, 255): (32, 240, 118)}
    for rgb, expected in colours.items():
        planes = rgb_to_planes(np.full((4, 4, 3), rgb, np.uint8))
        assert tuple(int(plane[0, 0]) for plane in planes) == expected
        deep = rgb_to_planes(np.full((4, 4, 3), rgb, np.uint16) * np.uint16(257))
        assert all((a == b).all() for a, b in zip(planes, deep, strict=True))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(60000, 1001), Fraction(50)])
def test_millisecond_timestamps_are_not_a_variable_rate(tmp_path: Path, rate: Fraction) -> None:
    video, frames = noise(16, 16, count=80, rate=rate)
    write_video(tmp_path / "ms.mkv", video, [frames])
    with open_video(tmp_path / "ms.mkv") as reader:
        assert reader.read().to_bytes() == frames.to_bytes()
        assert reader.warnings == []


def test_a_variable_rate_is_resampled_by_nearest_timestamp_and_told(tmp_path: Path) -> None:
    # 25 Hz with one frame held for three periods and one that comes 8 ms after another
    ticks = [0, 40, 80, 200, 240, 248, 280, 320]
    write_with_pyav(tmp_path / "vfr.mkv", "yuv420p", numbered(8), ticks, Fraction(1, 1000))
    with open_video(tmp_path / "vfr.mkv") as reader:
        shown = [int(part.y[0, 0, 0]) // 10 for part in reader]
        rate = reader.format.frame_rate
        assert len(reader.warnings) == 1
        warning = reader.warnings[0]
    samples = [Fraction(1000 * index) / rate for index in range(len(shown))]
    nearest = [min(range(8), key=lambda source: (abs(ticks[source] - at), source)) for at in samples]
    assert shown == nearest
    repeats = [shown.count(index) for index in range(8)]
    assert f"{sum(count - 1 for count in repeats if count > 1)} frames duplicated" in warning
    assert f"{repeats.count(0)} dropped" in warning
    assert repeats[2] > 1
    assert warning.startswith("variable frame rate resampled to")


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.sampled_from([10, 25, 30, 50]))
def test_resampling_covers_the_whole_time_without_moving_a_frame_by_more_than_it_must(
    steps: list[int], rate: int
) -> None:
    seconds = [Fraction(sum(steps[:index]), 1000) for index in range(len(steps) + 1)]
    repeats = nearest_repeats(seconds, Fraction(rate))
    shown = [index for index, count in enumerate(repeats) for _ in range(count)]
    assert len(shown) == round(seconds[-1] * rate) + 1
    for sample, index in enumerate(shown):
        at = Fraction(sample, rate)
        assert abs(seconds[index] - at) == min(abs(second - at) for second in seconds)


def test_a_hole_in_the_timestamps_is_refused_not_filled(tmp_path: Path) -> None:
    write_with_pyav(tmp_path / "hole.mkv", "yuv420p", numbered(3), [0, 40, 4_000_000], Fraction(1, 1000))
    with pytest.raises(BadInputError, match=r"hole of 4000 s"):
        open_video(tmp_path / "hole.mkv")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Ip A16:15", "the pixel aspect ratio 16:15 is not kept"),
        ("It A1:1", "interlaced frames are coded as they are, both fields woven together"),
    ],
)
def test_what_frames_cannot_keep_is_told(tmp_path: Path, header: str, told: str) -> None:
    _, frames = noise(16, 16, count=1)
    (tmp_path / "a.y4m").write_bytes(f"YUV4MPEG2 W16 H16 F25:1 {header} C420jpeg\nFRAME\n".encode() + frames.to_bytes())
    with open_video(tmp_path / "a.y4m") as reader:
        assert reader.read().to_bytes() == frames.to_bytes()
        assert reader.warnings == [told]


def test_rotation_is_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(numbered(1)[0]))
        container.mux(stream.encode(None))
    with open_video(tmp_path / "turned.mp4") as reader:
        assert len(reader.warnings) == 1
        assert "rotation of" in reader.warnings[0]


def test_a_picture_with_a_palette_is_a_video_of_one_frame(tmp_path: Path) -> None:
    picture = Image.new("P", (20, 10), color=1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / "red.png")
    with open_video(tmp_path / "red.png") as reader:
        frames = reader.read()
        assert reader.warnings == ["8-bit RGB converted to 8-bit 4:2:0 BT.709 limited range"]
    assert [np.unique(plane).tolist() for plane in frames.planes()] == [[63], [102], [240]]


def make_unreadable(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is not a video\n" * 100, encoding="ascii")
    elif kind == "prose":
        path = path.with_suffix(".txt")
        path.write_text("neither is this\n" * 100, encoding="ascii")
    elif kind == "empty":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "audio":
        path = path.with_suffix(".wav")
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16000))
    elif kind == "no frames":
        path = path.with_suffix(".y4m")
        path.write_bytes(b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n")
    elif kind == "huge":
        path = path.with_suffix(".y4m")
        path.write_bytes(b"YUV4MPEG2 W20000 H16 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(480_000))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("text", "is not a video that FFmpeg can read"),
        ("prose", "is a text file"),
        ("empty", "is empty"),
        ("fifo", "is not a regular file"),
        ("audio", "has no video stream, only audio"),
        ("no frames", "has no frames"),
        ("huge", "20000x16 has a side above 16384"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, kind: str, message: str) -> None:
    path = make_unreadable(tmp_path, kind)
    with pytest.raises(BadInputError, match=message) as caught:
        open_video(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert ";" in str(caught.value), "what to do comes after a semicolon"


def test_a_file_of_somebody_else_is_permission_denied(tmp_path: Path) -> None:
    video, frames = noise(16, 16, count=1)
    path = tmp_path / "mine.y4m"
    write_video(path, video, [frames])
    path.chmod(0)
    drop = "import os; os.geteuid() or os.setuid(65534)"
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom codec.video import open_video\n"
        f"{drop}\ntry:\n    open_video({str(path)!r})\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("BadInputError")
    assert "permission denied" in done.stdout


def corrupt(path: Path, at: float, length: int) -> None:
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def test_damage_that_ffmpeg_conceals_becomes_a_warning(tmp_path: Path) -> None:
    video, frames = noise(64, 48, count=8)
    path = tmp_path / "damaged.mkv"
    write_video(path, video, [frames])
    corrupt(path, at=0.5, length=60)
    with open_video(path) as reader:
        got = reader.read()
        assert len(reader.warnings) == 1
        assert reader.warnings[0].startswith("the file is damaged")
    assert got.to_bytes() != frames.to_bytes()


def test_a_file_cut_short_becomes_a_warning(tmp_path: Path) -> None:
    video, frames = noise(64, 48, count=8)
    path = tmp_path / "short.mkv"
    write_video(path, video, [frames])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(2):  # PyAV's log would leave out a message that it gave before
        with open_video(path) as reader:
            got = reader.read()
            assert any("damaged" in warning for warning in reader.warnings)
        assert 0 < len(got) < 8
        assert got.to_bytes() == frames[: len(got)].to_bytes()


def test_damage_that_stops_the_decoder_is_an_error(tmp_path: Path) -> None:
    video, frames = noise(64, 48, count=12)
    path = tmp_path / "broken.mp4"
    write_video(path, video, [frames])
    corrupt(path, at=0.3, length=path.stat().st_size // 3)
    with pytest.raises(BadInputError, match=r"decoding fails after \d+ frames.*damaged"), open_video(path) as reader:
        reader.read()


def test_ffmpeg_stays_silent(tmp_path: Path) -> None:
    video, frames = noise(64, 48, count=8)
    write_video(tmp_path / "a.mkv", video, [frames])
    corrupt(tmp_path / "a.mkv", at=0.5, length=60)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom codec.video import open_video, write_video\n"
        f"reader = open_video({str(tmp_path / 'a.mkv')!r}); frames = reader.read()\n"
        f"write_video({str(tmp_path / 'b.mp4')!r}, reader.format, [frames])\nprint(len(reader.warnings))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.parametrize("suffix", [".y4m", ".mkv", ".mp4"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    video, frames = noise(16, 16, count=3)
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(b"older")

    def breaks_off() -> Iterator[Frames]:
        yield frames
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, video, breaks_off())
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a.avi", (16, 16), r"use \.y4m, \.mkv or \.mp4"),
        ("a", (16, 16), "a file without suffix"),
        ("a.mp4", (17, 16), r"use \.mkv"),
        ("no/such/folder/a.y4m", (16, 16), "cannot be written"),
        ("no/such/folder/a.mkv", (16, 16), "cannot be written"),
        (".", (16, 16), "cannot write"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(
    tmp_path: Path, name: str, size: tuple[int, int], message: str
) -> None:
    video, frames = noise(*size, count=1)
    with pytest.raises(BadInputError, match=message) as caught:
        write_video(tmp_path / name, video, [frames])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_frames_and_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    video, frames = noise(16, 16, count=1)
    other, _ = noise(32, 16, count=1)
    with pytest.raises(BadInputError, match="no frames to write"):
        write_video(tmp_path / "a.mkv", video, [])
    with pytest.raises(BadInputError, match="do not fit a 32x16 video"):
        write_video(tmp_path / "a.y4m", other, [frames])
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_size_is_an_error(tmp_path: Path) -> None:
    parts = []
    for side in (32, 48):
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = side, side, "yuv420p"
        context.time_base = Fraction(1, 25)
        _, frames = noise(side, side, count=3)
        for index in range(3):
            frame = planes_to_frame(frames.y[index], frames.u[index], frames.v[index])
            frame.pts, frame.time_base = index, Fraction(1, 25)
            parts.extend(bytes(packet) for packet in context.encode(frame))
        parts.extend(bytes(packet) for packet in context.encode(None))
    (tmp_path / "two.h264").write_bytes(b"".join(parts))
    with (
        pytest.raises(BadInputError, match="frame 3 is 48x48, those before it 32x32"),
        open_video(tmp_path / "two.h264") as reader,
    ):
        reader.read()
