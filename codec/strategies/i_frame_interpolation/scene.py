"""What a payload says once of its scene, before the frames.

Owns the head of the entropy-coded stream. The description is `codec.networks.description`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from codec.entropy import AdaptiveFlag, Coder
from codec.errors import BitstreamError
from codec.networks.description import Description, code_description
from codec.strategies.i_frame_interpolation.transform import STEPS

DISTANCES = (2, 4, 8, 16, 32)
DEEPEST = 3


@dataclass(frozen=True)
class SceneSymbols:
    """What is said of a whole scene.

    distance     frames from one key frame to the next
    step         the quantiser's index at the top of the pyramid
    increase     by how much it grows with each depth
    description  what happens in the scene; there where a generator is used
    generator    the shipped generator's code
    enhancer     the shipped enhancer's code; None where none is used
    weight       of the enhancer's residual, in quarters
    """

    distance: int
    step: int
    increase: int
    description: Description | None = None
    generator: int = 0
    enhancer: int | None = None
    weight: int = 4

    def step_at(self, depth: int) -> int:
        """The quantiser's index so deep in the pyramid."""
        return min(self.step + self.increase * min(depth, DEEPEST), STEPS - 1)


def code_scene(coder: Coder, told: SceneSymbols | None, count: int) -> SceneSymbols:
    """Write `told`, or read where it is None; count: frames of the scene."""
    given = told or SceneSymbols(DISTANCES[0], 0, 0)
    index = coder.number(DISTANCES.index(given.distance), 3)
    if index >= len(DISTANCES):
        raise BitstreamError(f"the i_frame_interpolation payload has an unknown distance code {index}")
    step, increase = coder.number(given.step, 6), coder.number(given.increase, 2)
    generator, description = 0, None
    if coder.flag(given.description is not None, AdaptiveFlag()):
        generator = coder.number(given.generator, 4)
        description = code_description(coder, given.description, count)
    enhancer, weight = None, given.weight
    if coder.flag(given.enhancer is not None, AdaptiveFlag()):
        enhancer, weight = coder.number(given.enhancer or 0, 4), coder.number(given.weight - 1, 2) + 1
    return SceneSymbols(DISTANCES[index], step, increase, description, generator, enhancer, weight)
