"""What to send: network, gains and blocks by D + price · bits.

A network passes over the pictures, and what a least-squares fit needs is kept for each block. Gains are fitted and
blocks chosen on those sums, turn by turn, for one, two and three sets of gains. What the sums only guess at, rounding
and clamping, then decides: each set is carried out everywhere, which tells what each block really costs under it. All
networks are tried so on a few frames, and the cheapest on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec.frames import REMAINDER_BITS, Frames, Remainders, VideoFormat
from codec.rate_distortion import plane_errors, plane_weights
from codec.strategies.hybrid_semantic.restoring import View, view
from codec.strategies.hybrid_semantic.syntax import (
    BLOCK_LUMA,
    CANDIDATES,
    CANDIDATES_OF,
    GAIN_ONE,
    GAINS_LARGEST,
    MAX_SHIFT,
    PLANES,
    Enhancement,
    Integers,
    grid,
    write_enhancement,
)

if TYPE_CHECKING:
    import torch

MAX_SETS = 3
PROBED_FRAMES = 4
TURNS = 4
KEPT_RESIDUALS = 1 << 28  # at two bytes each: seven frames of 1080p; those beyond are computed again
DESCENTS = 3
RIDGE = 1e-3
ROUNDING = 1 / 12  # mean square of what rounding a real number moves it by
FINER = 1 / 16  # quarters of a grey level against whole ones, squared

Reals = npt.NDArray[np.float64]
Views = Callable[[], Iterable[View]]


@dataclass(frozen=True)
class Sums:
    """For every frame, block and plane what a least-squares fit of gains needs, in squared grey levels times the
    plane's weight in D.

    error     [T, B, 3] of the base before it was rounded
    rounding  [T, B, 3] what rounding it added
    settled   [T, B, 3] what rounding adds after a correction …
    grain     [T, B, 3] … of this energy or more
    match     [T, B, 3, K] of candidates and what is missing
    power     [T, B, 3, K, K]
    """

    error: Reals
    rounding: Reals
    settled: Reals
    grain: Reals
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
        noise = _rounding(self.rounding, self.settled, self.grain, added)
        left: Reals = (self.error - gained + added + noise).sum(2)
        return left

    def fit(self, where: npt.NDArray[np.bool_]) -> Reals:
        """The gains [3, K] that leave the least squared error in the blocks `where` [T, B] is true."""
        match, power = self.match[where].sum(0), self.power[where].sum(0)
        return np.stack([_solve(match[plane], power[plane]) for plane in range(PLANES)])


@dataclass(frozen=True)
class Trial:
    """An enhancement, its bytes, and the weighted squared error that it really leaves in the frames looked at."""

    network: int
    stream: bytes
    left: float

    def cost(self, price: float, share: float = 1.0) -> float:
        """share: of all frames to those looked at."""
        return self.left * share + price * 8 * len(self.stream)


def best_enhancement(
    frames: Frames, pictures: Frames, remainders: Remainders, video: VideoFormat, price: float, overhead: int
) -> bytes | None:
    """The coded enhancement that lowers D + price · bits most; None where none lowers it by `overhead` bytes too."""
    from codec.networks.enhancement import NETWORKS
    from codec.networks.exact import exact_arithmetic

    count = len(frames)
    probed = [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, PROBED_FRAMES)).round())]
    share = count / len(probed)
    with exact_arithmetic():
        looked_at = [view(pictures, remainders, index) for index in probed]
        found = [trial for network in NETWORKS for trial in trials_of(network, lambda: looked_at, frames, video, price)]
        best = min(found, key=lambda trial: trial.cost(price, share))
        if len(probed) < count:
            before = sum(_error(frames, pictures[index : index + 1], index, video) for index in probed)
            if best.cost(price, share) > before * share:
                return None  # all frames take more bytes than these few

            def everything() -> Iterator[View]:
                return (view(pictures, remainders, index) for index in range(count))

            whole = trials_of(best.network, everything, frames, video, price)
            best = min(whole, key=lambda trial: trial.cost(price))
    saved = plane_errors(frames, pictures).weighted(video) - best.left
    return best.stream if saved > price * 8 * (len(best.stream) + overhead) else None


def trials_of(code: int, views: Views, frames: Frames, video: VideoFormat, price: float) -> list[Trial]:
    """What a network can do in the frames viewed: with one set of gains, two, and three."""
    from codec.networks.enhancement import candidates, enhanced, shipped_network

    network = shipped_network(code)
    parts: list[tuple[Reals, ...]] = []
    kept: list[torch.Tensor] = []
    for one in views():
        residuals = candidates(network, one.seen)
        parts.append(_frame_sums(residuals, one, frames, video))
        if (len(kept) + 1) * residuals.numel() <= KEPT_RESIDUALS:
            kept.append(residuals.short())
    sums = Sums(*(np.stack(kind) for kind in zip(*parts, strict=True)))
    chosen = list(_choices(sums, price))
    errors = [np.empty((len(gains) + 1, *sets.shape)) for gains, sets in chosen]
    for place, one in enumerate(views()):
        residuals = kept[place].float() if place < len(kept) else candidates(network, one.seen)
        plain = _block_errors(one.planes, one, frames, video)
        for (gains, _), error in zip(chosen, errors, strict=True):
            error[0, place] = plain
            for number in range(len(gains)):
                everywhere = np.ones(grid(video), np.int32)
                shown = enhanced(one.planes, one.taken, residuals, gains[number : number + 1], everywhere)
                error[number + 1, place] = _block_errors(shown, one, frames, video)
    trials = []
    for (gains, sets), error in zip(chosen, errors, strict=True):
        for _ in range(TURNS):
            sets = _cheapest_sets(error, sets, price)
        left = float(np.take_along_axis(error, sets[None], axis=0).sum())
        stream = write_enhancement(Enhancement(code, gains, sets.reshape(-1, *grid(video))))
        trials.append(Trial(code, stream, left))
    return trials


def _block_errors(shown: npt.NDArray[np.uint8], one: View, frames: Frames, video: VideoFormat) -> Reals:
    """The weighted squared error [B] of one frame's planes [6, h, w]."""
    from codec.networks.enhancement import PLANE_OF_CHANNEL, stack_planes

    wrong = shown.astype(np.int32) - stack_planes(frames[one.index : one.index + 1])
    if video.height % 2:
        wrong[2:4, -1] = 0  # beyond the picture
    if video.width % 2:
        wrong[1:4:2, :, -1] = 0
    rows, columns = grid(video)
    size = BLOCK_LUMA // 2
    height, width = wrong.shape[1:]
    full = np.pad(wrong, ((0, 0), (0, rows * size - height), (0, columns * size - width)))
    sums = np.square(full).reshape(-1, rows, size, columns, size).sum((2, 4))
    weights = np.array(plane_weights(video))[list(PLANE_OF_CHANNEL)]
    total: Reals = np.einsum("crk,c->rk", sums.astype(np.float64), weights).ravel()
    return total


