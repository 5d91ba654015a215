"""`IFrameVAE`: pictures as hierarchical latents and a small network that makes pictures of them, fitted to one scene.

Owns the networks and the fit. How latents and weights become bytes is `codec.strategies.semantic_latent`'s.

    latents int8: [4, h, w], [3, h/2, w/2], ... six grids, h = H/2, w = W/2
       times 16, each grid doubled (1/4, 3/4 between neighbours) until it is [h, w]: [19, h, w]
    LightweightIFrameDecoder: 1x1, 19 -> 16; 2 x: x + 1x1(ReLU(depthwise 3x3)); 1x1, 16 -> 6: sixteenths of a grey level
    --> four luma phases, U, V around 128

1200 multiply-accumulates for each half-size sample: 300 for each luma sample. There is no encoder
network: latents start as a Laplacian pyramid, which the decoder at first just adds up, and both are then fitted to the
picture by gradient descent (an auto-decoder, as in Cool-chic and C3), with the uniform noise of a variational
autoencoder's posterior in place of rounding at first, and rounded in the end.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.networks.exact import IntegerConv, as_tensor, round_through, shift_down
from codec.networks.latent_grids import LARGEST, Grid, grid_shapes

CHANNELS = (4, 3, 3, 3, 3, 3)
WIDTH, BLOCKS = 16, 2
PLANES = 6
LATENT_BITS = 4
LARGEST_ACTIVATION = 2047
MIDDLE = 128
TAIL_SHIFT = 7  # a latent of 1 is 8 grey levels where the weights on its way are 1
NOISY_SHARE = 0.4
LATENT_RATE, WEIGHT_RATE = 0.04, 0.004
# Steps of a uniform quantiser at a slope of distortion over rate: sqrt(12 / (2 ln 2) · slope)
STEP_AT_SLOPE_1 = 2.94
LARGEST_STEP = 15.6


class LightweightIFrameDecoder(nn.Module):  # type: ignore[misc]
    """Latents at one size [N, 19, h, w] to planes [N, 6, h, w], all integers in floats; exact."""

    def __init__(self) -> None:
        super().__init__()
        inputs = sum(CHANNELS)
        self.head = IntegerConv(inputs, WIDTH, largest_input=(LARGEST + 1) << LATENT_BITS)
        self.spread = nn.ModuleList(
            IntegerConv(WIDTH, WIDTH, 3, groups=WIDTH, largest_input=LARGEST_ACTIVATION) for _ in range(BLOCKS)
        )
        self.mix = nn.ModuleList(IntegerConv(WIDTH, WIDTH, largest_input=LARGEST_ACTIVATION) for _ in range(BLOCKS))
        self.tail = IntegerConv(WIDTH, PLANES, largest_input=LARGEST_ACTIVATION)

    def forward(self, latents: Tensor) -> Tensor:
        x = functional.pad(latents, (BLOCKS,) * 4, mode="replicate")
        x = _limited(shift_down(self.head(x), 6))
        for spread, mix in zip(self.spread, self.mix, strict=True):
            around = _limited(shift_down(spread(x), 6)).relu()
            x = _limited(x[..., 1:-1, 1:-1] + shift_down(mix(around), 6))
        return shift_down(self.tail(x), TAIL_SHIFT) + MIDDLE


class IFrameVAE(nn.Module):  # type: ignore[misc]
    """The latents of N pictures and their decoder, as parameters to fit."""

    def __init__(self, count: int, height: int, width: int, grids: int = len(CHANNELS), features: int = WIDTH) -> None:
        """`grids` (2 or more) and `features` (PLANES or more) in use; the others stay 0 and cost next to nothing."""
        super().__init__()
        self.used, self.features = grids, features
        shapes = grid_shapes(height, width, CHANNELS)
        self.latents = nn.ParameterList(nn.Parameter(torch.zeros(count, *shape)) for shape in shapes)
        self.decoder = LightweightIFrameDecoder()

    def fit(self, targets: npt.NDArray[np.float32], price: float, steps: int, learning: float = 1.0) -> None:
        """Lower squared error + price · bits a sample. targets: [N, 6, h, w]; the same on every run of one machine
        that computes on its processor.

        learning  multiplies both rates of the descent, which fall to 0 along half a cosine
        """
        wanted = as_tensor(targets)
        self.to(wanted.device)
        self._start_as_pyramid(wanted, min(LARGEST_STEP, STEP_AT_SLOPE_1 * math.sqrt(price)))
        descents = [
            Adam(list(self.latents.parameters())[: self.used], learning * LATENT_RATE),
            Adam(list(self.decoder.parameters()), learning * WEIGHT_RATE),
        ]
        generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            noisy = step < NOISY_SHARE * steps
            seen = [
                _perturbed(latent, generator) if noisy else _rounded(latent) for latent in self.latents[: self.used]
            ]
            error = (self.decoder(joined([*seen, *self.latents[self.used :]])) - wanted).square().sum()
            bits = torch.stack([_estimated_bits(latent) for latent in seen]).sum()
            ((error + price * bits) / wanted.numel()).backward()
            for descent in descents:
                descent.step(0.5 + 0.5 * math.cos(math.pi * step / steps))

    def _start_as_pyramid(self, wanted: Tensor, step: float) -> None:
        """Latents in units of `step` grey levels on the finest grid, finer by 2 a grid on coarser ones."""
        centred = wanted - MIDDLE
        coarse = torch.cat([centred[:, :4].mean(1, keepdim=True), centred[:, 4:]], 1)
        levels = [coarse]
        for latent in self.latents[1:]:
            levels.append(functional.interpolate(levels[-1], size=latent.shape[2:], mode="area"))
        shares = [max(0.5**level, 0.125) for level in range(len(CHANNELS))]
        above = None
        for level in range(self.used - 1, 0, -1):
            unit = step * shares[level]
            detail = levels[level] if above is None else levels[level] - _stretched(above, levels[level])
            with torch.no_grad():
                self.latents[level].copy_((detail / unit).clamp(-LARGEST, LARGEST))
            rounded = _rounded(self.latents[level]).detach() * unit
            above = rounded if above is None else _stretched(above, rounded) + rounded
        assert above is not None
        with torch.no_grad():
            self.latents[0].copy_(((centred[:, :4] - _stretched(above, coarse)[:, :1]) / step).clamp(-LARGEST, LARGEST))
            self._start_decoder(step, shares)

    def _start_decoder(self, step: float, shares: list[float]) -> None:
        """Weights by which the decoder adds the pyramid up: features 0 to 3 are the luma phases, 4 and 5 U and V."""
        head, tail = self.decoder.head.conv, self.decoder.tail.conv
        head.weight.mul_(0.05)
        tail.weight.mul_(0.05)
        for layer in (*self.decoder.mix, self.decoder.head, self.decoder.tail):
            layer.conv.bias.zero_()
        for mix in self.decoder.mix:
            mix.conv.weight.mul_(0.1)
        first = 0
        for count, share in zip(CHANNELS, shares, strict=True):
            for feature in range(4):
                head.weight[feature, first + (feature if count == 4 else 0)] = share
            for chroma in (1, 2) if count == 3 else ():
                head.weight[3 + chroma, first + chroma] = share
            first += count
        for feature in range(PLANES):
            tail.weight[feature, feature] = min(step / 8, 1.95)
        if self.features < WIDTH:
            self._silence()

    def _silence(self) -> None:
        """Features that begin at 0 on every way in and out have no gradient, and so stay there."""
        unused = slice(self.features, None)
        for layer in (self.decoder.head, *self.decoder.spread, *self.decoder.mix):
            layer.conv.weight[unused] = 0
            layer.conv.bias[unused] = 0
        for layer in (*self.decoder.mix, self.decoder.tail):
            layer.conv.weight[:, unused] = 0

    def grids(self) -> list[list[Grid]]:
        """Rounded latents of each picture, fine to coarse."""
        rounded = [_rounded(latent).detach().cpu().numpy().astype(np.int32) for latent in self.latents]
        return [[grid[picture] for grid in rounded] for picture in range(len(rounded[0]))]


class Adam:
    """Adam (Kingma and Ba, 2015). torch.optim's first use imports a compiler, which takes longer than a small fit."""

    def __init__(self, parameters: list[Tensor], rate: float) -> None:
        self._state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._rate, self._steps = rate, 0

    def step(self, share: float) -> None:
        """One step of `share` of the rate, by the gradients, which are then dropped."""
        self._steps += 1
        first, second = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        with torch.no_grad():
            for parameter, mean, square in self._state:
                mean.lerp_(parameter.grad, 0.1)
                square.lerp_(parameter.grad.square(), 0.001)
                parameter -= share * self._rate / first * mean / ((square / second).sqrt() + 1e-8)
                parameter.grad = None


