"""How much arithmetic a decoder does, in operations: two for each multiply-accumulate.

Owns the two ways of counting, where in a decoder they were spent, and the scale to a 1080p frame. The budget and the
verdict are others'. torch is imported only when something is counted.

thop reads module types: it misses functional calls and overcounts transposed convolutions. PyTorch's FlopCounterMode
watches the dispatcher: it sees functional calls, but only matrix products, convolutions and attention. So both are
taken, and the larger is what a decoder is judged by. Each is also split by the module that was running, named by its
place in its network as in `Synthesis.rows`, after the strategy where one of the codec's own was decoding.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PIXELS_1080P = 1920 * 1080
# What no module was running for: functional calls, and networks written without any.
OUTSIDE = "outside modules"
OTHERS = "others"


@dataclass(frozen=True)
class Operations:
    """One network on one input, counted twice, each by module."""

    thop_by_module: Mapping[str, int]
    flop_counter_by_module: Mapping[str, int]

    @property
    def thop(self) -> int:
        return sum(self.thop_by_module.values())

    @property
    def flop_counter(self) -> int:
        return sum(self.flop_counter_by_module.values())

    @property
    def larger(self) -> int:
        return max(self.thop, self.flop_counter)


class _Innermost(dict[str, None]):
    """In the place of ModuleTracker's set of all modules under way: charges only the one that was entered last."""

    part = ""

    def add(self, name: str) -> None:
        self[name] = None

    def remove(self, name: str) -> None:
        del self[name]

    def __iter__(self) -> Iterator[str]:
        yield "/".join(filter(None, (self.part, next(reversed(self), "")))) or OUTSIDE


_counting: ContextVar[_Innermost | None] = ContextVar("counting", default=None)


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """What is counted in this block is charged to `name` and the module within it."""
    counting = _counting.get()
    if counting is None:
        yield
        return
    before, counting.part = counting.part, name
    try:
        yield
    finally:
        counting.part = before


def operations_by_module(run: Callable[[], object]) -> dict[str, int]:
    """Operations that PyTorch dispatches while `run()` runs, without gradients, by the innermost module.

    FlopCounterMode already counts two for a multiply-accumulate. Element-wise work, and whatever leaves PyTorch
    (numpy, a traditional decoder), counts nothing.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    running = _Innermost()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counter.mod_tracker.parents = running
        token = _counting.set(running)
        try:
            run()
        finally:
            _counting.reset(token)
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}


def count_operations(run: Callable[[], object]) -> int:
    """The same in one number."""
    return sum(operations_by_module(run).values())


def count_module_operations(module: torch.nn.Module, *inputs: torch.Tensor) -> Operations:
    """Operations of `module(*inputs)` in evaluation mode, counted by thop and by FlopCounterMode.

    Works on copies: thop leaves keys in state_dict, and a pass may change a module's buffers.
    """
    import thop

    macs, _, layers = thop.profile(copy.deepcopy(module).eval(), inputs=inputs, verbose=False, ret_layer_info=True)
    by_layer = dict(_layers(type(module).__name__, layers))
    own = int(macs) - sum(by_layer.values())
    by_layer |= {type(module).__name__: own} if own > 0 else {}
    counted = copy.deepcopy(module).eval()
    return Operations(
        {name: 2 * count for name, count in by_layer.items()}, operations_by_module(lambda: counted(*inputs))
    )


def _layers(name: str, layers: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """thop's nested (multiply-accumulates, parameters, layers within) as names with what is each layer's own."""
    for child, (macs, _, within) in layers.items():
        path = f"{name}.{child}"
        yield from _layers(path, within)
        own = int(macs - sum(inner[0] for inner in within.values()))
        if own:
            yield path, own


def coarser(by_module: Mapping[str, int], most: int) -> dict[str, int]:
    """The same sum under at most `most` names, largest first: layers, or the submodules that they are part of."""
    depths = range(max((name.count(".") for name in by_module), default=0), -1, -1)
    levels = (_cut(by_module, depth) for depth in depths)
    found = next((level for level in levels if len(level) <= most), _cut(by_module, 0)).most_common()
    rest = sum(count for _, count in found[most - 1 :]) if len(found) > most else 0
    return dict(found[: most - 1]) | {OTHERS: rest} if rest else dict(found)


def _cut(by_module: Mapping[str, int], depth: int) -> Counter[str]:
    cut: Counter[str] = Counter()
    for name, count in by_module.items():
        cut[".".join(name.split(".")[: depth + 1])] += count
    return cut


def per_1080p_frame(operations: int, pixels_total: int) -> float:
    """Tera-operations a 1080p frame, from `operations` spent on `pixels_total` luma samples (width x height x frames).

    Linear in pixels: right for convolutions, an underestimate for attention over the whole picture.
    """
    if pixels_total <= 0:
        raise ValueError(f"operations were spent on {pixels_total} pixels; give width x height x frames")
    return operations / pixels_total * PIXELS_1080P / 1e12
