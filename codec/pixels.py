"""Pictures between FFmpeg's pixel formats and 8-bit 4:2:0 planes.

Owns how depth, chroma and RGB are converted, with numpy and one rounding: the same on every machine. Which frames there
are is `codec.video`'s.
"""

from __future__ import annotations

import re
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from codec.frames import Plane

_Samples = npt.NDArray[Any]

# Planar layouts read without swscale; the name says how chroma is subsampled and how deep samples are.
_PLANAR = re.compile(r"(?:yuv[aj]?4(?:20|22|44|40|11|10)p|gray)(9|10|12|14|16)?(?:le)?")
_SUBSAMPLING = {(8, 8): "444", (4, 8): "422", (4, 4): "420", (8, 4): "440", (2, 8): "411", (2, 2): "410"}


def frame_planes(frame: av.VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Y, U, V of a decoded frame as 8-bit 4:2:0: uint8 [H, W] and twice [ceil(H/2), ceil(W/2)], copied.

    8-bit 4:2:0 is copied as it is. Anything else is rounded (never dithered), chroma filtered to the usual
    position of 4:2:0, level with the left luma sample; RGB goes to BT.709 limited range. swscale only unpacks
    layouts that numpy cannot view: no scaling, no colour matrix, no loss of bits.
    """
    layout, is_rgb = planar_layout(frame.format)
    if layout != frame.format.name:
        # One thread: with several, swscale leaves rows of 10- and 16-bit pictures unwritten in about 1 of 100 calls.
        frame = frame.reformat(
            format=layout, src_color_range=frame.color_range, dst_color_range=frame.color_range, threads=1
        )
    if is_rgb:
        return rgb_to_planes(frame.to_ndarray())
    match = _PLANAR.fullmatch(layout)
    bits = int(match[1] or 8) if match else 8
    if layout.startswith("gray"):
        gray = _plane_samples(frame, 0, bits)
        neutral = np.full((-(-gray.shape[0] // 2), -(-gray.shape[1] // 2)), 128 << (bits - 8), gray.dtype)
        return _to_420(gray, neutral, neutral, bits)
    y, u, v = (_plane_samples(frame, index, bits) for index in range(3))
    return _to_420(y, u, v, bits)


def rgb_to_planes(rgb: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> tuple[Plane, Plane, Plane]:
    """RGB [H, W, 3], 8 or 16 bits, to the Y, U, V planes of BT.709 limited range (ITU-R BT.709-6) in 4:2:0.

    Only element-wise double arithmetic and one rounding: the same on every machine.
    """
    unit = rgb.astype(np.float64) / np.iinfo(rgb.dtype).max
    red, green, blue = unit[..., 0], unit[..., 1], unit[..., 2]
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    wide = (16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748)
    y, u, v = (np.rint(plane * 256).astype(np.int32) for plane in wide)
    return _to_420(y, u, v, bits=16)


def planes_to_frame(y: Plane, u: Plane, v: Plane) -> av.VideoFrame:
    """One 8-bit 4:2:0 picture as a PyAV frame, also of odd size, which `VideoFrame.from_ndarray` refuses."""
    frame = av.VideoFrame(y.shape[1], y.shape[0], "yuv420p")
    for target, source in zip(frame.planes, (y, u, v), strict=True):
        rows = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)
        rows[: source.shape[0], : source.shape[1]] = source
    return frame


def planar_layout(pixel_format: av.VideoFormat) -> tuple[str, bool]:
    """The format that holds the same samples as planes or packed RGB for numpy, and whether it is RGB."""
    if _PLANAR.fullmatch(pixel_format.name):
        return pixel_format.name, False
    bits = max(component.bits for component in pixel_format.components)
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.name.startswith(("xyz", "bayer")):
        return ("rgb24" if bits <= 8 else "rgb48le"), True
    depth = "" if bits <= 8 else f"{bits}le" if bits in (9, 10, 12, 14) else "16le"
    if len(pixel_format.components) < 3:
        return f"gray{depth}", False
    subsampling = _SUBSAMPLING[pixel_format.chroma_width(8), pixel_format.chroma_height(8)]
    return f"yuv{subsampling}p{depth}", False


def _plane_samples(frame: av.VideoFrame, index: int, bits: int) -> _Samples:
    """A view of one plane without the padding of its lines: uint8 or little-endian uint16 [rows, columns]."""
    plane = frame.planes[index]
    dtype = np.dtype("u1") if bits == 8 else np.dtype("<u2")
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows[:, : plane.width * dtype.itemsize].view(dtype)


def _to_420(y: _Samples, u: _Samples, v: _Samples, bits: int) -> tuple[Plane, Plane, Plane]:
    size = (-(-y.shape[0] // 2), -(-y.shape[1] // 2))
    return _round_to_8(y, bits - 8), _reduce_chroma(u, size, bits), _reduce_chroma(v, size, bits)


def _reduce_chroma(chroma: _Samples, size: tuple[int, int], bits: int) -> Plane:
    """Chroma at `size` and 8 bits: [1 2 1]/4 around even columns, mean of two rows, one rounding at last."""
    height, width = size
    if chroma.shape == size:
        return _round_to_8(chroma, bits - 8)
    wide = chroma.astype(np.int32)
    shift = bits - 8
    if wide.shape[1] > width:
        padded = np.pad(wide, ((0, 0), (1, 1)), mode="edge")
        wide = padded[:, 0:-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]
        shift += 2
    elif wide.shape[1] < width:
        wide = np.repeat(wide, 2, axis=1)[:, :width]
    if wide.shape[0] > height:
        even = np.pad(wide, ((0, wide.shape[0] % 2), (0, 0)), mode="edge")
        wide = even[0::2] + even[1::2]
        shift += 1
    elif wide.shape[0] < height:
        wide = np.repeat(wide, 2, axis=0)[:height]
    return _round_to_8(wide, shift)


def _round_to_8(samples: _Samples, shift: int) -> Plane:
    if shift == 0:
        return samples.astype(np.uint8)
    rounded = (samples.astype(np.int32) + (1 << (shift - 1))) >> shift
    eight: Plane = np.clip(rounded, 0, 255).astype(np.uint8)
    return eight
