"""Unsigned LEB128, seven bits a byte, low ones first: how every length in a file is written."""

from __future__ import annotations

from codec.errors import BitstreamError


def encode_varint(value: int) -> bytes:
    """`value`, not negative, in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, position: int = 0, most_bytes: int = 8) -> tuple[int, int]:
    """The number that begins at `position`, and where the next byte is. Raises BitstreamError where there is no end."""
    value = 0
    for place, byte in enumerate(data[position : position + most_bytes]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, position + place + 1
    raise BitstreamError(f"no whole number at byte {position}")
