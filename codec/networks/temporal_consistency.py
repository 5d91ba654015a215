"""`TemporalConsistencyEnhancer`: a decoded picture drawn towards what it and its neighbours in time agree on.

Owns the network, the blending, and its shipped weights. Which blocks use it is
`codec.strategies.i_frame_interpolation`'s.

    Y, U, V of a frame as half-size planes, and the frames before and after, aligned, minus its luma: int8 [14, h, w]
       convolution over the three frames, 3x3x3: 14 -> 16, clamp to 0 … 255
       2 x: x + (depthwise 3x3 -> 1x1), clamp to 0 … 255
       1x1, 16 -> 6, clamp to ±1023: sixteenths of a grey level
    --> input + weight/4 · residual in the blocks that are switched on

The aligned differences are `codec.networks.enhancement.network_input`'s, integers throughout are
`codec.networks.exact`'s: about 760 multiply-accumulates for each luma sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codec.errors import BitstreamError
from codec.frames import Frames
from codec.networks import enhancement
from codec.networks.enhancement import CHANNELS, INPUTS, from_phases, network_input, stack_planes
from codec.networks.exact import IntegerConv, as_tensor, built, load_integers, shift_down

WIDTH = 16
BLOCKS = 2
MARGIN = 1 + BLOCKS  # half-size samples that the convolutions eat from each side
LARGEST_RESIDUAL, RESIDUAL_BITS = 1023, 4
WEIGHT_BITS = 2  # a residual's weight is an integer / 2**2

SHIPPED = Path(__file__).parent / "shipped"
# The position of a name is its code in a payload: append, never reorder, never retrain in place.
SHIPPED_NAMES = ("consistency-1",)


class TemporalConsistencyEnhancer(nn.Module):  # type: ignore[misc]
    """int8 [N, 14, h + 2·MARGIN, w + 2·MARGIN] to residuals [N, 6, h, w], all integers in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.temporal = IntegerConv(INPUTS, WIDTH, 3, largest_input=128)
        self.spread = nn.ModuleList(IntegerConv(WIDTH, WIDTH, 3, groups=WIDTH) for _ in range(BLOCKS))
        self.mix = nn.ModuleList(IntegerConv(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.tail = IntegerConv(WIDTH, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = shift_down(self.temporal(x), 4).clamp(0, 255)
        for spread, mix in zip(self.spread, self.mix, strict=True):
            around = shift_down(spread(x), 6).clamp(-255, 255)
            x = (x[..., 1:-1, 1:-1] + shift_down(mix(around), 6)).clamp(0, 255)
        return shift_down(self.tail(x), 6).clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)

    @staticmethod
    def example_input(height: int, width: int) -> Tensor:
        """What one frame of this size becomes, for counting operations."""
        return torch.zeros(1, INPUTS, -(-height // 2) + 2 * MARGIN, -(-width // 2) + 2 * MARGIN)


def enhancer_input(frames: Frames, index: int) -> npt.NDArray[np.int8]:
    """What the network sees of one of a scene's frames: [14, h + 2·MARGIN, w + 2·MARGIN]."""
    cut = enhancement.MARGIN - MARGIN
    return network_input(frames, index)[:, cut:-cut, cut:-cut]


def consistent(
    network: TemporalConsistencyEnhancer, frames: Frames, index: int, weights: Sequence[int]
) -> list[Frames]:
    """One of a scene's frames, blended everywhere, for each of the weights. Call it within `exact_arithmetic`."""
    planes = stack_planes(frames[index : index + 1])
    values = as_tensor(enhancer_input(frames, index))[None].float()
    residual = network.to(values.device)(values)[0]
    found = []
    for weight in weights:
        correction = shift_down(residual * weight, RESIDUAL_BITS + WEIGHT_BITS).to(torch.int16)
        better = correction.cpu().numpy() + planes
        out = np.clip(better, 0, 255).astype(np.uint8)
        found.append(Frames(from_phases(out[:4], *frames.y.shape[1:])[None], out[4:5], out[5:6]))
    return found


@cache
def shipped_enhancer(code: int) -> TemporalConsistencyEnhancer:
    """The network that every decoder has under this code. Raises BitstreamError where this version has none."""
    if code >= len(SHIPPED_NAMES):
        raise BitstreamError(f"the payload uses enhancer {code}, this version has {len(SHIPPED_NAMES)}")
    network: TemporalConsistencyEnhancer = built(TemporalConsistencyEnhancer)
    with np.load(SHIPPED / f"{SHIPPED_NAMES[code]}.npz", allow_pickle=False) as stored:
        load_integers(network, {name: stored[name].astype(np.int16) for name in stored.files})
    return network
