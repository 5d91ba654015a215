"""A traditional base layer and a small shipped network that restores it, steered by a few bytes a scene.

Owns the payload, and the encoder's choice of network, gains and blocks. The base layer is an elementary strategy's,
the network `codec.networks.enhancement`'s, symbols `codec.entropy`'s.

    source --base encoder--> base payload --base decoder--> base pictures --network--> candidates
    base pictures before they were rounded to 8 bits + gains of the block's set · candidates --> decoded pictures

A good base at a good rate is wrong by little more than a grey level, and the network knows a tenth of it: that counts
only because 10-bit pictures, and those of a smaller scale, are rounded after it and not before.

The encoder passes the network over the pictures once and keeps, for each block, what a least-squares fit needs. All
choices are then made on those sums: gains by fitting, blocks by D + lambda · R, turn by turn. What a scene sends is
about 15 bytes for each set of gains, and a map of blocks that is nearly free where it is uniform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from codec import strategies
from codec.entropy import AdaptiveFlag, Coder, Reader, Writer, best_scale
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import REMAINDER_BITS, Frames, Remainders, VideoFormat
from codec.rate_distortion import KNOBS, plane_errors, plane_weights
from codec.resample import SCALES
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    import torch

    from codec.strategies.elementary import ElementaryStrategy

BASES = ("av1", "x265", "x264", "vvc")
DEFAULT_BASE = "av1"
BASE_LENGTH_BYTES = 4
MAX_SETS = 3
MAX_SHIFT = 4
BLOCK_LUMA = 64
GAINS_LARGEST, GAIN_ONE = 127, 64
PLANES, CANDIDATES = 3, 12
# of Y, U and V: differences from other frames are candidates for luma only
CANDIDATES_OF = (12, 6, 6)
PROBED_FRAMES = 6
TURNS = 4
DESCENTS = 3
RIDGE = 1e-3
ROUNDING = 1 / 12  # mean square of what rounding a real number moves it by

Integers = npt.NDArray[np.int32]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Enhancement:
    """What a payload says beyond its base layer.

    network  code of the shipped network
    gains    [S, 3, K] in ±127: sets of gains for Y, U and V
    sets     [T, rows, columns]: each block's set, counted from 1; 0 leaves the block as it is
    """

    network: int
    gains: Integers
    sets: Integers


@dataclass(frozen=True)
class Sums:
    """For every frame, block and plane what a least-squares fit of gains needs, in squared grey levels times the
    plane's weight in D.

    error     [T, B, 3] of the base before it was rounded
    rounding  [T, B, 3] what rounding it added
    samples   [T, B, 3] times the weight too
    match     [T, B, 3, K] of candidates and what is missing
    power     [T, B, 3, K, K]
    """

    error: Reals
    rounding: Reals
    samples: Reals
    match: Reals
    power: Reals

    @property
    def of_base(self) -> Reals:
        """The squared error [T, B] of the base as it is shown."""
        shown: Reals = (self.error + self.rounding).sum(2)
        return shown

    def remaining(self, gains: Reals) -> Reals:
        """The squared error [T, B] that gains [3, K] would leave in each block, after rounding."""
        gained = 2 * np.einsum("tbpk,pk->tbp", self.match, gains)
        added = np.einsum("tbpkl,pk,pl->tbp", self.power, gains, gains)
        left: Reals = (self.error - gained + added + _rounding(self.rounding, self.samples, added)).sum(2)
        return left

    def fit(self, where: npt.NDArray[np.bool_]) -> Reals:
        """The gains [3, K] that leave the least squared error in the blocks `where` [T, B] is true."""
        match, power = self.match[where].sum(0), self.power[where].sum(0)
        return np.stack([_solve(match[plane], power[plane]) for plane in range(PLANES)])


class HybridSemantic:
    """The strategy; see the module. Options: `base` names the base layer's strategy, `must_pay` is "1", or "0" to keep
    the base layer with a network that does nothing where none pays; all others are the base layer's encoder's.
    """

    name = "hybrid_semantic"
    code = 3

    @property
    def presets(self) -> tuple[str, ...]:
        """Those of every base strategy: which of them fit depends on the option `base`."""
        return tuple(dict.fromkeys(preset for name in BASES for preset in _base(name).presets))

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """Raises EncodeError where no network pays for its bytes and one must: the base layer alone is then better."""
        options = dict(settings.options)
        name = options.pop("base", DEFAULT_BASE)
        if name not in BASES:
            raise BadInputError(f"{self.name} has no base {name!r}: choose one of {', '.join(BASES)}")
        must_pay = options.pop("must_pay", "1")
        if must_pay not in ("0", "1"):
            raise BadInputError(f"{self.name}: option must_pay={must_pay} is neither 0 nor 1")
        base = _base(name)
        payload = settings.base_payload or base.encode(frames, video, replace(settings, options=options))
        pictures, remainders = base.decode_finely(payload, video, len(frames))
        # The base's own slope, in squared error of the size that is shown.
        price = KNOBS[name].lambda_at(base.rate(settings)) / float(SCALES[settings.scale]) ** 2
        stream = _best_enhancement(frames, pictures, remainders, video, price)
        if stream is None and must_pay == "0":
            stream = write_enhancement(_nothing((len(frames), *_grid(video))))
        if stream is None:
            where = f"{name} at quality {settings.quality:g}"
            raise EncodeError(f"{self.name} does not pay: no network improves {where} by its bytes' worth")
        return bytes([base.code]) + len(payload).to_bytes(BASE_LENGTH_BYTES, "little") + payload + stream

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """The base layer first: a payload without all its frames ends there."""
        base, start = _base_of(payload), 1 + BASE_LENGTH_BYTES
        end = start + int.from_bytes(payload[1:start], "little")
        if len(payload) < end:
            raise BitstreamError(f"the {self.name} payload ends within its base layer")
        pictures, remainders = base.decode_finely(payload[start:end], video, frame_count)
        enhancement = read_enhancement(payload[end:], video, frame_count)
        return apply_enhancement(enhancement, pictures, remainders, video)


def _base(name: str) -> ElementaryStrategy:
    return cast("ElementaryStrategy", strategies.get(name))


def _base_of(payload: bytes) -> ElementaryStrategy:
    name = strategies.name_of(payload[0]) if payload else "none"
    if name not in BASES:
        raise BitstreamError(f"the hybrid_semantic payload's base layer is {name}, not one of {', '.join(BASES)}")
    return _base(name)


def write_enhancement(enhancement: Enhancement) -> bytes:
    """The bytes after the base layer."""
    writer = Writer()
    _syntax(writer, enhancement, enhancement.sets.shape)
    return writer.to_bytes()


def read_enhancement(data: bytes, video: VideoFormat, frame_count: int) -> Enhancement:
    """The reverse of `write_enhancement`. Raises BitstreamError where no writer wrote this."""
    rows, columns = _grid(video)
    return _syntax(Reader(data), _nothing((1, 1, 1)), (frame_count, rows, columns))


def _nothing(shape: tuple[int, ...]) -> Enhancement:
    """One that leaves every block as it is."""
    return Enhancement(0, np.zeros((1, PLANES, CANDIDATES), np.int32), np.zeros(shape, np.int32))


def _syntax(coder: Coder, told: Enhancement, shape: tuple[int, ...]) -> Enhancement:
    """The syntax, for writing and for reading; a reader gets any `told` and the shape of the map of blocks."""
    network = coder.number(told.network, 4)
    count = coder.number(len(told.gains) - 1, 2) + 1
    gains = np.zeros((count, PLANES, CANDIDATES), np.int32)
    for plane in range(PLANES):
        used = CANDIDATES_OF[plane]
        given = told.gains[:, plane, :used]
        shift = coder.number(_common_shift(given), 3)
        scale = coder.number(best_scale(given >> shift, GAINS_LARGEST), 5)
        coded = coder.laplace(given >> shift, count * used, scale, GAINS_LARGEST)
        gains[:, plane, :used] = np.clip(coded.reshape(count, used) << shift, -GAINS_LARGEST, GAINS_LARGEST)
    return Enhancement(network, gains, _map_syntax(coder, told.sets, shape, count))


def _common_shift(gains: Integers) -> int:
    """The largest of 0 … 4 by which all gains can be shifted down without loss."""
    return next(shift for shift in range(MAX_SHIFT, -1, -1) if not (gains & (1 << shift) - 1).any())


def _map_syntax(coder: Coder, told: Integers, shape: tuple[int, ...], count: int) -> Integers:
    """Each block's set: whether it has one, by the blocks left, above and before it; then which, in unary."""
    writing = told.shape == shape
    # A rim of zeros at the top and left, and a frame of zeros before the first, save all special cases.
    padded = np.zeros((shape[0] + 1, shape[1] + 1, shape[2] + 1), np.int32)
    used = [AdaptiveFlag() for _ in range(8)]
    higher = [[AdaptiveFlag() for _ in range(count + 1)] for _ in range(count)]
    given = told.tolist() if writing else None
    for frame in range(shape[0]):
        before = padded[frame].tolist()
        rows = [[0] * (shape[2] + 1)]
        for row in range(shape[1]):
            line = [0]
            for column in range(shape[2]):
                value = given[frame][row][column] if given else 0
                left, above, then = line[-1], rows[-1][column + 1], before[row + 1][column + 1]
                context = (left > 0) + 2 * (above > 0) + 4 * (then > 0)
                number = 0
                if coder.flag(value > 0, used[context]):
                    likely = then or left or above
                    number = 1
                    while number < count and coder.flag(value > number, higher[number][likely]):
                        number += 1
                line.append(number)
            rows.append(line)
        padded[frame + 1] = rows
    return padded[1:, 1:, 1:]


