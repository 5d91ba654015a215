"""The fitted strategy: it learns the scene, decodes to the same pixels everywhere, survives hostile payloads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from codec import strategies
from codec.complexity import count_module_operations, count_operations, per_1080p_frame
from codec.demo_clip import demo_clip
from codec.entropy import Reader, Writer
from codec.errors import BadInputError, BitstreamError
from codec.frames import Frames, VideoFormat
from codec.networks.auto_decoder import CHANNELS, LightweightIFrameDecoder
from codec.networks.description import CLASSES, Description, SemanticDescriptionGenerator, code_description
from codec.networks.latent_grids import code_grids, grid_shapes
from codec.networks.scene_latents import (
    KeyPictures,
    SceneLatents,
    code_latents,
    find_flows,
    flow_grid,
    follow,
    tone_grid,
    with_tones,
)
from codec.quality import psnr, squared_error
from codec.scenes import SceneClass
from codec.strategies.protocol import EncodeSettings

ROOT = Path(__file__).parents[2]
# Made by an earlier run of this test's encoder: what it decodes to must never change.
GOLDEN = ROOT / "tests" / "codec" / "golden" / "semantic_latent.bin"
GOLDEN_DIGEST = "2d00f2d5c9125c74"


@cache
def clip() -> tuple[Frames, VideoFormat]:
    """Four frames of the demo clip's noisy still, cut to 96x64."""
    video, frames = demo_clip()
    part = frames[:4]
    return Frames(part.y[:, 40:104, :96], part.u[:, 20:52, :48], part.v[:, 20:52, :48]), VideoFormat(
        96, 64, video.frame_rate
    )


def encoded(steps: int, quality: float = 0.6) -> bytes:
    settings = EncodeSettings(quality, options={"steps": str(steps)})
    return strategies.get("semantic_latent").encode(*clip(), settings)


def decoded_digest(payload: bytes) -> str:
    frames, video = clip()
    decoded = strategies.get("semantic_latent").decode(payload, video, len(frames))
    return hashlib.sha256(decoded.to_bytes()).hexdigest()[:16]


def luma_psnr(payload: bytes) -> float:
    frames, video = clip()
    decoded = strategies.get("semantic_latent").decode(payload, video, len(frames))
    error = sum(squared_error(frames.y[t], decoded.y[t]) for t in range(len(frames)))
    return psnr(error / frames.y.size)


@pytest.mark.slow
def test_fitting_pays_and_more_quality_is_more_bytes_and_more_psnr() -> None:
    low, high, unfitted = encoded(25, 0.2), encoded(25, 0.9), encoded(1, 0.9)
    assert len(low) < len(high)
    assert luma_psnr(unfitted) + 0.5 < luma_psnr(high)
    assert luma_psnr(low) + 1 < luma_psnr(high)
    assert luma_psnr(high) > 33


@pytest.mark.slow
def test_fitting_is_deterministic_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(77)
    expected = torch.rand(1)
    torch.manual_seed(77)
    assert encoded(4) == encoded(4)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_a_stored_payload_decodes_to_the_same_pixels_in_any_process() -> None:
    code = (
        "import sys, torch; torch.set_num_threads({})\n"
        "import tests.codec.test_semantic_latent as t; print(t.decoded_digest(t.GOLDEN.read_bytes()))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code.format(threads)],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=240,
        ).stdout.strip()
        for threads in (2,)
    }  # fmt: skip
    assert found == {decoded_digest(GOLDEN.read_bytes())} == {GOLDEN_DIGEST}


