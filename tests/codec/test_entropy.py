"""What a writer wrote comes back; what no writer wrote does no harm; the bytes never change."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codec.entropy import (
    MAX_SYMBOLS,
    SCALES,
    AdaptiveFlag,
    Coder,
    Reader,
    Writer,
    best_scale,
    laplace_bits,
    laplace_weights,
)
from codec.errors import BitstreamError

EMPTY = np.zeros(0, np.int32)


def mixed(coder: Coder, flags: list[bool], values: np.ndarray) -> tuple[list[bool], np.ndarray, list[int]]:
    """Every kind of symbol, in turns."""
    model = AdaptiveFlag()
    numbers = [coder.number(number, bits) for number, bits in ((5, 3), (65535, 16), (0, 1))]
    read = [coder.flag(flag, model) for flag in flags]
    return read, coder.laplace(values, 500, 9, 127), numbers


def sample(seed: int) -> tuple[list[bool], np.ndarray]:
    rng = np.random.default_rng(seed)
    flags = [bool(flag) for flag in rng.random(400) < 0.1]
    return flags, rng.laplace(0, 4, 500).round().clip(-127, 127).astype(np.int32)


def written(seed: int) -> bytes:
    writer = Writer()
    mixed(writer, *sample(seed))
    return writer.to_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_everything_comes_back(seed: int) -> None:
    flags, values = sample(seed)
    read, symbols, numbers = mixed(Reader(written(seed)), [False] * 400, EMPTY)
    assert read == flags
    assert np.array_equal(symbols, values)
    assert numbers == [5, 65535, 0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 40])
def test_streams_of_any_length_come_back_without_their_trailing_zeros(count: int) -> None:
    for seed in range(40):
        values = np.random.default_rng(seed).integers(-3, 4, count).astype(np.int32)
        writer = Writer()
        writer.laplace(values, count, 0, 7)
        data = writer.to_bytes()
        assert not data.endswith(b"\0")
        assert np.array_equal(Reader(data).laplace(EMPTY, count, 0, 7), values)


def test_bytes_are_the_same_as_ever_in_another_process() -> None:
    """Golden: a change of constriction or of a table that would orphan existing files shows here."""
    code = "from tests.codec.test_entropy import written; import sys; sys.stdout.write(written(3).hex())"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=99)
    assert bytes.fromhex(run.stdout) == written(3)
    assert hashlib.sha256(written(3)).hexdigest()[:16] == "73210b75ab73f208"


def test_coding_comes_near_the_entropy() -> None:
    flags = [bool(flag) for flag in np.random.default_rng(1).random(20000) < 0.05]
    writer, model = Writer(), AdaptiveFlag()
    for flag in flags:
        writer.flag(flag, model)
    share = sum(flags) / len(flags)
    entropy = -len(flags) * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert 8 * len(writer.to_bytes()) < 1.04 * entropy + 64
    values = np.random.default_rng(2).laplace(0, 5, 20000).round().clip(-127, 127).astype(np.int32)
    scale = best_scale(values, 127)
    writer = Writer()
    writer.laplace(values, values.size, scale, 127)
    assert 8 * len(writer.to_bytes()) < laplace_bits(values, scale, 127) + 64
    counts = np.unique(values, return_counts=True)[1] / values.size
    assert 8 * len(writer.to_bytes()) < 1.02 * -values.size * (counts * np.log2(counts)).sum()


def test_a_flag_that_never_changes_is_nearly_free() -> None:
    writer, model = Writer(), AdaptiveFlag()
    for _ in range(10000):
        writer.flag(True, model)
    assert len(writer.to_bytes()) < 20


def test_tables_are_integers_that_fall_from_the_middle() -> None:
    means = []
    for scale in range(SCALES):
        weights = laplace_weights(scale, 127)
        assert all(type(weight) is int and weight >= 1 for weight in weights)
        assert weights == weights[::-1]
        assert weights[127:] == sorted(weights[127:], reverse=True)
        means.append(sum(abs(k - 127) * weight for k, weight in enumerate(weights)) / sum(weights))
    assert means == sorted(means)
    assert means[0] < 0.05
    assert means[-1] > 50


def test_writers_refuse_what_readers_could_not_read() -> None:
    writer = Writer()
    for wrong in (
        lambda: writer.number(8, 3),
        lambda: writer.laplace(np.array([8], np.int32), 1, 0, 7),
        lambda: writer.laplace(np.array([1, 2], np.int32), 1, 0, 7),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(BitstreamError, match="scale 32"):
        laplace_weights(32, 7)


def test_bytes_that_no_writer_wrote_give_symbols_or_an_error() -> None:
    rng = np.random.default_rng(17)
    refused = 0
    for _ in range(400):
        data = rng.integers(0, 256, rng.integers(0, 60), dtype=np.uint8).tobytes()
        try:
            _, symbols, _ = mixed(Reader(data), [False] * 400, EMPTY)
            assert np.abs(symbols).max() <= 127
        except BitstreamError:
            refused += 1
    assert refused < 400


def test_a_count_beyond_reason_is_refused_at_once() -> None:
    with pytest.raises(BitstreamError, match="more than"):
        Reader(b"\x01").laplace(EMPTY, MAX_SYMBOLS + 1, 3, 127)
