"""Entropy coding of small integers with tables that are integers, so that every machine reads what another wrote.

Owns the models and the stream. What the symbols mean is each strategy's. The range coder is constriction's; it gets
tables made by integer arithmetic only, since a probability that differs in its last bit breaks everything after it.

`Writer` and `Reader` have the same methods: each takes the value (which a reader ignores) and returns it. So a
payload's syntax is one function, called with a writer to write and with a reader to read:

    def syntax(coder: Coder, header: Header) -> Header:
        return Header(count=coder.number(header.count, 8), ...)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from codec.errors import BitstreamError

Symbols = npt.NDArray[np.int32]

# More than any payload of this project needs, and quick to refuse.
MAX_SYMBOLS = 2**27
SCALES = 32
# 2**16 · 0.98 · 2**(-i / 4): one minus the ratio of neighbouring probabilities, for each of four scales in a row
_DECAYS = (64225, 54006, 45413, 38187)
# The first scales are for what is nearly always zero: ratios of 1/2000, 1/500 and 1/125, times 2**16.
_RARE = (33, 131, 524)
_ADAPTIVE_BITS = 12
_FAST, _SLOW = 3, 5


class AdaptiveFlag:
    """The probability of a flag, learnt from the flags before it: fast at first, then slowly."""

    def __init__(self) -> None:
        self._one = 1 << (_ADAPTIVE_BITS - 1)
        self._seen = 0

    @property
    def table(self) -> Any:
        return _flag_table(self._one)

    def see(self, flag: bool) -> None:
        speed = _FAST if self._seen < 16 else _SLOW
        self._seen += 1
        target = (1 << _ADAPTIVE_BITS) - 1 if flag else 0
        step = abs(target - self._one) >> speed
        self._one += step if flag else -step
        self._one = min(max(self._one, 16), (1 << _ADAPTIVE_BITS) - 16)


class Coder(ABC):
    """What a writer and a reader have in common; see the module."""

    @abstractmethod
    def number(self, value: int, bits: int) -> int:
        """An integer in 0 … 2**bits - 1, all equally likely; at most 16 bits."""

    @abstractmethod
    def flag(self, value: bool, model: AdaptiveFlag) -> bool:
        """One flag by a probability that adapts."""

    @abstractmethod
    def laplace(self, values: Symbols, count: int, scale: int, largest: int) -> Symbols:
        """`count` integers in ±largest, small ones likelier: see `laplace_table`."""


class Writer(Coder):
    """Collects symbols into bytes."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def number(self, value: int, bits: int) -> int:
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{value} does not fit {bits} bits")
        self._encoder.encode(value, _uniform(bits))
        return value

    def flag(self, value: bool, model: AdaptiveFlag) -> bool:
        self._encoder.encode(int(value), model.table)
        model.see(value)
        return value

    def laplace(self, values: Symbols, count: int, scale: int, largest: int) -> Symbols:
        if values.size != count or (count and int(np.abs(values).max()) > largest):
            raise ValueError(f"not {count} integers in ±{largest}")
        if count:
            self._encoder.encode((values.ravel() + largest).astype(np.int32), laplace_table(scale, largest))
        return values

    def to_bytes(self) -> bytes:
        """The stream. Zeros at its end are left out: a reader supplies them."""
        words: bytes = self._encoder.get_compressed().astype("<u4").tobytes()
        return words.rstrip(b"\0")


class Reader(Coder):
    """Reads back what a `Writer` wrote. Bytes that no writer wrote give some symbols or a BitstreamError."""

    def __init__(self, data: bytes) -> None:
        # Zeros that the writer left out: up to three to the end of a word, and whole words.
        padded = data + b"\0" * (8 - len(data) % 4)
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype="<u4").astype(np.uint32))

    def number(self, value: int, bits: int) -> int:
        return int(self._decode(_uniform(bits)))

    def flag(self, value: bool, model: AdaptiveFlag) -> bool:
        read = bool(self._decode(model.table))
        model.see(read)
        return read

    def laplace(self, values: Symbols, count: int, scale: int, largest: int) -> Symbols:
        if count > MAX_SYMBOLS:
            raise BitstreamError(f"the payload asks for {count} symbols: more than {MAX_SYMBOLS}")
        if not count:
            return np.zeros(0, np.int32)
        symbols: Symbols = self._decode(laplace_table(scale, largest), count).astype(np.int32) - largest
        return symbols

    def _decode(self, *arguments: Any) -> Any:
        try:
            return self._decoder.decode(*arguments)
        except (AssertionError, ValueError) as error:
            raise BitstreamError("the payload's entropy-coded part is damaged") from error


def laplace_weights(scale: int, largest: int) -> list[int]:
    """Integer weights of -largest … largest: each a fixed share of its inner neighbour, larger a scale on."""
    if not 0 <= scale < SCALES:
        raise BitstreamError(f"scale {scale} is not in 0 to {SCALES - 1}")
    place = scale - len(_RARE)
    ratio = _RARE[scale] if place < 0 else 65536 - (_DECAYS[place % 4] >> place // 4)
    side = [1 << 30]
    for _ in range(largest):
        side.append(max(1, side[-1] * ratio >> 16))
    return [*side[:0:-1], *side]


@lru_cache(maxsize=512)
def laplace_table(scale: int, largest: int) -> Any:
    return _table(laplace_weights(scale, largest))


def laplace_bits(values: npt.NDArray[np.integer[Any]], scale: int, largest: int) -> float:
    """What `laplace` would spend on the values, for choosing a scale. An estimate, never a rate that is reported."""
    weights = np.array(laplace_weights(scale, largest), dtype=np.float64)
    return float(-np.log2(weights / weights.sum())[values.ravel() + largest].sum())


def best_scale(values: npt.NDArray[np.integer[Any]], largest: int) -> int:
    """The scale that spends the fewest bits on the values."""
    return min(range(SCALES), key=lambda scale: laplace_bits(values, scale, largest))


@lru_cache(maxsize=1 << _ADAPTIVE_BITS)
def _flag_table(one: int) -> Any:
    return _table([(1 << _ADAPTIVE_BITS) - one, one])


@lru_cache(maxsize=17)
def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << bits)


def _table(weights: list[int]) -> Any:
    """Integers are exact in float64, and constriction scales them by one multiplication each: the same anywhere."""
    return constriction.stream.model.Categorical(np.array(weights, dtype=np.float64), perfect=False)
