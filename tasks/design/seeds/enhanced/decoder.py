"""AV1's pictures and, where weights were sent, the network on top of them.

The network computes with integers held in floats (codec.networks.exact), so that every machine decodes the same frames:
they are decoded a second time, elsewhere, and must be the same.

    six planes at half size: four luma phases, U, V --3x3, 6 -> 8, 0 … 255--> --3x3, 8 -> 6--> what to add
"""

import struct
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from codec import strategies
from codec.entropy import Reader, best_scale
from codec.frames import Frames, VideoFormat
from codec.networks.enhancement import from_phases, stack_planes
from codec.networks.exact import LARGEST_WEIGHT, IntegerConv, exact_arithmetic, load_integers, shift_down

HEAD = 10
WIDTH = 8
MARGIN = 2


class Restorer(nn.Module):
    """[N, 6, h + 4, w + 4] grey levels to what they lack, [N, 6, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = IntegerConv(6, WIDTH, 3, largest_input=128)
        self.tail = IntegerConv(WIDTH, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = shift_down(self.head(x - 128), 4).clamp(0, 255)  # quarters of a grey level
        return shift_down(self.tail(x), 8).float()

    def example_inputs(self) -> tuple[torch.Tensor]:
        """One 1080p frame, for counting operations."""
        return (torch.zeros(1, 6, 540 + 2 * MARGIN, 960 + 2 * MARGIN),)


def build_decoder(config: dict) -> Restorer:
    """Optional: lets the harness count this module by thop too."""
    return Restorer()


def decompress_video_tensor(compressed_data: bytes, config: dict, device: str) -> dict:
    width, height, count, length = struct.unpack("<HHHI", compressed_data[:HEAD])
    video = VideoFormat(width, height, Fraction(25))
    pictures = strategies.get("av1").decode(compressed_data[HEAD : HEAD + length], video, count)
    weights = compressed_data[HEAD + length :]
    if weights:
        network = Restorer()
        load_integers(network, code_weights(Reader(weights), None, network))
        pictures = restored(network, pictures, video)
    planes = [torch.from_numpy(pictures.y)]
    for chroma in (pictures.u, pictures.v):
        full = torch.from_numpy(chroma).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        planes.append(full[:, :height, :width])
    return {"reconstructed_frames": torch.stack(planes, dim=1)[None]}


def code_weights(coder, told, network: Restorer) -> dict[str, np.ndarray]:
    """Write `told` with a Writer or read with a Reader: one function is the syntax, so both sides agree."""
    read = {}
    for name, parameter in network.named_parameters():
        values = np.zeros(0, np.int32) if told is None else told[name].astype(np.int32).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
        scale = coder.number(0 if told is None else best_scale(values, LARGEST_WEIGHT), 5)
        coded = coder.laplace(values, parameter.numel(), scale, LARGEST_WEIGHT)
        read[name] = coded.reshape(tuple(parameter.shape)).astype(np.int16)
    return read


def restored(network: Restorer, pictures: Frames, video: VideoFormat) -> Frames:
    """Frame by frame, so that memory does not grow with the clip."""
    out = Frames(*(plane.copy() for plane in pictures.planes()))
    with exact_arithmetic():
        for index in range(len(pictures)):
            seen = stack_planes(pictures[index : index + 1])
            padded = np.pad(seen, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="edge")
            missing = network(torch.from_numpy(padded)[None].float())[0].numpy()
            better = np.clip(seen + missing, 0, 255).astype(np.uint8)
            out.y[index] = from_phases(better[:4], video.height, video.width)
            out.u[index], out.v[index] = better[4], better[5]
    return out
