"""SVT-AV1 over the whole clip: the shortest complete candidate, and the one to beat.

bytes: width, height, frames (2 bytes each), then what the codec's av1 strategy writes
"""

import struct
from fractions import Fraction

import numpy as np
import torch

from codec import strategies
from codec.frames import Frames, VideoFormat
from codec.strategies.protocol import EncodeSettings


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    """`frames` is uint8 [1, T, 3, H, W]: full-size Y, and U and V with each 4:2:0 sample repeated 2×2."""
    pixels = frames[0].numpy()
    count, _, height, width = pixels.shape
    planes = Frames(
        np.ascontiguousarray(pixels[:, 0]),
        np.ascontiguousarray(pixels[:, 1, ::2, ::2]),
        np.ascontiguousarray(pixels[:, 2, ::2, ::2]),
    )
    # The harness sets `quality` in [0, 1] and, for the encoder alone, `frame_rate`: rate control needs it.
    video = VideoFormat(width, height, Fraction(config["frame_rate"]))
    settings = EncodeSettings(config["quality"], config["preset"], quality_range=tuple(config["crf_range"]))
    payload = strategies.get("av1").encode(planes, video, settings)
    return {"compressed_data": struct.pack("<HHH", width, height, count) + payload}
