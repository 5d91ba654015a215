"""Residuals as quantised cosine transforms of blocks, back to samples in exact integers.

Owns the transform, the steps and the order of coefficients. Which blocks have how many is `syntax`'s and `choices`'.

The matrices are HEVC's (H.265, 8.6.4.2): their rows have a norm of 2**8 (16 samples) and 2**7.5 (8 samples). Products
are taken in float64, where these integers stay below 2**53: exact in any order.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int32]
Reals = npt.NDArray[np.float64]

STEP_BITS = 4  # a step is an integer / 2**4 grey levels
STEPS = 40
LARGEST_LEVEL = 255
_QUARTERS = (16, 19, 23, 27)  # 16 · 2**(i / 4)
# 64 · sqrt(2) · cos(i · pi / 32) as HEVC rounds it
_COSINES = (64, 90, 89, 87, 83, 80, 75, 70, 64, 57, 50, 43, 36, 25, 18, 9)


def step_of(index: int) -> int:
    """The quantiser's step, in 1/16 of a grey level: a quarter of an octave more with each index."""
    return _QUARTERS[index % 4] << index // 4


@cache
def matrix(side: int) -> Reals:
    """[side, side] for 16 or 8 samples: row k is the k-th cosine."""
    rows = np.array([[_cosine(k * (2 * n + 1)) for n in range(16)] for k in range(16)], np.float64)
    rows[0] = 64
    return rows[:: 16 // side, :side]


def _cosine(angle: int) -> int:
    """Of angle · pi / 32."""
    turned = angle % 64
    half = min(turned, 64 - turned)
    return _COSINES[half] if half < 16 else -_COSINES[32 - half] if half > 16 else 0


@cache
def scan(side: int) -> npt.NDArray[np.intp]:
    """Places of coefficients in a flattened block, low frequencies first: by diagonal, then by row."""
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.lexsort((rows, rows + columns))


@cache
def diagonals(side: int) -> npt.NDArray[np.intp]:
    """The diagonal of each coefficient, in the order of `scan`."""
    rows, columns = np.divmod(scan(side), side)
    return np.asarray(rows + columns)


def forward(blocks: Reals) -> Reals:
    """[N, side, side] samples to [N, side²] orthonormal coefficients in the order of `scan`. For the encoder."""
    side = blocks.shape[-1]
    norm = 64 * np.sqrt(side)
    basis = matrix(side) / norm
    return np.asarray((basis @ blocks @ basis.T).reshape(len(blocks), -1)[:, scan(side)])


def inverse(levels: Integers, side: int, step: int) -> Integers:
    """[N, side²] levels in the order of `scan` to [N, side, side] samples."""
    whole = np.zeros(levels.shape)
    whole[:, scan(side)] = levels
    basis = matrix(side)
    total = step * (basis.T @ whole.reshape(-1, side, side) @ basis)
    shift = STEP_BITS + (16 if side == 16 else 15)
    return np.floor((total + 2.0 ** (shift - 1)) / 2.0**shift).astype(np.int32)