def _grid(video: VideoFormat) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-video.height // BLOCK_LUMA), -(-video.width // BLOCK_LUMA)


def apply_enhancement(enhancement: Enhancement, pictures: Frames, remainders: Remainders, video: VideoFormat) -> Frames:
    """What a decoder makes of base pictures."""
    from codec.networks import enhancement as networks
    from codec.networks.exact import exact_arithmetic

    network = networks.shipped_network(enhancement.network)
    out = Frames(*(plane.copy() for plane in pictures.planes()))
    with exact_arithmetic():
        for index, sets in enumerate(enhancement.sets):
            if not sets.any():
                continue
            residuals = networks.candidates(network, networks.network_input(pictures, index))
            planes = networks.stack_planes(pictures[index : index + 1])
            taken = networks.stack_planes(remainders[index : index + 1])
            better = networks.enhanced(planes, taken, residuals, enhancement.gains, sets)
            out.y[index] = networks.from_phases(better[:4], video.height, video.width)
            out.u[index], out.v[index] = better[4], better[5]
    return out


def _best_enhancement(
    frames: Frames, pictures: Frames, remainders: Remainders, video: VideoFormat, price: float
) -> bytes | None:
    """The coded enhancement that lowers D + price · bits most; None where none lowers it."""
    from codec.networks.enhancement import SHIPPED_NAMES

    everything = list(range(len(frames)))
    probed = _spread(len(frames), PROBED_FRAMES)
    tested = _sums(frames, pictures, remainders, video, list(range(len(SHIPPED_NAMES))), probed)
    code = min(range(len(tested)), key=lambda code: _fitted_error(tested[code]))
    sums = tested[code]
    if probed != everything:
        left, stream = _cheapest_stream(code, sums, video, price)
        if (sums.of_base.sum() - left) * len(everything) / len(probed) < price * 8 * len(stream):
            return None  # all frames take more bytes than these few
        sums = _sums(frames, pictures, remainders, video, [code], everything)[0]
    _, stream = _cheapest_stream(code, sums, video, price)
    # The sums guess at rounding and know nothing of clamping: what is promised is what a decoder makes.
    decoded = apply_enhancement(read_enhancement(stream, video, len(frames)), pictures, remainders, video)
    saved = plane_errors(frames, pictures).weighted(video) - plane_errors(frames, decoded).weighted(video)
    return stream if saved > price * 8 * (len(stream) + 1 + BASE_LENGTH_BYTES) else None


