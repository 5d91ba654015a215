"""An autoencoder overfitted to the clip: an analysis network here, a synthesis network and latents in the bytes.

    clip --analysis: 8x8x8 samples -> 8x8x8 latents--> rounded, entropy-coded --Synthesis--> clip
           both fitted to this clip together, on random patches

Both begin as the discrete cosine transform, which is already a fair codec, and are then moved by gradient descent
towards less squared error + price · bits. The fit costs the same whatever the size of the clip.

    bytes: frames, height, width, step (2 each), then one entropy-coded stream: weights, latents of Y, U and V
"""

import math
import struct

import numpy as np
import torch
from decoder import BANDS, LARGEST, ONE, SIDE, band_of, code_latents, code_weights, cosines

from codec.entropy import Writer
from codec.networks.auto_decoder import Adam

PATCH = (8, 64, 64)  # frames, rows, columns of luma that one step of the fit looks at
# Below this share of a step a latent becomes 0: its bits would buy less than those of its neighbours.
DEAD_ZONE = 0.62


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    torch.manual_seed(1)  # the same clip must give the same bytes again: noise between two encodes counts against you
    pixels = frames[0]
    count, _, height, width = pixels.shape
    coarsest, finest = config["coarsest_step"], config["finest_step"]
    step = round(coarsest * (finest / coarsest) ** config["quality"])
    planes = (pixels[:, 0], pixels[:, 1, ::2, ::2], pixels[:, 2, ::2, ::2])
    analysis, synthesis = _fitted(planes[0], step, config)
    writer = Writer()
    code_weights(writer, [_whole(matrix) for matrix in synthesis])
    for plane in planes:
        code_latents(writer, _latents(analysis, plane, step), plane.shape)
    return {"compressed_data": struct.pack("<HHHH", count, height, width, step) + writer.to_bytes()}


def _fitted(plane: torch.Tensor, step: int, config: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Three matrices each, along time, rows and columns, for analysis and synthesis."""
    analysis = [torch.from_numpy(cosines()).float().requires_grad_() for _ in range(3)]
    synthesis = [torch.from_numpy(cosines()).float().requires_grad_() for _ in range(3)]
    descent = Adam([*analysis, *synthesis], config["learning_rate"])
    # Of a bit in squared error: the slope of a uniform quantiser at this step, or a multiple of it.
    price = config["lambda_factor"] * 0.115 * step**2
    steps = config["training_steps"]
    bands = torch.from_numpy(band_of())
    for number in range(steps):
        wanted = _blocks(_random_patch(plane)).float() - 128
        latents = _through(wanted, analysis) / step
        sent = latents + (_rounded(latents) - latents).detach()  # the gradient passes as if nothing were rounded
        error = (_through(sent * step, [matrix.T for matrix in synthesis]) - wanted).square().sum()
        # Bits by Laplace's law, as wide in each band as its latents are large.
        size = latents.abs().flatten(0, 2).mean(0)
        width = torch.zeros(BANDS).index_add(0, bands.flatten(), size.flatten())
        width = width / torch.bincount(bands.flatten(), minlength=BANDS) + 0.05
        cost = latents.abs() / width[bands] / math.log(2) + torch.log2(1 + 2 * width[bands])
        bits = cost[..., bands > 0].sum()  # not of means: of those only differences are coded
        ((error + price * bits) / wanted.numel()).backward()
        descent.step(0.5 + 0.5 * math.cos(math.pi * number / steps))
    return [matrix.detach() for matrix in analysis], [matrix.detach() for matrix in synthesis]


def _random_patch(plane: torch.Tensor) -> torch.Tensor:
    cut = []
    for size, most in zip(plane.shape, PATCH, strict=True):
        start = int(torch.randint(max(1, size - most + 1), ()))
        cut.append(slice(start, start + most))
    return plane[tuple(cut)]


def _blocks(plane: torch.Tensor) -> torch.Tensor:
    """[T, H, W] to [T/8, H/8, W/8, 8, 8, 8]; the last frame, row and column repeat where 8 does not divide."""
    index = [torch.arange(-(-size // SIDE) * SIDE).clamp(max=size - 1) for size in plane.shape]
    whole = plane[index[0]][:, index[1]][:, :, index[2]]
    t, h, w = (len(line) // SIDE for line in index)
    return whole.reshape(t, SIDE, h, SIDE, w, SIDE).permute(0, 2, 4, 1, 3, 5)


def _through(blocks: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    return torch.einsum("...tyx,at,by,cx->...abc", blocks, *matrices)


def _latents(analysis: list[torch.Tensor], plane: torch.Tensor, step: int) -> np.ndarray:
    """Eight frames at a time, so that memory does not grow with the clip."""
    found = []
    for first in range(0, len(plane), SIDE):
        exact = _through(_blocks(plane[first : first + SIDE]).float() - 128, analysis) / step
        found.append(_rounded(exact).clamp(-LARGEST, LARGEST).numpy().astype(np.int32))
    return np.concatenate(found)


def _rounded(latents: torch.Tensor) -> torch.Tensor:
    return torch.sign(latents) * torch.floor(latents.abs() + 1 - DEAD_ZONE)


def _whole(matrix: torch.Tensor) -> np.ndarray:
    """In units of 1 / ONE, as the decoder computes."""
    return np.round(matrix.numpy() * ONE).astype(np.int32)
