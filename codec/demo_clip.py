"""The built-in clip: four short scenes that a newcomer can run everything on without a file of their own.

Owns making it, bit for bit the same on every machine, from photographs that scikit-image carries in its wheel (all
public domain or CC0). Real clips come through `codec.video`.

    scene   frames   photograph   what moves                                   hard for
    0        0-23    coffee       nothing but the noise of a sensor            anything that codes noise
    1       24-47    astronaut    a head that turns and nods in a still room   nothing: low motion
    2       48-71    cat          a slow pan that zooms in                     block motion without scaling
    3       72-95    astronaut    a fast sweep, 16 samples a frame             short motion search, interpolation

Positions are integers in 1/256 of a sample and noise is counted bits of a seeded generator, so no library's sine,
remap or normal distribution can change a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from codec.frames import Frames, VideoFormat
from codec.pixels import rgb_to_planes

SCENE_FRAMES = 24
_FORMAT = VideoFormat(width=320, height=180, frame_rate=Fraction(25))
_ONE = 256  # sub-sample positions: 8 fractional bits
_NOISE_SEED = 709

_Photo = npt.NDArray[np.uint8]
_Positions = npt.NDArray[np.int64]

# round(256 · sin(2πk/24)): one turn in a scene
_SINE = (0, 66, 128, 181, 222, 247, 256, 247, 222, 181, 128, 66)
_TURN = (*_SINE, *(-value for value in _SINE))


def demo_clip() -> tuple[VideoFormat, Frames]:
    """The clip: 320x180, 25 frames a second, 96 frames in four scenes with hard cuts."""
    from skimage import data

    scenes = (
        _noisy_still(data.coffee()),
        _talking_head(data.astronaut()),
        _slow_zoom(data.chelsea()),
        _fast_sweep(data.astronaut()),
    )
    pictures = [rgb_to_planes(picture) for scene in scenes for picture in scene]
    y, u, v = (np.stack(planes) for planes in zip(*pictures, strict=True))
    return _FORMAT, Frames(y, u, v)


def _noisy_still(photo: _Photo) -> Iterator[_Photo]:
    """A tripod shot. Noise: set bits of 16 random ones minus 8, a binomial of deviation 2, alike for R, G and B."""
    still = _sample(photo, *_window(left=40, top=60, step=410)).astype(np.int16)
    generator = np.random.PCG64(_NOISE_SEED)
    pixels = _FORMAT.width * _FORMAT.height
    for _ in range(SCENE_FRAMES):
        words = generator.random_raw(pixels // 4).astype("<u8").view("<u2")
        noise = np.bitwise_count(words).astype(np.int16).reshape(_FORMAT.height, _FORMAT.width, 1) - 8
        yield np.clip(still + noise, 0, 255).astype(np.uint8)


def _talking_head(photo: _Photo) -> Iterator[_Photo]:
    """The photograph bends smoothly around the face, by up to 5 samples across and 3 down; its rim stays still."""
    columns, rows = _window(left=20, top=0, step=360)
    face_column, face_row, radius = 225 * _ONE, 115 * _ONE, 115 * _ONE
    distance2 = (columns - face_column) ** 2 + (rows - face_row) ** 2
    pull = np.maximum(0, _ONE - distance2 * _ONE // radius**2) ** 2 // _ONE  # (1 - d²)², smooth at the rim
    for frame in range(SCENE_FRAMES):
        turn, nod = _TURN[frame], _TURN[2 * frame % SCENE_FRAMES]
        yield _sample(photo, columns + pull * turn * 5 // _ONE, rows + pull * nod * 3 // _ONE)


def _slow_zoom(photo: _Photo) -> Iterator[_Photo]:
    for frame in range(SCENE_FRAMES):
        yield _sample(photo, *_window(left=10 + frame, top=20, step=330 - 3 * frame))


def _fast_sweep(photo: _Photo) -> Iterator[_Photo]:
    for frame in range(SCENE_FRAMES):
        yield _sample(photo, *_window(left=4 + 8 * frame, top=4 + 14 * frame, step=_ONE))


def _window(left: int, top: int, step: int) -> tuple[_Positions, _Positions]:
    """Columns and rows of a picture in a photograph, in 1/256: `step` apart, from whole samples (`left`, `top`) on."""
    columns = left * _ONE + step * np.arange(_FORMAT.width, dtype=np.int64)
    rows = top * _ONE + step * np.arange(_FORMAT.height, dtype=np.int64)
    grid_rows, grid_columns = np.meshgrid(rows, columns, indexing="ij")
    return grid_columns, grid_rows


def _sample(photo: _Photo, columns: _Positions, rows: _Positions) -> _Photo:
    """Bilinear samples of [H, W, 3] at positions in 1/256, held at the edges: uint8 [rows, columns, 3]."""
    height, width = photo.shape[:2]
    columns = np.clip(columns, 0, (width - 1) * _ONE)
    rows = np.clip(rows, 0, (height - 1) * _ONE)
    left, top = columns // _ONE, rows // _ONE
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (columns % _ONE)[..., None], (rows % _ONE)[..., None]
    upper = photo[top, left] * (_ONE - across) + photo[top, right] * across
    lower = photo[below, left] * (_ONE - across) + photo[below, right] * across
    mean: _Photo = ((upper * (_ONE - down) + lower * down + _ONE * _ONE // 2) // (_ONE * _ONE)).astype(np.uint8)
    return mean
