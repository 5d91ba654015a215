"""Latents and the synthesis network that was fitted to the clip, both out of the bytes.

    latents int [t, h, w, 8, 8, 8] --8x8 along time, rows, columns--> samples, SIDE apart in each direction

Whole numbers throughout, held in float64 where every sum is exact: each machine decodes the same frames.
"""

import struct

import numpy as np
import torch
from torch import nn

from codec.entropy import Coder, Reader, best_scale
from codec.errors import BitstreamError

HEAD = 8
SIDE = 8
BANDS = 3 * (SIDE - 1) + 1  # how fast a latent's pattern changes: the sum of its three places
ONE = 1024  # weights are whole numbers of 1 / ONE
LARGEST, LARGEST_CHANGE = 1023, 255  # of a latent; of a weight, away from the cosines
STRIDE = 4  # blocks whose numbers of bands are so close share their tables


class Synthesis(nn.Module):
    """Latents times their step to samples around 0: three linear layers, the place for deeper ones."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("time", "rows", "columns"):
            setattr(self, name, nn.Linear(SIDE, SIDE, bias=False, dtype=torch.float64).requires_grad_(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.columns, self.rows, self.time):
            x = layer(x).permute(0, 1, 2, 5, 3, 4)  # after three turns each axis is back in its place
        return torch.floor(x / ONE**3 + 0.5)

    def example_inputs(self) -> tuple[torch.Tensor]:
        """The samples of one 1080p frame, all three planes, for counting operations."""
        return (torch.zeros(1, 1, 1920 * 1080 * 3 // 2 // SIDE**3, SIDE, SIDE, SIDE, dtype=torch.float64),)


def build_decoder(config: dict) -> Synthesis:
    """Optional: lets the harness count this module by thop too."""
    return Synthesis()


def decompress_video_tensor(compressed_data: bytes, config: dict, device: str) -> dict:
    count, height, width, step = struct.unpack("<HHHH", compressed_data[:HEAD])
    if not (count and height and width):
        raise BitstreamError("the head says that there is no picture")
    reader = Reader(compressed_data[HEAD:])
    synthesis = Synthesis()
    layers = (synthesis.time, synthesis.rows, synthesis.columns)
    for layer, matrix in zip(layers, code_weights(reader, None), strict=True):
        layer.weight.copy_(torch.from_numpy(matrix.T.astype(np.float64)))
    out = torch.empty(1, count, 3, height, width, dtype=torch.uint8)
    for channel in range(3):
        shape = (count, height, width) if channel == 0 else (count, (height + 1) // 2, (width + 1) // 2)
        latents = torch.from_numpy(code_latents(reader, None, shape))
        for group, blocks in enumerate(latents):  # eight frames at a time, so that memory does not grow with the clip
            samples = (synthesis(blocks[None].double() * step) + 128).clamp(0, 255).to(torch.uint8)[0]
            h, w = samples.shape[:2]
            plane = samples.permute(2, 0, 3, 1, 4).reshape(SIDE, h * SIDE, w * SIDE)[:, : shape[1], : shape[2]]
            if channel:
                plane = plane.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            target = out[0, group * SIDE : (group + 1) * SIDE, channel]
            target.copy_(plane[: len(target), :height, :width])
    return {"reconstructed_frames": out}


def cosines() -> np.ndarray:
    """The orthonormal transform [frequency, place] that the fit begins with."""
    frequency, place = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    basis[0] = np.sqrt(1 / SIDE)
    return basis


def band_of() -> np.ndarray:
    return np.indices((SIDE,) * 3).sum(0)


def code_weights(coder: Coder, told: list[np.ndarray] | None) -> list[np.ndarray]:
    """Three matrices in units of 1 / ONE, as differences from the cosines. Written by a Writer, read by a Reader."""
    usual = np.round(cosines() * ONE).astype(np.int32)
    read = []
    for number in range(3):
        change = np.zeros(0, np.int32) if told is None else told[number] - usual
        change = np.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE)
        scale = coder.number(0 if told is None else best_scale(change, LARGEST_CHANGE), 5)
        read.append(usual + coder.laplace(change, usual.size, scale, LARGEST_CHANGE).reshape(usual.shape))
    return read


def code_latents(coder: Coder, told: np.ndarray | None, shape: tuple[int, int, int]) -> np.ndarray:
    """int [t, h, w, 8, 8, 8] of one plane: how many bands each block uses, then these bands."""
    grid = tuple(-(-size // SIDE) for size in shape)
    bands = band_of()
    latents = np.zeros((*grid, *bands.shape), np.int32)
    if told is None:
        used = np.zeros(0, np.int32)
    else:
        latents[:] = told
        latents[:, :, 1:, 0, 0, 0] -= told[:, :, :-1, 0, 0, 0]  # means: only the difference from the block to the left
        np.clip(latents, -LARGEST, LARGEST, out=latents)
        used = ((latents != 0) * (bands + 1)).max((3, 4, 5))
    scale = coder.number(0 if told is None else best_scale(used.ravel(), BANDS), 5)
    used = coder.laplace(used, latents[..., 0, 0, 0].size, scale, BANDS).reshape(grid)
    for band in range(BANDS):
        for least in range(band - band % STRIDE, BANDS, STRIDE):  # blocks that use more bands have larger latents
            alike = (used > band) & (used > least) & (used <= least + STRIDE)
            where = alike[..., None, None, None] & (bands == band)
            values = latents[where]
            if values.size:
                scale = coder.number(0 if told is None else best_scale(values, LARGEST), 5)
                latents[where] = coder.laplace(values, values.size, scale, LARGEST)
    latents[..., 0, 0, 0] = np.cumsum(latents[..., 0, 0, 0], axis=2)
    return latents
