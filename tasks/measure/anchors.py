"""The anchors: traditional encoders at their own best practice, through the same door as every candidate.

Owns which encoders, and their settings, which travel with every record as the candidate's config. Each is the
project's own codec bound to one encoder, and is charged its elementary stream alone.

Fair means: tuned for PSNR, which is what curves are compared by, besides the encoder's preset; B-frames and all tools
of the preset on; one key frame at the start and wherever the encoder itself sees a cut; a rate range wide enough to
overlap with any sensible candidate. Tuning and key frames are the strategies' own defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tasks.candidate import Candidate, Lineage

# Six points from visibly bad to visually lossless.
ANCHOR_QUALITIES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

SEED: Final = Path(__file__).parents[1] / "design" / "seeds" / "evocodec"

# The whole clip is one scene, so that the encoder is not cut off from its references, up to the largest scene that the
# bitstream allows (517 frames of 1080p). `quality_range` is the CRF at quality 0 and at quality 1.
_WHOLE_CLIP: Final = {"scene_cuts": False, "max_scene_frames": 65536}
ANCHORS: Final[dict[str, dict[str, Any]]] = {
    "x265-medium": {"strategy": "x265", "preset": "medium", "quality_range": [44, 16], **_WHOLE_CLIP},
    "svtav1-p6": {"strategy": "av1", "preset": "6", "quality_range": [66, 18], **_WHOLE_CLIP},
}


def anchor_candidates() -> dict[str, Candidate]:
    """Each anchor by its name, as a candidate that `evaluate` runs with `count_payload_only`."""
    files = Candidate.load(SEED).files
    return {
        name: Candidate(
            files=files,
            config=config,
            lineage=Lineage(id=name, designer="anchor", hypothesis="What others are compared with."),
        )
        for name, config in ANCHORS.items()
    }
