"""The starting population: complete candidates that a designer may take as a parent or learn the contract from.

Owns which they are and in which order. What they cost and bring is measured like anything else; whether a prompt shows
one is the prompt's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from tasks.candidate import Candidate, Lineage

SEEDS: Final = Path(__file__).parent / "seeds"

# By folder, simplest first, each with what it is an example of.
STARTS: Final = {
    "evocodec": "the project's own codec, with every strategy that it has",
    "av1": "SVT-AV1 over the whole clip: the shortest complete candidate",
    "enhanced": "a tiny network over SVT-AV1, fitted to the clip, with its weights in the bitstream",
    "autoencoder": "an autoencoder fitted to the clip: latents and the synthesis network in the bitstream",
    "scene_latents": "one set of latents for each scene, then motion and what it misses for each frame",
}


@cache
def starting_population() -> tuple[Candidate, ...]:
    """The candidates under seeds/, each with its name as id and what it shows as hypothesis."""
    return tuple(
        Candidate.load(SEEDS / name).model_copy(
            update={"lineage": Lineage(id=name, designer="seed", hypothesis=hypothesis, change_class="draft")}
        )
        for name, hypothesis in STARTS.items()
    )
