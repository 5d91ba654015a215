"""What a run of frames is: 8-bit 4:2:0 planes and the format they are in.

Owns the value types everything else passes around. Reading and writing files is `codec.video`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]
RemainderPlane = npt.NDArray[np.int8]
REMAINDER_BITS = 4  # remainders are integers / 2**4 of a grey level


UNSPECIFIED_COLOR = 2  # the code point by which a source says nothing of its primaries, transfer or matrix


@dataclass(frozen=True)
class ColorDescription:
    """Code points of ITU-T H.273; the default is BT.709 limited range. Carried along, never used to convert."""

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    full_range: bool = False


@dataclass(frozen=True)
class VideoFormat:
    """Size in luma samples, exact frame rate and colour description of 8-bit 4:2:0 video."""

    width: int
    height: int
    frame_rate: Fraction
    color: ColorDescription = field(default_factory=ColorDescription)

    @property
    def chroma_width(self) -> int:
        return (self.width + 1) // 2

    @property
    def chroma_height(self) -> int:
        return (self.height + 1) // 2

    @property
    def frame_bytes(self) -> int:
        """Bytes of one planar frame: Y, then U, then V."""
        return self.width * self.height + 2 * self.chroma_width * self.chroma_height


@dataclass(frozen=True)
class Frames:
    """T frames of 4:2:0: `y` uint8 [T, H, W]; `u` and `v` uint8 [T, ceil(H/2), ceil(W/2)]."""

    y: Plane
    u: Plane
    v: Plane

    def __len__(self) -> int:
        return int(self.y.shape[0])

    def __getitem__(self, index: slice) -> Frames:
        return Frames(self.y[index], self.u[index], self.v[index])

    def planes(self) -> tuple[Plane, Plane, Plane]:
        return self.y, self.u, self.v

    def to_bytes(self) -> bytes:
        """Planar frames one after the other: Y U V of frame 0, Y U V of frame 1, …"""
        count = len(self)
        flat = [plane.reshape(count, -1) for plane in self.planes()]
        return np.concatenate(flat, axis=1).tobytes() if count else b""

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, video: VideoFormat) -> Frames:
        """The reverse of `to_bytes`. Raises ValueError where the length is not a whole number of frames."""
        if len(data) % video.frame_bytes:
            raise ValueError(f"{len(data)} bytes are not a whole number of {video.frame_bytes}-byte frames")
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, video.frame_bytes)
        luma = video.width * video.height
        chroma = video.chroma_width * video.chroma_height
        chroma_shape = (len(rows), video.chroma_height, video.chroma_width)
        return cls(
            rows[:, :luma].reshape(len(rows), video.height, video.width),
            rows[:, luma : luma + chroma].reshape(chroma_shape),
            rows[:, luma + chroma :].reshape(chroma_shape),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Frames]) -> Frames:
        return cls(
            np.concatenate([part.y for part in parts]),
            np.concatenate([part.u for part in parts]),
            np.concatenate([part.v for part in parts]),
        )


@dataclass(frozen=True)
class Remainders:
    """What rounding to 8 bits took from frames of the same shape: int8, sixteenths of a grey level, -8 to 7."""

    y: RemainderPlane
    u: RemainderPlane
    v: RemainderPlane

    def __getitem__(self, index: slice) -> Remainders:
        return Remainders(self.y[index], self.u[index], self.v[index])

    def planes(self) -> tuple[RemainderPlane, RemainderPlane, RemainderPlane]:
        return self.y, self.u, self.v

    @classmethod
    def concatenate(cls, parts: Sequence[Remainders]) -> Remainders:
        return cls(*(np.concatenate(planes) for planes in zip(*(part.planes() for part in parts), strict=True)))
