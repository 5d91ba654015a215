"""AV1, and a tiny network fitted to this clip that restores some of what AV1 lost. Its weights are in the bytes.

    clip --SVT-AV1--> payload --dav1d--> pictures --Restorer--> better pictures
                                          fitted to the clip ^

    bytes: width, height, frames (2 each), length of the payload (4), payload, weights; no weights where they do not pay

Only the last layer is fitted, so that least squares does it at once, at the same cost for every clip. Gradient descent
on all layers of a network this small took 50 times as long and found less.
"""

import struct
from fractions import Fraction

import numpy as np
import torch
from decoder import (
    LARGEST,
    ONE,
    Restorer,
    code_weights,
    restored,
)  # the encoder may import the decoder, not the reverse

from codec import strategies
from codec.entropy import Writer
from codec.frames import Frames, VideoFormat
from codec.quality import squared_error
from codec.rate_distortion import lambda_of_quality
from codec.strategies.protocol import EncodeSettings

SEEN = 12  # frames that the fit looks at, spread over the clip: the encoder's time is limited, the clip's length is not
RIDGE = 1e-3


def compress_video_tensor(frames: torch.Tensor, config: dict, device: str) -> dict:
    pixels = frames[0].numpy()
    count, _, height, width = pixels.shape
    source = Frames(
        np.ascontiguousarray(pixels[:, 0]),
        np.ascontiguousarray(pixels[:, 1, ::2, ::2]),
        np.ascontiguousarray(pixels[:, 2, ::2, ::2]),
    )
    video = VideoFormat(width, height, Fraction(config["frame_rate"]))
    settings = EncodeSettings(config["quality"], config["preset"], config["scale"], tuple(config["crf_range"]))
    base = strategies.get("av1")
    payload = base.encode(source, video, settings)
    pictures = base.decode(payload, video, count)  # what the decoder will see, not what went in
    weights = np.stack([_fitted(*planes) for planes in zip(source.planes(), pictures.planes(), strict=True)])
    writer = Writer()
    code_weights(writer, weights)
    coded = writer.to_bytes()
    # Decoded by the decoder's own function: what counts is what the decoder makes of it, rounding and all.
    saved = _error(source, pictures) - _error(source, restored(pictures, weights))
    price = lambda_of_quality(config["quality"])  # squared error that one bit must save
    pays = saved > price * 8 * len(coded)
    head = struct.pack("<HHHI", width, height, count, len(payload))
    # Whatever else is returned is recorded as a claim, for people and designers to read. It counts for nothing.
    return {"compressed_data": head + payload + (coded if pays else b""), "weights_bytes": len(coded), "pays": pays}


def _fitted(source: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """The last layer's weights for one plane, whole numbers of 1/ONE: what least squares says of a few frames."""
    network = Restorer()
    power, match = 0.0, 0.0
    for index in np.unique(np.linspace(0, len(source) - 1, SEEN).round().astype(int)):
        seen = torch.from_numpy(pictures[index]).float()[None, None]
        with torch.no_grad():
            features = network.features(seen)[0].flatten(1).numpy()
        missing = (source[index].astype(np.float32) - pictures[index]).ravel()
        power = power + (features @ features.T).astype(np.float64)
        match = match + (features @ missing).astype(np.float64)
    power += RIDGE * (np.trace(power) / len(power) + 1) * np.eye(len(power))
    return np.clip(np.round(np.linalg.solve(power, match) * ONE), -LARGEST, LARGEST).astype(np.int32)


def _error(one: Frames, other: Frames) -> int:
    planes = zip(one.planes(), other.planes(), strict=True)
    return sum(squared_error(a[index], b[index]) for a, b in planes for index in range(len(a)))