@pytest.mark.parametrize(
    "size",
    [(1, 1), (7, 33), pytest.param((64, 64), marks=pytest.mark.slow), pytest.param((90, 35), marks=pytest.mark.slow)],
)
def test_any_size_goes_through(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(height)
    half = (3, -(-height // 2), -(-width // 2))
    frames = Frames(*(rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((3, height, width), half, half)))
    video = VideoFormat(width, height, Fraction(25))
    strategy = strategies.get("semantic_latent")
    decoded = strategy.decode(strategy.encode(frames, video, EncodeSettings(0.5, options={"steps": "2"})), video, 3)
    assert [plane.shape for plane in decoded.planes()] == [plane.shape for plane in frames.planes()]


@pytest.mark.slow
def test_options_change_the_fit_and_not_what_a_decoder_needs_to_know() -> None:
    """Grids and features that are not used stay at 0, so that their bits are saved."""
    frames, video = clip()
    strategy = strategies.get("semantic_latent")
    few = {"steps": "2"}
    changed = [{"grids": "3"}, {"features": "8"}, {"lambda_factor": "0.2"}, {"learning_rate": "2.5"}]
    payloads = [strategy.encode(frames, video, EncodeSettings(0.6, options=few | more)) for more in ({}, *changed)]
    plain, grids, features, cheap_bits, _ = payloads
    assert len({*payloads}) == len(payloads)
    assert len(features) < len(plain) < len(cheap_bits)
    assert luma_psnr(plain) + 0.5 < luma_psnr(cheap_bits)
    assert all(luma_psnr(payload) > 27 for payload in payloads)
    for payload, used in ((plain, 6), (grids, 3)):
        read = read_grids(payload)
        assert [bool(grid.any()) for grid in read] == [level < used for level in range(6)]


def read_grids(payload: bytes) -> list[np.ndarray]:
    from codec.networks.exact import built
    from codec.strategies.semantic_latent import code_weights

    frames, video = clip()
    reader = Reader(payload)
    description = code_description(reader, None, len(frames))
    code_latents(reader, None, description, video, len(frames))
    code_weights(reader, None, built(LightweightIFrameDecoder))
    return code_grids(reader, None, grid_shapes(video.chroma_height, video.chroma_width, CHANNELS))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 40)])
def test_latents_come_back(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[1])
    shapes = grid_shapes(*size, CHANNELS)
    sizes = [2.0 * level for level in range(len(shapes))]
    real = [rng.laplace(0, size, shape) for size, shape in zip(sizes, shapes, strict=True)]
    grids = [values.round().clip(-127, 127).astype(np.int32) for values in real]
    writer = Writer()
    code_grids(writer, grids, shapes)
    read = code_grids(Reader(writer.to_bytes()), None, shapes)
    assert all(np.array_equal(one, other) for one, other in zip(read, grids, strict=True))


def test_empty_latents_cost_next_to_nothing() -> None:
    shapes = grid_shapes(180, 320, CHANNELS)
    writer = Writer()
    code_grids(writer, [np.zeros(shape, np.int32) for shape in shapes], shapes)
    assert len(writer.to_bytes()) < sum(int(np.prod(shape)) for shape in shapes) * 0.002 / 8 + 60


def test_a_pan_with_a_fade_is_described_and_followed() -> None:
    video, frames = demo_clip()
    still = frames.y[30]
    y = np.stack([np.clip(still[t : t + 120, 2 * t : 2 * t + 240].astype(int) + 3 * t, 0, 255) for t in range(6)])
    u = np.full((6, 60, 120), 128, np.uint8)
    pan = Frames(y.astype(np.uint8), u, u)
    told = SemanticDescriptionGenerator().describe(pan, 1)
    assert np.abs(told.moves[1:] - [[2 * t, 4 * t, 3 * t] for t in range(1, 6)]).max() <= 1
    last = follow(KeyPictures([pan[:1]]), 5, told, SceneLatents(), VideoFormat(240, 120, video.frame_rate))
    inner = (slice(10, -10), slice(15, -15))
    assert np.abs(last.y[0][inner].astype(int) - pan.y[5][inner]).mean() < 1