def _cheapest_sets(errors: Reals, sets: Integers, price: float) -> Integers:
    """For each block the cheapest of the choices [S + 1, T, B], if bits are as often used as by `sets` [T, B]."""
    share = np.bincount(sets.ravel(), minlength=len(errors)) / sets.size
    bits = -np.log2(np.maximum(share, 1e-3))
    cheapest: Integers = (errors + price * bits[:, None, None]).argmin(0).astype(np.int32)
    return cheapest


def _error(frames: Frames, shown: Frames, index: int, video: VideoFormat) -> float:
    return plane_errors(frames[index : index + 1], shown).weighted(video)


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
            sets = _cheapest_sets(cost, sets, price)
        yield _cheapest(sums, gains, sets, price), sets


def _rounding(of_base: Reals, settled: Reals, grain: Reals, added: Reals) -> Reals:
    """What rounding adds to the squared error once a correction of the energy `added` came before it.

    `settled` in the end; where the correction is hardly one, it rounds as the base does.
    """
    noise: Reals = of_base + (settled - of_base) * np.minimum(1.0, added / np.maximum(grain, 1e-9))
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
                    sums.settled[where, plane].sum(keepdims=True),
                    sums.grain[where, plane].sum(keepdims=True),
                )
            )
        trials = []
        for shift in range(MAX_SHIFT + 1):
            found = [_descend(*total, shift, price) for total in totals]
            trials.append((sum(cost for cost, _ in found), [gain.tolist() for _, gain in found]))
        out[:, plane, :used] = min(trials)[1]
    return out


