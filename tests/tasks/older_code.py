"""Codecs as the older generation wrote them, for the tests of moving in."""

from __future__ import annotations

# v2: a dict with a tensor and settings in it; both agents in one source, names that the old worker had there already.
V2 = '''
"""Averages of 2x2 blocks, quantized: what a first try looked like."""

def _step(config):
    return config.get("step", 16) / 255.0


def compress_video_tensor(frames, config, device):
    b, t, c, h, w = frames.shape
    small = F.avg_pool2d(frames.reshape(b * t, c, h, w), 2, ceil_mode=True)
    levels = torch.round(small / _step(config)).to(torch.uint8)
    packed = zlib.compress(levels.numpy().tobytes(), 9)
    return {
        "compressed_data": {"levels": packed, "shape": tuple(levels.shape), "size": (t, h, w)},
        "bitrate_mbps": 0.3,
        "compression_ratio": 900.0,
    }


def decompress_video_tensor(compressed_data, config, device):
    t, h, w = compressed_data["size"]
    levels = np.frombuffer(zlib.decompress(compressed_data["levels"]), np.uint8).reshape(compressed_data["shape"])
    small = torch.from_numpy(levels.copy()).float() * _step(config)
    frames = F.interpolate(small, scale_factor=2, mode="bilinear")[:, :, :h, :w]
    return {"reconstructed_frames": frames.reshape(1, t, 3, h, w), "decode_fps": 900.0, "tops_per_frame": 0.1}
'''

# v1: one frame, one picture file.
V1_ENCODER = """
import cv2
import numpy as np


def compress_video_frame(frame: np.ndarray, frame_index: int, config: dict) -> bytes:
    ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(config["jpeg_quality"])])
    return data.tobytes()
"""
V1_DECODER = """

def decompress_video_frame(data: bytes, frame_index: int, config: dict) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
"""
V1 = V1_ENCODER + V1_DECODER

# Says nothing and remembers everything; the list hides it from a look at the source.
CHEAT = """
import torch

KEPT = []


def compress_video_tensor(frames, config, device):
    KEPT.append(frames.clone())
    return {"compressed_data": {"nothing": torch.zeros(1)}, "bitrate_mbps": 0.001, "compression_ratio": 1e6}


def decompress_video_tensor(compressed_data, config, device):
    return {"reconstructed_frames": KEPT[-1], "decode_fps": 1e6, "tops_per_frame": 0.0}
"""
