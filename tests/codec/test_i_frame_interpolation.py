"""Frames between key frames: they pay or are refused, decode to the same pixels everywhere, survive hostile bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from codec import strategies
from codec.complexity import count_module_operations, count_operations, per_1080p_frame
from codec.demo_clip import demo_clip
from codec.effort import EFFORTS, MAX_EFFORT, shortlist
from codec.entropy import Reader, Writer
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.networks.description import Description
from codec.networks.temporal_consistency import TemporalConsistencyEnhancer
from codec.networks.video_generator import LightweightVideoGenerator
from codec.rate_distortion import lambda_of_quality, plane_errors
from codec.scenes import SceneClass
from codec.strategies.i_frame_interpolation import ENCODERS, best_coding
from codec.strategies.i_frame_interpolation.between import key_frames, places
from codec.strategies.i_frame_interpolation.scene import SceneSymbols, code_scene
from codec.strategies.i_frame_interpolation.syntax import (
    BOTH,
    CLASSES,
    FUTURE,
    LIMITS,
    PAST,
    FrameSymbols,
    FrameSyntax,
    best_tables,
    grid,
    switch_grid,
)
from codec.strategies.i_frame_interpolation.transform import forward, inverse, matrix, step_of
from codec.strategies.protocol import EncodeSettings
from tests.codec.conftest import MovingPicture

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/codec/golden/i_frame_interpolation.evc-payload"
GOLDEN_FORMAT = VideoFormat(80, 50, demo_clip()[0].frame_rate)
GOLDEN_FRAMES = 6
X264 = {"keys": "x264", "distance": "4", "networks": "off"}


@cache
def clip() -> tuple[Frames, VideoFormat]:
    """Nine frames of the demo clip's talking head, cut to 128x96."""
    video, frames = demo_clip()
    part = frames[24:33]
    cut = Frames(part.y[:, 20:116, 100:228], part.u[:, 10:58, 50:114], part.v[:, 10:58, 50:114])
    return cut, VideoFormat(128, 96, video.frame_rate)


def some_symbols(rng: np.random.Generator, rows: int, columns: int) -> FrameSymbols:
    """Every tool somewhere."""
    symbols = FrameSymbols.nothing(rows, columns)
    symbols.generated = rng.integers(0, 2, switch_grid(rows, columns)).astype(np.int32)
    symbols.sources = rng.choice([BOTH, BOTH, PAST, FUTURE], (rows, columns)).astype(np.int32)
    symbols.sent = rng.integers(0, 2, (rows, columns)).astype(np.int32)
    symbols.corrections = (rng.integers(-20, 21, (4, rows, columns)) * symbols.sent).astype(np.int32)
    symbols.corrections[:2, symbols.sources == FUTURE] = 0
    symbols.corrections[2:, symbols.sources == PAST] = 0
    symbols.classes = rng.integers(0, CLASSES, (3, rows, columns)).astype(np.int32)
    for plane in range(3):
        for kind in range(1, CLASSES):
            limit = LIMITS[plane > 0][kind]
            where = symbols.classes[plane] == kind
            spread = rng.laplace(0, 2 / (1 + np.arange(limit)), (int(where.sum()), limit))
            symbols.levels[plane][where, :limit] = spread.round().astype(np.int32)
    return symbols


def some_scene(count: int) -> SceneSymbols:
    moves = np.arange(3 * count, dtype=np.int32).reshape(count, 3) - 5
    description = Description(np.zeros(1, np.int32), moves, np.arange(count) % 3 == 1)
    return SceneSymbols(4, 14, 2, description, 0, 0, 3)


def written(
    scene: SceneSymbols, told: list[FrameSymbols], maps: list[np.ndarray], shape: tuple[int, int], count: int
) -> bytes:
    writer = Writer()
    code_scene(writer, scene, count)
    syntax = FrameSyntax(writer, shape, scene.description is not None, best_tables(told))
    for symbols in told:
        syntax.frame(symbols)
    for switches in maps:
        syntax.consistency(switches)
    return writer.to_bytes()


