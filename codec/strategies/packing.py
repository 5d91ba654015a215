"""Elementary streams written smaller: a context model predicts what all streams of an encoder say alike.

Owns the packed form and its model. A picture of 20 to 200 bytes, as most are at low rates, begins with a start code,
its kind, and a header of about ten bytes that is much like that of the picture before; and parameter sets of up to 250
bytes follow from size and preset. Samples of all these ship with the decoder and prime the model. What comes after is
the encoder's own entropy code, which nothing predicts: it is copied.

    stream --split--> units (NAL units, OBUs), each of which is
        whether there is one more, kind, length, its beginning    -> context model -+
        the rest                                                  -> as it is ------+-> packed

Everything is in integers, and `unpack` gives back the stream to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codec import strategies
from codec.context_coder import ContextCoder, ContextDecoder, ContextEncoder
from codec.errors import BitstreamError
from codec.varint import decode_varint, encode_varint

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy

# They are part of the format: see `codec.strategies.collect_packing_samples`.
SAMPLES = Path(__file__).parent / "packing_samples"
PACKED_STRATEGIES = ("x264", "x265", "av1", "vvc")
LARGEST_UNIT = 1 << 23
# What a hostile payload may make a decoder do: real streams have up to three units a picture, and small parameter sets.
UNITS_PER_FRAME, UNITS_MORE = 4, 64
MAX_PARAMETER_BYTES = 1 << 16

# Sets of weights; those from BITS on are for places in a unit's beginning.
MORE, KIND, LENGTH, PARAMETERS, BITS = range(1, 6)
LAST_PLACE = 24
# What a context is of; keys of one never meet those of another. `ContextCoder.number` has all below.
_OF_MORE, _OF_KIND, _OF_BITS = (tag << 80 for tag in range(1, 4))
UNKNOWN = 2  # a bit that the unit before does not have


@dataclass(frozen=True)
class Packing:
    """The packed form of one encoder's streams.

    name            of its samples
    split           a stream's units
    join            the reverse
    kind_bytes      with which a unit says what it is
    modelled_bytes  how much of a unit is predicted after that …
    is_parameters   … unless this says that all of it is
    """

    name: str
    split: Callable[[bytes], Sequence[bytes]]
    join: Callable[[Sequence[bytes]], bytes]
    kind_bytes: int
    modelled_bytes: int
    is_parameters: Callable[[bytes], bool]

    def pack(self, stream: bytes, frame_count: int) -> bytes | None:
        """The stream packed; None where `unpack` would not give back every byte."""
        units = self.split(stream)
        if not (
            all(self.kind_bytes <= len(unit) < LARGEST_UNIT for unit in units)
            and len(units) <= most_units(frame_count)
            and sum(len(unit) for unit in units if self.is_parameters(unit)) <= MAX_PARAMETER_BYTES
            and self.join(units) == stream
        ):
            return None
        encoder = ContextEncoder(primed(self))
        model = _Model(self, encoder)
        modelled = [model.unit(unit) for unit in units]
        model.end()
        coded = encoder.finish()
        rests = (unit[len(begun) :] for unit, (begun, _) in zip(units, modelled, strict=True))
        return encode_varint(len(coded)) + coded + b"".join(rests)

    def unpack(self, packed: bytes, frame_count: int) -> bytes:
        """The stream that was packed. Raises BitstreamError where nothing was packed so."""
        size, start = decode_varint(packed)
        position = start + size
        model = _Model(self, ContextDecoder(packed[start:position], primed(self)))
        units = []
        for begun, length in model.units(most_units(frame_count)):
            rest = packed[position : position + length - len(begun)]
            position += len(rest)
            units.append(begun + rest)
            if len(units[-1]) != length:
                raise BitstreamError(f"a packed {self.name} stream ends within a unit")
        if position < len(packed):
            raise BitstreamError(f"a packed {self.name} stream has bytes that belong to no unit")
        return self.join(units)


def most_units(frame_count: int) -> int:
    """How many units a packed stream of so many frames may have."""
    return UNITS_PER_FRAME * frame_count + UNITS_MORE


class _Model:
    """What is expected of the next unit of one stream. Encoder and decoder make the same calls."""

    def __init__(self, packing: Packing, coder: ContextCoder) -> None:
        self._packing = packing
        self._coder = coder
        self._kind = 0
        self._before: list[int] = []
        self._last_of: dict[int, list[int]] = {}
        self._parameter_bytes = 0

    def units(self, most: int) -> Iterator[tuple[bytes, int]]:
        """The beginnings of all units, and their lengths, where the coder decodes."""
        count = 0
        while self._coder.bit(MORE, (_OF_MORE + self._kind,)):
            count += 1
            if count > most:
                raise BitstreamError(f"a packed {self._packing.name} stream has more than {most} units")
            yield self._unit(None)

    def unit(self, unit: bytes, length: int | None = None) -> tuple[bytes, int]:
        """Code the beginning of one unit, of `length` if that is longer than what is given of it."""
        self._coder.bit(MORE, (_OF_MORE + self._kind,), 1)
        return self._unit(unit, length)

    def end(self) -> None:
        """Code that there are no more."""
        self._coder.bit(MORE, (_OF_MORE + self._kind,), 0)

    def _unit(self, unit: bytes | None, length: int | None = None) -> tuple[bytes, int]:
        packing = self._packing
        told = unit or b""
        kind = self._code_kind(int.from_bytes(told[: packing.kind_bytes], "big"))
        size = self._coder.number(LENGTH, (kind,), max(0, (length or len(told)) - packing.kind_bytes))
        begins = kind.to_bytes(packing.kind_bytes, "big")
        whole = packing.is_parameters(begins)
        if whole:
            self._parameter_bytes += size
            if self._parameter_bytes > MAX_PARAMETER_BYTES:
                raise BitstreamError(f"a packed {packing.name} stream has too many parameter sets")
        count = size if whole else min(size, packing.modelled_bytes)
        given = _bits_of(told[packing.kind_bytes : packing.kind_bytes + count]) if unit else [0] * (8 * count)
        bits = self._code_bits(given, kind, whole)
        self._kind, self._before, self._last_of[kind] = kind, bits, bits
        return begins + _bytes_of(bits), packing.kind_bytes + size

    def _code_kind(self, given: int) -> int:
        """The kind by the one before it."""
        kind = 1
        for shift in range(8 * self._packing.kind_bytes - 1, -1, -1):
            contexts = (_OF_KIND + kind, _OF_KIND + (self._kind + 1 << 32) + kind)
            kind = kind << 1 | self._coder.bit(KIND, contexts, given >> shift & 1)
        return kind - (1 << 8 * self._packing.kind_bytes)

    def _code_bits(self, given: list[int], kind: int, whole: bool) -> list[int]:
        """Bits by their place, by the last unit of the kind and the unit before, and by the bits so far."""
        count = len(given)
        alike, before = (
            [UNKNOWN, *bits[: count + 1], *[UNKNOWN] * (count + 1 - len(bits))]
            for bits in (self._last_of.get(kind, []), self._before)
        )
        contexts_of = _parameter_contexts if whole else _picture_contexts
        bits: list[int] = []
        history = 1
        for place, bit in enumerate(given):
            around = (alike[place] * 3 + alike[place + 1]) * 3 + alike[place + 2]
            then = before[place + 1] * 3 + before[place + 2]
            values = contexts_of(place, kind, history, around, then)
            keys = [_OF_BITS + (number << 64) + value for number, value in enumerate(values)]
            mixer = PARAMETERS if whole else BITS + min(place >> 3, LAST_PLACE)
            bits.append(self._coder.bit(mixer, keys, bit))
            history = (history << 1 | bits[-1]) & 0xFFFFFF | 0x1000000
        return bits


def _parameter_contexts(place: int, kind: int, history: int, around: int, then: int) -> tuple[int, ...]:
    """Long histories find what was said before wherever it stands: sizes shift all that follows them."""
    here = place << 32
    return (
        here + (kind << 8) + around,
        (1 << 60) + (history & 0xFFF),
        (1 << 60) + (history & 0xFFFF),
        (1 << 60) + history,
        (1 << 60) + here + (history & 0xFF),
    )


def _picture_contexts(place: int, kind: int, history: int, around: int, then: int) -> tuple[int, ...]:
    here = place << 32
    return (
        here + (kind << 8) + around,
        here + (then << 8) + around,
        here + (kind << 8) + (history & 0xFF),
        here + (history & 0xF),
        ((history & 0xFF) << 8) + around,
        ((history & 0xFFF) << 8) + around // 3 % 3 * 3 + then // 3,
    )


def _bits_of(data: bytes) -> list[int]:
    return [byte >> shift & 1 for byte in data for shift in range(7, -1, -1)]


def _bytes_of(bits: list[int]) -> bytes:
    return int("1" + "".join(map(str, bits)), 2).to_bytes(len(bits) // 8 + 1, "big")[1:]


def prime_all() -> None:
    """Prime the models of all encoders: in a process from which others are forked, which then need not."""
    for name in PACKED_STRATEGIES:
        primed(cast("ElementaryStrategy", strategies.get(name)).packing)


@cache
def primed(packing: Packing) -> ContextCoder:
    """A coder that has seen the shipped samples: it is only read from now on."""
    coder = ContextEncoder()
    for units in read_samples((SAMPLES / f"{packing.name}.bin").read_bytes()):
        model = _Model(packing, coder)
        for unit, length in units:
            model.unit(unit, length)
        model.end()
    return coder


def write_samples(packing: Packing, streams: Sequence[bytes]) -> bytes:
    """What `read_samples` reads: of each stream the number of units; of each its length and what is predicted of it."""
    out = bytearray()
    for stream in streams:
        units = packing.split(stream)
        out += encode_varint(len(units))
        for unit in units:
            kept = len(unit) if packing.is_parameters(unit) else packing.kind_bytes + packing.modelled_bytes
            out += encode_varint(len(unit)) + encode_varint(min(kept, len(unit))) + unit[:kept]
    return bytes(out)


def read_samples(data: bytes) -> Iterator[list[tuple[bytes, int]]]:
    """Stream by stream the beginnings of units, and how long these were."""
    position = 0
    while position < len(data):
        count, position = decode_varint(data, position)
        units = []
        for _ in range(count):
            length, position = decode_varint(data, position)
            kept, position = decode_varint(data, position)
            units.append((data[position : position + kept], length))
            position += kept
        yield units
