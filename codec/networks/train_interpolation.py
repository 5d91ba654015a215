"""Train the networks that ship for interpolation: `python -m codec.networks.train_interpolation`

Owns the recipe. Shipped weights are part of the bitstream: this script refuses to overwrite them.

Five frames of each training clip are coded: the outer two by SVT-AV1, those between interpolated without residuals, as
`i_frame_interpolation` does it. The generator learns what the predictions lack, the enhancer what the decoded frames
lack. The loss is the logarithm of what is left of each patch's squared error, so that every rate counts alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codec import strategies
from codec.frames import Frames, VideoFormat
from codec.networks import temporal_consistency, video_generator
from codec.networks.description import SemanticDescriptionGenerator
from codec.networks.enhancement import SHIPPED, from_phases, stack_planes
from codec.networks.exact import integers_of
from codec.networks.train_shipped import shrunk
from codec.networks.training_clips import training_clip
from codec.strategies.i_frame_interpolation import between
from codec.strategies.i_frame_interpolation.syntax import FrameSymbols, grid
from codec.strategies.protocol import EncodeSettings

SIZE, COUNT = 128, 5
CLIPS, STEPS = 40, 900
RATES = (35, 48)
GROUPS, PATCH = 12, 32
# Squared grey levels: patches better than this are good enough.
FLOOR = 0.5
PLANE_WEIGHTS = torch.tensor([0.19, 0.19, 0.19, 0.19, 0.12, 0.12])

# What the network sees and what is missing: [inputs, h + margins, w + margins], [6, h, w]
Sample = tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]


def main() -> None:
    torch.set_num_threads(1)
    generator = SHIPPED / f"{video_generator.SHIPPED_NAMES[-1]}.npz"
    enhancer = SHIPPED / f"{temporal_consistency.SHIPPED_NAMES[-1]}.npz"
    for target in (generator, enhancer):
        if target.exists():
            sys.exit(f"{target} exists and is part of the bitstream: give the new network a new name")
    predicted: list[Sample] = []
    decoded: list[Sample] = []
    for seed in range(1000, 1000 + CLIPS):
        for rate in RATES:
            one, other = samples(training_clip(seed, SIZE, COUNT), rate)
            predicted += one
            decoded += other
    store(train(video_generator.LightweightVideoGenerator, predicted, video_generator.MARGIN), generator)
    store(train(temporal_consistency.TemporalConsistencyEnhancer, decoded, temporal_consistency.MARGIN), enhancer)


def store(network: nn.Module, target: Any) -> None:
    stored: dict[str, Any] = {key: shrunk(values) for key, values in integers_of(network).items()}
    np.savez_compressed(target, **stored)


def samples(clip: Frames, rate: float) -> tuple[list[Sample], list[Sample]]:
    """Of one clip coded at one rate: samples for the generator, and for the enhancer."""
    video = VideoFormat(SIZE, SIZE, Fraction(25))
    coder, ends = strategies.get("av1"), [0, COUNT - 1]
    kept = Frames(*(plane[ends] for plane in clip.planes()))
    settings = EncodeSettings(0, "6", quality_range=(rate, rate))
    keys = coder.decode(coder.encode(kept, video, settings), video, 2)
    pictures = Frames(*(np.zeros_like(plane) for plane in clip.planes()))
    for index, key in zip(ends, (0, 1), strict=True):
        between.put(pictures, index, keys[key : key + 1])
    description = SemanticDescriptionGenerator().describe(clip)
    references = between.References()
    nothing = FrameSymbols.nothing(*grid(video))
    predicted = []
    for place in between.places(COUNT, COUNT - 1):
        past, future = (references.of(index, pictures) for index in (place.past, place.future))
        parts = between.moved_parts(past, future, place, nothing)
        prediction = between.stacked(between.blended(*parts, nothing.sources))
        seen = between.generator_sees(prediction, parts, nothing.sources.shape, place, description)
        predicted.append((seen, stack_planes(clip[place.frame : place.frame + 1]).astype(np.int16) - prediction))
        better = Frames(from_phases(prediction[:4], SIZE, SIZE)[None], prediction[4:5], prediction[5:6])
        between.put(pictures, place.frame, better)
    decoded = []
    for index in range(COUNT):
        lacking = stack_planes(clip[index : index + 1]).astype(np.int16) - stack_planes(pictures[index : index + 1])
        decoded.append((temporal_consistency.enhancer_input(pictures, index), lacking))
    return predicted, decoded


def train(kind: Callable[[], nn.Module], known: list[Sample], margin: int) -> nn.Module:
    """A network fitted to the samples: the same on every run of one machine. Prints the gain in dB as it goes."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    network = kind()
    with torch.no_grad():
        network.tail.conv.weight.zero_()
        network.tail.conv.bias.zero_()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
    clock, gains = time.monotonic(), []
    for step in range(STEPS):
        seen, missing = batch(known, rng, margin)
        left = (missing - network(seen) / 2**video_generator.RESIDUAL_BITS).square().mean((2, 3))
        ratio = torch.log10((left + FLOOR) / (missing.square().mean((2, 3)) + FLOOR))
        loss = (ratio * PLANE_WEIGHTS).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
        optimizer.step()
        schedule.step()
        gains.append(-10 * float(loss))
        if (step + 1) % 150 == 0:
            seconds = time.monotonic() - clock
            sys.stdout.write(f"step {step + 1}: {np.mean(gains[-150:]):.3f} dB, {seconds:.0f} s\n")
            sys.stdout.flush()
    return network


def batch(known: list[Sample], rng: np.random.Generator, margin: int) -> tuple[Tensor, Tensor]:
    """Patches of what the network sees and of what is missing, as floats."""
    inputs, missing = [], []
    for _ in range(GROUPS):
        seen, lacking = known[int(rng.integers(len(known)))]
        top, left = (2 * int(value) for value in rng.integers(0, (SIZE // 2 - PATCH) // 2 + 1, 2))
        inputs.append(seen[:, top : top + PATCH + 2 * margin, left : left + PATCH + 2 * margin])
        missing.append(lacking[:, top : top + PATCH, left : left + PATCH])
    return torch.from_numpy(np.stack(inputs)).float(), torch.from_numpy(np.stack(missing)).float()


if __name__ == "__main__":
    main()
