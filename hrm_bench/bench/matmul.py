"""How much of the machine's rate of single-precision matrix products a training step reaches."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hrm_bench.bench.settings import Settings, scored_batch, training_batches
from hrm_bench.bench.subjects import Subject, bare, check_equal, ours, train_next, train_step
from hrm_bench.bench.table import Row, compare, figure
from hrm_bench.bench.timing import Place, at, interleave
from hrm_bench.charlm import Batch
from hrm_bench.training.build import build

MODELS = ("hrm", "infini_hrm", "transformer")  # of those that were asked for
SIDES = (1024, 2048)  # of the squares; the faster one is the machine's rate
SMALL_SIDES = (128, 256)


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of rates, GFLOP/s."""
    for name in MODELS:
        for place in settings.places:
            if name in settings.models:
                with at(place):
                    yield from _compare(settings, name, place)


def step_flops(settings: Settings, name: str) -> float:
    """Floating-point operations of one training step, all segments, forward and backward: those of matrix products,
    two for each multiply-add; attention as dense as it is written, nothing saved by the mask.
    """
    cfg = settings.cfg(name)
    model, batch = bare(build(cfg)), next(training_batches(cfg, Place("cpu", 1)))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        train_step(model, batch)
    return float(counter.get_total_flops())


def products(subject: Subject, batch: Batch) -> Callable[[], object] | None:
    """All matrix products of a training step on this batch, without what is between them; None where it has none that
    stand by themselves. Those inside of attention and of an LSTM are not among them.
    """
    with _Products() as found:
        subject.train(batch)
    if not found.calls:
        return None

    def again() -> None:
        for function, arguments in found.calls:
            function(*arguments)

    return again


class _Products(TorchDispatchMode):
    """Notes each matrix product, with operands of the same shapes and strides."""

    FUNCTIONS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.FUNCTIONS:
            like = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).normal_() for t in args]
            self.calls.append((function, like))
        return function(*args, **(kwargs or {}))


def _compare(settings: Settings, name: str, place: Place) -> Iterator[Row]:
    cfg = settings.cfg(name)
    batches = training_batches(cfg, place)
    subjects = {"eager": ours(cfg, place)}
    if settings.is_compiled(name, place):
        subjects["compiled"] = ours(cfg, place, compile=True)
    check_equal(subjects, next(batches), scored_batch(cfg, place))
    ways: dict[str, Callable[[], object]] = {}
    flops = {}
    for side in SMALL_SIDES if settings.quick else SIDES:
        square = torch.randn(side, side, device=place.device)
        ways[str(side)] = partial(torch.mm, square, square, out=torch.empty_like(square))
        flops[str(side)] = 2.0 * side**3
    products = [*ways]
    for way, subject in subjects.items():
        ways[way] = partial(train_next, subject, batches)
        flops[way] = step_flops(settings, name)
    times = interleave(ways, rounds=settings.rounds)
    rates = {way: [flops[way] / each / 1e9 for each in seconds] for way, seconds in times.items()}
    rates["torch.mm"] = [max(found) for found in zip(*(rates[side] for side in products), strict=True)]
    for way in subjects:
        note = f"{figure(flops[way] / 1e9)} GFLOP a step"
        yield compare(f"{name}, training step", place, rates, way, "torch.mm", unit="GFLOP/s", note=note)