def parts_that_move(count: int = 5) -> tuple[Frames, VideoFormat]:
    """A still of which the left half moves to the right, and the lower right corner becomes brighter."""
    video, frames = demo_clip()
    still = frames.y[30].astype(int)
    y = np.stack([still[:128, :256]] * count)
    for t in range(count):
        y[t, :, :128] = still[:128, 100 - 2 * t : 228 - 2 * t]
        y[t, 64:, 192:] += 4 * t
    u = np.full((count, 64, 128), 128, np.uint8)
    return Frames(np.clip(y, 0, 255).astype(np.uint8), u, u), VideoFormat(256, 128, video.frame_rate)


def test_what_moves_and_brightens_beyond_global_motion_is_followed() -> None:
    frames, video = parts_that_move()
    told = replace(SemanticDescriptionGenerator().describe(frames, 1), scene_class="talking_head", noise=0)
    keys = KeyPictures([frames[:1]])
    flows = find_flows(frames, told, video, price=50)
    both = with_tones(flows, frames, keys, told, video, price=50)
    plain, flowing, shown = (follow(keys, 4, told, latents, video).y[0] for latents in (SceneLatents(), flows, both))
    left, corner = (slice(None), slice(0, 128)), (slice(80, None), slice(208, None))
    assert squared_error(frames.y[4][left], flowing[left]) < 0.3 * squared_error(frames.y[4][left], plain[left])
    assert squared_error(frames.y[4][corner], shown[corner]) < 0.25 * squared_error(
        frames.y[4][corner], flowing[corner]
    )
    assert both.flows is not None
    assert both.tones is not None
    assert np.median(both.flows[4, 1, 1:-1, 1]) == -16  # 8 samples further left lies what is here now
    assert np.abs(both.tones[4][-1, -1] - 32) <= 6  # 16 grey levels in halves


def test_latents_that_do_not_pay_are_left_out() -> None:
    frames, video = parts_that_move()
    told = SemanticDescriptionGenerator().describe(frames, 1)
    keys, price = KeyPictures([frames[:1]]), 1e9
    assert with_tones(find_flows(frames, told, video, price), frames, keys, told, video, price) == SceneLatents()


def test_following_is_the_same_for_ever_at_any_size() -> None:
    """In integers, so a digest tells: flows and tones at odd sizes, between centres and beyond the edges."""
    found, rng = hashlib.sha256(), np.random.default_rng(4)
    for height, width in ((1, 1), (67, 131), (90, 33)):
        video, half = VideoFormat(width, height, Fraction(25)), (1, -(-height // 2), -(-width // 2))
        planes = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((1, height, width), half, half))
        moves = np.array([[0, 0, 0], [3, -5, 7], [-40, 260, -9]], np.int32)
        told = Description(np.zeros(1, np.int32), moves, np.zeros(3, bool), "talking_head", 5)
        flows = rng.integers(-63, 64, (3, 2, *flow_grid(told, video))).astype(np.int32)
        latents = SceneLatents(flows, rng.integers(-20, 21, (3, *tone_grid(video))).astype(np.int32))
        keys = KeyPictures([Frames(*planes)])
        for frame in range(3):
            found.update(follow(keys, frame, told, latents, video).to_bytes())
    assert found.hexdigest()[:16] == "6105aabc7765a04d"


@pytest.mark.parametrize("scene_class", CLASSES)
def test_latents_of_a_scene_come_back(scene_class: SceneClass) -> None:
    rng, video, count = np.random.default_rng(3), VideoFormat(200, 90, Fraction(25)), 7
    plain = Description(np.zeros(1, np.int32), np.zeros((count, 3), np.int32), np.zeros(count, bool), scene_class, 3)
    flows = rng.integers(-63, 64, (count, 2, *flow_grid(plain, video))).astype(np.int32)
    tones = rng.integers(-127, 128, (count, *tone_grid(video))).astype(np.int32)
    flows[3], tones[5] = flows[2], tones[4]
    for told in (SceneLatents(), SceneLatents(flows), SceneLatents(None, tones), SceneLatents(flows, tones)):
        writer = Writer()
        code_latents(writer, told, plain, video, count)
        read = code_latents(Reader(writer.to_bytes()), None, plain, video, count)
        for one, other in ((told.flows, read.flows), (told.tones, read.tones)):
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one, other)