def _cheapest_stream(code: int, sums: Sums, video: VideoFormat, price: float) -> tuple[float, bytes]:
    """Of the choices of gains and blocks the cheapest: the error that it leaves, and its bytes."""
    found: list[tuple[float, float, bytes]] = []
    for gains, sets in _choices(sums, price):
        stream = write_enhancement(Enhancement(code, gains, sets.reshape(-1, *_grid(video))))
        left = _predicted_error(sums, gains, sets)
        found.append((left + price * 8 * len(stream), left, stream))
    return min(found)[1:]


def _spread(count: int, most: int) -> list[int]:
    """At most `most` different indices, evenly spread over `count`."""
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def _fitted_error(sums: Sums) -> float:
    everywhere = np.ones(sums.error.shape[:2], bool)
    return float(sums.remaining(sums.fit(everywhere)).sum())


def _predicted_error(sums: Sums, gains: Integers, sets: Integers) -> float:
    choices = np.stack([sums.of_base, *(sums.remaining(gain / GAIN_ONE) for gain in gains)])
    return float(np.take_along_axis(choices, sets[None], axis=0).sum())


def _choices(sums: Sums, price: float) -> Iterator[tuple[Integers, Integers]]:
    """Gains [S, 3, K] and sets [T, B] for one set of gains, then two, then three."""
    plain = sums.of_base
    sets = np.ones(plain.shape, np.int32)
    for count in range(1, MAX_SETS + 1):
        if count > 1:
            split = (sets > 0) & (plain > np.median(plain[sets > 0])) if sets.any() else sets > 0
            sets = np.where(split, count, sets).astype(np.int32)
        gains = np.zeros((count, PLANES, CANDIDATES), np.int32)
        for _ in range(TURNS):
            for number in range(1, count + 1):
                if (sets == number).any():
                    gains[number - 1] = _quantised(sums.fit(sets == number))
            cost = np.stack([plain, *(sums.remaining(gain / GAIN_ONE) for gain in gains)])
            share = np.bincount(sets.ravel(), minlength=count + 1) / sets.size
            bits = -np.log2(np.maximum(share, 1e-3))
            sets = (cost + price * bits[:, None, None]).argmin(0).astype(np.int32)
        yield _cheapest(sums, gains, sets, price), sets


