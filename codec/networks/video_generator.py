"""`LightweightVideoGenerator`: what an interpolated picture lacks, guessed by a small U-Net.

Owns the network, what it sees, and its shipped weights. Where it is used is `codec.strategies.i_frame_interpolation`'s.

    prediction, half-size planes int8 [6, h, w] ------------+
    moved future minus moved past, int8 [6, h, w] ----------+--> [16, h, w], edges repeated by MARGIN
    the frame's description and place in time, [4] planes --+
       conv 3x3, 16 -> 16, clamp to 0 … 255 ------------------------------------+ skip
       2x2 samples to channels, 1x1, 64 -> 24, clamp                            |
       2 x: x + (depthwise 3x3 -> 1x1), clamp                                   |
       1x1, 24 -> 64, channels to 2x2 samples ----------------------------------+ clamp
       1x1, 16 -> 6, clamp to ±1023: sixteenths of a grey level
    --> prediction + residual

All in the exact integers of `codec.networks.exact`: about 2300 multiply-accumulates for each luma sample.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.errors import BitstreamError
from codec.networks.exact import IntegerConv, as_tensor, built, load_integers, shift_down

CHANNELS = 6  # four luma phases, U, V
CONDITIONS = 4
INPUTS = 2 * CHANNELS + CONDITIONS
WIDTH, DEEP_WIDTH = 16, 24
BLOCKS = 2
MARGIN = 1 + 2 * BLOCKS  # half-size samples that the convolutions eat from each side
LARGEST_RESIDUAL, RESIDUAL_BITS = 1023, 4

SHIPPED = Path(__file__).parent / "shipped"
# The position of a name is its code in a payload: append, never reorder, never retrain in place.
SHIPPED_NAMES = ("between-1",)


class LightweightVideoGenerator(nn.Module):  # type: ignore[misc]
    """int8 [N, 16, h + 2·MARGIN, w + 2·MARGIN], h and w even, to residuals [N, 6, h, w]: integers in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.head = IntegerConv(INPUTS, WIDTH, 3, largest_input=128)
        self.down = IntegerConv(4 * WIDTH, DEEP_WIDTH)
        self.spread = nn.ModuleList(IntegerConv(DEEP_WIDTH, DEEP_WIDTH, 3, groups=DEEP_WIDTH) for _ in range(BLOCKS))
        self.mix = nn.ModuleList(IntegerConv(DEEP_WIDTH, DEEP_WIDTH) for _ in range(BLOCKS))
        self.up = IntegerConv(DEEP_WIDTH, 4 * WIDTH)
        self.tail = IntegerConv(WIDTH, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        fine = shift_down(self.head(x), 4).clamp(0, 255)
        x = shift_down(self.down(functional.pixel_unshuffle(fine, 2)), 7).clamp(0, 255)
        for spread, mix in zip(self.spread, self.mix, strict=True):
            around = shift_down(spread(x), 6).clamp(-255, 255)
            x = (x[..., 1:-1, 1:-1] + shift_down(mix(around), 6)).clamp(0, 255)
        edge = 2 * BLOCKS
        skipped = fine[..., edge:-edge, edge:-edge]
        x = (skipped + functional.pixel_shuffle(shift_down(self.up(x), 6), 2)).clamp(0, 255)
        return shift_down(self.tail(x), 6).clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)

    @staticmethod
    def example_input(height: int, width: int) -> Tensor:
        """What one frame of this size becomes, for counting operations."""
        rows, columns = (2 * -(-side // 4) + 2 * MARGIN for side in (height, width))
        return torch.zeros(1, INPUTS, rows, columns)


def generator_input(
    prediction: npt.NDArray[np.uint8], difference: npt.NDArray[np.int16], conditions: npt.NDArray[np.int32]
) -> npt.NDArray[np.int8]:
    """What the network sees: half-size planes [6, h, w] of prediction and difference, and 4 numbers of the frame."""
    level = (prediction.astype(np.int16) - 128).astype(np.int8)
    told = np.clip(conditions, -127, 127).astype(np.int8)
    flat = np.broadcast_to(told[:, None, None], (CONDITIONS, *prediction.shape[1:]))
    whole = np.concatenate([level, np.clip(difference, -127, 127).astype(np.int8), flat])
    return np.pad(whole, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="edge")


def generated(
    network: LightweightVideoGenerator, prediction: npt.NDArray[np.uint8], seen: npt.NDArray[np.int8]
) -> npt.NDArray[np.uint8]:
    """The prediction [6, h, w] plus the network's residual. Call it within `exact_arithmetic`."""
    values = as_tensor(seen)[None].float()
    residual = shift_down(network.to(values.device)(values)[0], RESIDUAL_BITS)
    better: npt.NDArray[np.int16] = residual.to(torch.int16).cpu().numpy() + prediction
    return np.clip(better, 0, 255).astype(np.uint8)


@cache
def shipped_generator(code: int) -> LightweightVideoGenerator:
    """The network that every decoder has under this code. Raises BitstreamError where this version has none."""
    if code >= len(SHIPPED_NAMES):
        raise BitstreamError(f"the payload uses generator {code}, this version has {len(SHIPPED_NAMES)}")
    network: LightweightVideoGenerator = built(LightweightVideoGenerator)
    with np.load(SHIPPED / f"{SHIPPED_NAMES[code]}.npz", allow_pickle=False) as stored:
        load_integers(network, {name: stored[name].astype(np.int16) for name in stored.files})
    return network