def every_tool(video: VideoFormat, count: int, with_enhancer: bool = True) -> bytes:
    """Key frames by x264 from the demo clip's talking head, and symbols that use every tool."""
    frames = demo_clip()[1][24 : 24 + count]
    rows, columns = slice(40, 40 + video.height), slice(120, 120 + video.width)
    half_rows, half_columns = slice(20, 20 + video.chroma_height), slice(60, 60 + video.chroma_width)
    keys = key_frames(count, 4)
    kept = Frames(frames.y[keys, rows, columns], *(p[keys, half_rows, half_columns] for p in (frames.u, frames.v)))
    x264 = strategies.get("x264")
    base = x264.encode(kept, video, EncodeSettings(0.3, "veryfast"))
    rng, shape = np.random.default_rng(20), grid(video)
    told = [some_symbols(rng, *shape) for _ in places(count, 4)]
    maps = [rng.integers(0, 2, switch_grid(*shape)).astype(np.int32) for _ in range(count)]
    scene = some_scene(count) if with_enhancer else replace(some_scene(count), enhancer=None, weight=4)
    stream = written(scene, told, maps if with_enhancer else [], shape, count)
    return bytes([x264.code]) + len(base).to_bytes(4, "little") + base + stream


def decoded_digest() -> str:
    decoded = strategies.get("i_frame_interpolation").decode(GOLDEN.read_bytes(), GOLDEN_FORMAT, GOLDEN_FRAMES)
    return hashlib.sha256(decoded.to_bytes()).hexdigest()[:16]


def test_a_payload_of_before_decodes_to_the_same_pixels() -> None:
    assert decoded_digest() == "7b45ecc1a54ac3f9"


def test_other_threads_give_the_same_pixels() -> None:
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        found = set()
        for threads in (1, 3):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            found.add(decoded_digest())
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert len(found) == 1


