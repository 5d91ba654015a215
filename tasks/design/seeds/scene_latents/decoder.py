"""Canvases from latents, moved for every frame, plus what the temporal latents add.

Whole numbers throughout, in floats only where every sum is exact: each machine decodes the same frames.
"""

import struct
from fractions import Fraction

import numpy as np
import torch

from codec.entropy import Coder, Reader, best_scale
from codec.errors import BitstreamError
from codec.frames import Frames, VideoFormat
from codec.networks.auto_decoder import CHANNELS, LightweightIFrameDecoder, joined
from codec.networks.enhancement import from_phases
from codec.networks.exact import built, exact_arithmetic, load_integers
from codec.networks.latent_grids import code_grids, grid_shapes

CELL = 32  # luma samples between two motion vectors
VECTOR_UNIT, LARGEST_VECTOR = 4, 255  # vectors are whole quarters of a luma sample
SIDE = 8
ONE = 1024  # the transform's numbers are whole ones of 1 / ONE
LARGEST = 255
BANDS = np.add.outer(np.arange(SIDE), np.arange(SIDE))
CODED = (..., *np.nonzero(BANDS < SIDE))  # of each block only the slower half of its patterns


def decompress_video_tensor(compressed_data: bytes, config: dict, device: str) -> dict:
    width, height, step, count = struct.unpack("<HHHH", compressed_data[:8])
    lengths = struct.unpack(f"<{count}H", compressed_data[8 : 8 + 2 * count])
    if not (width and height and count):
        raise BitstreamError("the head says that there is no picture")
    video = VideoFormat(width, height, Fraction(25))
    reader = Reader(compressed_data[8 + 2 * count :])
    weights = code_weights(reader, None, built(LightweightIFrameDecoder))
    shapes = grid_shapes(video.chroma_height, video.chroma_width, CHANNELS)
    pictures = [canvas(weights, code_grids(reader, None, shapes), video) for _ in lengths]
    out = torch.empty(1, sum(lengths), 3, height, width, dtype=torch.uint8)
    at = 0
    for picture, length in zip(pictures, lengths, strict=True):
        missed = [Missed(plane.shape[1:], step) for plane in picture.planes()]
        vectors = None
        for _ in range(length):
            vectors = code_motion(reader, None, vectors, (height, width))
            for channel, (known, state) in enumerate(zip(picture.planes(), missed, strict=True)):
                added = state.code(reader, None)
                plane = torch.from_numpy(np.clip(moved(known[0], vectors, 2 if channel else 1) + added, 0, 255))
                if channel:
                    plane = plane.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
                out[0, at, channel] = plane[:height, :width].to(torch.uint8)
            at += 1
    return {"reconstructed_frames": out}


def code_weights(coder: Coder, told: dict | None, network: torch.nn.Module) -> dict:
    """Written by a Writer, read by a Reader: one function is the syntax, so that both sides agree."""
    read = {}
    for name, parameter in network.named_parameters():
        largest = 4095 if name.endswith("bias") else 127
        values = np.zeros(0, np.int32) if told is None else np.clip(told[name].astype(np.int32), -largest, largest)
        scale = coder.number(0 if told is None else best_scale(values, largest), 5)
        coded = coder.laplace(values, parameter.numel(), scale, largest)
        read[name] = coded.reshape(tuple(parameter.shape)).astype(np.int16)
    return read


def canvas(weights: dict, grids: list[np.ndarray], video: VideoFormat) -> Frames:
    network = built(LightweightIFrameDecoder)
    load_integers(network, weights)
    with exact_arithmetic():
        latents = [torch.from_numpy(grid)[None].float() for grid in grids]
        planes = network(joined(latents))[0].clamp(0, 255).to(torch.uint8).numpy()
    return Frames(from_phases(planes[:4], video.height, video.width)[None], planes[4:5], planes[5:6])


