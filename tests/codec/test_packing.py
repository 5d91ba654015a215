from __future__ import annotations

import threading
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from codec import strategies
from codec.context_coder import ContextDecoder, ContextEncoder
from codec.errors import BitstreamError
from codec.strategies.elementary import PACKED, ElementaryStrategy
from codec.strategies.packing import MAX_PARAMETER_BYTES, Packing, _Model, most_units, primed
from codec.strategies.protocol import EncodeSettings
from codec.varint import encode_varint
from tests.codec.conftest import MovingPicture, ReadClip

QUICK = {"x264": "veryfast", "x265": "veryfast", "av1": "10", "vvc": "faster"}
EVERY = pytest.mark.parametrize("name", QUICK)


def elementary(name: str) -> ElementaryStrategy:
    return cast(ElementaryStrategy, strategies.get(name))


def stream_and_packed(name: str, moving_picture: MovingPicture) -> tuple[bytes, bytes]:
    frames, video = moving_picture(96, 64, 12)
    payload = elementary(name).encode(frames, video, EncodeSettings(0.3, QUICK[name]))
    assert payload[0] & PACKED
    return elementary(name).stream_of(payload, 12), payload[1:]


def with_coded(coded: bytes, rest: bytes = b"") -> bytes:
    return encode_varint(len(coded)) + coded + rest


@EVERY
@pytest.mark.parametrize(("count", "scale"), [(1, "1"), (20, "1"), (7, "1/2")])
def test_a_packed_stream_is_smaller_and_given_back_to_the_byte(
    name: str, count: int, scale: str, read_clip: ReadClip
) -> None:
    frames, video = read_clip("talk512.mkv", count)
    strategy = elementary(name)
    written: list[bytes] = []

    def encode_stream(*order: object) -> bytes:
        written.append(strategy.encode_stream(*order))  # type: ignore[arg-type]
        return written[-1]

    settings = EncodeSettings(0.15, QUICK[name], scale)
    payload = replace(strategy, encode_stream=encode_stream).encode(frames, video, settings)
    assert strategy.stream_of(payload, count) == written[0]
    saved = len(written[0]) + 1 - len(payload)
    # What VVenC says of its tools before the first picture, and 3 to 9 bytes a picture.
    assert saved > {"x264": 0, "x265": 30, "av1": 5, "vvc": 150}[name] + 3 * (count - 1)


@EVERY
def test_a_stream_that_could_not_be_given_back_is_stored_as_it_is(name: str, moving_picture: MovingPicture) -> None:
    """Other start codes, and an OBU whose size takes a byte more than it must."""
    frames, video = moving_picture(96, 64, 3)
    strategy = elementary(name)

    def unusual(*order: object) -> bytes:
        stream = strategy.encode_stream(*order)  # type: ignore[arg-type]
        return b"\x12\x80\0" + stream[2:] if name == "av1" else stream.replace(b"\0\0\0\1", b"\0\0\1")

    payload = replace(strategy, encode_stream=unusual).encode(frames, video, EncodeSettings(0.5, QUICK[name]))
    plain = strategy.encode(frames, video, EncodeSettings(0.5, QUICK[name]))
    assert not payload[0] & PACKED
    assert strategy.decode(payload, video, 3).to_bytes() == strategy.decode(plain, video, 3).to_bytes()


@EVERY
def test_damage_to_a_packed_stream_gives_a_stream_or_an_error(name: str, moving_picture: MovingPicture) -> None:
    stream, packed = stream_and_packed(name, moving_picture)
    packing = elementary(name).packing
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(120):
        data = bytearray(packed[: rng.integers(0, len(packed) + 1)])
        for position in rng.integers(max(1, len(data)), size=2):
            data[position : position + 1] = bytes([rng.integers(256)])
        try:
            packing.unpack(bytes(data), 12)
        except BitstreamError:
            refused += 1
    assert refused > 30
    for broken, message in (
        (b"", "no whole number"),
        (packed[:-1], "ends within a unit"),
        (packed + b"\0", "belong to no unit"),
        (b"\xff" * 9, "no whole number"),
    ):
        with pytest.raises(BitstreamError, match=message):
            packing.unpack(broken, 12)
    assert packing.unpack(packed, 12) == stream


def modelled(packing: Packing, units: list[tuple[bytes, int]]) -> bytes:
    """What `pack` would make of these units, had it no limits."""
    encoder = ContextEncoder(primed(packing))
    model = _Model(packing, encoder)
    for unit, length in units:
        model._parameter_bytes = 0
        model.unit(unit, length)
    model.end()
    return encoder.finish()


def test_a_few_bytes_cannot_ask_for_more_units_than_a_scene_has() -> None:
    packing = elementary("av1").packing
    units = [(b"\x1a", 1)] * (most_units(2) + 1)
    coded = modelled(packing, units)
    assert len(coded) < 80
    with pytest.raises(BitstreamError, match="more than 72 units"):
        packing.unpack(with_coded(coded), 2)
    assert packing.unpack(with_coded(coded), 3)
    assert packing.pack(packing.join([unit for unit, _ in units]), 2) is None


def test_an_obu_that_ends_before_its_extension_is_given_back_as_it_is() -> None:
    packing = elementary("av1").packing
    stream = packing.unpack(with_coded(modelled(packing, [(b"\x36", 1)])), 1)
    assert stream == b"\x12\0\x36\0"


def test_a_few_bytes_cannot_ask_for_endless_parameter_sets() -> None:
    packing = elementary("x264").packing
    sets = [(b"\x67" + bytes(MAX_PARAMETER_BYTES // 2), MAX_PARAMETER_BYTES // 2 + 1)] * 3
    coded = modelled(packing, sets)
    assert len(coded) < 1000
    with pytest.raises(BitstreamError, match="too many parameter sets"):
        packing.unpack(with_coded(coded), 1)
    assert packing.pack(packing.join([unit for unit, _ in sets]), 1) is None


def test_a_primed_coder_is_left_as_it_was_by_all_who_use_it(moving_picture: MovingPicture) -> None:
    stream, packed = stream_and_packed("vvc", moving_picture)
    packing = elementary("vvc").packing
    found: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: found.append(packing.pack(stream, 12))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [packed] * 4


def test_what_a_coder_was_primed_with_is_coded_for_less() -> None:
    bits = np.random.default_rng(1).integers(0, 2, 64).tolist()
    first = ContextEncoder()
    for _ in range(6):
        for place, bit in enumerate(bits):
            first.bit(0, [place], bit)
    again, anew = ContextEncoder(first), ContextEncoder()
    for place, bit in enumerate(bits):
        again.bit(0, [place], bit)
        anew.bit(0, [place], bit)
    coded = again.finish()
    assert len(coded) <= 2 < len(anew.finish())
    decoder = ContextDecoder(coded, first)
    assert [decoder.bit(0, [place]) for place in range(64)] == bits
