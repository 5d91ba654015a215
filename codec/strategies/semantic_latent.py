"""A scene as a few key pictures, each latents for a small network that is fitted to the scene and sent with it.

Owns the payload and the encoder's search. Networks and the fit are `codec.networks.auto_decoder`'s, latents as symbols
`codec.networks.latent_grids`'s, motion and fades `codec.networks.description`'s and
`codec.networks.scene_latents`'s.

    payload: description, flow and temporal latents, weights, latents of each key picture: one entropy-coded stream
    frame = key picture from its latents, moved and brightened as the description and its latents say

What key pictures do not show never appears, so this is for scenes where little is uncovered. It loses to AV1 on
most content; a static scene with noise is where the mean of its frames, coded once, can be worth more than any of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codec.entropy import Coder, Reader, Writer, best_scale, laplace_bits
from codec.errors import BadInputError, BitstreamError
from codec.frames import Frames, VideoFormat
from codec.networks.description import (
    Description,
    SemanticDescriptionGenerator,
    code_description,
)
from codec.networks.latent_grids import Grid, code_grids, grid_shapes
from codec.networks.scene_latents import (
    KeyPictures,
    SceneLatents,
    code_latents,
    find_flows,
    flow_at,
    follow,
    with_tones,
)
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    from codec.networks.auto_decoder import IFrameVAE, LightweightIFrameDecoder

Weights = dict[str, npt.NDArray[np.int16]]

# Squared error that a bit must save, at quality 0 and as a ratio at quality 1
COARSEST_PRICE, PRICE_RATIO = 1500.0, 1 / 300
MAX_SHIFT = 5
LARGEST_WEIGHT, LARGEST_BIAS = 127, 4095


@dataclass(frozen=True)
class Fit:
    """The strategy's options: what is fitted, and how. None of them is sent, so all decode alike."""

    steps: int = 400  # of the descent
    learning_rate: float = 1.0  # of the descent, as a multiple of the usual one
    keys: int = 0  # key pictures; 0: as many as the description asks for
    grids: int = 6  # of latents in use, the finest first
    features: int = 16  # of the network's width in use
    lambda_factor: float = 1.0  # of what a bit must save

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Fit:
        """Raises BadInputError, naming the option and its bounds."""
        unknown = set(options) - set(BOUNDS)
        if unknown:
            raise BadInputError(f"semantic_latent has no option {min(unknown)}: the options are {', '.join(BOUNDS)}")
        return cls(**{name: _number(name, text) for name, text in options.items()})


def _number(name: str, text: str) -> Any:
    least, most = BOUNDS[name]
    kind = "whole number" if isinstance(least, int) else "number"
    pattern = r"\d{1,9}" if isinstance(least, int) else r"\d{1,9}(\.\d{1,9})?"
    value = type(least)(text) if re.fullmatch(pattern, text, re.ASCII) else None
    if value is None or not least <= value <= most:
        raise BadInputError(f"semantic_latent: option {name}={text} is not a {kind} from {least} to {most}")
    return value


# Of whole numbers where the least is one. Fewer than two grids are no pyramid, fewer than six features not all planes.
BOUNDS: Mapping[str, tuple[int, int] | tuple[float, float]] = {
    "steps": (0, 20000),
    "learning_rate": (0.01, 100.0),
    "keys": (0, 255),
    "grids": (2, 6),
    "features": (6, 16),
    "lambda_factor": (0.001, 1000.0),
}


class SemanticLatent:
    """The strategy; see the module. Its options are `Fit`'s."""

    name = "semantic_latent"
    code = 1
    presets = ("default",)

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """Seeded and on one picture size: the same frames and settings give the same bytes on one processor."""
        if settings.scale != "1":
            raise BadInputError(f"{self.name} codes at full size only: leave the scale at 1")
        if settings.preset not in (None, *self.presets):
            raise BadInputError(f"{self.name} has no preset {settings.preset!r}: choose one of {self.presets[0]}")
        options = Fit.of(settings.options)
        description = SemanticDescriptionGenerator().describe(frames, options.keys or None)
        price = options.lambda_factor * COARSEST_PRICE * PRICE_RATIO**settings.quality
        flows = find_flows(frames, description, video, price)
        fitted, targets = _fit(frames, description, flows, price, options)
        weights, grids = _cheaper_weights(fitted, targets, price), fitted.grids()
        network = _decoder_of(weights)
        keys = KeyPictures([_picture(network, latents, video) for latents in grids])
        writer = Writer()
        code_description(writer, description, len(frames))
        code_latents(
            writer, with_tones(flows, frames, keys, description, video, price), description, video, len(frames)
        )
        code_weights(writer, weights, fitted.decoder)
        for latents in grids:
            code_grids(writer, latents, _shapes(video))
        return writer.to_bytes()

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """Exactly `frame_count` frames; the key pictures first, then each frame from its own."""
        from codec.networks.auto_decoder import LightweightIFrameDecoder
        from codec.networks.exact import built, load_integers

        if not payload:
            raise BitstreamError(f"the {self.name} payload is empty")
        reader = Reader(payload)
        description = code_description(reader, None, frame_count)
        latents = code_latents(reader, None, description, video, frame_count)
        network: LightweightIFrameDecoder = built(LightweightIFrameDecoder)
        load_integers(network, code_weights(reader, None, network))
        keys = [_picture(network, code_grids(reader, None, _shapes(video)), video) for _ in description.keys]
        pictures = KeyPictures(keys)
        return Frames.concatenate([follow(pictures, t, description, latents, video) for t in range(frame_count)])


