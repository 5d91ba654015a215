"""How much arithmetic a decoder does, in operations: two for each multiply-accumulate.

Owns the two ways of counting and the scale to a 1080p frame. The budget and the verdict are others'. torch is imported
only when something is counted.

thop reads module types: it misses functional calls and overcounts transposed convolutions. PyTorch's FlopCounterMode
watches the dispatcher: it sees functional calls, but only matrix products, convolutions and attention. So both are
taken, and the larger is what a decoder is judged by.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PIXELS_1080P = 1920 * 1080


@dataclass(frozen=True)
class Operations:
    """One network on one input, counted twice."""

    thop: int
    flop_counter: int

    @property
    def larger(self) -> int:
        return max(self.thop, self.flop_counter)


def count_operations(run: Callable[[], object]) -> int:
    """Operations that PyTorch dispatches while `run()` runs, without gradients.

    FlopCounterMode already counts two for a multiply-accumulate. Element-wise work, and whatever leaves PyTorch
    (numpy, a traditional decoder), counts nothing.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def count_module_operations(module: torch.nn.Module, *inputs: torch.Tensor) -> Operations:
    """Operations of `module(*inputs)` in evaluation mode, counted by thop and by FlopCounterMode.

    Works on copies: thop leaves keys in state_dict, and a pass may change a module's buffers.
    """
    import thop

    macs, _ = thop.profile(copy.deepcopy(module).eval(), inputs=inputs, verbose=False)
    counted = copy.deepcopy(module).eval()
    return Operations(thop=2 * int(macs), flop_counter=count_operations(lambda: counted(*inputs)))


def per_1080p_frame(operations: int, pixels_total: int) -> float:
    """Tera-operations a 1080p frame, from `operations` spent on `pixels_total` luma samples (width x height x frames).

    Linear in pixels: right for convolutions, an underestimate for attention over the whole picture.
    """
    if pixels_total <= 0:
        raise ValueError(f"operations were spent on {pixels_total} pixels; give width x height x frames")
    return operations / pixels_total * PIXELS_1080P / 1e12
