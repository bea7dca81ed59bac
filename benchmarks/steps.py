"""A training step and an evaluation of each model, against the reference and against the machine's matrix products."""

from collections.abc import Callable, Iterator
from functools import partial

import reference.training
import torch
from omegaconf import DictConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.implementations import check_equal, package, reference_of
from benchmarks.settings import Batch, Settings, scored_batch, training_batches
from benchmarks.table import Row, compare, figure
from benchmarks.timing import Device, interleave, use

QUESTION = "how long do training and evaluation take, compared with plain code for the same mathematics?"
EAGER, COMPILED, REFERENCE, PRODUCT = "package", "package compiled", "reference", "torch.mm"
PRODUCT_MODELS = ("hrm", "infini_hrm", "transformer")  # compared with the rate of large matrix products
SIDES = {"cpu": 1024, "cuda": 4096}  # of the square matrices
SMALL_SIDE = 128


def measure(settings: Settings) -> Iterator[Row | str]:
    """Yield rows, and a remark for each model without a reference."""
    for name in settings.models:
        if not reference.training.has_reference(settings.config(name)):
            yield f"{name} has no reference implementation, and is not measured here."
            continue
        for device in settings.devices:
            with use(device):
                yield from _compare(settings, name, device)


def _compare(settings: Settings, name: str, device: Device) -> Iterator[Row]:
    config = settings.config(name)
    batches, scored = training_batches(config, device), scored_batch(config, device)
    implementations = {REFERENCE: reference_of(config, device), EAGER: package(config, device)}
    if settings.is_compiled(name, device):
        implementations[COMPILED] = package(config, device, compiled=True)
    check_equal(implementations, next(batches), scored)

    works: dict[str, Callable[[], object]] = {
        way: partial(_train_next, implementation.train, batches) for way, implementation in implementations.items()
    }
    if name in PRODUCT_MODELS:
        side = SMALL_SIDE if settings.quick else SIDES[device.type]
        square = torch.randn(side, side, device=device.type)
        works[PRODUCT] = partial(torch.mm, square, square, out=torch.empty_like(square))
    timings = interleave(works, rounds=settings.rounds)
    milliseconds = {way: [1e3 * second for second in seconds] for way, seconds in timings.items()}
    for way in [*implementations][1:]:
        yield compare(f"{name}, training step", device, milliseconds, REFERENCE, way, unit="ms")
    if name in PRODUCT_MODELS:
        flops = {EAGER: step_flops(config), PRODUCT: 2.0 * side**3}
        rates = {way: [flops[way] / second / 1e9 for second in timings[way]] for way in flops}
        note = f"{figure(flops[EAGER] / 1e9)} GFLOP per step"
        yield compare(f"{name}, training step", device, rates, EAGER, PRODUCT, unit="GFLOP/s", note=note)

    works = {way: partial(implementations[way].score, scored) for way in (REFERENCE, EAGER)}
    milliseconds = {w: [1e3 * s for s in seconds] for w, seconds in interleave(works, rounds=settings.rounds).items()}
    yield compare(f"{name}, evaluation", device, milliseconds, REFERENCE, EAGER, unit="ms")


def _train_next(train: Callable[[Batch], object], batches: Iterator[Batch]) -> None:
    train(next(batches))


def step_flops(config: DictConfig) -> float:
    """Return the operations of all matrix products in one training step, forward and backward, two per multiply-add.

    Attention counts as dense; the mask saves nothing.
    """
    device = Device("cpu", 1)
    train, batch = package(config, device).train, next(training_batches(config, device))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        train(batch)
    return float(counter.get_total_flops())
