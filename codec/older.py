"""What code of the older generation needs to run behind today's two functions: its frames, and its dicts as bytes.

Owns the pictures that such code was written for, its rate knob, and the bytes that a dict of tensors becomes. Which
code can be adapted is `tasks.migrate.adapter`'s; the few lines that it adds to a candidate call what is here:

    frames, YCbCr -> pictures of its kind -> old encoder -> dict -> pack -> compressed_data
    compressed_data -> unpack -> dict -> old decoder -> pictures of its kind -> frames, YCbCr

Invariants:
- all that an old encoder returns travels in `compressed_data` and is counted, whatever its decoder reads of it, but for
  the two claims that the old contract asked for (CLAIMS);
- nothing is compressed here: the adapter must not make old code look better or worse than it is;
- nothing is pickled: `unpack` makes numbers, text, bytes, lists, tuples, dicts, tensors and arrays, and calls nothing.

`config` of an adapted candidate:

    older      the config that the old code gets
    frames     the pictures it was written for: one of FRAMES
    knob       {"name", "low", "high"}: the key of `older` that is set to low at quality 0 and to high at quality 1;
               None: it has no rate knob, and every rate point is the same
"""

from __future__ import annotations

import copy
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from codec.errors import BitstreamError, EncodeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

# RGB of BT.709, full range: floats in [0, 1] or 8 bits; BGR as OpenCV reads it; or today's YCbCr as it is.
FRAMES: Final = ("rgb_float", "rgb_uint8", "bgr_uint8", "ycbcr_uint8")
CLAIMS: Final = ("bitrate_mbps", "compression_ratio")
MAX_DEPTH: Final = 32
ARRAY_KIND: Final = re.compile(r"[<>|][biufc][0-9]{1,2}")  # as numpy writes the types of numbers
MAX_INTEGER_BITS: Final = 4096

# ITU-R BT.709-6, limited range.
_KR, _KB = 0.2126, 0.0722
_KG: Final = 1 - _KR - _KB


