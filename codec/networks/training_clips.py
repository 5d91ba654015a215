"""Clips to train shipped networks on, made from nothing that any benchmark or demo shows.

Owns making them. Dead leaves (overlapping shapes, a power law of sizes) have the edge and contrast statistics of
photographs, and networks trained on them restore photographs nearly as well (Achddou, Gousseau and Ladjal, 2021). Their
leaves are filled with flat colours, gradients, or pieces of photographs: by default those that scikit-image carries,
except coffee, astronaut and chelsea, which the demo clip is made of; or those of `training_photographs.sha256`. Lines
of text are drawn over some. Everything is seeded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from codec.frames import Frames
from codec.pixels import rgb_to_planes

_Picture = npt.NDArray[np.uint8]
_Random = np.random.Generator

CANVAS = 448
GREY = ("camera", "brick", "grass", "gravel", "coins", "moon", "page", "text", "cell")
COLOUR = ("rocket", "hubble_deep_field", "immunohistochemistry", "retina")

# In the format of sha256sum. They come with Debian's packages lomiri-wallpapers-16.04 20.04.0-2 (CC0, CC-BY and
# CC-BY-SA), mate-backgrounds 1.26.0-1 and plasma-workspace-wallpapers 4:5.27.5-2 (both GPL-2 or later).
LISTED = Path(__file__).with_name("training_photographs.sha256")


@dataclass(frozen=True)
class Photographs:
    """What clips are made of.

    share   of layers that are one photograph; the others are dead leaves
    text    share of layers that lines of text are drawn over
    colour  how far photographs are recoloured, at most
    """

    pictures: tuple[_Picture, ...]
    share: float = 0.5
    text: float = 0.25
    colour: float = 1.0


def training_clip(seed: int, size: int, count: int, photographs: Photographs | None = None) -> Frames:
    """`count` frames of `size` x `size`: a background that drifts, turns and zooms, a foreground over it."""
    rng = np.random.default_rng(seed)
    photographs = photographs or carried_photographs()
    back, front = _scene(rng, photographs), _scene(rng, photographs)
    mask = _blob(rng)
    noise = rng.choice([0.0, 0.0, 1.5, 4.0])
    blur = rng.choice([0.0, 0.0, 0.8, 1.5])
    moves = [_Motion(rng), _Motion(rng)]
    pictures = []
    for time in range(count):
        layers = [move.apply(picture, time, size) for move, picture in zip(moves, (back, front), strict=True)]
        cover = moves[1].apply(mask, time, size)[..., None].astype(np.float32) / 255
        picture = layers[0] * (1 - cover) + layers[1] * cover
        if blur:
            picture = cv2.GaussianBlur(picture, (0, 0), float(blur))
        picture = picture + rng.normal(0, noise, picture.shape) if noise else picture
        pictures.append(rgb_to_planes(np.clip(np.round(picture), 0, 255).astype(np.uint8)))
    y, u, v = (np.stack(planes) for planes in zip(*pictures, strict=True))
    return Frames(y, u, v)


class _Motion:
    """A slow similarity transform: one third of the layers stand still."""

    def __init__(self, rng: _Random) -> None:
        still = rng.random() < 0.33
        self.shift = np.zeros(2) if still else rng.normal(0, 2.0, 2)
        self.turn = 0.0 if still else rng.normal(0, 0.3)
        self.zoom = 1.0 if still else 1 + rng.normal(0, 0.004)

    def apply(self, picture: _Picture, time: int, size: int) -> npt.NDArray[np.float32]:
        centre = CANVAS / 2
        matrix = cv2.getRotationMatrix2D((centre, centre), self.turn * time, self.zoom**time)
        matrix[:, 2] += self.shift * time - (CANVAS - size) / 2
        moved: npt.NDArray[np.float32] = cv2.warpAffine(
            picture, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        ).astype(np.float32)
        return moved


def _scene(rng: _Random, photographs: Photographs) -> _Picture:
    picture = _photograph(rng, photographs) if rng.random() < photographs.share else _dead_leaves(rng, photographs)
    if rng.random() < photographs.text:
        _draw_text(picture, rng)
    return picture


def _dead_leaves(rng: _Random, photographs: Photographs) -> _Picture:
    """Drawn at twice the size, back to front, large to small on average."""
    side = 2 * CANVAS
    canvas = cv2.resize(_photograph(rng, photographs), (side, side))
    smallest, largest = 3.0, rng.uniform(80, 300)
    radii = (smallest**-2 + rng.random(700) * (largest**-2 - smallest**-2)) ** -0.5
    radii = np.concatenate([rng.uniform(40, largest, 60), np.maximum(radii, 5)])
    photograph = cv2.resize(_photograph(rng, photographs), (side, side))
    for radius in radii:
        mask = np.zeros((side, side), np.uint8) if radius > 60 else None
        centre = tuple(int(value) for value in rng.integers(0, side, 2))
        colour = tuple(int(value) for value in np.clip(rng.normal(rng.uniform(30, 220), 40, 3), 0, 255))
        if mask is not None and rng.random() < 0.5:
            _shape(mask, centre, radius, (255,), rng)
            contrast, level = rng.uniform(0.2, 1.2), rng.uniform(-40, 60)
            filled = np.clip(photograph * contrast + level, 0, 255).astype(np.uint8)
            cv2.copyTo(filled, mask, canvas)
        else:
            _shape(canvas, centre, radius, colour, rng)
    return np.asarray(cv2.resize(canvas, (CANVAS, CANVAS), interpolation=cv2.INTER_AREA))


def _shape(canvas: _Picture, centre: tuple[int, ...], radius: float, colour: tuple[int, ...], rng: _Random) -> None:
    kind = rng.integers(3)
    if kind == 0:
        cv2.ellipse(
            canvas, centre, (int(radius), int(radius * rng.uniform(0.2, 1))), rng.uniform(0, 180), 0, 360, colour, -1
        )
    elif kind == 1:
        box = cv2.boxPoints((centre, (2 * radius, 2 * radius * rng.uniform(0.1, 1)), rng.uniform(0, 180)))
        cv2.fillConvexPoly(canvas, box.astype(np.int32), colour)
    else:
        corners = np.asarray(centre) + rng.normal(0, radius, (int(rng.integers(3, 7)), 2))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour)


def _draw_text(picture: _Picture, rng: _Random) -> None:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789 .,;(){}=+-"))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    scale = rng.uniform(0.3, 1.2)
    for row in range(int(rng.integers(0, 200)), CANVAS, int(40 * scale)):
        line = "".join(rng.choice(letters, 40))
        cv2.putText(picture, line, (10, row), int(rng.integers(0, 8)), scale, colour, 1, cv2.LINE_AA)


def _blob(rng: _Random) -> _Picture:
    mask = np.zeros((CANVAS, CANVAS), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        _shape(mask, tuple(int(value) for value in rng.integers(100, CANVAS - 100, 2)), 70.0, (255,), rng)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.7))


def _photograph(rng: _Random, photographs: Photographs) -> _Picture:
    """A random crop of a random photograph, turned, mirrored, scaled and recoloured."""
    source = photographs.pictures[int(rng.integers(len(photographs.pictures)))]
    side = int(min(source.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in source.shape[:2])
    crop = np.rot90(source[top : top + side, left : left + side], int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    enlarging = side < CANVAS
    resized = cv2.resize(
        np.ascontiguousarray(crop),
        (CANVAS, CANVAS),
        interpolation=cv2.INTER_CUBIC if enlarging else cv2.INTER_AREA,
    )
    gains, levels = rng.uniform(0.6, 1.2, 3), rng.uniform(-20, 20, 3)
    gains, levels = 1 + (gains - 1) * photographs.colour, levels * photographs.colour
    recoloured: _Picture = np.clip(resized * gains + levels, 0, 255).astype(np.uint8)
    return recoloured


@cache
def carried_photographs() -> Photographs:
    """Those that scikit-image carries."""
    from skimage import data

    grey = [np.repeat(getattr(data, name)()[..., None], 3, axis=2) for name in GREY]
    left, right, _ = data.stereo_motorcycle()
    return Photographs((*grey, *(getattr(data, name)() for name in COLOUR), left, right, left))


def listed_photographs(folder: Path) -> Photographs:
    """Those of `LISTED`, anywhere below `folder`, halved: at full size they show what JPEG left.

    Raises FileNotFoundError where one is missing: they are compared by their contents.
    """
    there = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.rglob("*.*g") if path.is_file()}
    pictures = []
    for line in LISTED.read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        if digest not in there:
            raise FileNotFoundError(f"no picture below {folder} has the contents of {name}")
        picture = cv2.imread(str(there[digest]), cv2.IMREAD_COLOR_RGB)
        assert picture is not None
        pictures.append(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return Photographs(tuple(pictures), share=0.85, text=0.08, colour=0.4)