def _descend(
    match: Reals, power: Reals, rounding: Reals, settled: Reals, grain: Reals, shift: int, price: float
) -> tuple[float, Integers]:
    """Coordinate descent over multiples of 2**shift from the rounded fit: (cost, gains)."""
    step = (1 << shift) / GAIN_ONE
    largest = GAINS_LARGEST >> shift

    def cost(trial: Reals) -> float:
        bits = (2 * np.log2(1 + np.abs(trial)) + 1).sum()
        added = step * step * trial @ power @ trial
        noise = _rounding(rounding, settled, grain, added).item()
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


def _frame_sums(residuals: torch.Tensor, one: View, frames: Frames, video: VideoFormat) -> tuple[Reals, ...]:
    """The fields of `Sums` for one frame; products of integers in doubles, so exact."""
    from codec.networks.enhancement import RESIDUAL_BITS, stack_planes
    from codec.networks.exact import as_tensor

    missing = stack_planes(frames[one.index : one.index + 1]).astype(np.float64) - one.planes
    taken = one.taken / 2**REMAINDER_BITS
    real = residuals.double() / 2**RESIDUAL_BITS
    parts = []
    for channels, weight in zip((slice(0, 4), slice(4, 5), slice(5, 6)), plane_weights(video), strict=True):

        def in_blocks(values: Reals, channels: slice = channels) -> torch.Tensor:
            return _in_blocks(as_tensor(values[channels])[:, None], video)

        design = _in_blocks(real[channels], video)
        target, shown, spread = in_blocks(missing - taken), in_blocks(missing), in_blocks(taken)
        samples = in_blocks(np.ones_like(missing)).sum((1, 2))
        error = (target * target).sum((1, 2))
        rounding = (shown * shown).sum((1, 2)) - error
        settled, grain = _after_a_correction(rounding, (spread * spread).sum((1, 2)), ROUNDING * samples)
        match, power = (design @ target.transpose(1, 2))[..., 0], design @ design.transpose(1, 2)
        parts.append([weight * part for part in (error, rounding, settled, grain, match, power)])
    return tuple(np.stack([part.cpu().numpy() for part in kind], 1) for kind in zip(*parts, strict=True))


def _after_a_correction(
    rounding: torch.Tensor, spread: torch.Tensor, expected: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What rounding adds once corrections have moved samples off their grid, and the energy that this takes.

    Whole numbers are not rounded: a correction makes them real numbers, at a twelfth a sample. Finer pictures have been
    rounded once, at much the same cost; but quarters lie halfway between two numbers, and there the least correction
    decides.

    spread: squared remainders; expected: a twelfth for each sample
    """
    fine = spread > expected / 2
    settled = expected.clone()
    settled[fine] = (rounding - (spread - expected).clamp(min=0))[fine]
    return settled, expected * (FINER * fine + (~fine))


def _in_blocks(values: torch.Tensor, video: VideoFormat) -> torch.Tensor:
    """[C, K, h, w] to [blocks, K, samples], with zeros beyond the edges."""
    from torch.nn import functional

    rows, columns = grid(video)
    size = BLOCK_LUMA // 2
    channels, count, height, width = values.shape
    full = functional.pad(values, (0, columns * size - width, 0, rows * size - height))
    cut = full.reshape(channels, count, rows, size, columns, size)
    return cut.permute(2, 4, 1, 0, 3, 5).reshape(rows * columns, count, channels * size * size)
