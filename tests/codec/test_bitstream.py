from __future__ import annotations

import io
import json
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import HEADER, SCENE, EvcReader, EvcWriter, describe, frames_hash, most_scene_frames
from codec.errors import BadInputError, BitstreamError, LimitError
from codec.frames import ColorDescription, Frames, VideoFormat
from tests.codec.hostile_streams import claiming

Scene = tuple[int, int, bytes, int]

code_points = st.integers(0, 255)
formats = st.builds(
    VideoFormat,
    st.integers(1, 16384),
    st.integers(1, 16384),
    st.builds(Fraction, st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    st.builds(ColorDescription, code_points, code_points, code_points, st.booleans()),
)


def scene_lists(video: VideoFormat) -> st.SearchStrategy[list[Scene]]:
    lengths = st.integers(1, most_scene_frames(video))
    scenes = st.tuples(lengths, code_points, st.binary(max_size=300), st.integers(0, 2**64 - 1))
    return st.lists(scenes, min_size=1, max_size=6)


files = formats.flatmap(lambda video: st.tuples(st.just(video), scene_lists(video)))
HD = VideoFormat(1920, 1080, Fraction(30000, 1001))


def write(video: VideoFormat, scenes: list[Scene], finish: bool = True) -> bytes:
    sink = io.BytesIO()
    writer = EvcWriter(sink, video)
    for scene in scenes:
        writer.add_scene(*scene)
    if finish:
        writer.close()
    return sink.getvalue()


def read(data: bytes) -> tuple[VideoFormat, list[Scene]]:
    reader = EvcReader(io.BytesIO(data))
    scenes = [(e.frame_count, e.strategy, reader.payload(e), e.frames_hash) for e in reader.scenes()]
    return reader.header.video, scenes


@given(files)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(file: tuple[VideoFormat, list[Scene]]) -> None:
    assert read(write(*file)) == file


def test_overhead_of_a_one_scene_file_is_at_most_48_bytes() -> None:
    payload = bytes(1_000_000)
    assert len(write(HD, [(250, 7, payload, 2**64 - 1)])) - len(payload) <= 48


def test_any_scene_is_reached_without_reading_the_payloads_before_it() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            self.taken += len(piece)
            return piece

    source = Counting(write(HD, [(10, 7, bytes([n]) * 50_000, n) for n in range(4)]))
    reader = EvcReader(source)
    third = next(entry for entry in reader.scenes() if entry.first_frame == 20)
    assert reader.payload(third) == bytes([2]) * 50_000
    assert source.taken < 51_000


def test_two_thousand_mutations_give_a_bitstream_error_or_a_file() -> None:
    rng = np.random.default_rng(20)
    good = write(HD, [(n + 1, 5 + n, rng.bytes(20 + 60 * n), n) for n in range(4)])
    refused = 0
    started = time.monotonic()
    for _ in range(2000):
        data = bytearray(good)
        kind = rng.integers(4)
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            for position in rng.integers(len(data), size=rng.integers(1, 5)):
                data[position] = rng.integers(256)
        elif kind == 2:
            position = rng.integers(len(data))
            data[position:position] = rng.bytes(int(rng.integers(1, 30)))
        else:
            position = rng.integers(60)
            data[position : position + 10] = b"\xff" * 10
        try:
            read(bytes(data))
        except BitstreamError:
            refused += 1
    # A byte may be overwritten with itself; any real change is found.
    assert refused > 1950
    assert time.monotonic() - started < 10


def test_every_single_changed_byte_is_found() -> None:
    good = write(HD, [(3, 7, b"some payload", 5), (4, 8, b"another", 6)])
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 0x11
        with pytest.raises(BitstreamError):
            read(bytes(data))


def test_a_truncated_file_gives_its_complete_scenes_first() -> None:
    good = write(HD, [(10, 7, bytes(100), n) for n in range(3)])
    for cut in (len(good) - 1, len(good) - 105, len(good) - 115):
        reader = EvcReader(io.BytesIO(good[:cut]))
        scenes = reader.scenes()
        assert [next(scenes).first_frame, next(scenes).first_frame] == [0, 10]
        with pytest.raises(BitstreamError, match=r"ends|lacks"):
            next(scenes)


def test_a_damaged_scene_leaves_the_others_readable() -> None:
    good = bytearray(write(HD, [(10, 7, bytes(100), n) for n in range(3)]))
    good[-150] ^= 1
    reader = EvcReader(io.BytesIO(good))
    entries = list(reader.scenes())
    assert [reader.crc_matches(entry) for entry in entries] == [True, False, True]
    with pytest.raises(BitstreamError, match=r"scene 1 \(frames 10 to 19, offset \d+\) is damaged"):
        reader.payload(entries[1])


def test_an_unfinished_file_says_so() -> None:
    reader = EvcReader(io.BytesIO(write(HD, [(10, 7, b"x", 1)], finish=False)))
    assert reader.header.frame_count is None
    scenes = reader.scenes()
    assert next(scenes).frame_count == 10
    with pytest.raises(BitstreamError, match="never finished"):
        next(scenes)


@pytest.mark.parametrize("data", [b"", b"RIFF....WEBP", b"EVC\x00", b"\x00" * 4096])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        EvcReader(io.BytesIO(data))


def test_a_newer_version_is_refused_by_name() -> None:
    data = bytearray(write(HD, [(1, 7, b"x", 1)]))
    data[4] = 2
    with pytest.raises(BitstreamError, match="version at offset 4 is 2"):
        EvcReader(io.BytesIO(data))


def test_the_writer_refuses_what_a_reader_would() -> None:
    with pytest.raises(BadInputError, match="width 20000"):
        EvcWriter(io.BytesIO(), VideoFormat(20000, 2, Fraction(25)))


@pytest.mark.parametrize(
    ("width", "height", "most"), [(1920, 1080, 517), (3840, 2160, 129), (16384, 16384, 4), (16, 16, 65536)]
)
def test_a_scene_has_at_most_two_to_the_thirty_luma_samples(width: int, height: int, most: int) -> None:
    video = VideoFormat(width, height, Fraction(25))
    assert most_scene_frames(video) == most
    assert claiming(width, height, most) == write(video, [(most, 5, b"payload", 0)])
    assert read(claiming(width, height, most))[1][0][0] == most
    with pytest.raises(BadInputError, match=f"{most + 1} frames of {width}x{height}; {most} of that size are the most"):
        write(video, [(most + 1, 5, b"payload", 0)])


def test_a_claim_beyond_the_limit_is_told_from_damage_by_its_checksum() -> None:
    large = claiming(1920, 1080, 518)
    with pytest.raises(LimitError, match=r"a scene of 518 frames of 1920x1080; 517 of that size are the most"):
        read(large)
    with pytest.raises(BitstreamError, match="518 frames") as damage:
        read(large[:-1] + b"!")
    assert not isinstance(damage.value, LimitError)


def test_a_file_may_start_anywhere_in_the_sink() -> None:
    sink = io.BytesIO()
    sink.write(b"before")
    writer = EvcWriter(sink, HD)
    writer.add_scene(2, 7, b"payload", 9)
    writer.close()
    assert sink.getvalue()[:6] == b"before"
    assert read(sink.getvalue()[6:]) == (HD, [(2, 7, b"payload", 9)])


def test_the_hash_sees_every_plane_and_order() -> None:
    y = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    u, v = np.zeros((2, 2, 2), np.uint8), np.ones((2, 2, 2), np.uint8)
    hashes = {frames_hash(f) for f in (Frames(y, u, v), Frames(y, v, u), Frames(y[::-1], u, v), Frames(y, u, u))}
    assert len(hashes) == 4


def test_description_is_json_and_names_the_strategies() -> None:
    data = write(HD, [(10, 7, bytes(100), 1), (5, 99, bytes(10), 2)])
    told = json.loads(json.dumps(describe(io.BytesIO(data))))
    assert (told["width"], told["frame_rate"], told["frame_count"]) == (1920, "30000/1001", 15)
    assert [scene["strategy"] for scene in told["scenes"]] == ["av1", "unknown"]
    assert told["error"] is None
    assert told["bytes"] == len(data)
    cut = describe(io.BytesIO(data[:-1]))
    assert len(cut["scenes"]) == 1
    assert "lacks its last 1 bytes" in cut["error"]


def test_every_element_is_explained() -> None:
    assert all(element.meaning and element.low <= element.high for element in (*HEADER, *SCENE))
