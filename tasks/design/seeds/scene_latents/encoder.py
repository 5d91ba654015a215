"""A scene as one set of latents, and for every frame how it moves and what that misses.

scenes --middle frames--> latents and one network that makes pictures of them, fitted together: the canvases
frame  --optical flow--> a grid of motion vectors into its scene's canvas
       --minus the moved canvas--> 8x8 cosine transform, rounded: temporal latents, as changes from frame to frame

bytes: width, height, step, number of scenes (2 each), their frames (2 each), then one entropy-coded stream:
       the network's weights, all canvases' latents, then motion and temporal latents frame by frame
"""

import struct
from fractions import Fraction

import cv2
import numpy as np
import torch
from decoder import CELL, CODED, LARGEST, LARGEST_VECTOR, VECTOR_UNIT, Missed, canvas, code_motion, code_weights, moved

from codec.entropy import Writer
from codec.frames import Frames, VideoFormat
from codec.networks.auto_decoder import CHANNELS, IFrameVAE
from codec.networks.enhancement import stack_planes
from codec.networks.exact import integers_of
from codec.networks.latent_grids import code_grids, grid_shapes
from codec.scenes import split_scenes

MAX_SCENE_FRAMES = 64
# So many samples take about fifteen seconds of one core: larger pictures, and more scenes, get fewer steps.
SAMPLE_STEPS = 25_000_000
DEAD_ZONE = 0.66  # below this share of a step a latent becomes 0: its bits would buy too little


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    pixels = frames[0].numpy()
    height, width = pixels.shape[2:]
    source = Frames(
        np.ascontiguousarray(pixels[:, 0]),
        np.ascontiguousarray(pixels[:, 1, ::2, ::2]),
        np.ascontiguousarray(pixels[:, 2, ::2, ::2]),
    )
    video = VideoFormat(width, height, Fraction(config["frame_rate"]))
    scenes = list(split_scenes([source], video, MAX_SCENE_FRAMES))
    step = round(config["coarsest_step"] * (config["finest_step"] / config["coarsest_step"]) ** config["quality"])
    writer = Writer()
    fitted = _fitted(scenes, step, config)
    weights = code_weights(writer, integers_of(fitted.decoder), fitted.decoder)
    shapes = grid_shapes(video.chroma_height, video.chroma_width, CHANNELS)
    grids = [code_grids(writer, own, shapes) for own in fitted.grids()]
    for scene, latents in zip(scenes, grids, strict=True):
        # As the decoder makes it: what it misses is only then what the temporal latents say.
        _code_scene(writer, scene, canvas(weights, latents, video), step)
    lengths = [len(scene) for scene in scenes]
    head = struct.pack(f"<HHHH{len(scenes)}H", width, height, step, len(scenes), *lengths)
    return {"compressed_data": head + writer.to_bytes(), "scenes": len(scenes)}


def _fitted(scenes: list[Frames], step: int, config: dict) -> IFrameVAE:
    torch.manual_seed(1)  # the same clip must give the same bytes again: noise between two encodes counts against you
    middles = [scene[len(scene) // 2 : len(scene) // 2 + 1] for scene in scenes]
    targets = np.stack([stack_planes(frame) for frame in middles]).astype(np.float32)
    fitted = IFrameVAE(len(scenes), *targets.shape[2:], config["grids"], config["features"])
    # A bit of a canvas serves all frames of its scene, so that it may buy so much less error.
    price = config["lambda_factor"] * 0.115 * step**2 * len(scenes) / sum(len(scene) for scene in scenes)
    steps = min(config["fit_steps"], SAMPLE_STEPS // targets.size)  # none is enough: it begins as a pyramid
    fitted.fit(targets, price, steps, config["learning_rate"])
    return fitted


def _code_scene(writer: Writer, scene: Frames, picture: Frames, step: int) -> None:
    missed = [Missed(plane.shape[1:], step) for plane in picture.planes()]
    vectors = None
    for index in range(len(scene)):
        vectors = code_motion(writer, _motion(scene.y[index], picture.y[0]), vectors, scene.y.shape[1:])
        for share, plane, known, state in zip((1, 2, 2), scene.planes(), picture.planes(), missed, strict=True):
            exact = state.analysed(plane[index] - moved(known[0], vectors, share))
            whole = np.sign(exact) * np.floor(np.abs(exact) + 1 - DEAD_ZONE)
            state.code(writer, np.clip(whole, -LARGEST, LARGEST).astype(np.int32)[CODED])


def _motion(frame: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Vectors [2, rows, columns] at the corners of cells: where in the canvas this frame's samples are."""
    flow = cv2.calcOpticalFlowFarneback(frame, picture, None, 0.5, 5, 21, 5, 7, 1.5, 0)
    smooth = cv2.blur(flow, (CELL, CELL), borderType=cv2.BORDER_REPLICATE)
    rows, columns = (np.minimum(np.arange(0, size + CELL, CELL), size - 1) for size in frame.shape)
    corners = smooth[np.ix_(rows, columns)][..., ::-1].transpose(2, 0, 1)  # down, then right
    return np.clip(np.round(corners * VECTOR_UNIT), -LARGEST_VECTOR, LARGEST_VECTOR).astype(np.int32)
