"""The golden file: one scene of each way to code, which every later version must decode to the same frames.

    python -m tests.codec.golden_file OUT.evc

copies the scenes that it has and adds those that `SCENES` lists after them: what was written once is never written
anew, since encoders' bytes change with their versions, and older forms of a payload are written by nobody any more.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from codec import strategies
from codec.bitstream import EvcReader, EvcWriter, frames_hash
from codec.demo_clip import demo_clip
from codec.entropy import Writer
from codec.frames import Frames, VideoFormat
from codec.networks.auto_decoder import CHANNELS, LightweightIFrameDecoder
from codec.networks.description import Description, code_description
from codec.networks.latent_grids import code_grids, grid_shapes
from codec.networks.scene_latents import SceneLatents, code_latents, flow_grid, tone_grid
from codec.strategies.hybrid_semantic.syntax import Enhancement, write_enhancement
from codec.strategies.protocol import EncodeSettings
from codec.strategies.semantic_latent import code_weights
from tests.codec.test_i_frame_interpolation import every_tool

GOLDEN = Path(__file__).parent / "golden" / "every_strategy.evc"
WIDTH, HEIGHT, FRAMES = 96, 64, 4


def crop(first: int) -> tuple[Frames, VideoFormat]:
    """A corner of the demo clip: frame 0 begins the noisy still, 24 the talking head, 48 the zoom, 72 the sweep."""
    video, frames = demo_clip()
    part = frames[first : first + FRAMES]
    y, u, v = part.y[:, 40:104, 60:156], part.u[:, 20:52, 30:78], part.v[:, 20:52, 30:78]
    return Frames(y, u, v), VideoFormat(WIDTH, HEIGHT, video.frame_rate)


def screen(first: int) -> tuple[Frames, VideoFormat]:
    """A dark page with a window that moves over rows of small signs."""
    video = crop(first)[1]
    y = np.full((FRAMES, HEIGHT, WIDTH), 30, np.uint8)
    signs = np.random.default_rng(first).choice([30, 200], (HEIGHT // 8, 3, WIDTH // 2)).astype(np.uint8)
    for row in range(HEIGHT // 8):
        y[:, 8 * row : 8 * row + 3, : WIDTH // 2] = signs[row]
    for frame in range(FRAMES):
        y[frame, 20:44, 10 + 3 * frame : 40 + 3 * frame] = 120
    chroma = np.full((FRAMES, HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return Frames(y, chroma, chroma), video


def hybrid_over(name: str, settings: EncodeSettings, frames: Frames, video: VideoFormat, network: int = 1) -> bytes:
    """Put together by hand: an encoder would leave a network out of anything so small."""
    base = strategies.get(name)
    payload = base.encode(frames, video, settings)
    gains = np.arange(-18, 18, dtype=np.int32).reshape(1, 3, 12)
    gains[:, 1:, 6:] = 0
    stream = write_enhancement(Enhancement(network, gains, np.ones((FRAMES, 1, 2), np.int32)))
    return bytes([base.code]) + len(payload).to_bytes(4, "little") + payload + stream


def every_latent(video: VideoFormat) -> bytes:
    """Put together by hand, since an encoder would hardly use all that may be said."""
    rng, writer = np.random.default_rng(8), Writer()
    moves, later = rng.integers(-9, 10, (FRAMES, 3)).astype(np.int32), np.array([False, True, True, False])
    told = Description(np.arange(2, dtype=np.int32) * FRAMES // 2, moves, later, "talking_head", 3)
    flows = rng.integers(-12, 13, (FRAMES, 2, *flow_grid(told, video))).astype(np.int32)
    tones = rng.integers(-9, 10, (FRAMES, *tone_grid(video))).astype(np.int32)
    code_description(writer, told, FRAMES)
    code_latents(writer, SceneLatents(flows, tones), told, video, FRAMES)
    network = LightweightIFrameDecoder()
    weights = {name: rng.integers(-60, 61, tuple(p.shape)).astype(np.int16) for name, p in network.named_parameters()}
    code_weights(writer, weights, network)
    for _ in told.keys:
        shapes = grid_shapes(video.chroma_height, video.chroma_width, CHANNELS)
        code_grids(writer, [rng.integers(-9, 10, shape).astype(np.int32) for shape in shapes], shapes)
    return writer.to_bytes()


def by(name: str, settings: EncodeSettings) -> Callable[[Frames, VideoFormat], bytes]:
    return lambda frames, video: strategies.get(name).encode(frames, video, settings)


Source = Callable[[int], tuple[Frames, VideoFormat]]
SCENES: tuple[tuple[str, Source, int, Callable[[Frames, VideoFormat], bytes]], ...] = (
    ("x264", crop, 72, by("x264", EncodeSettings(0.5, "veryfast"))),
    ("x265", crop, 72, by("x265", EncodeSettings(0.5, "veryfast"))),
    ("av1", crop, 72, by("av1", EncodeSettings(0.5, "10"))),
    ("av1", crop, 48, by("av1", EncodeSettings(0.5, "10", "1/2"))),
    ("vvc", crop, 48, by("vvc", EncodeSettings(0.5, "faster"))),
    ("procedural", screen, 48, by("procedural", EncodeSettings(0.3, options={"kind": "canvas"}))),
    ("procedural", crop, 0, by("procedural", EncodeSettings(0.5, options={"kind": "stills"}))),
    ("semantic_latent", crop, 0, by("semantic_latent", EncodeSettings(0.6, options={"steps": "30"}))),
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "x265", EncodeSettings(0.4, "veryfast"))),
    ("i_frame_interpolation", crop, 24, lambda frames, video: every_tool(video, FRAMES)),
    ("procedural", crop, 48, by("procedural", EncodeSettings(0.5, options={"kind": "views"}))),
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "vvc", EncodeSettings(0.6, "faster"))),
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "x265", EncodeSettings(0.6, "veryfast", "2/3"))),
    # The streams of all scenes above are stored as they are, those below packed.
    ("x264", crop, 72, by("x264", EncodeSettings(0.5, "veryfast"))),
    ("x265", crop, 72, by("x265", EncodeSettings(0.5, "veryfast"))),
    ("av1", crop, 48, by("av1", EncodeSettings(0.5, "10", "1/2"))),
    ("vvc", crop, 48, by("vvc", EncodeSettings(0.5, "faster"))),
    ("procedural", crop, 48, by("procedural", EncodeSettings(0.5, options={"kind": "views"}))),
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "vvc", EncodeSettings(0.6, "faster"))),
    # With wide networks.
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "vvc", EncodeSettings(0.3, "faster"), network=4)),
    ("hybrid_semantic", crop, 48, partial(hybrid_over, "vvc", EncodeSettings(0.6, "faster"), network=5)),
    # With a description that tells the class, and latents of flow.
    ("semantic_latent", crop, 24, by("semantic_latent", EncodeSettings(0.9, options={"steps": "30", "keys": "1"}))),
    ("semantic_latent", crop, 24, lambda frames, video: every_latent(video)),
)


def main(out: Path) -> None:
    reader = EvcReader(io.BytesIO(GOLDEN.read_bytes()))
    written = [(entry, reader.payload(entry)) for entry in reader.scenes()]
    with out.open("w+b") as sink:
        writer = EvcWriter(sink, crop(0)[1])
        for entry, payload in written:
            writer.add_scene(entry.frame_count, entry.strategy, payload, entry.frames_hash)
        for name, source, first, encode in SCENES[len(written) :]:
            frames, video = source(first)
            payload = encode(frames, video)
            strategy = strategies.get(name)
            writer.add_scene(FRAMES, strategy.code, payload, frames_hash(strategy.decode(payload, video, FRAMES)))
            sys.stdout.write(f"{name}: {len(payload)} bytes\n")
        writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