def joined(latents: list[Tensor]) -> Tensor:
    """Latents of all sizes, fine to coarse, to [N, 19, h, w] at the finest size, times 16."""
    coarse = latents[-1] * 2**LATENT_BITS
    for latent in latents[-2::-1]:
        coarse = torch.cat([latent * 2**LATENT_BITS, _doubled(coarse, latent.shape[2], latent.shape[3])], 1)
    return coarse


def _doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Twice the size by linear interpolation, rounded after each direction; cropped."""
    taller = _doubled_along_rows(x.transpose(2, 3)).transpose(2, 3)
    return _doubled_along_rows(taller)[..., :height, :width]


def _doubled_along_rows(x: Tensor) -> Tensor:
    padded = torch.cat([x[..., :1], x, x[..., -1:]], -1)
    middle = 3 * padded[..., 1:-1]
    pairs = torch.stack([middle + padded[..., :-2], middle + padded[..., 2:]], -1)
    return shift_down(pairs.flatten(-2), 2)


def _stretched(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _limited(x: Tensor) -> Tensor:
    return x.clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def _rounded(latent: Tensor) -> Tensor:
    return round_through(latent).clamp(-LARGEST, LARGEST)


def _perturbed(latent: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(latent.shape, generator=generator).to(latent.device)
    return (latent + noise - 0.5).clamp(-LARGEST, LARGEST)


def _estimated_bits(latent: Tensor) -> Tensor:
    """What coding might spend: Laplace's law, as wide as the latents around are large. For fitting only."""
    size = latent.detach().abs()
    around = functional.avg_pool2d(size, 3, 1, 1, count_include_pad=False)
    width = (0.7 * around + 0.3 * size.mean((2, 3), keepdim=True)).clamp_min(0.08)
    distance = latent.abs()
    low, high = torch.exp(-(distance - 0.5).abs() / width), torch.exp(-(distance + 0.5) / width)
    inside = distance < 0.5
    share = torch.where(inside, 1 - 0.5 * low - 0.5 * high, 0.5 * (low - high))
    # Far out the two exponentials vanish: go on as a straight line, so that the gradient never does.
    tail = (distance - 0.5) / width / math.log(2) + 1
    return torch.where(share > 1e-5, -torch.log2(share.clamp_min(1e-5)), tail).sum()
