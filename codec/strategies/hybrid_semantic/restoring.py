"""From a base layer's pictures to those shown: what a decoder does, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.frames import Frames, Remainders, VideoFormat
from codec.strategies.hybrid_semantic.syntax import Enhancement


@dataclass(frozen=True)
class View:
    """What there is of one frame before any choice.

    index   the frame's
    planes  uint8 [6, h, w]: the base's luma phases, U and V, rounded
    taken   int8 [6, h, w]: what rounding took from them, in sixteenths of a grey level
    seen    int8 [14, h + margins, w + margins]: what networks see
    """

    index: int
    planes: npt.NDArray[np.uint8]
    taken: npt.NDArray[np.int8]
    seen: npt.NDArray[np.int8]


def view(pictures: Frames, remainders: Remainders, index: int) -> View:
    from codec.networks.enhancement import network_input, stack_planes

    one = slice(index, index + 1)
    return View(index, stack_planes(pictures[one]), stack_planes(remainders[one]), network_input(pictures, index))


def apply_enhancement(enhancement: Enhancement, pictures: Frames, remainders: Remainders, video: VideoFormat) -> Frames:
    """What a decoder makes of base pictures."""
    from codec.networks.enhancement import PHASES, candidates, enhanced, from_phases, shipped_network
    from codec.networks.exact import exact_arithmetic

    network = shipped_network(enhancement.network)
    out = Frames(*(plane.copy() for plane in pictures.planes()))
    with exact_arithmetic():
        for index, sets in enumerate(enhancement.sets):
            if not sets.any():
                continue
            frame = view(pictures, remainders, index)
            residuals = candidates(network, frame.seen)
            better = enhanced(frame.planes, frame.taken, residuals, enhancement.gains, sets)
            out.y[index] = from_phases(better[:PHASES], video.height, video.width)
            out.u[index], out.v[index] = better[PHASES:]
    return out
