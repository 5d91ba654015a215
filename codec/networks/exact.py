"""Convolutions of integers whose result is the same on every machine, device, thread count and batch size.

Owns the arithmetic. Which layers make a network is each network's own file; what weights cost is `codec.entropy`'s.

Integers are held in float32 (or float64 where needed): a sum of products is exact, in any order, with or without fused
multiply-adds, as long as it stays within 2**24 (2**53). So ordinary convolution kernels serve, with two exceptions:
algorithms that transform their input (Winograd, FFT), which NNPACK and cuDNN may choose, are kept out. Reduced formats
(TF32, bfloat16) hold every weight and activation used here exactly, and are switched off all the same.

    input integers --conv + bias--> sum --(sum + half) >> shift--> --clamp--> output integers

Training runs this very graph: rounding passes gradients straight through, so there is nothing left to convert.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from codec.errors import BadInputError, BitstreamError

CPU = torch.device("cpu")
WEIGHT_BITS = 6  # a weight is an integer / 2**6
LARGEST_WEIGHT = 127
LARGEST_BIAS = 2**15 - 1
FLOAT32_EXACT = 2**24


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Run a block with kernels that only multiply and add, without gradients or reduced formats.

    Which kernels there are, torch keeps for the whole process: the first thread in shuts the others out, the last out
    lets them back.
    """
    global _within
    with _lock:
        if _within == 0:
            _plain_kernels.enter_context(_only_plain_kernels())
        _within += 1
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _plain_kernels.close()


_lock, _within, _plain_kernels = threading.Lock(), 0, contextlib.ExitStack()


@contextlib.contextmanager
def _only_plain_kernels() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.nnpack.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


_computing_on = CPU


def compute_on(device: str) -> None:
    """Where networks compute in this process from now on: "cpu", where they begin, or "cuda".

    What they compute is the same; what is fitted by descent, in real numbers, may be another network, and another each
    time.

    Raises BadInputError where torch cannot use the device.
    """
    global _computing_on
    try:
        torch.zeros(1, device=device).add(1)
        _computing_on = torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadInputError(f"torch cannot compute on {device!r} here: {reason}") from error


def as_tensor(values: npt.NDArray[Any]) -> Tensor:
    """`values` where networks compute."""
    return torch.from_numpy(values).to(_computing_on)


class IntegerConv(nn.Module):  # type: ignore[misc]
    """A convolution without padding on integers of magnitude up to `largest_input`; returns the exact sums.

    Parameters are real numbers on their way to integers: weight * 2**6 rounded to int8, bias * 2**6 to int16.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, largest_input: int = 255) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, groups=groups)
        products = inputs // groups * kernel * kernel
        self.largest_sum = products * largest_input * LARGEST_WEIGHT + LARGEST_BIAS
        self.dtype = torch.float32 if self.largest_sum <= FLOAT32_EXACT else torch.float64

    def forward(self, x: Tensor) -> Tensor:
        scale = 2**WEIGHT_BITS
        weight = round_through(self.conv.weight * scale).clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)
        assert self.conv.bias is not None
        bias = round_through(self.conv.bias * scale).clamp(-LARGEST_BIAS, LARGEST_BIAS)
        # Through the module, not functional.conv2d, so that every way of counting operations sees it.
        integers = {"weight": weight.to(self.dtype), "bias": bias.to(self.dtype)}
        return torch.func.functional_call(self.conv, integers, (x.to(self.dtype),))


def built(kind: Callable[[], nn.Module]) -> Any:
    """A network to be loaded, whose random first weights leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        return kind().requires_grad_(False)


def round_through(x: Tensor) -> Tensor:
    """Rounded to integers, halves upwards; the gradient passes as if it were not."""
    if not torch.is_grad_enabled():
        return torch.floor(x + 0.5)
    return x + (torch.floor(x + 0.5) - x).detach()


def shift_down(total: Tensor, shift: int) -> Tensor:
    """`(total + half) >> shift`; exact, since a float divided by a power of two loses nothing."""
    return round_through(total * 2.0**-shift)


def integers_of(network: nn.Module) -> dict[str, npt.NDArray[np.int16]]:
    """Every parameter of `network` as the integers it computes with, in a fixed order."""
    found = {}
    for name, values in network.named_parameters():
        largest = LARGEST_BIAS if name.endswith("bias") else LARGEST_WEIGHT
        rounded = torch.floor(values.detach().cpu().double() * 2**WEIGHT_BITS + 0.5).clamp(-largest, largest)
        found[name] = rounded.numpy().astype(np.int16)
    return found


def load_integers(network: nn.Module, integers: dict[str, npt.NDArray[np.int16]]) -> None:
    """The reverse of `integers_of`. Raises BitstreamError where a tensor is missing, misshapen or out of range."""
    for name, values in network.named_parameters():
        largest = LARGEST_BIAS if name.endswith("bias") else LARGEST_WEIGHT
        given = integers.get(name)
        if given is None or given.shape != tuple(values.shape) or np.abs(given.astype(np.int32)).max() > largest:
            raise BitstreamError(f"network weights: {name} is missing, of another shape or out of range")
        with torch.no_grad():
            values.copy_(torch.from_numpy(given.astype(np.float64) / 2**WEIGHT_BITS))
