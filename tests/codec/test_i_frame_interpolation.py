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
from codec.entropy import Reader, Writer
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.networks.description import Description
from codec.networks.temporal_consistency import TemporalConsistencyEnhancer
from codec.networks.video_generator import LightweightVideoGenerator
from codec.rate_distortion import lambda_of_quality, plane_errors
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


@cache
def coded() -> bytes:
    return best_coding(*clip(), EncodeSettings(0.3, "veryfast", options=X264)).payload


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


def written(scene: SceneSymbols, told: list[FrameSymbols], maps: list[np.ndarray], shape: tuple[int, int]) -> bytes:
    writer = Writer()
    code_scene(writer, scene, len(maps))
    syntax = FrameSyntax(writer, shape, scene.description is not None, best_tables(told))
    for symbols in told:
        syntax.frame(symbols)
    for switches in maps:
        syntax.consistency(switches)
    return writer.to_bytes()


def golden_payload() -> bytes:
    """How the golden file was made: key frames by x264, and symbols that use every tool."""
    frames = demo_clip()[1][24 : 24 + GOLDEN_FRAMES]
    cut = Frames(frames.y[:, 40:90, 120:200], frames.u[:, 20:45, 60:100], frames.v[:, 20:45, 60:100])
    keys = key_frames(GOLDEN_FRAMES, 4)
    kept = Frames(*(plane[keys] for plane in cut.planes()))
    x264 = strategies.get("x264")
    base = x264.encode(kept, GOLDEN_FORMAT, EncodeSettings(0.3, "veryfast"))
    rng, shape = np.random.default_rng(20), grid(GOLDEN_FORMAT)
    told = [some_symbols(rng, *shape) for _ in places(GOLDEN_FRAMES, 4)]
    maps = [rng.integers(0, 2, switch_grid(*shape)).astype(np.int32) for _ in range(GOLDEN_FRAMES)]
    stream = written(some_scene(GOLDEN_FRAMES), told, maps, shape)
    return bytes([x264.code]) + len(base).to_bytes(4, "little") + base + stream


def decoded_digest() -> str:
    decoded = strategies.get("i_frame_interpolation").decode(GOLDEN.read_bytes(), GOLDEN_FORMAT, GOLDEN_FRAMES)
    return hashlib.sha256(decoded.to_bytes()).hexdigest()[:16]


def test_a_payload_of_before_decodes_to_the_same_pixels() -> None:
    assert decoded_digest() == "7b45ecc1a54ac3f9"


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
    reader = Reader(written(scene, told, maps, shape))
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
    assert len(written(SceneSymbols(4, 14, 2), empty, [], shape)) < 16


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
    assert interpolation.encode(frames, video, settings) == coded()
    lambda_rd = lambda_of_quality(0.3)
    found = best_coding(frames, video, settings)
    decoded = interpolation.decode(coded(), video, len(frames))
    assert found.cost == error(frames, decoded) + lambda_rd * 8 * len(coded())
    x264, costs = strategies.get("x264"), []
    for rate in range(20, 40, 2):
        payload = x264.encode(frames, video, EncodeSettings(1, "veryfast", quality_range=(rate, rate)))
        costs.append(error(frames, x264.decode(payload, video, len(frames))) + lambda_rd * 8 * len(payload))
    assert found.cost < min(costs)


def test_it_refuses_where_it_does_not_pay() -> None:
    """White noise: no frame says anything of the next."""
    y = np.random.default_rng(2).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    noise, video = Frames(y, y[:, ::2, ::2], y[:, 1::2, 1::2]), VideoFormat(64, 64, clip()[1].frame_rate)
    with pytest.raises(EncodeError, match=r"does not pay: it costs .*% more than x264 alone"):
        strategies.get("i_frame_interpolation").encode(noise, video, EncodeSettings(0.8, "fast", options=X264))
    with pytest.raises(EncodeError, match="does not pay: fewer than three frames"):
        strategies.get("i_frame_interpolation").encode(noise[:2], video, EncodeSettings(0.5))


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
    survive(range(200))


@pytest.mark.slow
def test_many_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    survive(range(200, 4000))


def survive(seeds: range) -> None:
    interpolation, payload = strategies.get("i_frame_interpolation"), GOLDEN.read_bytes()
    base_end = 5 + int.from_bytes(payload[1:5], "little")
    refused = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        data = bytearray(payload)
        # Damage to the key frames is their decoder's own matter: three in four hit what is read here.
        places = [range(5), range(base_end, len(payload)), range(base_end, base_end + 20), range(len(payload))][
            seed % 4
        ]
        for position in rng.choice(places, 2):
            data[position] = rng.integers(256)
        if seed % 5 == 0:
            data = data[: rng.integers(len(data))]
        try:
            decoded = interpolation.decode(bytes(data), GOLDEN_FORMAT, GOLDEN_FRAMES)
            assert decoded.y.shape == (GOLDEN_FRAMES, 50, 80)
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
