"""AV1, and a tiny network fitted to this clip that restores some of what AV1 lost. Its weights are in the bytes.

    clip --SVT-AV1--> payload --dav1d--> pictures --Restorer--> better pictures
                                          fit to the clip ^  by gradient descent, on random patches

    bytes: width, height, frames (2 each), length of the payload (4), payload, weights; no weights where they do not pay

The fit costs the same whatever the size of the clip: so many steps, so many patches each.
"""

import math
import struct
from fractions import Fraction

import numpy as np
import torch
from decoder import Restorer, code_weights, restored  # the encoder may import the decoder, and never the reverse

from codec import strategies
from codec.entropy import Writer
from codec.frames import Frames, VideoFormat
from codec.networks.auto_decoder import Adam
from codec.networks.enhancement import stack_planes
from codec.networks.exact import integers_of
from codec.quality import squared_error
from codec.rate_distortion import lambda_of_quality
from codec.strategies.protocol import EncodeSettings

PATCHES, SIDE = 8, 32  # of half-size samples, plus the margin that the network eats
RATE = 0.004


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    pixels = frames[0].numpy()
    count, _, height, width = pixels.shape
    source = Frames(
        np.ascontiguousarray(pixels[:, 0]),
        np.ascontiguousarray(pixels[:, 1, ::2, ::2]),
        np.ascontiguousarray(pixels[:, 2, ::2, ::2]),
    )
    video = VideoFormat(width, height, Fraction(config["frame_rate"]))
    settings = EncodeSettings(config["quality"], config["preset"], quality_range=tuple(config["crf_range"]))
    base = strategies.get("av1")
    payload = base.encode(source, video, settings)
    pictures = base.decode(payload, video, count)  # what the decoder will see, not what went in
    price = lambda_of_quality(config["quality"])  # squared error that one bit must save
    network = _fitted(source, pictures, config["steps"], price)
    writer = Writer()
    code_weights(writer, integers_of(network), network)
    weights = writer.to_bytes()
    # Decoded by the decoder's own function: what is promised is what the decoder makes.
    saved = _error(source, pictures) - _error(source, restored(network, pictures, video))
    pays = saved > price * 8 * len(weights)
    head = struct.pack("<HHHI", width, height, count, len(payload))
    # Whatever else is returned is recorded as a claim, for the designer to read. It counts for nothing.
    return {"compressed_data": head + payload + (weights if pays else b""), "weights_bytes": len(weights), "pays": pays}


def _fitted(source: Frames, pictures: Frames, steps: int, price: float) -> Restorer:
    torch.manual_seed(1)  # the same clip must give the same bytes again: noise between two encodes counts against you
    generator = np.random.default_rng(1)
    network = Restorer()
    with torch.no_grad():  # begin with "change nothing"
        network.tail.conv.weight.mul_(0.1)
        network.tail.conv.bias.zero_()
    descent = Adam(list(network.parameters()), RATE)
    samples = len(source) * source.u[0].size
    for step in range(steps):
        seen, wanted = _patches(source, pictures, generator)
        found = network(torch.from_numpy(seen).float())
        missing = torch.from_numpy(wanted).float() - torch.from_numpy(seen[..., 2:-2, 2:-2]).float()
        error = (found - missing).square().sum((1, 2, 3)).mean() / SIDE**2 * samples
        # About what each weight costs in bits: a fit without a price sends more than it gains.
        bits = sum((64 * weight).abs().add(1).log2().sum() for weight in network.parameters())
        ((error + price * 2 * bits) / samples).backward()
        descent.step(0.5 + 0.5 * math.cos(math.pi * step / steps))
    return network


def _patches(source: Frames, pictures: Frames, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Decoded pictures [N, 6, SIDE + 4, SIDE + 4] and the source of their middles."""
    seen, wanted = [], []
    for frame in generator.integers(0, len(source), PATCHES):
        rows, columns = source.u.shape[1:]
        top, left = generator.integers(0, rows - SIDE + 1), generator.integers(0, columns - SIDE + 1)
        cut = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
        padded = np.pad(stack_planes(pictures[frame : frame + 1]), ((0, 0), (2, 2), (2, 2)), mode="edge")
        seen.append(padded[:, top : top + SIDE + 4, left : left + SIDE + 4])
        wanted.append(stack_planes(source[frame : frame + 1])[cut])
    return np.stack(seen), np.stack(wanted)


def _error(one: Frames, other: Frames) -> int:
    return sum(
        squared_error(a[t], b[t]) for a, b in zip(one.planes(), other.planes(), strict=True) for t in range(len(one))
    )
