"""`SemanticDescriptionGenerator`: what happens in a scene, said in a few bits a frame.

Owns the description: the scene's class and noise, and how each frame follows from key pictures by global motion and a
change of level. How a frame is made from it, and what moves beyond it, is `codec.networks.scene_latents`'s; what key
pictures look like `codec.networks.auto_decoder`'s; the class of a scene `codec.scenes`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt

from codec.entropy import AdaptiveFlag, Coder, best_scale
from codec.errors import BitstreamError
from codec.frames import Frames, Plane
from codec.networks.motion import shifted
from codec.scenes import SceneClass, SceneClassifier

Numbers = npt.NDArray[np.int32]
# Their places are their codes.
CLASSES: tuple[SceneClass, ...] = get_args(SceneClass)

LARGEST_SHIFT, LARGEST_LEVEL = 255, 63
MAX_KEYS = 255
KEY_DISTANCE = 12
LARGEST_NOISE = 31
# In the place of the number of keys: class and noise follow. Descriptions had none once.
TELLS_CLASS = 255
FIELDS = ((0, LARGEST_SHIFT), (1, LARGEST_SHIFT), (2, LARGEST_LEVEL))


@dataclass(frozen=True)
class Description:
    """How the frames of a scene follow from its key pictures.

    keys         indices of the frames that the key pictures show, rising
    moves        int32 [T, 3]: half samples down and right, grey levels brighter, of each frame against its key picture
    later        bool [T]: the frame follows from the key picture after it, not from the one before
    scene_class  None in descriptions that do not tell it
    noise        half grey levels of sigma, at most 31
    """

    keys: Numbers
    moves: Numbers
    later: npt.NDArray[np.bool_]
    scene_class: SceneClass | None = None
    noise: int = 0

    def key_of(self, frame: int) -> int:
        """Which key picture a frame follows from."""
        before = int(np.searchsorted(self.keys, frame, side="right")) - 1
        return min(before + int(self.later[frame]), len(self.keys) - 1)


class SemanticDescriptionGenerator:
    """Describes a scene by its frames alone."""

    def describe(self, frames: Frames, key_count: int | None = None) -> Description:
        """Key pictures, evenly spread (one for a static scene, else about one in 12 frames), and every frame's move."""
        count = len(frames)
        features = SceneClassifier().features(frames)
        scene_class, _ = SceneClassifier().classify(features)
        wanted = key_count or (1 if scene_class == "static" else 1 + -(-count // KEY_DISTANCE))
        wanted = min(wanted, count, MAX_KEYS)
        keys = np.arange(wanted, dtype=np.int32) * count // wanted
        noise = min(round(2 * features["noise"]), LARGEST_NOISE)
        plain = Description(keys, np.zeros((count, 3), np.int32), np.zeros(count, bool), scene_class, noise)
        if scene_class == "static":
            return plain
        moves, later = plain.moves.copy(), plain.later.copy()
        for frame in range(count):
            first = plain.key_of(frame)
            trials = [_best_move(frames.y[frame], frames.y[keys[first]])]
            if first + 1 < wanted:
                trials.append(_best_move(frames.y[frame], frames.y[keys[first + 1]]))
            chosen = min(range(len(trials)), key=lambda place: trials[place][0])
            moves[frame], later[frame] = trials[chosen][1], bool(chosen)
        return replace(plain, moves=moves, later=later)


def code_description(coder: Coder, told: Description | None, count: int) -> Description:
    """Write `told`, or read where it is None. Moves are coded as changes from the frame before.

    Raises BitstreamError where the class is none that this version has.
    """
    number = len(told.keys) - 1 if told else 0
    head = coder.number(TELLS_CLASS if told and told.scene_class else number, 8)
    scene_class, noise = None, 0
    if head == TELLS_CLASS:
        code = coder.number(CLASSES.index(told.scene_class) if told and told.scene_class else 0, 3)
        if code >= len(CLASSES):
            raise BitstreamError(f"the description's class {code} is not one of {len(CLASSES)}")
        scene_class, noise = CLASSES[code], coder.number(told.noise if told else 0, 5)
        head = coder.number(number, 8)
    number = head + 1
    number = min(number, count, MAX_KEYS)
    keys = np.arange(number, dtype=np.int32) * count // number
    moves = np.zeros((count, 3), np.int32)
    for field, largest in FIELDS:
        changes = None if told is None else np.diff(told.moves[:, field], prepend=0).astype(np.int32)
        scale = coder.number(0 if changes is None else best_scale(changes, 2 * largest), 5)
        given = np.zeros(0, np.int32) if changes is None else changes
        read = np.cumsum(coder.laplace(given, count, scale, 2 * largest))
        moves[:, field] = np.clip(read, -largest, largest)
    model = AdaptiveFlag()
    later = np.array([coder.flag(bool(told and told.later[frame]), model) for frame in range(count)], bool)
    return Description(keys, moves, later, scene_class, noise)


def _best_move(current: Plane, key: Plane) -> tuple[float, list[int]]:
    """The squared error and the move of the best of: none, and what phase correlation finds."""
    found = [0, 0]
    if min(current.shape) >= 16:
        window = cv2.createHanningWindow(current.shape[::-1], cv2.CV_32F)
        (right, down), _ = cv2.phaseCorrelate(current.astype(np.float32), key.astype(np.float32), window)
        found = [int(np.clip(round(2 * value), -LARGEST_SHIFT, LARGEST_SHIFT)) for value in (down, right)]
    trials = []
    for down, right in {(0, 0), (found[0], found[1])}:
        difference = current.astype(np.int16) - shifted(key, down, right)
        brighter = int(np.clip(round(float(difference.mean())), -LARGEST_LEVEL, LARGEST_LEVEL))
        error = float(np.square((difference - brighter).astype(np.float32)).mean())
        trials.append((error, [down, right, brighter]))
    return min(trials)
