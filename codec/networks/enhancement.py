"""Basis networks: what a picture might lack, as a few candidate residuals that a scene weighs for itself.

Owns the networks, how planes become their input, how candidates become a better picture, and the shipped weights.
Which gains a scene uses where is `codec.strategies.hybrid_semantic`'s.

    Y uint8 [H, W] ---four phases------------------------+
    U, V uint8 [H/2, W/2] -------------------------------+--> int8 [14, h, w], h = H/2, w = W/2
    Y of the frames before and after, aligned, minus Y --+
       conv 3x3, 14 -> width, clamp to 0 … 255
       3 x: x + (width 16: depthwise 3x3 -> 1x1; dense, width 52: 3x3, clamp to 0 … 255 -> 1x1), clamp to 0 … 255
       1x1, width -> 6 · 6, clamp to ±1023: sixteenths of a grey level
    --> 6 candidate residuals for the four luma phases, U and V
    --> and for luma 6 more without a network: differences from the aligned frames, clamped to ±2, ±6 and ±20
    --> base + sum of gain · candidate, with the gains of each block, rounded once: the base as it was before 8 bits

The plain differences are there because they carry over from any content to any other: least squares on them alone gains
0.1 to 0.3 dB where motion is found.

All on half-size pictures, which is where 4:2:0 chroma lies: 950 multiply-accumulates for each luma sample, 22,400 for
the dense ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codec.errors import BitstreamError
from codec.frames import REMAINDER_BITS, Frames, Remainders
from codec.networks.exact import IntegerConv, as_tensor, built, load_integers, shift_down
from codec.networks.motion import aligned

NETWORK_CANDIDATES = 6
DIFFERENCE_LIMITS = (2, 6, 20)  # grey levels
CANDIDATES = NETWORK_CANDIDATES + 2 * len(DIFFERENCE_LIMITS)
BLOCKS = 3
MARGIN = 1 + BLOCKS  # half-size samples that the convolutions eat from each side
LARGEST_RESIDUAL = 1023
RESIDUAL_BITS = 4  # a candidate is an integer / 2**4 grey levels
GAIN_BITS = 6  # a gain is an integer / 2**6
LARGEST_GAIN = 127
PHASES = 4
CHANNELS = PHASES + 2  # four luma phases, U, V
INPUTS = CHANNELS + 2 * PHASES
PLANE_OF_CHANNEL = (0, 0, 0, 0, 1, 2)
BLOCK = 32  # half-size samples: 64 luma samples

SHIPPED = Path(__file__).parent / "shipped"

_Scalar = TypeVar("_Scalar", bound=np.generic)


class BasisNetwork(nn.Module):  # type: ignore[misc]
    """int8 [N, 14, h + 2·MARGIN, w + 2·MARGIN] to candidate residuals [N, 6, 6, h, w], all integers in floats."""

    def __init__(self, width: int = 16, dense: bool = False) -> None:
        super().__init__()
        groups, self.least = (1, 0) if dense else (width, -255)
        self.head = IntegerConv(INPUTS, width, 3, largest_input=128)
        self.spread = nn.ModuleList(IntegerConv(width, width, 3, groups=groups) for _ in range(BLOCKS))
        self.mix = nn.ModuleList(IntegerConv(width, width) for _ in range(BLOCKS))
        self.tail = IntegerConv(width, CHANNELS * NETWORK_CANDIDATES)

    def forward(self, x: Tensor) -> Tensor:
        x = shift_down(self.head(x), 4).clamp(0, 255)
        for spread, mix in zip(self.spread, self.mix, strict=True):
            around = shift_down(spread(x), 6).clamp(self.least, 255)
            x = (x[..., 1:-1, 1:-1] + shift_down(mix(around), 6)).clamp(0, 255)
        return _limited(self.tail(x))


@dataclass(frozen=True)
class Shipped:
    """A network that every decoder has: the name of its weights, and its shape."""

    name: str
    width: int = 16
    dense: bool = False

    def untrained(self) -> BasisNetwork:
        return BasisNetwork(self.width, self.dense)


# By their codes in a payload: add, never renumber, never retrain in place. 2 and 3 were smaller ones for VVC.
NETWORKS = {
    0: Shipped("av1-coarse"),
    1: Shipped("av1-fine"),
    4: Shipped("vvc-coarse", 52, dense=True),
    5: Shipped("vvc-fine", 52, dense=True),
}


def _limited(total: Tensor) -> Tensor:
    residuals = shift_down(total, 6).clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    return residuals.unflatten(1, (CHANNELS, NETWORK_CANDIDATES))


def example_input(height: int, width: int) -> Tensor:
    """What one frame of this size becomes for a basis network, for counting operations."""
    return torch.zeros(1, INPUTS, -(-height // 2) + 2 * MARGIN, -(-width // 2) + 2 * MARGIN)


@overload
def stack_planes(frame: Frames) -> npt.NDArray[np.uint8]: ...
@overload
def stack_planes(frame: Remainders) -> npt.NDArray[np.int8]: ...
def stack_planes(frame: Frames | Remainders) -> npt.NDArray[Any]:
    """One frame to [6, ceil(H/2), ceil(W/2)]: the four luma phases, U, V. An odd last row or column repeats."""
    return np.concatenate([to_phases(frame.y[0]), frame.u, frame.v])


def network_input(frames: Frames, index: int) -> npt.NDArray[np.int8]:
    """What the network sees of one of a scene's frames: [14, h + 2·MARGIN, w + 2·MARGIN]; edges are repeated.

    Where a scene has no frame before or after, the difference from it is zero.
    """
    luma = frames.y[index]
    parts = [stack_planes(frames[index : index + 1]).astype(np.int16) - 128]
    for other in (index - 1, index + 1):
        there = 0 <= other < len(frames)
        moved = aligned(luma, frames.y[other]) if there else luma
        parts.append(np.clip(to_phases(moved.astype(np.int16) - luma), -128, 127))
    whole = np.concatenate(parts).astype(np.int8)
    return np.pad(whole, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="edge")


def candidates(network: nn.Module, seen: npt.NDArray[np.int8]) -> Tensor:
    """Candidate residuals [6, 12, h, w] for one frame's `network_input`. Call it within `exact_arithmetic`.

    Those of chroma beyond the network's own are zero.
    """
    values = as_tensor(seen).float()[None]
    limited = limited_differences(values)[0]
    found = values.new_zeros(CHANNELS, CANDIDATES, *limited.shape[2:])
    found[:, :NETWORK_CANDIDATES] = network.to(values.device)(values)[0]
    found[:PHASES, NETWORK_CANDIDATES:] = limited
    return found


def limited_differences(seen: Tensor) -> Tensor:
    """The candidates for luma that need no network, [N, 4, 6, h, w], from its inputs [N, 14, …]."""
    differences = seen[:, CHANNELS:, MARGIN:-MARGIN, MARGIN:-MARGIN].unflatten(1, (2, PHASES))
    limited = torch.cat([differences.clamp(-limit, limit) for limit in DIFFERENCE_LIMITS], 1)
    return limited.transpose(1, 2) * 2**RESIDUAL_BITS


def enhanced(
    planes: npt.NDArray[np.uint8],
    remainders: npt.NDArray[np.int8],
    residuals: Tensor,
    gains: npt.NDArray[np.int32],
    sets: npt.NDArray[np.int32],
) -> npt.NDArray[np.uint8]:
    """`planes` and their `remainders` [6, h, w] plus candidates, weighed in each block by one of the sets of gains.

    A correction is often less than half a grey level: added to planes rounded before, it would come to nothing.

    gains  [S, 3, 12] integers of magnitude up to 127: for Y, U and V
    sets   [rows, columns] of blocks: 0 leaves the block as it is, s takes gains[s - 1]; gains of 0 leave a plane so
    """
    height, width = planes.shape[1:]
    where = as_tensor(sets.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width])
    taken = as_tensor(remainders).float() * 2 ** (RESIDUAL_BITS + GAIN_BITS - REMAINDER_BITS)
    correction = torch.zeros_like(taken)
    for number, gain in enumerate(gains, 1):
        if not (sets == number).any():
            continue
        per_channel = as_tensor(gain[list(PLANE_OF_CHANNEL)]).float()
        # 12 products of up to 1023 · 127, and 8 · 64: exact in float32
        total = (residuals * per_channel[:, :, None, None]).sum(1) + taken
        correction = torch.where(where == number, shift_down(total, RESIDUAL_BITS + GAIN_BITS), correction)
    better: npt.NDArray[np.int16] = correction.to(torch.int16).cpu().numpy() + planes
    return np.clip(better, 0, 255).astype(np.uint8)


def to_phases(y: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """[H, W] to [4, ceil(H/2), ceil(W/2)]: samples at even and odd rows and columns."""
    rows, columns = y.shape[0] % 2, y.shape[1] % 2
    even = np.pad(y, ((0, rows), (0, columns)), mode="edge") if rows or columns else y
    return np.stack([even[row::2, column::2] for row in (0, 1) for column in (0, 1)])


def from_phases(phases: npt.NDArray[_Scalar], height: int, width: int) -> npt.NDArray[_Scalar]:
    """The reverse of `to_phases`, cropped to [height, width]."""
    _, rows, columns = phases.shape
    out = np.empty((2 * rows, 2 * columns), dtype=phases.dtype)
    for phase in range(PHASES):
        out[phase // 2 :: 2, phase % 2 :: 2] = phases[phase]
    return out[:height, :width]


@cache
def shipped_network(code: int) -> nn.Module:
    """The network that every decoder has under this code. Raises BitstreamError where this version has none."""
    if code not in NETWORKS:
        there = ", ".join(map(str, NETWORKS))
        raise BitstreamError(f"the payload uses shipped network {code}, this version has {there}")
    shipped = NETWORKS[code]
    network: nn.Module = built(shipped.untrained)
    with np.load(SHIPPED / f"{shipped.name}.npz", allow_pickle=False) as stored:
        load_integers(network, {name: stored[name].astype(np.int16) for name in stored.files})
    return network
