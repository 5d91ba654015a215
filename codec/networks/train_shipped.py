"""Train the enhancement networks that ship with the decoder:
`python -m codec.networks.train_shipped NAME... [--photographs FOLDER]`

Owns the recipe. What stands in `NETWORKS` is part of the bitstream: retraining one breaks every file that uses it, so
this script refuses to overwrite. Some recipes need the photographs that `codec.networks.training_clips` lists, below
one folder: `apt-get download` their packages, `dpkg-deb -x PACKAGE.deb FOLDER`.

The candidates of a `BasisNetwork` are only ever used in the best combination for a scene, so that is what is trained:
each group of patches (one clip, one rate) is fitted by ridge regression inside the graph, and what remains of the
squared error after the fit is the loss (closed-form meta-learning, Bertinetto et al., ICLR 2019). Its logarithm counts
every rate alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codec import strategies
from codec.frames import REMAINDER_BITS, Frames, Remainders, VideoFormat
from codec.networks.enhancement import (
    CANDIDATES,
    MARGIN,
    NETWORK_CANDIDATES,
    NETWORKS,
    RESIDUAL_BITS,
    SHIPPED,
    limited_differences,
    network_input,
    stack_planes,
)
from codec.networks.exact import integers_of
from codec.networks.training_clips import Photographs, carried_photographs, listed_photographs, training_clip
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy

SIZE = 256
PATCH = 48
RIDGE = 1e-3
# PSNR-YUV's weights, with luma a little heavier
PLANE_WEIGHTS = (0.8, 0.1, 0.1)

Group = tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]
# all groups: [G, T, 14, h + margins, w + margins] and [G, T, 6, h, w]
Groups = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """Which damage a network learns to repair.

    base, preset, options  what codes the clips
    rates                  … and at which rates
    clips, count           how many, of how many frames
    kept                   frames that are looked at: key frames and all layers of the pyramid
    steps                  of the optimizer
    groups, patches        how many groups it sees at a time, and how many patches of each
    plain                  whether the fit in the loss has the candidates that need no network, as the decoder has
    listed                 whether clips are made of the photographs listed, not of those that scikit-image carries
    """

    base: str
    preset: str
    rates: tuple[float, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    clips: int = 80
    count: int = 9
    kept: tuple[int, ...] = (0, 1, 3, 4, 6)
    steps: int = 2200
    groups: int = 6
    patches: int = 4
    plain: bool = False
    listed: bool = False


def _vvc(steps: int, *rates: float) -> Recipe:
    """Steps: as many as two networks side by side had in 80 seconds of an H200."""
    pyramid = (0, 2, 4, 7, 8, 11, 16)
    return Recipe("vvc", "fast", rates, {"gopsize": "16"}, 400, 17, pyramid, steps, 12, 8, plain=True, listed=True)


RECIPES = {
    "av1-fine": Recipe("av1", "4", (18, 24, 30, 36)),
    "av1-coarse": Recipe("av1", "4", (38, 45, 52, 60)),
    "vvc-fine": _vvc(3125, 20, 25, 30),
    "vvc-coarse": _vvc(3100, 31, 36, 41),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = {network.name: network for network in NETWORKS.values()}
    parser.add_argument("names", nargs="+", choices=networks)
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="where the listed photographs are")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the optimizer works")
    order = parser.parse_args()
    torch.set_num_threads(1)
    for name in order.names:
        recipe, target = RECIPES[name], SHIPPED / f"{name}.npz"
        if target.exists():
            parser.error(f"{target} exists and is part of the bitstream: give the new network a new name")
        if recipe.listed and order.photographs is None:
            parser.error(f"{name} is trained on photographs from --photographs FOLDER")
        try:
            photographs = listed_photographs(order.photographs) if recipe.listed else carried_photographs()
        except FileNotFoundError as error:
            parser.error(str(error))
        network = train(networks[name].untrained, stacked(coded_groups(recipe, photographs)), recipe, order.device)
        SHIPPED.mkdir(exist_ok=True)
        stored: dict[str, Any] = {key: shrunk(values) for key, values in integers_of(network).items()}
        np.savez_compressed(target, **stored)


def shrunk(values: npt.NDArray[np.int16]) -> npt.NDArray[np.int8] | npt.NDArray[np.int16]:
    return values.astype(np.int8) if np.abs(values).max() <= 127 else values


def coded_groups(recipe: Recipe, photographs: Photographs) -> list[Group]:
    """For every clip and rate: network inputs [T, 14, h + margins, w + margins], and what the base lacks before it is
    rounded, in sixteenths of a grey level [T, 6, h, w].
    """
    video = VideoFormat(SIZE, SIZE, Fraction(25))
    base = cast("ElementaryStrategy", strategies.get(recipe.base))
    groups = []
    for seed in range(recipe.clips):
        clip = training_clip(seed, SIZE, recipe.count, photographs)
        originals = _kept(clip, recipe).astype(np.int16)
        for rate in recipe.rates:
            settings = EncodeSettings(0, recipe.preset, quality_range=(rate, rate), options=recipe.options)
            decoded, remainders = base.decode_finely(base.encode(clip, video, settings), video, recipe.count)
            inputs = np.stack([network_input(decoded, frame) for frame in recipe.kept])
            lacking = (originals - _kept(decoded, recipe)) * 2**REMAINDER_BITS - _kept(remainders, recipe)
            groups.append((inputs, lacking))
    return groups


def stacked(groups: list[Group]) -> Groups:
    inputs, lacking = (torch.from_numpy(np.stack(parts)) for parts in zip(*groups, strict=True))
    return inputs, lacking


def _kept(clip: Frames | Remainders, recipe: Recipe) -> npt.NDArray[Any]:
    return np.stack([stack_planes(clip[frame : frame + 1]) for frame in recipe.kept])


def train(
    kind: Callable[[], nn.Module], groups: Groups, recipe: Recipe, device: str = "cpu", seed: int = 1
) -> nn.Module:
    """A network fitted to the groups: on a processor the same on every run. Prints the gain in dB as it goes."""
    torch.manual_seed(seed)
    # TF32 holds what these convolutions multiply exactly: integers of up to 8 bits.
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    rng = np.random.default_rng(seed)
    network: Any = kind().to(device)
    inputs, lacking = (part.to(device) for part in groups)
    weights = torch.tensor(PLANE_WEIGHTS, device=device)
    with torch.no_grad():
        weight = network.head.conv.weight
        weight -= weight.mean((1, 2, 3), keepdim=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=recipe.steps, pct_start=0.1)
    clock, gains = time.monotonic(), []
    for step in range(recipe.steps):
        seen, missing = batch(inputs, lacking, recipe, rng)
        plain = limited_differences(seen) if recipe.plain else None
        remaining = squared_error_after_fit(network(seen), plain, missing, recipe)
        before = missing.square().flatten(2).reshape(recipe.groups, recipe.patches, 6, -1).mean((1, 3))
        before = torch.stack([before[:, :4].mean(1), before[:, 4], before[:, 5]], 1)
        log_ratio = torch.log10((remaining + 0.05) / (before + 0.05))
        loss = (log_ratio * weights).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
        optimizer.step()
        schedule.step()
        gains.append(-10 * log_ratio.detach().mean(0))
        if (step + 1) % 250 == 0:
            y, u, v = torch.stack(gains[-250:]).mean(0).tolist()
            seconds = time.monotonic() - clock
            sys.stdout.write(f"step {step + 1}: Y {y:.3f} U {u:.3f} V {v:.3f} dB, {seconds:.0f} s\n")
            sys.stdout.flush()
    return network.cpu()


def batch(inputs: Tensor, lacking: Tensor, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Network inputs and what they lack, float [groups · patches, 14 and 6, ...]."""
    group = rng.integers(len(inputs), size=recipe.groups).repeat(recipe.patches)
    frame = rng.integers(inputs.shape[1], size=len(group))
    corners = rng.integers(0, SIZE // 2 - PATCH + 1, (2, len(group)))

    def cut(planes: Tensor, side: int) -> Tensor:
        rows, columns = (torch.from_numpy(corner[:, None] + np.arange(side)) for corner in corners)
        first, second = (torch.from_numpy(index)[:, None, None] for index in (group, frame))
        where = [index.to(planes.device) for index in (first, second, rows[:, :, None], columns[:, None, :])]
        return planes[where[0], where[1], :, where[2], where[3]].movedim(3, 1).float()

    return cut(inputs, PATCH + 2 * MARGIN), cut(lacking, PATCH) / 2**REMAINDER_BITS


def squared_error_after_fit(found: Tensor, plain: Tensor | None, missing: Tensor, recipe: Recipe) -> Tensor:
    """Mean squared error [groups, 3] of Y, U and V that each group's best combination leaves."""
    results = []
    groups, patches = recipe.groups, recipe.patches
    for planes in (slice(0, 4), slice(4, 5), slice(5, 6)):
        luma = planes.stop == 4 and plain is not None
        candidates = (torch.cat([found[:, planes], plain], 2) if luma else found[:, planes]) / 2**RESIDUAL_BITS
        used = CANDIDATES if luma else NETWORK_CANDIDATES
        design = candidates.transpose(1, 2).reshape(groups, patches, used, -1)
        design = design.transpose(1, 2).reshape(groups, used, -1)
        target = missing[:, planes].reshape(groups, 1, -1)
        samples = target.shape[-1]
        power = design @ design.transpose(1, 2) / samples
        match = design @ target.transpose(1, 2) / samples
        unit = torch.eye(used, device=power.device)
        ridge = RIDGE * (1 + power.diagonal(dim1=1, dim2=2).mean(1))[:, None, None] * unit
        gains = torch.linalg.solve(power + ridge, match)
        results.append((target - gains.transpose(1, 2) @ design).square().mean((1, 2)))
    return torch.stack(results, 1)


if __name__ == "__main__":
    main()
