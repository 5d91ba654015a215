"""AV1's pictures and, where weights were sent, the network on top of them.

    plane [1, 1, H, W] --5x5, fixed: differences from 24 neighbours--> clamped to ±3, ±8 and ±24, opposite ones added
      [1, 36, H, W] --1x1, fitted--> what to add

All numbers are whole ones held in floats and small enough for every sum to be exact, so that each machine decodes the
same frames: they are decoded once more elsewhere, and must be the same. codec.networks.exact does it for larger nets.
"""

import struct
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

from codec import strategies
from codec.entropy import Reader, best_scale
from codec.frames import Frames, VideoFormat
from codec.networks.exact import exact_arithmetic

HEAD = 10
REACH = 2
CLAMPS = (3, 8, 24)  # grey levels: small differences are texture or noise, large ones are edges to be left alone
PAIRS = ((2 * REACH + 1) ** 2 - 1) // 2
FEATURES = PAIRS * len(CLAMPS)
ONE, LARGEST = 256, 127  # a weight is a whole number up to LARGEST, in units of 1 / ONE


class Restorer(nn.Module):
    """One plane of a picture to what it lacks, in grey levels."""

    def __init__(self) -> None:
        super().__init__()
        side = 2 * REACH + 1
        self.differences = nn.Conv2d(1, 2 * PAIRS, side, bias=False).requires_grad_(False)
        kernels = torch.eye(side * side).unflatten(1, (1, side, side))
        middle = kernels[2 * PAIRS // 2]
        # Opposite neighbours at k and k + PAIRS.
        self.differences.weight.copy_(torch.cat([kernels[:PAIRS], kernels[PAIRS + 1 :].flip(0)]) - middle)
        self.last = nn.Conv2d(FEATURES, 1, 1, bias=False).requires_grad_(False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        near = self.differences(pad(x, (REACH,) * 4, mode="replicate"))
        limited = (near.clamp(-limit, limit) for limit in CLAMPS)
        return torch.cat([part[:, :PAIRS] + part[:, PAIRS:] for part in limited], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.floor(self.last(self.features(x)) / ONE + 0.5)

    def example_inputs(self) -> tuple[torch.Tensor]:
        """The samples of one 1080p frame, all three planes, for counting operations."""
        return (torch.zeros(1, 1, 1080 + 540, 1920),)


def build_decoder(config: dict) -> Restorer:
    """Optional: lets the harness count this module by thop too."""
    return Restorer()


def decompress_video_tensor(compressed_data: bytes, config: dict, device: str) -> dict:
    width, height, count, length = struct.unpack("<HHHI", compressed_data[:HEAD])
    video = VideoFormat(width, height, Fraction(25))
    pictures = strategies.get("av1").decode(compressed_data[HEAD : HEAD + length], video, count)
    weights = compressed_data[HEAD + length :]
    if weights:
        pictures = restored(pictures, code_weights(Reader(weights), None))
    planes = [torch.from_numpy(pictures.y)]
    for chroma in (pictures.u, pictures.v):
        full = torch.from_numpy(chroma).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        planes.append(full[:, :height, :width])
    return {"reconstructed_frames": torch.stack(planes, dim=1)[None]}


def code_weights(coder, told: np.ndarray | None) -> np.ndarray:
    """[3, FEATURES]: written by a Writer, read by a Reader. One function is the syntax, so that both sides agree."""
    read = []
    for plane in range(3):
        values = np.zeros(0, np.int32) if told is None else told[plane]
        scale = coder.number(0 if told is None else best_scale(values, LARGEST), 5)
        read.append(coder.laplace(values, FEATURES, scale, LARGEST))
    return np.stack(read)


def restored(pictures: Frames, weights: np.ndarray) -> Frames:
    """Frame by frame, so that memory does not grow with the clip."""
    network = Restorer()
    better = []
    with exact_arithmetic():
        for plane, weight in zip(pictures.planes(), weights, strict=True):
            network.last.weight.copy_(torch.from_numpy(weight)[None, :, None, None])
            out = plane.copy()
            for index, picture in enumerate(plane):
                x = torch.from_numpy(picture).float()[None, None]
                out[index] = (x + network(x)).clamp(0, 255).to(torch.uint8)[0, 0].numpy()
            better.append(out)
    return Frames(*better)