def _decoder_of(weights: Weights) -> LightweightIFrameDecoder:
    from codec.networks.auto_decoder import LightweightIFrameDecoder
    from codec.networks.exact import built, load_integers

    network: LightweightIFrameDecoder = built(LightweightIFrameDecoder)
    load_integers(network, weights)
    return network


def _shapes(video: VideoFormat) -> list[tuple[int, int, int]]:
    from codec.networks.auto_decoder import CHANNELS

    return grid_shapes(video.chroma_height, video.chroma_width, CHANNELS)


def _fit(
    frames: Frames, description: Description, flows: SceneLatents, price: float, options: Fit
) -> tuple[IFrameVAE, npt.NDArray[np.float32]]:
    """Networks fitted to the key pictures. A key that others follow unmoved is the mean of them all."""
    import torch

    from codec.networks.auto_decoder import IFrameVAE
    from codec.networks.enhancement import stack_planes

    targets = []
    for place, key in enumerate(description.keys):
        alike = [
            t for t in range(len(frames)) if description.key_of(t) == place and not _moves(t, description, flows)
        ] or [int(key)]
        total = sum(stack_planes(frames[t : t + 1]).astype(np.float32) for t in alike)
        targets.append(np.asarray(total, np.float32) / len(alike))
    stacked: npt.NDArray[np.float32] = np.stack(targets).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        count, _, height, width = stacked.shape
        fitted = IFrameVAE(count, height, width, options.grids, options.features)
        # A bit serves all frames that follow from the key, so it may cost so many times the error.
        fitted.fit(stacked, price * len(description.keys) / len(frames), options.steps, options.learning_rate)
    return fitted, stacked


def _moves(frame: int, description: Description, latents: SceneLatents) -> bool:
    return bool(description.moves[frame].any()) or flow_at(frame, description, latents) is not None


def _picture(network: LightweightIFrameDecoder, grids: list[Grid], video: VideoFormat) -> Frames:
    from codec.networks.auto_decoder import joined
    from codec.networks.enhancement import from_phases
    from codec.networks.exact import as_tensor, exact_arithmetic

    with exact_arithmetic():
        latents = [as_tensor(grid)[None].float() for grid in grids]
        planes = network.to(latents[0].device)(joined(latents))[0].clamp(0, 255).byte().cpu().numpy()
    return Frames(from_phases(planes[:4], video.height, video.width)[None], planes[4:5], planes[5:6])


def code_weights(coder: Coder, told: Weights | None, network: LightweightIFrameDecoder) -> Weights:
    """Each tensor: how far its integers are shifted, which table, the integers."""
    read: Weights = {}
    for name, parameter in network.named_parameters():
        largest = LARGEST_BIAS if name.endswith("bias") else LARGEST_WEIGHT
        given = np.zeros(0, np.int32) if told is None else told[name].astype(np.int32)
        shift = coder.number(_common_shift(given), 3)
        scale = coder.number(best_scale(given >> shift, largest) if told else 0, 5)
        values = coder.laplace(given >> shift, parameter.numel(), scale, largest)
        whole = np.clip(values.astype(np.int32) << shift, -largest, largest)
        read[name] = whole.reshape(tuple(parameter.shape)).astype(np.int16)
    return read


def _common_shift(values: Grid) -> int:
    return next(shift for shift in range(MAX_SHIFT, -1, -1) if not (values & (1 << shift) - 1).any())


def _cheaper_weights(fitted: IFrameVAE, targets: npt.NDArray[np.float32], price: float) -> Weights:
    """The fitted weights, each tensor in the coarsest step whose bits saved outweigh the error added."""
    from codec.networks.auto_decoder import LightweightIFrameDecoder, joined
    from codec.networks.exact import as_tensor, built, exact_arithmetic, integers_of, load_integers

    latents = [as_tensor(np.stack(level)).float() for level in zip(*fitted.grids(), strict=True)]
    wanted = as_tensor(targets)
    network: LightweightIFrameDecoder = built(LightweightIFrameDecoder).to(wanted.device)

    def cost(weights: Weights) -> float:
        load_integers(network, weights)
        with exact_arithmetic():
            error = float((network(joined(latents)).clamp(0, 255) - wanted).double().square().sum())
        return error + price * sum(_weight_bits(values) for values in weights.values())

    best = {
        name: np.clip(values, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int16)
        for name, values in integers_of(fitted.decoder).items()
    }
    lowest = cost(best)
    for name, values in integers_of(fitted.decoder).items():
        for shift in range(1, MAX_SHIFT + 1):
            largest = (LARGEST_BIAS if name.endswith("bias") else LARGEST_WEIGHT) >> shift
            coarse = np.clip(values.astype(np.int32) + (1 << shift - 1) >> shift, -largest, largest) << shift
            trial = best | {name: coarse.astype(np.int16)}
            now = cost(trial)
            if now >= lowest:
                break
            best, lowest = trial, now
    return best


def _weight_bits(values: npt.NDArray[np.int16]) -> float:
    wide = values.astype(np.int32)
    wide = wide >> _common_shift(wide)
    largest = max(LARGEST_WEIGHT, int(np.abs(wide).max()))
    return laplace_bits(wide, best_scale(wide, largest), largest) + 8


STRATEGY = SemanticLatent()
