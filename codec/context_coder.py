"""An adaptive binary arithmetic coder whose predictions are mixed from several contexts, in integers only.

Owns probabilities, mixing and the code bytes; which contexts a value has is its caller's. Encoder and decoder share one
`bit` call, so that a syntax is written once and both sides follow it: the encoder hands in the bit, the decoder
gets it back.

Source: logistic mixing as in lpaq (Mahoney 2005), carry-less range coding as in LZMA (Pavlov).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from codec.errors import BitstreamError

PROBABILITY_BITS = 12
STATE_BITS = 16
TOP = 1 << 24
MASK = (1 << 32) - 1
# A context's probability moves by 1/(n + 1.5) at its n-th use, and no slower than this.
SLOWEST = 100
FRESH = [32768, 0]
STEPS = tuple(65536 * 2 // (2 * count + 3) for count in range(SLOWEST))
LEARNING_RATE = 8
NUMBER_BITS = 24
# A decoder that reads past its bytes is fed zeros for as many bytes as the encoder's flush may have cut.
SLACK_BYTES = 8

# The logistic curve at steps of 128, 12 bits either way.
_CURVE = (
    *(1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047),
    *(2549, 2994, 3348, 3607, 3785, 3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094),
)


def _squash(x: int) -> int:
    part, index = x & 127, (x >> 7) + 16
    return (_CURVE[index] * (128 - part) + _CURVE[index + 1] * part + 64) >> 7


SQUASH = tuple(min(4094, max(1, _squash(x))) for x in range(-2047, 2048))


def _inverse() -> tuple[int, ...]:
    stretched: list[int] = []
    for x, probability in enumerate(SQUASH, -2047):
        stretched += [x] * (probability + 1 - len(stretched))
    return tuple(stretched + [2047] * (4096 - len(stretched)))


STRETCH = _inverse()


class ContextCoder(ABC):
    """What encoder and decoder share: the same calls in the same order leave both in the same state."""

    def __init__(self, primed: ContextCoder | None = None) -> None:
        """`primed` has coded before what is like what comes: its probabilities are the first. It is left as it is."""
        self._cells: dict[int, list[int]] = {}
        self._weights: dict[int, list[int]] = {}
        self._first_cells = primed._cells if primed else {}
        self._first_weights = primed._weights if primed else {}

    @abstractmethod
    def _code(self, probability: int, bit: int) -> int:
        """Code one bit that is 1 with `probability`/4096; the bit."""

    def bit(self, mixer: int, contexts: Sequence[int], bit: int = 0) -> int:
        """Code one bit. `mixer` (small) names the set of weights, `contexts` the cells; every key is used as it is."""
        cells = self._cells
        found = []
        for key in contexts:
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = self._first_cells.get(key, FRESH)[:]
            found.append(cell)
        mixer = mixer << 4 | len(found)
        weights = self._weights.get(mixer)
        if weights is None:
            even = [(1 << 16) * 2 // (len(found) + 2)] * len(found)
            weights = self._weights[mixer] = self._first_weights.get(mixer, even)[:]
        inputs = [STRETCH[cell[0] >> 4] for cell in found]
        total = sum([a * b for a, b in zip(inputs, weights, strict=True)]) >> 16
        probability = SQUASH[min(2047, max(-2047, total)) + 2047]
        bit = self._code(probability, bit)
        error = ((bit << PROBABILITY_BITS) - probability) * LEARNING_RATE
        target = 65535 if bit else 0
        for index, cell in enumerate(found):
            weights[index] += (inputs[index] * error + 0x8000) >> 16
            state, count = cell
            cell[0] = state + ((target - state) * STEPS[count] >> STATE_BITS)
            if count < SLOWEST - 1:
                cell[1] = count + 1
        return bit

    def number(self, name: int, contexts: Sequence[int] = (), value: int = 0) -> int:
        """Code 0 ≤ value < 2**24 - 1: its bit length in unary, then its bits. `contexts` are small integers."""
        value += 1
        keys = [name, *(name + (index + 1 << 8) + (context + 1 << 20) for index, context in enumerate(contexts))]
        length = 1
        while self.bit(name, [(key << 12) + length for key in keys], int(value >> length > 0)):
            length += 1
            if length > NUMBER_BITS:
                raise BitstreamError("the payload holds a number that is too large")
        coded = 1
        for shift in range(length - 2, -1, -1):
            # Low bits of long numbers are noise: they share cells.
            node = (length << 7) + min(coded, 63) if length - shift <= 6 else (length << 7) + 64 + shift
            coded = coded * 2 + self.bit(name, [(key << 12) + node + 64 for key in keys], value >> shift & 1)
        return coded - 1

    def signed(self, name: int, contexts: Sequence[int] = (), value: int = 0) -> int:
        """The same for a value of either sign."""
        folded = self.number(name, contexts, value * 2 if value >= 0 else -2 * value - 1)
        return -((folded + 1) >> 1) if folded & 1 else folded >> 1


class ContextEncoder(ContextCoder):
    """Collects bytes; `finish` gives them."""

    def __init__(self, primed: ContextCoder | None = None) -> None:
        super().__init__(primed)
        self._low, self._range = 0, MASK
        self._out = bytearray()

    def _code(self, probability: int, bit: int) -> int:
        bound = (self._range >> PROBABILITY_BITS) * probability
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
            if self._low > MASK:
                self._carry()
        while self._range < TOP:
            self._out.append(self._low >> 24)
            self._low = self._low << 8 & MASK
            self._range <<= 8
        return bit

    def _carry(self) -> None:
        self._low &= MASK
        position = len(self._out) - 1
        while self._out[position] == 255:
            self._out[position] = 0
            position -= 1
        self._out[position] += 1

    def finish(self) -> bytes:
        """Everything coded. Zeros that the flush ends in are left out: the decoder reads zeros there anyway."""
        # The number with the most trailing zeros in the interval.
        for shift in (24, 16, 8, 0):
            value = (self._low + (1 << shift) - 1) >> shift << shift
            if value < self._low + self._range:
                self._low = value
                break
        if self._low > MASK:
            self._carry()
        return bytes(self._out + self._low.to_bytes(4, "big").rstrip(b"\0"))


class ContextDecoder(ContextCoder):
    """Reads what a `ContextEncoder` wrote. Raises BitstreamError where the bytes end long before the values do."""

    def __init__(self, data: bytes, primed: ContextCoder | None = None) -> None:
        super().__init__(primed)
        self._data = data
        self._position = 4
        self._range = MASK
        self._value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def _code(self, probability: int, bit: int) -> int:
        bound = (self._range >> PROBABILITY_BITS) * probability
        if self._value < bound:
            self._range = bound
            bit = 1
        else:
            self._value -= bound
            self._range -= bound
            bit = 0
        while self._range < TOP:
            self._range <<= 8
            self._value = (self._value << 8 | self._next_byte()) & MASK
        return bit

    def _next_byte(self) -> int:
        position = self._position
        self._position += 1
        if position < len(self._data):
            return self._data[position]
        if position > len(self._data) + SLACK_BYTES:
            raise BitstreamError("the payload ends too early")
        return 0