def _rounding(of_base: Reals, samples: Reals, added: Reals) -> Reals:
    """What rounding adds to the squared error once a correction of the energy `added` came before it.

    Up to a twelfth a sample, less where the correction is hardly one: then it rounds as the base does.
    """
    moved = np.minimum(1.0, added / (ROUNDING * np.maximum(samples, 1)))
    noise: Reals = of_base + (ROUNDING * samples - of_base) * moved
    return noise


def _solve(match: Reals, power: Reals) -> Reals:
    ridge = RIDGE * (np.trace(power) / len(power) + 1)
    solved: Reals = np.linalg.solve(power + ridge * np.eye(len(power)), match)
    return solved


def _cheapest(sums: Sums, gains: Integers, sets: Integers, price: float) -> Integers:
    """Gains near those given, chosen by distortion + price · bits: fewer of them, in coarser steps."""
    out = np.zeros_like(gains)
    for plane, used in enumerate(CANDIDATES_OF):
        totals = []
        for number in range(1, len(gains) + 1):
            where = sets == number
            totals.append(
                (
                    sums.match[where, plane, :used].sum(0),
                    sums.power[where, plane, :used, :used].sum(0),
                    sums.rounding[where, plane].sum(keepdims=True),
                    sums.samples[where, plane].sum(keepdims=True),
                )
            )
        trials = []
        for shift in range(MAX_SHIFT + 1):
            found = [_descend(*total, shift, price) for total in totals]
            trials.append((sum(cost for cost, _ in found), [gain.tolist() for _, gain in found]))
        out[:, plane, :used] = min(trials)[1]
    return out


