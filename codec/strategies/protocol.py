"""The one small contract that every strategy keeps. A strategy is one file; adding one touches only the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from codec.frames import Frames, VideoFormat


@dataclass(frozen=True)
class EncodeSettings:
    """How one scene is to be coded.

    quality        the rate knob in [0, 1]; higher is better and bigger
    preset         the encoder's own name of a speed preset; None is the strategy's default
    scale          coded size over source size: "1", "3/4", "2/3" or "1/2"
    quality_range  the encoder's rate parameter (CRF or QP) at quality 0 and at quality 1; None: the default
    options        further encoder parameters, by the encoder's own names
    base_payload   what the base layer's strategy makes of these settings, where the caller has it already; saves a
                   strategy that has a base layer the work, and changes no byte
    """

    quality: float
    preset: str | None = None
    scale: str = "1"
    quality_range: tuple[float, float] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    base_payload: bytes | None = None


class Strategy(Protocol):
    """A way to code one scene into bytes and back. Stateless: one object serves all scenes and threads."""

    name: str
    code: int  # its byte in the .evc scene header; never reused
    presets: tuple[str, ...]  # what `EncodeSettings.preset` may say, fastest first

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """The payload of one scene. Raises EncodeError where the encoder fails or drops frames."""
        ...

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """Exactly `frame_count` frames at the size of `video`. Raises BitstreamError on a damaged payload."""
        ...