def code_motion(coder: Coder, told: np.ndarray | None, before: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Vectors [2, rows, columns], as changes from the frame before."""
    shape = (2, *(-(-side // CELL) + 1 for side in size))
    before = np.zeros(shape, np.int32) if before is None else before
    change = np.zeros(0, np.int32) if told is None else told - before
    scale = coder.number(0 if told is None else best_scale(change, 2 * LARGEST_VECTOR), 5)
    return before + coder.laplace(change, before.size, scale, 2 * LARGEST_VECTOR).reshape(shape)


def moved(plane: np.ndarray, vectors: np.ndarray, share: int) -> np.ndarray:
    """`plane`, 1 / `share` of luma's size, read at the vectors: linear between their corners and between samples."""
    cell = CELL // share
    unit = VECTOR_UNIT * share * cell**2  # of a sample, once weights of corners are multiplied in
    lines = []
    for axis, side in enumerate(plane.shape):
        place = np.arange(side)
        mix = np.zeros((side, vectors.shape[1 + axis]), np.int64)
        mix[place, place // cell], mix[place, place // cell + 1] = cell - place % cell, place % cell
        lines.append(mix)
    down, right = (lines[0] @ grid.astype(np.int64) @ lines[1].T for grid in vectors)
    height, width = plane.shape
    rows = np.clip(down + unit * np.arange(height)[:, None], 0, unit * (height - 1))
    columns = np.clip(right + unit * np.arange(width), 0, unit * (width - 1))
    (top, down), (left, right) = np.divmod(rows, unit), np.divmod(columns, unit)
    below, after = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    upper = plane[top, left] * (unit - right) + plane[top, after] * right
    lower = plane[below, left] * (unit - right) + plane[below, after] * right
    return (upper * (unit - down) + lower * down + unit * unit // 2) // (unit * unit)


class Missed:
    """What the moved canvas misses of one plane, kept from frame to frame: latents say how it changes."""

    def __init__(self, size: tuple[int, int], step: int) -> None:
        frequency, place = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
        basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.where(frequency, 0.5, np.sqrt(1 / 8))
        self.basis = np.round(basis * ONE)
        self.size, self.step = size, step
        self.latents = np.zeros((-(-size[0] // SIDE), -(-size[1] // SIDE), SIDE, SIDE), np.int64)

    def analysed(self, missing: np.ndarray) -> np.ndarray:
        """For the encoder: the exact change of the latents, in steps."""
        h, w = self.latents.shape[:2]
        edges = ((0, h * SIDE - self.size[0]), (0, w * SIDE - self.size[1]))
        blocks = np.pad(missing, edges, mode="edge").reshape(h, SIDE, w, SIDE)
        exact = np.einsum("hywx,ay,bx->hwab", blocks, self.basis, self.basis, optimize=True)
        return exact / ONE**2 / self.step - self.latents

    def code(self, coder: Coder, told: np.ndarray | None) -> np.ndarray:
        """Write the changes `told` [h, w, coded], or read; then what is missed, int [H, W]."""
        coded = self.latents[CODED]
        busy = np.zeros(0, np.int32) if told is None else np.abs(told).max(-1)
        scale = coder.number(0 if told is None else best_scale(busy, LARGEST), 5)
        busy = coder.laplace(busy, coded[..., 0].size, scale, LARGEST).reshape(coded.shape[:2])
        # Blocks whose largest change is 1, 2, or more share a table.
        for where, most in ((busy == 1, 1), (busy == 2, 2), (busy > 2, LARGEST)):
            count = int(where.sum()) * coded.shape[-1]
            if count:
                values = np.zeros(0, np.int32) if told is None else told[where]
                scale = coder.number(0 if told is None else best_scale(values, most), 5)
                coded[where] += coder.laplace(values, count, scale, most).reshape(-1, coded.shape[-1])
        self.latents[CODED] = coded
        total = np.einsum("hwab,ay,bx->hywx", self.latents * float(self.step), self.basis, self.basis, optimize=True)
        h, w = self.latents.shape[:2]
        whole = np.floor(total.reshape(h * SIDE, w * SIDE) / ONE**2 + 0.5).astype(np.int64)
        return whole[: self.size[0], : self.size[1]]