@pytest.mark.parametrize("scene_class", [None, *CLASSES])
def test_descriptions_come_back(scene_class: SceneClass | None) -> None:
    noise = 0 if scene_class is None else 7
    rng = np.random.default_rng(6)
    moves = np.stack([rng.integers(-255, 256, 40), rng.integers(-9, 9, 40), rng.integers(-63, 64, 40)], 1)
    later = rng.random(40) < 0.5
    told = Description(np.arange(3, dtype=np.int32) * 40 // 3, moves.astype(np.int32), later, scene_class, noise)
    writer = Writer()
    code_description(writer, told, 40)
    read = code_description(Reader(writer.to_bytes()), None, 40)
    for name in ("keys", "moves", "later"):
        assert np.array_equal(getattr(read, name), getattr(told, name))
    assert (read.scene_class, read.noise) == (scene_class, noise)


def test_a_class_that_nobody_knows_is_damage() -> None:
    writer = Writer()
    for value, bits in ((255, 8), (7, 3), (0, 5), (0, 8)):
        writer.number(value, bits)
    with pytest.raises(BitstreamError, match="class 7 is not one of 5"):
        code_description(Reader(writer.to_bytes()), None, 4)


def test_wrong_settings_are_refused() -> None:
    strategy = strategies.get("semantic_latent")
    for settings, message in (
        (EncodeSettings(0.5, scale="1/2"), "full size only"),
        (EncodeSettings(0.5, preset="slow"), "no preset 'slow'"),
        (EncodeSettings(0.5, options={"crf": "1"}), "no option crf"),
        (EncodeSettings(0.5, options={"steps": "many"}), "steps=many is not a whole number"),
        (EncodeSettings(0.5, options={"steps": "99999"}), "from 0 to 20000"),
        (EncodeSettings(0.5, options={"grids": "1"}), "grids=1 is not a whole number from 2 to 6"),
        (EncodeSettings(0.5, options={"features": "5"}), "features=5 is not a whole number from 6 to 16"),
        (EncodeSettings(0.5, options={"lambda_factor": "inf"}), "lambda_factor=inf is not a number from 0.001 to"),
        (EncodeSettings(0.5, options={"learning_rate": "0"}), "learning_rate=0 is not a number from 0.01 to"),
    ):
        with pytest.raises(BadInputError, match=message):
            strategy.encode(*clip(), settings)


def test_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    survive(range(100))


@pytest.mark.slow
def test_many_damaged_payloads_give_frames_or_a_bitstream_error() -> None:
    survive(range(100, 2000))


def survive(seeds: range) -> None:
    frames, video = clip()
    strategy, payload = strategies.get("semantic_latent"), GOLDEN.read_bytes()
    refused = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        data = bytearray(payload[: rng.integers(1, len(payload) + 1)] if seed % 3 == 0 else payload)
        for position in rng.integers(0, min(len(data), 40 if seed % 2 else len(data)), 3):
            data[position] = rng.integers(256)
        try:
            assert strategy.decode(bytes(data), video, len(frames)).y.shape == frames.y.shape
        except BitstreamError:
            refused += 1
    assert refused < len(seeds)
    with pytest.raises(BitstreamError, match="empty"):
        strategy.decode(b"", video, len(frames))


def test_operations_are_within_the_budget_by_both_counts() -> None:
    network = LightweightIFrameDecoder()
    counted = count_module_operations(network, torch.zeros(1, sum(CHANNELS), 32, 48))
    assert counted.thop == pytest.approx(counted.flop_counter, rel=0.02)
    _, video = clip()
    strategy = strategies.get("semantic_latent")
    done = count_operations(lambda: strategy.decode(GOLDEN.read_bytes(), video, 4))
    # One key picture serves four frames.
    assert 0 < per_1080p_frame(done, 96 * 64 * 4) < 0.002
