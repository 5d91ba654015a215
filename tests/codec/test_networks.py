"""Integer networks: exact against a reference in 64-bit integers, whatever threads, batches and processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codec.complexity import count_module_operations, per_1080p_frame
from codec.errors import BitstreamError
from codec.networks import enhancement, temporal_consistency, video_generator
from codec.networks.exact import IntegerConv, exact_arithmetic, integers_of, load_integers, round_through, shift_down

ROOT = Path(__file__).parents[2]


def random_layer(rng: np.random.Generator) -> tuple[IntegerConv, int]:
    kernel = int(rng.choice([1, 3, 5]))
    groups = int(rng.choice([1, 1, 2, 4]))
    inputs, outputs = (groups * int(rng.integers(1, 9)) for _ in range(2))
    largest = int(rng.choice([128, 255, 1023]))
    layer = IntegerConv(inputs, outputs, kernel, groups, largest)
    with torch.no_grad():
        # beyond ±127 too, so that clamping is met
        layer.conv.weight.uniform_(-2.2, 2.2)
        layer.conv.bias.uniform_(-600, 600)
    return layer, largest


def reference(layer: IntegerConv, x: np.ndarray) -> np.ndarray:
    """The same sums by shifting and adding int64 arrays."""
    integers = {name: values.astype(np.int64) for name, values in integers_of(layer).items()}
    weight, bias = integers["conv.weight"], integers["conv.bias"]
    outputs, per_group, kernel, _ = weight.shape
    rows, columns = x.shape[2] - kernel + 1, x.shape[3] - kernel + 1
    total = np.zeros((len(x), outputs, rows, columns), np.int64)
    share = outputs // layer.conv.groups
    for output in range(outputs):
        first = output // share * per_group
        for channel in range(per_group):
            for row in range(kernel):
                for column in range(kernel):
                    patch = x[:, first + channel, row : row + rows, column : column + columns]
                    total[:, output] += weight[output, channel, row, column] * patch
        total[:, output] += bias[output]
    return total


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_are_exact_for_any_shape_threads_and_batch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layer, largest = random_layer(rng)
    size = (int(rng.choice([1, 2, 17])), layer.conv.in_channels, int(rng.integers(5, 40)), int(rng.integers(5, 70)))
    extreme = rng.random() < 0.5
    x = rng.choice([-largest, largest], size) if extreme else rng.integers(-largest, largest + 1, size)
    expected = reference(layer, x)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with exact_arithmetic():
                together = layer(torch.from_numpy(x).float())
                alone = torch.cat([layer(torch.from_numpy(x[i : i + 1]).float()) for i in range(len(x))])
            assert np.array_equal(together.double().numpy().astype(np.int64), expected)
            assert torch.equal(alone, together)
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_leaves_exact_arithmetic_leaves_the_others_in_it() -> None:
    before = torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_arithmetic():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with exact_arithmetic():
        thread.start()
        assert inside.wait(60)
    try:
        assert (torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()) == (False, "highest")
    finally:
        leave.set()
        thread.join()
    assert (torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()) == before


def test_what_could_not_be_entered_once_is_entered_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError), exact_arithmetic():
            pass
    with exact_arithmetic():
        assert not torch.backends.cudnn.enabled


def test_the_largest_sums_choose_a_type_that_holds_them() -> None:
    assert IntegerConv(16, 16, 3, largest_input=255).dtype == torch.float32
    wide = IntegerConv(128, 1, 3, largest_input=255)
    assert wide.dtype == torch.float64
    with torch.no_grad():
        wide.conv.weight.fill_(127 / 64)
        wide.conv.bias.fill_(1 / 64)
    with exact_arithmetic():
        assert wide(torch.full((1, 128, 3, 3), 255.0)).item() == 128 * 9 * 127 * 255 + 1


def test_shifts_round_halves_upwards_like_integers() -> None:
    values = np.arange(-5000, 5000)
    for shift in (1, 4, 10):
        shifted = shift_down(torch.from_numpy(values).float(), shift).numpy()
        assert np.array_equal(shifted, (values + (1 << shift - 1)) >> shift)


def test_gradients_pass_through_rounding() -> None:
    x = torch.tensor([0.4, 0.6, -1.5], requires_grad=True)
    rounded = round_through(x)
    assert rounded.tolist() == [0.0, 1.0, -1.0]
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def seeded_network(width: int = 16, dense: bool = False) -> nn.Module:
    torch.manual_seed(5)
    return enhancement.BasisNetwork(width, dense)


SHAPES = sorted({(shipped.width, shipped.dense) for shipped in enhancement.NETWORKS.values()})


@pytest.mark.parametrize(("width", "dense"), SHAPES)
def test_training_and_decoding_compute_the_same(width: int, dense: bool) -> None:
    """The graph with gradients, in the mode it is trained in, against one loaded from integers alone."""
    trained = seeded_network(width, dense).train()
    loaded = enhancement.BasisNetwork(width, dense).eval()
    load_integers(loaded, integers_of(trained))
    x = torch.from_numpy(np.random.default_rng(3).integers(-128, 128, (2, 14, 40, 52))).float()
    with exact_arithmetic():
        decoded = loaded(x)
    assert torch.equal(trained(x).detach(), decoded)
    assert torch.equal(decoded, decoded.round())
    assert decoded.abs().max() <= enhancement.LARGEST_RESIDUAL
    assert decoded.shape == (2, 6, 6, 32, 44)


def test_weights_of_another_network_are_refused() -> None:
    integers = integers_of(seeded_network())
    for broken in (
        {name: values for name, values in integers.items() if name != "tail.conv.bias"},
        integers | {"tail.conv.weight": integers["tail.conv.weight"][:-1]},
        integers | {"head.conv.weight": integers["head.conv.weight"] + 200},
    ):
        with pytest.raises(BitstreamError, match=r"conv\.(weight|bias) is missing"):
            load_integers(enhancement.BasisNetwork(), broken)


def picture(height: int, width: int) -> np.ndarray:
    """Planes [6, h, w] of seeded noise."""
    return np.random.default_rng(height).integers(0, 256, (6, -(-height // 2), -(-width // 2)), dtype=np.uint8)


def shipped_digest() -> str:
    """Each shipped network on one picture: what every machine must agree on."""
    digests = []
    with exact_arithmetic():
        for code in enhancement.NETWORKS:
            seen = np.random.default_rng(code).integers(-128, 128, (14, 44, 53), dtype=np.int8)
            found = enhancement.candidates(enhancement.shipped_network(code), seen)
            digests.append(hashlib.sha256(found.to(torch.int16).numpy().tobytes()).hexdigest()[:8])
    return " ".join(digests)


def test_shipped_networks_never_change_in_any_process_or_thread_count() -> None:
    code = (
        "import torch; torch.set_num_threads({}); torch.backends.mkldnn.set_flags({})\n"
        "from tests.codec.test_networks import shipped_digest; print(shipped_digest())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code.format(threads, mkldnn)],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=240,
        ).stdout.strip()
        for threads, mkldnn in ((1, True), (2, False))
    ]  # fmt: skip
    assert found == [shipped_digest()] * 2
    assert shipped_digest() == "8480b3c0 badf24d3 5d982939 1becd1f2"


def test_shipped_weights_are_small() -> None:
    files = sorted(enhancement.SHIPPED.glob("*.npz"))
    names = {name for user in (temporal_consistency, video_generator) for name in user.SHIPPED_NAMES}
    assert {file.stem for file in files} == names | {shipped.name for shipped in enhancement.NETWORKS.values()}
    assert sum(file.stat().st_size for file in files) < 200_000
    for code in (2, 15):
        with pytest.raises(BitstreamError, match=f"shipped network {code}, this version has 0, 1, 4, 5"):
            enhancement.shipped_network(code)


@pytest.mark.parametrize(("width", "dense", "most"), [(16, False, 0.005), (52, True, 0.1)])
def test_the_operations_are_within_the_budget_by_both_counts(width: int, dense: bool, most: float) -> None:
    counted = count_module_operations(seeded_network(width, dense), enhancement.example_input(270, 480))
    assert counted.thop == pytest.approx(counted.flop_counter, rel=0.01)
    assert per_1080p_frame(counted.larger, 270 * 480) < most


@pytest.mark.parametrize("size", [(64, 64), (71, 90), (1, 1), (130, 3)])
def test_planes_survive_the_way_into_phases_and_back(size: tuple[int, int]) -> None:
    y = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    phases = enhancement.to_phases(y)
    assert phases.shape == (4, -(-size[0] // 2), -(-size[1] // 2))
    assert np.array_equal(enhancement.from_phases(phases, *size), y)


def test_enhancing_follows_the_integer_formula_block_by_block() -> None:
    planes = picture(130, 200)
    rng = np.random.default_rng(9)
    residuals = rng.integers(-1023, 1024, (6, 12, *planes.shape[1:]))
    remainders = rng.integers(-8, 8, planes.shape).astype(np.int8)
    gains = rng.integers(-127, 128, (2, 3, 12)).astype(np.int32)
    sets = np.array([[0, 1, 2, 1], [2, 2, 0, 1], [1, 0, 0, 2]], np.int32)
    with exact_arithmetic():
        better = enhancement.enhanced(planes, remainders, torch.from_numpy(residuals).float(), gains, sets)
    for channel in range(6):
        for row in range(0, planes.shape[1], 7):
            for column in range(0, planes.shape[2], 5):
                chosen = sets[row // 32, column // 32]
                total = 0
                if chosen:
                    plane = max(0, channel - 3)
                    total = int((gains[chosen - 1, plane] * residuals[channel, :, row, column]).sum())
                    total += 64 * int(remainders[channel, row, column])
                expected = min(max(int(planes[channel, row, column]) + ((total + 512) >> 10), 0), 255)
                assert better[channel, row, column] == expected
