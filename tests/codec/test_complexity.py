"""Counts against numbers worked out by hand: operations are two for each multiply-accumulate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from codec.complexity import (
    OTHERS,
    OUTSIDE,
    coarser,
    count_module_operations,
    count_operations,
    operations_by_module,
    part,
    per_1080p_frame,
)

# 3x3, 4 -> 8 channels, 16x20 outputs
CONVOLUTION = 2 * 9 * 4 * 8 * 16 * 20


def test_a_convolution_is_counted_alike_by_both() -> None:
    counted = count_module_operations(nn.Conv2d(4, 8, 3, padding=1, bias=False), torch.zeros(1, 4, 16, 20))
    assert (counted.thop, counted.flop_counter, counted.larger) == (CONVOLUTION,) * 3


def test_groups_and_strides_are_counted() -> None:
    module = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
    assert count_module_operations(module, torch.zeros(2, 8, 16, 20)).larger == 2 * 9 * 8 * 8 * 10 * 2


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight, padding=1)


def test_a_functional_convolution_does_not_hide() -> None:
    counted = count_module_operations(Functional(), torch.zeros(1, 4, 16, 20))
    assert counted.thop == 0
    assert counted.flop_counter == counted.larger == CONVOLUTION


def test_a_transposed_convolution_is_reported_by_the_larger_count() -> None:
    module = nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1, bias=False)
    counted = count_module_operations(module, torch.zeros(1, 4, 16, 20))
    # each of the 16x20 inputs meets 4x4x8 weights; thop counts as if each of the 32x40 outputs did
    assert counted.flop_counter == 2 * 16 * 20 * 4 * 4 * 4 * 8
    assert counted.thop == 2 * 32 * 40 * 4 * 4 * 4 * 8
    assert counted.larger == counted.thop


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count_module_operations(module, torch.ones(2, 3, 8, 8))
    assert module.training
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_any_call_is_counted_without_gradients() -> None:
    weight = torch.zeros(5, 7, requires_grad=True)
    results: list[torch.Tensor] = []

    def run() -> None:
        results.append(torch.zeros(3, 5) @ weight)

    assert count_operations(run) == 2 * 3 * 5 * 7
    assert not results[0].requires_grad
    assert count_operations(lambda: sum(range(1000))) == 0


class Twofold(nn.Module):
    """Two convolutions, one of them in a list, a product of its own, and one layer that is called from outside too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.body = nn.ModuleList([nn.Conv2d(8, 8, 1, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body[0](self.head(x)) @ torch.zeros(20, 5)


def test_every_operation_is_charged_to_the_innermost_module_alone() -> None:
    network, x = Twofold(), torch.zeros(1, 4, 16, 20)
    own = {"Twofold.head": CONVOLUTION, "Twofold.body.0": 2 * 8 * 8 * 16 * 20, "Twofold": 2 * 8 * 16 * 20 * 5}

    def run() -> None:
        network(x)
        network.head(x)  # without what it is a layer of
        x @ torch.zeros(20, 5)
        with part("strategy"):
            network(x)
            x @ torch.zeros(20, 5)

    expected = own | {f"strategy/{name}": count for name, count in own.items()}
    expected |= {"Twofold.head": 2 * CONVOLUTION, OUTSIDE: 2 * 4 * 16 * 20 * 5, "strategy": 2 * 4 * 16 * 20 * 5}
    assert operations_by_module(run) == expected
    assert count_operations(run) == sum(expected.values())
    counted = count_module_operations(network, x)
    assert counted.flop_counter_by_module == own
    assert counted.thop_by_module == {name: own[name] for name in ("Twofold.head", "Twofold.body.0")}


def test_many_layers_become_the_submodules_that_they_are_part_of() -> None:
    layers = {f"Net.body.{number}": 10 for number in range(20)} | {"Net.tail": 300, OUTSIDE: 1}
    assert coarser(layers, 22) == layers
    assert next(iter(coarser(layers, 22))) == "Net.tail"
    assert coarser(layers, 8) == {"Net.tail": 300, "Net.body": 200, OUTSIDE: 1}
    assert coarser({str(number): number for number in range(6)}, 3) == {"5": 5, "4": 4, OTHERS: 6}
    assert coarser({}, 3) == {}


def test_a_1080p_frame_is_linear_in_pixels() -> None:
    assert per_1080p_frame(10**12, 1920 * 1080) == 1
    assert per_1080p_frame(8 * 10**9, 320 * 180 * 2) == pytest.approx(0.144)
    with pytest.raises(ValueError, match="0 pixels"):
        per_1080p_frame(1, 0)


def test_importing_it_does_not_import_torch() -> None:
    script = "import sys, codec.complexity, codec.quality, codec.video; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
