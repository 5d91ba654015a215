"""The project's own encoding agent as a candidate."""

from fractions import Fraction

import numpy as np
import torch

from codec.config import CodecConfig
from codec.encoding_agent import EncodingAgent
from codec.frames import ColorDescription, Frames, VideoFormat
from codec.networks.exact import compute_on


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    """One .evc file. `config` holds CodecConfig's settings; from the harness `quality`, `frame_rate` and `color`."""
    compute_on(device)
    pixels = frames[0].numpy()
    settings = dict(config)
    rate = Fraction(settings.pop("frame_rate", "25"))
    color = ColorDescription(*settings.pop("color", ()))
    planes = Frames(
        np.ascontiguousarray(pixels[:, 0]),
        np.ascontiguousarray(pixels[:, 1, ::2, ::2]),  # chroma comes replicated 2×2
        np.ascontiguousarray(pixels[:, 2, ::2, ::2]),
    )
    video = VideoFormat(pixels.shape[3], pixels.shape[2], rate, color)
    data, report = EncodingAgent(CodecConfig.parse(settings)).encode_bytes(planes, video)
    return {"compressed_data": data, "scenes": len(report.scenes)}