def _descend(
    match: Reals, power: Reals, rounding: Reals, samples: Reals, shift: int, price: float
) -> tuple[float, Integers]:
    """Coordinate descent over multiples of 2**shift from the rounded fit: (cost, gains)."""
    step = (1 << shift) / GAIN_ONE
    largest = GAINS_LARGEST >> shift

    def cost(trial: Reals) -> float:
        bits = (2 * np.log2(1 + np.abs(trial)) + 1).sum()
        added = step * step * trial @ power @ trial
        noise = _rounding(rounding, samples, added).item()
        return float(-2 * step * trial @ match + added + noise + price * bits)

    best = np.clip(np.round(_solve(match, power) / step), -largest, largest)
    lowest = cost(best)
    for _ in range(DESCENTS):
        for place in range(len(best)):
            for value in (0.0, best[place] - 1, best[place] + 1):
                trial = best.copy()
                trial[place] = np.clip(value, -largest, largest)
                if (now := cost(trial)) < lowest:
                    best, lowest = trial, now
    return lowest, (best * (1 << shift)).astype(np.int32)


def _quantised(gains: Reals) -> Integers:
    return np.clip(np.round(gains * GAIN_ONE), -GAINS_LARGEST, GAINS_LARGEST).astype(np.int32)


def _sums(
    frames: Frames,
    pictures: Frames,
    remainders: Remainders,
    video: VideoFormat,
    codes: list[int],
    indices: list[int],
) -> list[Sums]:
    """The sums of these shipped networks over some of the frames; products of integers in doubles, so exact."""
    from codec.networks import enhancement as networks
    from codec.networks.exact import exact_arithmetic

    parts: list[list[tuple[Reals, ...]]] = [[] for _ in codes]
    with exact_arithmetic():
        for index in indices:
            seen = networks.network_input(pictures, index)
            planes = networks.stack_planes(pictures[index : index + 1])
            missing = networks.stack_planes(frames[index : index + 1]).astype(np.float64) - planes
            taken = networks.stack_planes(remainders[index : index + 1]) / 2**REMAINDER_BITS
            for part, code in zip(parts, codes, strict=True):
                residuals = networks.candidates(networks.shipped_network(code), seen)
                part.append(_frame_sums(residuals, missing, taken, video))
    return [Sums(*(np.stack(kind) for kind in zip(*part, strict=True))) for part in parts]


def _frame_sums(residuals: torch.Tensor, missing: Reals, taken: Reals, video: VideoFormat) -> tuple[Reals, ...]:
    """The fields of `Sums` for one frame. missing: from its 8-bit planes; taken: by rounding them."""
    import torch

    from codec.networks.enhancement import RESIDUAL_BITS

    real = residuals.double() / 2**RESIDUAL_BITS
    parts = []
    for channels, weight in zip((slice(0, 4), slice(4, 5), slice(5, 6)), plane_weights(video), strict=True):
        design = _in_blocks(real[channels], video)
        target = _in_blocks(torch.from_numpy(missing[channels] - taken[channels])[:, None], video)
        shown = _in_blocks(torch.from_numpy(missing[channels])[:, None], video)
        inside = _in_blocks(torch.ones(missing[channels].shape)[:, None], video)
        error = (target * target).sum((1, 2))
        rounding = (shown * shown).sum((1, 2)) - error
        match, power = (design @ target.transpose(1, 2))[..., 0], design @ design.transpose(1, 2)
        parts.append([weight * part for part in (error, rounding, inside.sum((1, 2)), match, power)])
    return tuple(np.stack([part.numpy() for part in kind], 1) for kind in zip(*parts, strict=True))


def _in_blocks(values: torch.Tensor, video: VideoFormat) -> torch.Tensor:
    """[C, K, h, w] to [blocks, K, samples], with zeros beyond the edges."""
    from torch.nn import functional

    rows, columns = _grid(video)
    size = BLOCK_LUMA // 2
    channels, count, height, width = values.shape
    full = functional.pad(values, (0, columns * size - width, 0, rows * size - height))
    cut = full.reshape(channels, count, rows, size, columns, size)
    return cut.permute(2, 4, 1, 0, 3, 5).reshape(rows * columns, count, channels * size * size)


STRATEGY = HybridSemantic()
