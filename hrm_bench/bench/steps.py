"""A training step and an evaluation of each model, against plain code for the same mathematics.

And against the matrix products of the step alone, done one after another by the same kernels: what they leave of the
plain step's time is all that code around them could gain.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

from hrm_bench.bench import matmul, plain_training
from hrm_bench.bench.settings import Settings, scored_batch, training_batches
from hrm_bench.bench.subjects import check_equal, ours, plainly, train_next
from hrm_bench.bench.table import Row, compare
from hrm_bench.bench.timing import Place, at, interleave

PRODUCTS = "matrix products alone"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, and a line for what has no plain counterpart."""
    for name in settings.models:
        if not plain_training.has_counterpart(settings.cfg(name)):
            yield f"{name} has no plain counterpart, and is not measured here"
            continue
        for place in settings.places:
            with at(place):
                yield from _compare(settings, name, place)
    if compiled := [name for name in settings.models if name in settings.compiled]:
        yield f"compiled as well, on one thread: {', '.join(compiled)}"


def _compare(settings: Settings, name: str, place: Place) -> Iterator[Row]:
    cfg = settings.cfg(name)
    batches, scored = training_batches(cfg, place), scored_batch(cfg, place)
    subjects = {"plain": plainly(cfg, place), "eager": ours(cfg, place)}
    note = ""
    if settings.is_compiled(name, place):
        subjects["compiled"] = ours(cfg, place, compile=True)
    started = time.perf_counter()
    check_equal(subjects, next(batches), scored)
    if "compiled" in subjects:
        note = f"compiled in {time.perf_counter() - started:.0f} s"
    works: dict[str, dict[str, Callable[[], object]]] = {
        "training step": {way: partial(train_next, subject, batches) for way, subject in subjects.items()},
        "evaluation": {way: partial(subjects[way].score, scored) for way in ("plain", "eager")},
    }
    if products := matmul.products(subjects["eager"], next(batches)):
        works["training step"][PRODUCTS] = products
    for work, ways in works.items():
        times = interleave(ways, rounds=settings.rounds)
        milliseconds = {way: [1e3 * each for each in seconds] for way, seconds in times.items()}
        for way in [*ways][1:]:
            said = {"compiled": note, PRODUCTS: "the most that other code could gain"}.get(way, "")
            yield compare(f"{name}, {work}", place, milliseconds, "plain", way, unit="ms", note=said)