def compress_tensor(
    older: Callable[..., Any], frames: torch.Tensor, config: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """Behind `compress_video_tensor`: `older` takes [1, T, 3, H, W] and returns a dict. Raises EncodeError."""
    result = older(to_pictures(frames, config["frames"]), older_config(config), device)
    if not isinstance(result, dict) or "compressed_data" not in result:
        raise EncodeError('the old compress_video_tensor() must return a dict with "compressed_data"')
    travels = {key: value for key, value in result.items() if key not in CLAIMS}
    claims = {f"older_{key}": _claim(result[key]) for key in CLAIMS if key in result}
    return {"compressed_data": pack(travels)} | claims


def decompress_tensor(
    older: Callable[..., Any], data: bytes, config: Mapping[str, Any], device: str
) -> dict[str, torch.Tensor]:
    """Behind `decompress_video_tensor`: `older` gets a dict. Raises BitstreamError where `data` is not whole.

    Old decoders took either the encoder's whole dict or its "compressed_data" for their `compressed_data`: they get
    the keys of both, the inner ones first.
    """
    import torch

    travelled = unpack(data, device)
    if not isinstance(travelled, dict):
        raise BitstreamError("these bytes hold no dict of an adapted encoder")
    inner = travelled.get("compressed_data")
    given = {**travelled, **inner} if isinstance(inner, dict) else travelled
    given.setdefault("compressed_data", inner)
    result = older(given, older_config(config), device)
    if not isinstance(result, dict) or "reconstructed_frames" not in result:
        raise BitstreamError('the old decompress_video_tensor() must return a dict with "reconstructed_frames"')
    return {"reconstructed_frames": from_pictures(torch.as_tensor(result["reconstructed_frames"]), config["frames"])}


def compress_frames(older: Callable[..., Any], frames: torch.Tensor, config: Mapping[str, Any]) -> dict[str, bytes]:
    """Behind `compress_video_tensor`: `older(frame, frame_index, config)` takes [H, W, 3] and returns bytes."""
    settings = older_config(config)
    coded = []
    for index in range(frames.shape[1]):
        picture = to_pictures(frames[:, index : index + 1], config["frames"])[0, 0].permute(1, 2, 0)
        data = older(picture.contiguous().numpy(), index, settings)
        if not isinstance(data, bytes | bytearray):
            raise EncodeError(f"the old compress_video_frame() must return bytes, not {type(data).__name__}")
        coded.append(bytes(data))
    return {"compressed_data": pack(coded)}


def decompress_frames(older: Callable[..., Any], data: bytes, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Behind `decompress_video_tensor`: `older(data, frame_index, config)` returns the picture [H, W, 3]."""
    import numpy as np
    import torch

    coded = unpack(data, "cpu")
    if not isinstance(coded, list) or not coded:
        raise BitstreamError("these bytes hold no frames of an adapted encoder")
    settings = older_config(config)
    decoded = []
    for index, frame in enumerate(coded):
        picture = torch.from_numpy(np.ascontiguousarray(older(frame, index, settings)))
        if picture.ndim != 3:
            raise BitstreamError(f"the old decompress_video_frame() must return [H, W, 3], not {list(picture.shape)}")
        decoded.append(from_pictures(picture.permute(2, 0, 1)[None, None], config["frames"]))
    return {"reconstructed_frames": torch.cat(decoded, 1)}


def older_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the old code gets: its own config, the rate knob turned to today's `quality`."""
    settings: dict[str, Any] = copy.deepcopy(config["older"])
    knob = config.get("knob")
    if knob is not None:
        value = knob["low"] + config["quality"] * (knob["high"] - knob["low"])
        whole = isinstance(knob["low"], int) and isinstance(knob["high"], int)
        settings[knob["name"]] = round(value) if whole else value
    return settings


def to_pictures(frames: torch.Tensor, kind: str) -> torch.Tensor:
    """uint8 YCbCr, BT.709 limited range [1, T, 3, H, W], as pictures of one of FRAMES, of the same shape."""
    import torch

    if kind == "ycbcr_uint8":
        return frames
    pictures = torch.empty(frames.shape, dtype=torch.float32 if kind == "rgb_float" else torch.uint8)
    for index in range(frames.shape[1]):  # one at a time: floats of a whole clip fill the memory once as it is
        y, cb, cr = ((frames[:, index, channel].float() - offset) / span for channel, offset, span in _RANGES)
        red, blue = y + 2 * (1 - _KR) * cr, y + 2 * (1 - _KB) * cb
        green = (y - _KR * red - _KB * blue) / _KG
        channels = (blue, green, red) if kind == "bgr_uint8" else (red, green, blue)
        unit = torch.stack(channels, 1).clamp_(0, 1)
        pictures[:, index] = unit if kind == "rgb_float" else (unit * 255).round_()
    return pictures


def from_pictures(pictures: torch.Tensor, kind: str) -> torch.Tensor:
    """The reverse of `to_pictures`. Values out of range are clipped. Raises BitstreamError at another shape."""
    import torch

    if pictures.ndim != 5 or pictures.shape[2] != 3:
        raise BitstreamError(f"old frames must be [1, T, 3, H, W], not {list(pictures.shape)}")
    frames = torch.empty(pictures.shape, dtype=torch.uint8)
    for index in range(pictures.shape[1]):
        frames[:, index] = _frame(torch.nan_to_num(pictures[:, index].detach().cpu().float()), pictures.dtype, kind)
    return frames


def _frame(values: torch.Tensor, dtype: torch.dtype, kind: str) -> torch.Tensor:
    """One picture [1, 3, H, W], which came as `dtype`, as YCbCr in floats that are whole and in range."""
    import torch

    if kind == "ycbcr_uint8":
        return values.round().clamp(0, 255)
    # 8 bits mean 8 bits whatever the decoder was asked for; floats have the range of the kind.
    unit = values if kind == "rgb_float" and dtype.is_floating_point else values / 255
    red, green, blue = unit.clamp(0, 1).unbind(1)
    if kind == "bgr_uint8":
        red, blue = blue, red
    luma = _KR * red + _KG * green + _KB * blue
    planes = (luma, (blue - luma) / (2 * (1 - _KB)), (red - luma) / (2 * (1 - _KR)))
    scaled = [plane * span + offset for plane, (_, offset, span) in zip(planes, _RANGES, strict=True)]
    return torch.stack(scaled, 1).round_().clamp_(0, 255)


_RANGES: Final = ((0, 16.0, 219.0), (1, 128.0, 224.0), (2, 128.0, 224.0))  # channel, offset, span


def pack(value: Any) -> bytes:
    """`value` as bytes: a tag, then what the tag says; lengths and integers as varints. Raises EncodeError.

    N T F   None, True, False          s b  text (UTF-8), bytes: length, content
    i       zigzag varint              l t  list, tuple: count, items
    f       float64, little-endian     d    dict: count, then key and value in turn
    A D     tensor in main memory, on another device
    a g     numpy array, numpy scalar:  type as text, dimensions, sizes, content in C order
    """
    return b"".join(_packed(value, "what the encoder returned", 0))


def unpack(data: bytes, device: str = "cpu") -> Any:
    """The reverse of `pack`; tensors that were on another device come to `device`. Raises BitstreamError."""
    reader = _Reader(data, device)
    try:
        value = reader.value(0)
    except (UnicodeDecodeError, TypeError, ValueError, RuntimeError) as error:
        raise BitstreamError(f"damaged bytes of an adapted encoder: {error}") from error
    if reader.at != len(data):
        raise BitstreamError(f"{len(data) - reader.at} bytes too many after what an adapted encoder packed")
    return value


def _packed(value: Any, where: str, depth: int) -> Iterator[bytes]:
    import numpy as np
    import torch

    if depth > MAX_DEPTH:
        raise EncodeError(f"{where}: nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        yield {None: b"N", True: b"T", False: b"F"}[value]
    elif isinstance(value, torch.Tensor):
        yield from _packed_tensor(value, where)
    elif isinstance(value, np.ndarray | np.generic):
        yield from _packed_array(value, where)
    elif isinstance(value, int):
        if value.bit_length() >= MAX_INTEGER_BITS:
            raise EncodeError(f"{where} is an integer of {value.bit_length()} bits: return bytes")
        yield b"i" + _varint(value << 1 if value >= 0 else (-value << 1) - 1)
    elif isinstance(value, float):
        yield b"f" + struct.pack("<d", value)
    elif isinstance(value, str):
        text = value.encode()
        yield b"s" + _varint(len(text)) + text
    elif isinstance(value, bytes | bytearray | memoryview):
        yield b"b" + _varint(len(bytes(value))) + bytes(value)
    elif isinstance(value, list | tuple):
        yield (b"l" if isinstance(value, list) else b"t") + _varint(len(value))
        for index, item in enumerate(value):
            yield from _packed(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, dict):
        yield b"d" + _varint(len(value))
        for key, item in value.items():
            yield from _packed(key, f"a key of {where}", depth + 1)
            yield from _packed(item, f"{where}[{key!r}]", depth + 1)
    else:
        raise EncodeError(
            f"{where} is a {type(value).__name__}, which no decoder can be sent: return numbers, text, bytes, lists, "
            "dicts, tensors or arrays (of a network: its state_dict())"
        )


def _packed_tensor(tensor: torch.Tensor, where: str) -> Iterator[bytes]:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized:
        raise EncodeError(f"{where} is a sparse or quantized tensor: return a dense one, or its integers")
    dense = tensor.detach().cpu().contiguous()
    yield b"A" if tensor.device.type == "cpu" else b"D"
    yield _shape(str(dense.dtype).removeprefix("torch."), tuple(dense.shape))
    yield dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""


def _packed_array(array: npt.NDArray[Any] | np.generic, where: str) -> Iterator[bytes]:
    import numpy as np

    if not ARRAY_KIND.fullmatch(array.dtype.str):
        raise EncodeError(f"{where} is an array of {array.dtype}: return arrays of numbers")
    yield b"a" if isinstance(array, np.ndarray) else b"g"
    yield _shape(array.dtype.str, array.shape)
    yield array.tobytes()


def _shape(kind: str, sizes: tuple[int, ...]) -> bytes:
    return bytes([len(kind)]) + kind.encode() + bytes([len(sizes)]) + b"".join(map(_varint, sizes))


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


class _Reader:
    """Reads what `pack` wrote; every length is checked against what is left before anything is made of it."""

    def __init__(self, data: bytes, device: str) -> None:
        self._data, self._device, self.at = data, device, 0

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        tag = self._take(1)
        if tag in _PLAIN:
            return _PLAIN[tag]
        if tag == b"i":
            number = self._varint()
            return -(number + 1 >> 1) if number & 1 else number >> 1
        if tag == b"f":
            return struct.unpack("<d", self._take(8))[0]
        if tag == b"s":
            return self._take(self._varint()).decode()
        if tag == b"b":
            return self._take(self._varint())
        if tag in (b"l", b"t"):
            items = [self.value(depth + 1) for _ in range(self._varint())]
            return items if tag == b"l" else tuple(items)
        if tag == b"d":
            return {self.value(depth + 1): self.value(depth + 1) for _ in range(self._varint())}
        if tag in (b"A", b"D"):
            return self._tensor(tag == b"D")
        if tag in (b"a", b"g"):
            return self._array(tag == b"g")
        raise ValueError(f"no such tag {tag!r}")

    def _tensor(self, elsewhere: bool) -> torch.Tensor:
        import torch

        kind, sizes = self._shape()
        dtype = getattr(torch, kind, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"no such type {kind!r}")
        raw = self._take(math.prod(sizes) * dtype.itemsize)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        tensor = flat.reshape(sizes)
        return tensor.to(self._device) if elsewhere else tensor

    def _array(self, scalar: bool) -> Any:
        import numpy as np

        kind, sizes = self._shape()
        if not ARRAY_KIND.fullmatch(kind):  # numpy would read more into it than a type
            raise ValueError(f"no such type {kind!r}")
        dtype = np.dtype(kind)
        raw = self._take(math.prod(sizes) * dtype.itemsize)
        array = np.frombuffer(bytearray(raw), dtype).reshape(sizes)
        return array[()] if scalar else array

    def _shape(self) -> tuple[str, tuple[int, ...]]:
        kind = self._take(self._take(1)[0]).decode()
        return kind, tuple(self._varint() for _ in range(self._take(1)[0]))

    def _varint(self) -> int:
        number = shift = 0
        while True:
            (group,) = self._take(1)
            number |= (group & 0x7F) << shift
            if group < 0x80:
                return number
            shift += 7
            if shift > MAX_INTEGER_BITS:
                raise ValueError("an integer has no end")

    def _take(self, count: int) -> bytes:
        part = self._data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("they end too early")
        self.at += count
        return part


_PLAIN: Final = {b"N": None, b"T": True, b"F": False}


def _claim(value: object) -> float | str:
    """A number for the record; what is no number is told as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)