@pytest.mark.slow
def test_other_threads_in_another_process_give_the_same_pixels() -> None:
    code = (
        "import torch, cv2; torch.set_num_threads(2); cv2.setNumThreads(2)\n"
        "import tests.codec.test_i_frame_interpolation as t; print(t.decoded_digest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == decoded_digest()


def test_networks_give_the_same_in_any_batch() -> None:
    import torch

    from codec.networks.exact import exact_arithmetic
    from codec.networks.temporal_consistency import shipped_enhancer
    from codec.networks.video_generator import shipped_generator

    for network, example in (
        (shipped_generator(0), LightweightVideoGenerator.example_input(40, 64)),
        (shipped_enhancer(0), TemporalConsistencyEnhancer.example_input(40, 64)),
    ):
        seen = torch.randint(-128, 128, (3, *example.shape[1:]), generator=torch.Generator().manual_seed(3)).float()
        with exact_arithmetic():
            together = network(seen)
            alone = torch.cat([network(one[None]) for one in seen])
        assert together.abs().max() > 0
        assert torch.equal(together, alone)


@pytest.mark.parametrize("seed", range(3))
def test_symbols_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, count = (int(rng.integers(1, 6)), int(rng.integers(1, 7))), 4
    told = [some_symbols(rng, *shape) for _ in range(count)] + [FrameSymbols.nothing(*shape)]
    maps = [rng.integers(0, 2, switch_grid(*shape)).astype(np.int32) for _ in range(count)]
    scene = some_scene(count)
    reader = Reader(written(scene, told, maps, shape, count))
    read = code_scene(reader, None, count)
    assert replace(read, description=None) == replace(scene, description=None)
    assert read.description is not None
    assert scene.description is not None
    assert np.array_equal(read.description.moves, scene.description.moves)
    syntax = FrameSyntax(reader, shape, has_generator=True)
    for symbols in told:
        back = syntax.frame(None)
        for name in ("generated", "sources", "sent", "corrections", "classes"):
            assert np.array_equal(getattr(back, name), getattr(symbols, name)), name
        assert all(np.array_equal(one, other) for one, other in zip(back.levels, symbols.levels, strict=True))
    assert all(np.array_equal(syntax.consistency(None), switches) for switches in maps)


def test_frames_without_symbols_cost_next_to_nothing() -> None:
    shape = (68, 120)
    empty = [FrameSymbols.nothing(*shape) for _ in range(60)]
    assert len(written(SceneSymbols(4, 14, 2), empty, [], shape, 61)) < 16


def test_the_order_holds_every_frame_once_and_after_its_references() -> None:
    for count in (1, 2, 3, 7, 33, 34, 50):
        for distance in (2, 4, 8, 16, 32):
            known = set(key_frames(count, distance))
            for place in places(count, distance):
                assert {place.past, place.future} <= known
                assert place.past < place.frame < place.future
                known.add(place.frame)
            assert sorted(known) == list(range(count))


@pytest.mark.parametrize("side", [8, 16])
def test_the_transform_is_orthogonal_and_comes_back(side: int) -> None:
    product = matrix(side) @ matrix(side).T / (64 * 64 * side)
    assert np.abs(product - np.eye(side)).max() < 0.01
    samples = np.random.default_rng(side).integers(-200, 200, (5, side, side))
    step = step_of(4)
    levels = np.round(forward(samples.astype(np.float64)) / (step / 16))
    assert np.abs(inverse(levels.astype(np.int32), side, step) - samples).max() <= 6


def error(frames: Frames, decoded: Frames) -> float:
    return plane_errors(frames, decoded).weighted(clip()[1])


def test_it_costs_what_was_promised_and_less_than_its_encoder_alone() -> None:
    frames, video = clip()
    settings = EncodeSettings(0.3, "veryfast", options=X264)
    interpolation = strategies.get("i_frame_interpolation")
    lambda_rd = lambda_of_quality(0.3)
    found = best_coding(frames, video, settings)
    assert interpolation.encode(frames, video, settings) == found.payload
    decoded = interpolation.decode(found.payload, video, len(frames))
    assert found.cost == error(frames, decoded) + lambda_rd * 8 * len(found.payload)
    x264, costs = strategies.get("x264"), []
    for rate in (26, 30, 34, 38):
        payload = x264.encode(frames, video, EncodeSettings(1, "veryfast", quality_range=(rate, rate)))
        costs.append(error(frames, x264.decode(payload, video, len(frames))) + lambda_rd * 8 * len(payload))
    assert found.cost < min(costs)


def test_it_refuses_where_it_does_not_pay() -> None:
    """A sweep of 16 samples a frame: nothing in between looks like the frames around."""
    frames = demo_clip()[1][72:77]
    sweep = Frames(frames.y[:, :64, :96], frames.u[:, :32, :48], frames.v[:, :32, :48])
    video = VideoFormat(96, 64, clip()[1].frame_rate)
    with pytest.raises(EncodeError, match=r"does not pay: it costs .*% more than x264 alone"):
        strategies.get("i_frame_interpolation").encode(sweep, video, EncodeSettings(0.6, "fast", options=X264))
    with pytest.raises(EncodeError, match="does not pay: fewer than three frames"):
        strategies.get("i_frame_interpolation").encode(sweep[:2], video, EncodeSettings(0.5))


@pytest.mark.parametrize("size", [(35, 21), (66, 130)])
def test_any_size_goes_through(size: tuple[int, int], moving_picture: MovingPicture) -> None:
    frames, video = moving_picture(*size, 4)
    settings = EncodeSettings(0.4, "veryfast", options={"keys": "x265", "distance": "2"})
    payload = best_coding(frames, video, settings).payload
    decoded = strategies.get("i_frame_interpolation").decode(payload, video, 4)
    assert [plane.shape for plane in decoded.planes()] == [plane.shape for plane in frames.planes()]
    assert np.abs(decoded.y.astype(int) - frames.y).mean() < 6


def test_unknown_options_are_refused() -> None:
    interpolation = strategies.get("i_frame_interpolation")
    for options, message in (
        ({"keys": "theora"}, "has no keys 'theora': choose one of av1, x265, x264, vvc"),
        ({"distance": "5"}, "has no distance '5': choose one of 2, 4, 8, 16, 32"),
        ({"networks": "some"}, "networks is on or off"),
    ):
        with pytest.raises(BadInputError, match=message):
            interpolation.encode(*clip(), EncodeSettings(0.5, options=options))
    with pytest.raises(BadInputError, match="full size only"):
        interpolation.encode(*clip(), EncodeSettings(0.5, scale="1/2"))
    assert {"4", "slow", "veryfast", "faster"} <= set(interpolation.presets)
    assert set(ENCODERS) <= set(strategies.STRATEGIES)


def test_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    survive(range(120))


@pytest.mark.slow
def test_many_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    survive(range(120, 3000))


def survive(seeds: range) -> None:
    interpolation, video = strategies.get("i_frame_interpolation"), VideoFormat(48, 32, GOLDEN_FORMAT.frame_rate)
    payloads = [every_tool(video, 3, with_enhancer) for with_enhancer in (False, True)]
    refused = 0
    for seed in seeds:
        payload = payloads[seed % 8 == 7]
        base_end = 5 + int.from_bytes(payload[1:5], "little")
        rng = np.random.default_rng(seed)
        data = bytearray(payload)
        # Damage to the key frames is their decoder's own matter: three in four hit what is read here.
        spans = [range(5), range(base_end, len(payload)), range(base_end, base_end + 20), range(len(payload))]
        for position in rng.choice(spans[seed % 4], 2):
            data[position] = rng.integers(256)
        if seed % 5 == 0:
            data = data[: rng.integers(len(data))]
        try:
            assert interpolation.decode(bytes(data), video, 3).y.shape == (3, 32, 48)
        except BitstreamError:
            refused += 1
    assert refused > len(seeds) // 5


def test_lengths_and_codes_that_cannot_be_are_refused() -> None:
    interpolation, payload = strategies.get("i_frame_interpolation"), GOLDEN.read_bytes()
    for broken, message in (
        (b"", "key frames are none"),
        (b"\x02" + payload[1:], "key frames are i_frame_interpolation"),
        (payload[:1] + b"\xff\xff\xff\x7f" + payload[5:], "ends within its key frames"),
        (payload[:5] + payload[5:40], "ends within its key frames"),
    ):
        with pytest.raises(BitstreamError, match=message):
            interpolation.decode(broken, GOLDEN_FORMAT, GOLDEN_FRAMES)


def test_decoding_is_within_the_budget_of_operations() -> None:
    generator = count_module_operations(
        LightweightVideoGenerator(), LightweightVideoGenerator.example_input(1080, 1920)
    )
    enhancer = count_module_operations(
        TemporalConsistencyEnhancer(), TemporalConsistencyEnhancer.example_input(1080, 1920)
    )
    assert generator.larger + enhancer.larger < 0.13e12 / 10
    interpolation = strategies.get("i_frame_interpolation")
    done = count_operations(lambda: interpolation.decode(GOLDEN.read_bytes(), GOLDEN_FORMAT, GOLDEN_FRAMES))
    assert 0 < per_1080p_frame(done, 80 * 50 * GOLDEN_FRAMES) < 0.13


def test_torch_is_loaded_only_when_a_network_is_used() -> None:
    code = (
        "import sys, codec.strategies as s, codec.strategies.i_frame_interpolation as i\n"
        "s.get('i_frame_interpolation').presets; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=99)
    assert run.stdout.strip() == "False"


def test_auto_asks_it_about_still_scenes_and_talking_heads_only() -> None:
    def listed(scene_class: SceneClass) -> bool:
        return "i_frame_interpolation" in {tool.strategy for tool in shortlist(EFFORTS[MAX_EFFORT], scene_class, 30)}

    assert listed("talking_head")
    assert listed("static")
    assert not listed("moderate_motion")
    assert not listed("high_motion")
